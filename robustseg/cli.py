"""Command line: ``robustseg train`` and ``robustseg evaluate``, both on Lightning's CLI."""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from pytorch_lightning.loggers import TensorBoardLogger

from robustseg import __version__
from robustseg.benchmark import run_benchmark
from robustseg.commands import leaderboard, merge_shards
from robustseg.configured import EXPECTED_ERRORS, ConfigError, RobustSegCLI
from robustseg.models import load_segmentation_weights
from robustseg.runs import RunError, run_folder
from robustseg.studies.commands import study_command, transfer_command

_USAGE = """usage: robustseg COMMAND [options]

  train      train a model and score it at the end:   robustseg train --config configs/quickstart.yaml
  evaluate   score a checkpoint under attacks:        robustseg evaluate --config RUN/config.yaml --ckpt_path FILE
  merge      bring shards of an evaluation together:  robustseg merge NEW SHARD SHARD ...
  leaderboard
             rank evaluations of several models:      robustseg leaderboard EVALUATION EVALUATION ...
  study      curves and ablations of a checkpoint:    robustseg study --config RUN/config.yaml
                                                          --config configs/study/step_curve.yaml --ckpt_path FILE
  transfer   show images of each model to all:        robustseg transfer --models A=RUN B=RUN
                                                          --config configs/study/transfer.yaml --output DIR

robustseg train --help and robustseg evaluate --help list all options."""

UNRELIABLE = 3
"""Exit status of ``evaluate --strict`` for results that are marked unreliable."""


def train(args: Sequence[str]) -> int:
    """Train as configured, then score the model on the test split under all attacks of the suite."""
    cli = RobustSegCLI(args)
    _check_before_training(cli)
    cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=cli.checkpoint)
    if cli.config.trainer.fast_dev_run:
        return 0
    checkpoints = cli.config_init.checkpoint
    path = (checkpoints.best_model_path if checkpoints.monitor else None) or checkpoints.last_model_path
    weights = load_segmentation_weights(cli.model.model, path) if path else None
    benchmark = cli.benchmark(weights, check_images=0)
    run_benchmark(cli.trainer, benchmark, Path(cli.trainer.log_dir or cli.trainer.default_root_dir) / benchmark.name)
    return 0


def _check_before_training(cli: RobustSegCLI) -> None:
    """Find what would end the run later, before it writes anything: data, split, checkpoint, monitored figure."""
    cli.datamodule.setup("fit")
    cli.datamodule.setup("test")
    cli.model.check_batch_size(cli.datamodule.batch_size)
    if cli.checkpoint is not None:
        load_segmentation_weights(cli.model.model, cli.checkpoint)
    monitor, robustness = cli.config_init.checkpoint.monitor, cli.config_init.robustness
    _, _, figure = (monitor or "").partition("val/")
    attack = figure.partition("/")[0]
    if attack in robustness.attacks:
        every, validated = robustness.every_n_epochs, cli.config.trainer.check_val_every_n_epoch or 1
        saved = math.lcm(validated, cli.config.checkpoint.every_n_epochs or 1)
        if attack not in robustness.validate_with or not every or saved % every:
            raise RunError(
                f"checkpoint.monitor {monitor} is not there at every validation: put {attack} into "
                f"robustness.validate_with, and set robustness.every_n_epochs to a divisor of {saved} (epochs between "
                "checkpoints) or checkpoint.every_n_epochs to a multiple of it."
            )


def evaluate(args: Sequence[str]) -> int:
    """Score a checkpoint's weights, in the model and on the data of the configuration."""
    cli = RobustSegCLI(args, evaluate=True)
    config = cli.config
    benchmark = cli.loaded_benchmark(config.check_images)
    folder = Path(config.output) if config.output else run_folder(cli.checkpoint) / benchmark.name
    cli.trainer.logger = TensorBoardLogger(str(folder), name="", version="")
    card = run_benchmark(cli.trainer, benchmark, folder)
    unreliable = card is not None and card["verdict"] == "unreliable"
    return UNRELIABLE if config.strict and unreliable else 0


def study(args: Sequence[str]) -> int:
    """Measure a study of a checkpoint, on further models as well with ``--targets``."""
    return study_command(args, _evaluation)


def transfer(args: Sequence[str]) -> int:
    """Show adversarial images of each of several models to all of them."""
    return transfer_command(args, _evaluation)


def _evaluation(args: Sequence[str], study: bool) -> RobustSegCLI:
    return RobustSegCLI(args, evaluate=True, study=study)


def main(args: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    arguments = list(sys.argv[1:] if args is None else args)
    commands = {
        "train": train,
        "evaluate": evaluate,
        "merge": merge_shards,
        "leaderboard": leaderboard,
        "study": study,
        "transfer": transfer,
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"robustseg {__version__}")
        return 0
    if arguments[0] not in commands:
        print(f"{_USAGE}\n\nrobustseg: error: there is no command {arguments[0]!r}.", file=sys.stderr)
        return 2
    # Denormal numbers slow CPU convolutions of barely trained models down several times.
    torch.set_flush_denormal(True)
    # Lightning's own affair, printed at every start with the torch releases of 2026
    warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")
    try:
        return commands[arguments[0]](arguments[1:])
    except (ConfigError, *EXPECTED_ERRORS) as error:
        if os.environ.get("ROBUSTSEG_TRACEBACK"):
            raise
        print(f"robustseg: error: {error}", file=sys.stderr)
        return 1
