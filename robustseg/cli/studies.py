"""``robustseg study`` and ``robustseg transfer``: studies of one and of several models."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from robustseg.cli.arguments import Arguments
from robustseg.cli.computing import measuring
from robustseg.cli.plan import Plan, show_plan, split_plan
from robustseg.config.build import RobustSegCLI
from robustseg.config.options import ABOUT_PLAN
from robustseg.config.safety import OPTION, split_allowed
from robustseg.config.writes import allowing, split_writable
from robustseg.data import SegmentationData
from robustseg.data.lightning import SegmentationDataModule
from robustseg.evaluation.benchmark import Benchmark
from robustseg.planning.evaluation import Part
from robustseg.resume.runs import CHECKPOINTS, LAST, run_folder
from robustseg.shipped import ConfigFileError, find
from robustseg.studies.errors import StudyError
from robustseg.studies.run import part_of_study, parts_of_transfer, run_study, run_transfer, target
from robustseg.studies.study import Answering, Study, StudyAcrossModels

Build = Callable[..., RobustSegCLI]
"""Function ``build(args, study=…)`` that parses and builds an evaluation, with or without the key ``study``."""


class ModelFiles(NamedTuple):
    """Files of a trained model: its name, configuration and checkpoint."""

    name: str
    config: Path
    checkpoint: Path

    @property
    def arguments(self) -> list[str]:
        """Arguments of an evaluation of the model."""
        return ["--config", str(self.config), "--ckpt_path", str(self.checkpoint)]


def study(args: Sequence[str]) -> int:
    """Run a study of a checkpoint, with ``--models`` also on further models."""
    plan, args = split_plan(args)
    if plan is not None and plan.is_elsewhere:
        return 0
    packages, rest = split_allowed(args)
    folders, _ = split_writable(rest)
    allowed = [*(f"{OPTION}={package}" for package in packages), *allowing(folders)]
    # The target's configuration takes no other arguments from this command line.
    return measuring(lambda: _study(args, partial(_evaluation, allowed=allowed), plan))


def transfer(args: Sequence[str]) -> int:
    """Evaluate several models on one another's adversarial images."""
    plan, args = split_plan(args)
    if plan is not None and plan.is_elsewhere:
        return 0
    return measuring(lambda: _transfer(args, _evaluation, plan))


def _evaluation(args: Sequence[str], study: bool, allowed: Sequence[str] = ()) -> RobustSegCLI:
    return RobustSegCLI([*args, *allowed], evaluate=True, study=study)


