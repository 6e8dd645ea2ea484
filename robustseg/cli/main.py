"""Command line: ``robustseg train`` and ``robustseg evaluate``, both on Lightning's CLI."""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from pytorch_lightning.loggers import TensorBoardLogger

from robustseg import __version__
from robustseg.cli.configs import list_configs
from robustseg.cli.models import inspect_checkpoint, list_models
from robustseg.cli.results import leaderboard, list_datasets, merge_shards
from robustseg.cli.studies import study_command, transfer_command
from robustseg.config.build import EXPECTED_ERRORS, ConfigError, RobustSegCLI, is_first_process, say
from robustseg.config.safety import OPTION, split_allowed
from robustseg.data.loading import end_workers
from robustseg.doctor import doctor
from robustseg.evaluation.benchmark import run_benchmark
from robustseg.models import load_segmentation_weights
from robustseg.resume.continuation import check_continuation, run_facts
from robustseg.resume.ending import exit_status, explanation, is_interrupt
from robustseg.resume.failure import record_error
from robustseg.resume.preemption import REQUEUE, Preempted, PreemptionSignals, requeue
from robustseg.resume.runs import LAST, RunError, run_folder
from robustseg.training.strategy import check_strategy

_USAGE = """usage: robustseg COMMAND [options]

  train      train a model and score it at the end:   robustseg train --config quickstart
  evaluate   score a checkpoint under attacks:        robustseg evaluate --config RUN/config.yaml --ckpt_path FILE
  merge      bring shards of an evaluation together:  robustseg merge NEW SHARD SHARD ...
  leaderboard
             rank evaluations of several models:      robustseg leaderboard EVALUATION EVALUATION ...
  study      curves and ablations of a checkpoint:    robustseg study --config RUN/config.yaml
                                                          --config study/step_curve --ckpt_path FILE
  transfer   show images of each model to all:        robustseg transfer --models A=RUN B=RUN
                                                          --config study/transfer --output DIR
  configs    which --config takes by name:            robustseg configs quickstart
  datasets   which there are, and their layout:       robustseg datasets PascalVOC
  models     which networks there are:                robustseg models pspnet_r50
  inspect    what is this file of weights?            robustseg inspect FILE --network pspnet_r50
  doctor     is this machine, or this job, fit?       robustseg doctor --config data/camvid

robustseg train --help and robustseg evaluate --help list all options."""

UNRELIABLE = 3
"""Exit status of ``evaluate --strict`` for results that are marked unreliable."""


def train(args: Sequence[str]) -> int:
    """Train as configured, then score the model on the test split under all attacks of the suite."""
    return _preemptible(lambda signals: _train(RobustSegCLI(args), signals))


def _preemptible(work: Callable[[PreemptionSignals], int], again: str = " with --ckpt_path last") -> int:
    """Do work that SIGTERM and SIGUSR1 end, to be continued; its exit status, and ``again`` as of :func:`requeue`."""
    signals = PreemptionSignals()
    signals.install()
    try:
        return work(signals)
    except Preempted as reason:
        if not is_first_process():
            return 0  # what is left to do is rank 0's; a launcher takes another status for a failure
        end_workers()
        say(str(reason))
        requeue(signals.received, say, again)
        return REQUEUE
    finally:
        signals.restore()


def _measuring(work: Callable[[], int]) -> int:
    """Do work whose results are kept as it goes: a signal ends it anywhere, where Lightning's test would ignore it."""

    def start(signals: PreemptionSignals) -> int:
        signals.leave_at_once()
        return work()

    return _preemptible(start, " to go on; what was measured is kept")


