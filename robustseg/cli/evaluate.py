"""``robustseg evaluate``: a checkpoint under the attacks of a suite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from robustseg.cli.computing import measuring
from robustseg.cli.plan import show_plan, split_plan
from robustseg.config.build import RobustSegCLI
from robustseg.config.loggers import close
from robustseg.evaluation.benchmark import run_benchmark
from robustseg.planning.evaluation import Part
from robustseg.resume.runs import run_folder

UNRELIABLE = 3
"""Exit status of ``evaluate --strict`` for results marked as unreliable."""


def evaluate(args: Sequence[str]) -> int:
    """Score a checkpoint's weights, in the model and on the data of the configuration."""
    return measuring(lambda: _evaluate(args))


def _evaluate(args: Sequence[str]) -> int:
    plan, args = split_plan(args)
    if plan is not None and plan.is_elsewhere:
        return 0
    cli = RobustSegCLI(args, evaluate=True)
    config = cli.config
    benchmark = cli.loaded_benchmark(config.check_images)
    folder = Path(config.output) if config.output else run_folder(cli.checkpoint) / benchmark.name
    if plan is not None:
        return show_plan(plan, cli, [Part(benchmark, folder)], "evaluate", folder)
    cli.log_into(folder)
    card = run_benchmark(cli.trainer, benchmark, folder)
    close(cli.trainer.loggers)
    unreliable = card is not None and card.verdict == "unreliable"
    return UNRELIABLE if config.strict and unreliable else 0