def _study(args: Sequence[str], build: Build, plan: Plan | None = None) -> int:
    """Run one study of one model.

    Args:
        args: Arguments of ``robustseg evaluate``, a configuration with ``study``, and ``--models``.
        build: Function that builds an evaluation from arguments.
        plan: Options of a plan, which is printed in the place of a run.

    Raises:
        StudyError: The study or a target cannot be used.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--models", nargs="*", default=[])
    options, rest = parser.parse_known_args(args)
    if any(part.partition("=")[0] == "--targets" for part in rest):
        raise StudyError(
            "--targets is now --models, which names further models to score: study … --models NAME=RUN; the targets of "
            "an evaluation are robustness.targets."
        )
    cli = build(rest, study=True)
    places = parse_models(options.models, "--models")
    benchmark = cli.loaded_benchmark(check_images=0)
    targets = [_target(cli.datamodule, place, build) for place in places]
    assert cli.checkpoint is not None
    folder = Path(cli.config.output) if cli.config.output else run_folder(cli.checkpoint) / benchmark.name
    study: Study = cli.config_init.study
    attacked = "the attacked model"
    if plan is not None:
        of, _ = part_of_study(benchmark, study, attacked, targets)
        return show_plan(plan, cli, [Part(of, folder, follows=False)], "study", folder)
    run_study(cli.trainer, benchmark, study, folder, attacked, targets)
    return 0


def _transfer(args: Sequence[str], build: Build, plan: Plan | None = None) -> int:
    """Attack several models, and evaluate all of them on the adversarial images of each.

    Args:
        args: ``--models NAME=RUN …``, ``--output``, a configuration with ``study``, and options for the evaluation of
            every model.
        build: Function that builds an evaluation from arguments.
        plan: Options of a plan, which is printed in the place of a run.

    Raises:
        StudyError: There are fewer than two models, or they do not fit together.
    """
    parser = Arguments("transfer", transfer.__doc__)
    parser.add_argument("--models", nargs="*", default=[], metavar="NAME=RUN", help="Two or more, each a run's folder.")
    parser.add_argument("--output", metavar="FOLDER", help="Folder of the results, which is continued if it is there.")
    parser.add_argument("--plan", metavar="TIME", nargs="?", help=ABOUT_PLAN)
    parser.epilog = "All options of robustseg study are taken as well, --config above all; they hold for every model."
    options, rest = parser.parse_known_args(args)
    places = parse_models(options.models, "--models")
    if len(places) < 2:
        raise StudyError(
            f"--models names {len(places)} model(s): transfer takes at least two, each as NAME=RUN_FOLDER or "
            "NAME=CONFIG:CHECKPOINT."
        )
    if options.output is None:
        raise StudyError("transfer needs --output: the folder of the results, which is continued if it is there.")
    first = build([*places[0].arguments, *rest], study=True)
    study = first.config_init.study
    if not isinstance(study, StudyAcrossModels):
        raise StudyError(f"study: {type(study).__name__} attacks one model: use robustseg study for it.")
    benchmarks = {places[0].name: first.loaded_benchmark(check_images=0)}
    seed = str(benchmarks[places[0].name].seed)
    for place in places[1:]:
        cli = build([*place.arguments, "--seed_everything", seed, *rest], study=True)
        check_same_data(first.datamodule.data, cli.datamodule.data, place.name)
        # Read, and hashed, once.
        cli.datamodule = first.datamodule
        benchmarks[place.name] = cli.loaded_benchmark(check_images=0)
        _check_same_samples(benchmarks[places[0].name], benchmarks[place.name], place.name)
    folder = Path(options.output)
    if plan is not None:
        found = parts_of_transfer(benchmarks, study)
        parts = [Part(of, folder / name, name, follows=False) for name, (of, _) in found.items()]
        return show_plan(plan, first, parts, "transfer", folder)
    run_transfer(first.trainer, benchmarks, study, folder)
    return 0


def _check_same_samples(first: Benchmark, other: Benchmark, name: str) -> None:
    """Refuse table rows on different images."""
    if first.samples != other.samples:
        raise StudyError(
            f"--models {name} would be scored on {len(other.samples)} images and the first model on "
            f"{len(first.samples)}: their configurations differ in robustness.test_num_images; give it on the "
            "command line for all, --robustness.test_num_images null for the whole split."
        )


def _target(datamodule: SegmentationDataModule, place: ModelFiles, build: Build) -> Answering:
    cli = build(place.arguments, study=False)
    check_same_data(datamodule.data, cli.datamodule.data, place.name)
    cli.datamodule = datamodule
    benchmark = cli.loaded_benchmark(check_images=0)
    return target(place.name, benchmark.model, benchmark.settings, benchmark.checkpoint or {})


def parse_models(texts: Sequence[str], option: str) -> list[ModelFiles]:
    """Parse ``NAME=RUN_FOLDER``, ``NAME=RUN_FOLDER:CHECKPOINT`` or ``NAME=CONFIG:CHECKPOINT``.

    Args:
        texts: One text per model; a run's checkpoint is by default its last one.
        option: Name of the option, for the message.

    Raises:
        StudyError: A text of another form, a missing file, or a repeated name.
    """
    places: list[ModelFiles] = []
    for text in texts:
        place = _parse_model(text, option)
        if place.name in [other.name for other in places]:
            raise StudyError(f"{option}: two models are called {place.name!r}: rename one of them.")
        places.append(place)
    return places


def _parse_model(text: str, option: str) -> ModelFiles:
    name, equals, where = text.partition("=")
    if not equals or not where or not re.fullmatch(r"[\w-][\w.-]*", name):
        raise StudyError(
            f"{option} {text}: write NAME=RUN_FOLDER or NAME=CONFIG:CHECKPOINT, the name of letters, digits, hyphens, "
            "dots and underscores."
        )
    run, config, checkpoint = Path(where), Path(where), None
    if not run.exists() and ":" in where:
        front, _, back = where.rpartition(":")
        run, checkpoint = Path(front), Path(back)
        config = run if run.is_dir() else _configuration(front, f"{option} {text}")
    if run.is_dir():
        config = run / "config.yaml"
        checkpoint = checkpoint or run / CHECKPOINTS / LAST
    if checkpoint is None:
        what = "a file without a checkpoint" if run.exists() else "not there"
        raise StudyError(f"{option} {text}: {run} is {what}: name a run's folder, or CONFIG:CHECKPOINT.")
    for path in (config, checkpoint):
        if not path.is_file():
            raise StudyError(f"{option} {text}: there is no {path}: name the folder of a finished run.")
    return ModelFiles(name, config, checkpoint)


def _configuration(name: str, given: str) -> Path:
    try:
        return find(name)
    except ConfigFileError as error:
        raise StudyError(f"{given}: {error}") from error


def check_same_data(first: SegmentationData, other: SegmentationData, name: str) -> None:
    """Refuse a model for other images than those of its evaluation.

    Raises:
        StudyError: Its classes or its image size differ.
    """
    if other.class_names != first.class_names:
        differing = [f"{a} / {b}" for a, b in zip(first.class_names, other.class_names, strict=False) if a != b]
        shown = f", such as {differing[0]}" if differing else ""
        raise StudyError(
            f"model {name} has other classes than the first one ({len(other.class_names)} and "
            f"{len(first.class_names)}{shown}): compare models of the same classes in the same order."
        )
    if (other.image_size, other.ignore_index) != (first.image_size, first.ignore_index):
        raise StudyError(
            f"model {name} gets images of size {_size(other)} and ignores {other.ignore_index}, the first one "
            f"{_size(first)} and {first.ignore_index}: adversarial images are shown as they are; evaluate all models "
            "at one size, --data.init_args.image_size sets it."
        )


def _size(data: SegmentationData) -> str:
    return "the files'" if data.image_size is None else "×".join(map(str, data.image_size))