def _train(cli: RobustSegCLI, signals: PreemptionSignals) -> int:
    _check_before_training(cli)
    cli.save.signals = signals
    cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=cli.checkpoint, weights_only=True)
    if cli.config.trainer.fast_dev_run:
        return 0
    best, last = cli.config_init.checkpoint, cli.save.folder / LAST if cli.save.folder else None
    path = (best.best_model_path if best.monitor else None) or (
        str(last) if last and last.is_file() else cli.checkpoint
    )
    weights = load_segmentation_weights(cli.model.model, path) if path else None
    benchmark = cli.benchmark(weights, check_images=0)
    # What is measured is kept at once: there is nothing to finish first.
    signals.leave_at_once()
    run_benchmark(cli.trainer, benchmark, Path(cli.trainer.log_dir or cli.trainer.default_root_dir) / benchmark.name)
    return 0


def _check_before_training(cli: RobustSegCLI) -> None:
    """Find what would end the run later, before it writes anything: data, split, checkpoint, monitored figure."""
    cli.datamodule.share_batch(cli.trainer.world_size, cli.trainer.accumulate_grad_batches)
    for caution in check_strategy(cli.trainer, cli.model, cli.datamodule.batch_size):
        say(caution)
    trainer = cli.config.trainer
    if trainer.overfit_batches:
        raise RunError("trainer.overfit_batches replaces the order of the data: use trainer.limit_train_batches.")
    if trainer.max_time is not None or isinstance(trainer.val_check_interval, (str, dict)):
        raise RunError(
            "trainer.max_time and a val_check_interval in time depend on the machine's speed, so that no run could be "
            "continued exactly: limit epochs or steps; a scheduler's time limit is no end, see docs/clusters.md."
        )
    cli.open_data("fit", "test")
    cli.model.check_batch_size(cli.datamodule.batch_size, cli.datamodule.global_batch_size)
    if cli.checkpoint is not None and cli.resumed is not None:
        facts = run_facts(cli.trainer, cli.datamodule)
        check_continuation(cli.resumed, facts, cli.settings, cli.config.resume, cli.checkpoint)
        load_segmentation_weights(cli.model.model, cli.checkpoint)
        cli.resumed = None  # as large as the model and its optimiser
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
    return _measuring(lambda: _evaluate(args))


def _evaluate(args: Sequence[str]) -> int:
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
    allowed, _ = split_allowed(args)
    # The configuration of a target gets nothing else from this command line.
    return _measuring(lambda: study_command(args, partial(_evaluation, allowed=allowed)))


def transfer(args: Sequence[str]) -> int:
    """Show adversarial images of each of several models to all of them."""
    return _measuring(lambda: transfer_command(args, _evaluation))


def _evaluation(args: Sequence[str], study: bool, allowed: Sequence[str] = ()) -> RobustSegCLI:
    return RobustSegCLI([*args, *(f"{OPTION}={package}" for package in allowed)], evaluate=True, study=study)


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
        "configs": list_configs,
        "datasets": list_datasets,
        "models": list_models,
        "inspect": inspect_checkpoint,
        "doctor": doctor,
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
    # untrue here: the order of the data is continued by the sampler, and scores are those of all ranks already
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
    warnings.filterwarnings("ignore", message=".*It is recommended to use `self.log.*sync_dist=True.*")
    name, *rest = arguments
    try:
        return commands[name](rest)
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        if isinstance(error, Exception):
            record_error(error)
        end_workers()
        if (message := _message(name, error)) is None:
            raise
        print(message, file=sys.stderr)
        return exit_status(error)


def _message(command: str, error: BaseException) -> str | None:
    """What a user needs to know of an exception; None where that is the traceback."""
    again = "run the same command again" + (" with --ckpt_path last to go on." if command == "train" else " to go on.")
    if is_interrupt(error):
        return f"robustseg: interrupted: {again}"
    if os.environ.get("ROBUSTSEG_TRACEBACK"):
        return None
    if isinstance(error, (ConfigError, *EXPECTED_ERRORS)):
        return f"robustseg: error: {error}"
    known = explanation(error)
    return None if known is None else f"robustseg: error: {known} Then {again}"
