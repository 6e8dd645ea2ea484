"""Runs of studies, measured in the folders of evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch import nn

from robustseg.evaluation.benchmark import Benchmark
from robustseg.evaluation.benchmark.facts import model_facts
from robustseg.evaluation.benchmark.run import about, measure
from robustseg.evaluation.errors import IncompleteError
from robustseg.evaluation.measurements import Measurements, read_measurements
from robustseg.evaluation.protocol import claim, digest
from robustseg.models import SegmentationModel
from robustseg.studies.errors import StudyError
from robustseg.studies.output import write_study
from robustseg.studies.study import Answering, Measured, Study, StudyAcrossModels, StudyResult
from robustseg.terminal import track
from robustseg.terminal.text import write

_KEY = 12


def target(
    name: str, model: SegmentationModel, settings: Mapping[str, Any], checkpoint: Mapping[str, Any]
) -> Answering:
    """Describe a further model to score; its records are keyed by the model's properties, not by its name.

    Args:
        name: Name of the model in tables.
        model: The model with its weights.
        settings: Arguments of its network.
        checkpoint: ``path`` and ``sha256`` of the file of its weights.
    """
    # The same weights in another file are the same model.
    facts = {key: value for key, value in model_facts(model, settings, checkpoint).items() if key != "checkpoint"}
    return Answering(name, digest(facts)[:_KEY], model)


def run_study(
    trainer: pl.Trainer,
    benchmark: Benchmark,
    study: Study,
    folder: Path,
    attacked: str = "the model",
    targets: Sequence[Answering] = (),
) -> StudyResult | None:
    """Measure the missing parts of a study, and write its files into ``folder`` if nothing is missing any more.

    Args:
        trainer: The trainer, see :func:`~robustseg.evaluation.benchmark.run_benchmark`.
        benchmark: The evaluation, for its model, data and shard; its attacks are ignored.
        study: The study.
        folder: Folder of the model's evaluation, which may already hold records.
        attacked: Name of the attacked model.
        targets: Further models to score on the adversarial images.

    Returns:
        The result; None on ranks other than the first, and while other shards are missing.

    Raises:
        StudyError: The study takes no further models, two have the same name, or its settings do not fit the model.
        EvaluationError: The folder belongs to another evaluation or cannot be written.
        AttackError: An attack cannot continue.
    """
    of, models = part_of_study(benchmark, study, attacked, targets)
    found = _measured(trainer, of, folder)
    if found is None:
        return None
    measured, facts = found
    result = study.result(measured, models, benchmark.data.class_names)
    if targets:
        facts = {**facts, "targets": {model.name: model.key for model in models if model.key}}
    _publish(study, result, facts, folder)
    return result


def run_transfer(
    trainer: pl.Trainer, benchmarks: Mapping[str, Benchmark], study: StudyAcrossModels, folder: Path
) -> StudyResult | None:
    """Attack each model and score all models on its images; arguments, value and errors as of :func:`run_study`.

    Args:
        trainer: The trainer, see :func:`run_study`.
        benchmarks: The evaluations by the models' names, all on the same data.
        study: The study.
        folder: Folder of the results, with a subfolder for each attacked model.
    """
    sources, facts = [], {}
    for name, (of, models) in track(parts_of_transfer(benchmarks, study).items(), "model"):
        found = _measured(trainer, of, folder / name)
        if found is not None:
            sources.append(Measured(name, found[0], models))
            facts[name] = found[1]
    if len(sources) < len(benchmarks):
        return None
    first = facts[next(iter(facts))]
    shared = {key: value for key, value in first.items() if key != "model"}
    result = study.across(sources, next(iter(benchmarks.values())).data.class_names)
    _publish(study, result, {"models": {name: each["model"] for name, each in facts.items()}, **shared}, folder)
    return result


def part_of(
    benchmark: Benchmark, study: Study, models: Sequence[Answering], source: str = "the attacked model"
) -> Benchmark:
    """Return the evaluation that measures a study on one attacked model.

    Args:
        benchmark: The evaluation of the model, for its data and shard; its attacks are ignored.
        study: The study.
        models: The models to score, see :meth:`Study.answering`.
        source: Name of the attacked model.

    Raises:
        StudyError: The evaluation is of other targets than labels, two models have the same name, or only some have
            a void class.
    """
    if benchmark.targets != "labels":
        raise StudyError(
            "robustness.targets = predictions: a study scores against labels, and other models than the attacked one: "
            "give it --robustness.targets labels; robustseg evaluate takes predictions."
        )
    names = [model.name for model in models]
    if len(set(names)) < len(names):
        raise StudyError(f"two models are called {next(n for n in names if names.count(n) > 1)!r}: rename one of them.")
    own = benchmark.model.num_classes
    other = next((each.name for each in models if getattr(each.model, "num_classes", own) != own), None)
    if other is not None:
        raise StudyError(
            f"only one of {source} and {other} has a model.void_class, and all are counted alike: give it to both, or "
            "use model.drop_classes."
        )
    # A model with two names is scored once.
    scored: dict[str, nn.Module] = {model.key: model.model for model in models}
    return replace(
        benchmark,
        attacks=study.attacks_on(source),
        suite=study.name,
        scored=scored,
        for_itself=study.for_itself(),
        views=study.views(source, benchmark, models),
        check_images=0,
        num_pictures=0,
    )


def parts_of_transfer(
    benchmarks: Mapping[str, Benchmark], study: StudyAcrossModels
) -> dict[str, tuple[Benchmark, list[Answering]]]:
    """Return the evaluation of each attacked model with the models to score, by its name; errors as of part_of."""
    study.check_sources(benchmarks)
    targets = {name: target(name, of.model, of.settings, of.checkpoint or {}) for name, of in benchmarks.items()}
    found = {}
    for name, benchmark in benchmarks.items():
        # Empty key: the attacked model's scores on its own images are those of its evaluation, and share its records.
        models = [each._replace(key="") if each.name == name else each for each in targets.values()]
        found[name] = part_of(benchmark, study, models, name), models
    return found


def part_of_study(
    benchmark: Benchmark, study: Study, attacked: str, targets: Sequence[Answering]
) -> tuple[Benchmark, list[Answering]]:
    """Return the evaluation of a study with the models to score; arguments and errors as of :func:`run_study`."""
    if targets and not study.takes_targets:
        raise StudyError(f"{type(study).__name__} has models of its own to score: leave --models out.")
    study.check_sources({attacked: benchmark})
    models = study.answering(attacked, benchmark.model, targets)
    return part_of(benchmark, study, models, attacked), models


def _measured(trainer: pl.Trainer, of: Benchmark, folder: Path) -> tuple[Measurements, dict[str, Any]] | None:
    """Measure one attacked model; return measurements and conditions, or None in a process that writes no results."""
    measure(trainer, of, folder)
    if not trainer.is_global_zero:
        return None
    try:
        protocol = claim(folder, of.facts)
        measured = read_measurements(
            folder,
            protocol,
            of.samples,
            of.attack_settings,
            of.model.num_scored,
            of.scored_on,
            of.views,
            of.for_itself,
        )
    except IncompleteError as error:
        if of.shard.count == 1:
            raise
        write(f"shard {of.shard} is done. {error}")
        return None
    return measured, about(of, measured)


def _publish(study: Study, result: StudyResult, facts: Mapping[str, Any], folder: Path) -> None:
    page = write_study(study, result, facts, folder)
    for line in result.findings:
        write(line)
    write(f"written to {page}, with {page.stem}.md, .svg and .json")
