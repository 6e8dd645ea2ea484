"""Options of the command line beside those of Lightning's Trainer, the model and the data."""

from __future__ import annotations

from collections.abc import Callable

from jsonargparse import ActionFail
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser

from robustseg.callbacks import RobustnessEvaluation
from robustseg.config.benchmark_of import EVALUATE_OPTIONS
from robustseg.config.modes import AUTO
from robustseg.config.safety import OPTION
from robustseg.config.writes import WRITE_OPTION
from robustseg.resume.callback import ResumeCheckpoint
from robustseg.resume.continuation import Resume
from robustseg.studies import Study

TRAINER_DEFAULTS = {
    # The attack leaves inference mode by itself; without it, tensors that a model caches stay usable.
    "inference_mode": False,
    "logger": True,
    "default_root_dir": "runs",
    "log_every_n_steps": 10,
    # Its FLOPs are 0 here, and its modes those of the moment.
    "enable_model_summary": False,
}
PLAN_OPTION = "--plan"
ABOUT_PLAN = (
    "Measure a few steps and print what the command would compute: gradients, time, memory, and how many devices end "
    "it within TIME, such as 8h (24h by default), with the sbatch line. Nothing is written; --json FILE keeps the plan."
)
COMMAND_LINE_ONLY = {
    OPTION: (
        "PACKAGE",
        "Package whose classes a configuration may name, beside torch, torchvision, timm and robustseg. Can be "
        "repeated.",
    ),
    PLAN_OPTION: ("[TIME]", ABOUT_PLAN),
    "--quiet": (None, "Leave warnings and results, without progress."),
    WRITE_OPTION: (
        "FOLDER",
        "Folder that a configuration file may write to, beside this one and trainer.default_root_dir. Can be repeated.",
    ),
}
"""Placeholder and help of options that no file can set."""
NUM_CLASSES = "model.network.init_args.num_classes"
FROM_DATA = {NUM_CLASSES: "num_classes", "model.ignore_index": "ignore_index"}
"""Keys that take their value from an attribute of the data."""


def add_options(
    parser: LightningArgumentParser, evaluate: bool, study: bool, outputs_for: Callable[[int], int]
) -> None:
    """Add the options of a training run, of an evaluation or of a study.

    Args:
        parser: Has the sections ``trainer``, ``model`` and ``data`` already.
        evaluate: Whether a checkpoint is to be scored.
        study: Whether that is a study's.
        outputs_for: Function from the number of the data's classes to that of the network's outputs.
    """
    _add_run_options(parser, evaluate)
    if evaluate:
        for name, kind, default, about in EVALUATE_OPTIONS:
            parser.add_argument(name, type=kind, default=default, help=about)
        strict = "Exit with status 3 when the results are marked unreliable."
        parser.add_argument("--strict", action="store_true", help=strict)
    if study:
        parser.add_subclass_arguments(Study, "study", required=True)
    _add_sections(parser)
    for key, name in FROM_DATA.items():
        compute = outputs_for if key == NUM_CLASSES else None
        parser.link_arguments(f"data.{name}", key, compute, apply_on="instantiate")


def _add_run_options(parser: LightningArgumentParser, evaluate: bool) -> None:
    # For the help: they were taken from the command line before, and a file may not allow itself anything.
    for name, (metavar, about) in COMMAND_LINE_ONLY.items():
        parser.add_argument(name, action=ActionFail(), metavar=metavar, help=f"{about} On the command line only.")
    parser.add_argument(
        "--experiment", type=str, default="default", help="Name of the run's folder under trainer.default_root_dir."
    )
    parser.add_argument(
        "--ckpt_path",
        type=str | None,
        default=None,
        help="Checkpoint to evaluate."
        if evaluate
        else "Checkpoint to resume from; 'last' continues the newest run of this experiment in its own folder, and "
        "starts one where there is none.",
    )
    parser.add_argument(
        "--resume",
        type=Resume,
        default="exact",
        help="What may differ from the run of --ckpt_path: nothing (exact), the number of processes that share an "
        "update's images (elastic), or any setting (changed).",
    )


def _add_sections(parser: LightningArgumentParser) -> None:
    parser.add_lightning_class_args(RobustnessEvaluation, "robustness")
    parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
    parser.add_class_arguments(
        ResumeCheckpoint,
        "save",
        skip={"resume", "settings", "signals", "run_folder"},
        fail_untyped=False,
        sub_configs=True,
    )
    parser.set_defaults(
        {
            "checkpoint.mode": AUTO,
            "checkpoint.filename": "best_epoch_{epoch}_step_{step}",
            "checkpoint.auto_insert_metric_name": False,
            # With it, a run whose folder was renamed would go on in last-v1.ckpt beside an outdated last.ckpt.
            "checkpoint.enable_version_counter": False,
        }
    )
