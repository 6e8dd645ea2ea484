"""The run of a benchmark, with its result card, report and tables."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from rich.console import Console
from rich.text import Text

from robustseg.evaluation import (
    CLEAN,
    EvaluationError,
    draw_panel,
)
from robustseg.evaluation.attack_stage import FORWARD, AttackStage
from robustseg.evaluation.benchmark.in_float32 import STAGE, float32_images, float32_steps, search_facts
from robustseg.evaluation.benchmark.module import EvaluationModule
from robustseg.evaluation.benchmark.old_noise import keep_noise
from robustseg.evaluation.benchmark.plan import Benchmark
from robustseg.evaluation.benchmark.probe import PROBE, PROBE_STEPS, checks_of
from robustseg.evaluation.benchmark.thresholds import BENIGN, detectors_of
from robustseg.evaluation.build_card import build_card
from robustseg.evaluation.card import CARD, Card, Scores
from robustseg.evaluation.card_file import parse_card, write_card
from robustseg.evaluation.errors import IncompleteError
from robustseg.evaluation.figures import LOGGED
from robustseg.evaluation.measurements import Measurements, read_measurements
from robustseg.evaluation.panels import Palette
from robustseg.evaluation.pictures import PICTURES, PictureKeeper
from robustseg.evaluation.protocol import claim, differences, digest, read
from robustseg.evaluation.records import REFUSED, measured_with, refuse_others
from robustseg.evaluation.report import PanelPicture, write_markdown, write_report
from robustseg.evaluation.results import scores_table, tables_of
from robustseg.evaluation.store import RECORDS, read_records, streams
from robustseg.evaluation.table import to_csv, to_terminal
from robustseg.files import copy_whole, not_writable, remedy, write_text
from robustseg.metrics import pixel_acc_from_counts
from robustseg.opening.regular import WEIGHTS, open_regular
from robustseg.resume.patience import wait_for_all_ranks
from robustseg.terminal import shown
from robustseg.terminal.text import one_line, write
from robustseg.training.loggers import log_picture

REPORT = "report.html"
MARKDOWN = "card.md"
SCORES = "scores.csv"


def run_benchmark(trainer: pl.Trainer, benchmark: Benchmark, folder: Path) -> Card | None:
    """Measure the missing records of this process's shard, and write the results when nothing is missing any more.

    Args:
        trainer: The trainer, for devices, ranks, progress and loggers. Its autocast is not used; a precision that
            converts the weights (``bf16-true``) gives an evaluation in that precision.
        benchmark: The benchmark.
        folder: Folder of the evaluation: ``records/``, ``card.json``, ``card.md``, ``report.html`` and ``scores.csv``.

    Returns:
        The card; None on ranks other than the first, and while other shards are missing.

    Raises:
        EvaluationError: The folder belongs to another evaluation or cannot be written.
        AttackError: An attack cannot continue.
    """
    stage = AttackStage(benchmark.attacks, after=_after(benchmark, folder))
    with shown().stage(stage):
        return _run(trainer, benchmark, folder, stage)


def _run(trainer: pl.Trainer, benchmark: Benchmark, folder: Path, stage: AttackStage) -> Card | None:
    measure(trainer, benchmark, folder, stage)
    if not trainer.is_global_zero:
        return None
    try:
        card, measured = make_card(benchmark, folder, trainer.strategy.root_device, stage)
    except IncompleteError as error:
        if benchmark.shard.count == 1:
            raise
        write(f"shard {benchmark.shard} is done. {error}")
        return None
    stage.follow("writing the results")
    pictures = panels(card, measured, benchmark, folder)
    try:
        publish(card, pictures, folder, benchmark.data.palette)
        log_results(trainer, card, pictures)
    except OSError as error:
        raise EvaluationError(
            f"{folder}: cannot write the results ({error.strerror or error}): all records are kept; {remedy(error)} "
            "and run the same command again."
        ) from error
    return card


def _after(benchmark: Benchmark, folder: Path) -> dict[str, tuple[float, int]]:
    """Return what follows the attacks: gradient steps for one image, and images."""
    images = 0 if benchmark.checks_file(folder).exists() else len(benchmark.probe_indices)
    detectors = {f"threshold of {name}": (FORWARD, len(benchmark.benign_indices)) for name in benchmark.detectors}
    searches = {STAGE: (float32_steps(benchmark), float32_images(benchmark, folder))} if benchmark.search else {}
    return {**searches, PROBE: (PROBE_STEPS, images), **detectors}


def measure(trainer: pl.Trainer, benchmark: Benchmark, folder: Path, stage: AttackStage | None = None) -> None:
    """Measure the missing records of this process's shard.

    Args:
        trainer: The trainer, see :func:`run_benchmark`.
        benchmark: The benchmark.
        folder: Folder of the evaluation.
        stage: Display of the attacks, which has begun; by default one of its own.

    Raises:
        EvaluationError: As for :func:`run_benchmark`.
        AttackError: An attack cannot continue.
    """
    if stage is None:
        stage = AttackStage(benchmark.attacks)
        with shown().stage(stage):
            measure(trainer, benchmark, folder, stage)
        return
    keep_noise(benchmark, folder, trainer.is_global_zero)
    benchmark.refuse_search(trainer.strategy.root_device)
    # Claimed before the trainer starts, since its loggers write into folders that may be refused.
    refuse_others(streams(folder), claim(folder, benchmark.facts), benchmark.record_settings)
    module = EvaluationModule(benchmark, folder, stage)
    # The limits of a training run would leave images out.
    limit, trainer.limit_test_batches = trainer.limit_test_batches, 1.0
    try:
        trainer.test(module, verbose=False)
    finally:
        module.close()
        trainer.limit_test_batches = limit
    wait_for_all_ranks()


def make_card(
    benchmark: Benchmark, folder: Path, device: torch.device, stage: AttackStage
) -> tuple[Card, Measurements]:
    """Make the card of a complete evaluation; return it with the measurements.

    The model is probed on ``device`` and thresholds of detectors are fitted, unless the folder has the results.

    Raises:
        IncompleteError: Records are missing.
        EvaluationError: A result cannot be written.
    """
    of = benchmark
    stage.follow("reading the records")
    settings = of.attack_settings
    measured = read_measurements(
        folder, claim(folder, of.facts), of.samples, settings, of.model.num_scored, views=of.detector_views
    )
    facts = about(of, measured)
    if (search := search_facts(of, measured, folder, device, stage)) is not None:
        facts["protocol"]["search"] = search
    card = build_card(facts, measured, settings, checks_of(of, measured, folder, device, stage))
    if of.detectors:
        found = detectors_of(of, measured, folder, device, stage)
        card = parse_card({**card.as_dict(), "detectors": found}, "the result card")
    return card, measured


def about(benchmark: Benchmark, measured: Measurements) -> dict[str, Any]:
    """Return the parts of a card without figures: model, data, protocol, versions and commit."""
    of = benchmark
    conditions = of.conditions()
    return {
        "model": conditions["model"],
        "data": {**of.facts["data"], "images": len(of.samples), "splits": of.data.counts()},
        "protocol": conditions["protocol"],
        "versions": _agreed([about["versions"] for about in measured.about]),
        "commit": _agreed([about["commit"] for about in measured.about]),
    }


def panels(card: Card, measured: Measurements, benchmark: Benchmark, folder: Path) -> list[PanelPicture]:
    """Draw pictures of the images that the strongest attack changed most and least."""
    keeper = PictureKeeper(folder, benchmark.num_pictures)
    ran = {name: accuracy for name, row in card.ran.items() if (accuracy := row["pixel_acc"]) is not None}
    if not ran:
        return []
    strongest = min(ran, key=ran.__getitem__)
    clean, robust = (pixel_acc_from_counts(measured.counts[name]) for name in (CLEAN, strongest))
    # Images without valid pixels are not shown.
    ranked = sorted(
        (float(robust[row]), sample, row) for row, sample in enumerate(measured.samples) if robust[row] >= 0
    )
    half = min(benchmark.num_pictures, len(ranked) // 2)
    kinds: dict[Literal["worst", "best"], Any] = {"worst": ranked[:half], "best": ranked[::-1][:half]}
    drawn = []
    for kind, chosen in kinds.items():
        for acc, sample, row in chosen:
            example = keeper.load(strongest, sample)
            if example is not None:
                truth = "ground truth" if benchmark.targets == "labels" else "own answer"
                panel = draw_panel([example], benchmark.data.palette, benchmark.data.ignore_index, truth)
                drawn.append(PanelPicture(kind, sample, strongest, float(clean[row]), acc, panel))
    return drawn


def publish(card: Card, pictures: Sequence[PanelPicture], folder: Path, palette: Palette = ()) -> None:
    """Write the card, the report, the Markdown and the scores, and print the tables."""
    write_card(card, folder / CARD)
    write_report(card, folder / REPORT, pictures, palette=palette)
    write_markdown(card, folder / MARKDOWN)
    write_text(to_csv(scores_table(card)), folder / SCORES)
    shown().stop()
    # A log file has no width of its own.
    console = Console() if sys.stdout.isatty() else Console(width=120)
    for table in tables_of(card):
        console.print(to_terminal(table))
    written = Text(f"written to {one_line(str(folder / REPORT))}, {MARKDOWN}, {SCORES} and {CARD}")
    console.print(written, soft_wrap=True)


def log_results(trainer: pl.Trainer, card: Card, pictures: Sequence[PanelPicture]) -> None:
    """Log figures and pictures with the trainer's loggers, as ``test/<attack>/miou`` and so on.

    Detectors are logged as ``test/<attack>/<detector>/rejected`` and ``/auc``. Scores against the model's own
    predictions are ``test/predictions/<attack>/miou`` and so on, since they are no accuracies.
    """
    test = "test" if card.protocol.targets == "labels" else f"test/{card.protocol.targets}"
    for logger in trainer.loggers:
        rows: dict[str, Scores] = {CLEAN: card.clean, **card.ran}
        for name, row in rows.items():
            figures = {
                f"{test}/{name}/{figure}": value for key, figure in LOGGED.items() if (value := row[key]) is not None
            }
            logger.log_metrics(figures, trainer.global_step)
        for detector, found in card.detectors.items():
            for name, seen in found.rows().items():
                shares = {"rejected": seen.rejected, "auc": seen.auc}
                known = {f"{test}/{name}/{detector}/{key}": share for key, share in shares.items() if share is not None}
                logger.log_metrics(known, trainer.global_step)
    for rank, picture in enumerate(pictures):
        tag = f"{test}/{picture.attack}/{picture.kind}"
        log_picture(trainer.loggers, tag, np.asarray(picture.picture), trainer.global_step + rank)
    for logger in trainer.loggers:
        logger.finalize("success")  # the trainer has done so before, and some write then only


def merge(output: Path, folders: Sequence[Path]) -> None:
    """Copy the shards of one evaluation from separate folders into one; the folders stay unchanged.

    ``robustseg evaluate`` with ``output`` then has all records and writes the results.

    Args:
        output: Folder of the merged evaluation.
        folders: Folders of the shards, at least one.

    Raises:
        EvaluationError: A folder belongs to another evaluation, two folders have records of the same sample, or
            ``output`` holds records or cannot be written.
    """
    facts = read(folders[0])
    owner: dict[tuple[str, str], Path] = {}
    settings: dict[str, Any] = {}
    for folder in folders:
        if changes := differences(facts, read(folder)):
            raise EvaluationError(
                f"{folder} holds another evaluation than {folders[0]} ({'; '.join(changes)}): merge the shards of one "
                "evaluation only. Nothing was written."
            )
        found = streams(folder)
        refuse_others(found, digest(facts), settings)
        for stream in found:
            settings |= stream.about["attacks"]
        mine = {(record.sample, measured_with(record.attack)) for stream in found for record in read_records(stream)}
        if common := sorted(key for key in mine if key in owner):
            sample, attack = common[0]
            raise EvaluationError(
                f"{folder} and {owner[common[0]]} overlap: {len(common)} results are in both, such as sample {sample} "
                f"under {attack}. Give each process a shard of its own, --shard 1/{len(folders)} to "
                f"{len(folders)}/{len(folders)}, and leave one of the two out. Nothing was written."
            )
        owner |= dict.fromkeys(mine, folder)
    if (output / RECORDS).exists():
        raise EvaluationError(f"{output} holds records already: merge into a new folder. Nothing was written.")
    claim(output, facts)
    for number, folder in enumerate(folders, 1):
        for path in (p for part in (RECORDS, PICTURES, REFUSED) for p in sorted((folder / part).glob("[!.]*"))):
            name = f"merged{number}-{path.name}" if path.parent.name == RECORDS else path.name
            _copy(path, output / path.parent.name / name)
        for path in (p for kind in ("checks-*.json", BENIGN) for p in sorted(folder.glob(kind))):
            _copy(path, output / path.name)


def _copy(source: Path, target: Path) -> None:
    try:
        file = open_regular(source, WEIGHTS)
    except OSError as error:
        raise EvaluationError(f"{source}: cannot be read ({error.strerror or error}): move it out.") from error
    with file:
        try:
            copy_whole(file, target)
        except OSError as error:
            raise EvaluationError(
                f"{not_writable(target, error)}, remove {target.parent.parent} and merge again; the shards are as they "
                "were."
            ) from error


def _agreed(values: Sequence[Any]) -> Any:
    """Return the common value of all writers, or the list of different values."""
    different = [value for index, value in enumerate(values) if value not in values[:index]]
    return different[0] if len(different) == 1 else different
