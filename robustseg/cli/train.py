"""``robustseg train``: a training run, checked before it writes anything and evaluated at its end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from robustseg.cli.computing import preemptible
from robustseg.cli.plan import show_training, split_plan
from robustseg.config.build import RobustSegCLI
from robustseg.config.callbacks import check_callbacks
from robustseg.config.limits import check_batches, check_folder
from robustseg.config.loggers import close
from robustseg.config.monitored import early_end, keys_of_callbacks
from robustseg.config.saying import say
from robustseg.evaluation.benchmark import run_benchmark
from robustseg.models import load_segmentation_weights
from robustseg.resume.checkpoint_state import OUTLINE, check_state
from robustseg.resume.continuation import RUN_KEY, check_continuation, run_facts
from robustseg.resume.preemption import PreemptionSignals
from robustseg.resume.runs import LAST, RunError
from robustseg.training.monitored import check_monitors
from robustseg.training.strategy import check_strategy, named_gradients


def train(args: Sequence[str]) -> int:
    """Train as configured, then evaluate the model on the test split under all attacks of the suite."""
    return preemptible(lambda signals: _train(args, signals))


def _train(args: Sequence[str], signals: PreemptionSignals) -> int:
    signals.leave_at_once()  # there is nothing to save before the first update
    plan, args = split_plan(args)
    if plan is not None and plan.is_elsewhere:
        return 0
    cli = RobustSegCLI(args)
    _check_before_training(cli)
    if plan is not None:
        return show_training(plan, cli)
    cli.log_into(Path(str(cli.save.run_folder)))
    signals.leave_between_steps()
    cli.save.signals = signals
    with named_gradients():
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=cli.checkpoint, weights_only=True)
    if (reason := early_end(cli.trainer)) is not None:
        say(reason)
    if cli.config.trainer.fast_dev_run:
        return 0
    best, folder = cli.config_init.checkpoint, cli.save.folder
    assert folder is not None
    last = folder / LAST
    path = (best.best_model_path if best.monitor else None) or (str(last) if last.is_file() else cli.checkpoint)
    weights = load_segmentation_weights(cli.model.model, path) if path else None
    cli.model.model.compiled = None  # as for evaluate, which would else have other figures by rounding
    benchmark = cli.benchmark(weights, check_images=0)
    # Results are saved continuously, so a signal may end the evaluation at once.
    signals.leave_at_once()
    run_benchmark(cli.trainer, benchmark, folder.parent / benchmark.name)
    close(cli.trainer.loggers)
    return 0


def _check_before_training(cli: RobustSegCLI) -> None:
    """Check data, split, checkpoint and monitored figure before the run writes anything."""
    cli.datamodule.share_batch(cli.trainer.world_size, cli.trainer.accumulate_grad_batches)
    for caution in check_strategy(cli.trainer, cli.model, cli.datamodule.batch_size):
        say(caution)
    trainer, keys = cli.config.trainer, keys_of_callbacks(cli.config_init)
    if trainer.max_time is not None or isinstance(trainer.val_check_interval, (str, dict)):
        raise RunError(
            "trainer.max_time and a val_check_interval in time depend on the machine's speed, so that no run could be "
            "continued exactly: limit epochs or steps; a scheduler's time limit is no end, see docs/clusters.md."
        )
    check_callbacks(cli.trainer, keys)
    cli.open_data("fit", "test")
    cli.model.check_batch_size(cli.datamodule.batch_size, cli.datamodule.global_batch_size)
    if cli.checkpoint is not None and cli.resumed is not None:
        facts = run_facts(cli.trainer, cli.datamodule)
        check_continuation(cli.resumed, facts, cli.settings, cli.config.resume, cli.checkpoint)
        load_segmentation_weights(cli.model.model, cli.checkpoint)
        check_state(cli.resumed, cli.checkpoint, cli.resumed[RUN_KEY].get(OUTLINE))
        cli.resumed = {"global_step": cli.resumed["global_step"]}  # the rest is as large as the model and its optimiser
    figures = cli.model.logged(cli.datamodule.batch_size, cli.datamodule.global_batch_size)
    for caution in check_monitors(cli.trainer, cli.model, figures, keys):
        say(caution)
    check_batches(cli.trainer, cli.datamodule)
    check_folder(trainer.default_root_dir)
