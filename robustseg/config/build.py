"""What a command line or a YAML file describes: parser, model, data, suite and trainer of a run or an evaluation."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from jsonargparse import ActionFail, Namespace
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.loggers import TensorBoardLogger

from robustseg.attacks import AttackError
from robustseg.callbacks import AttackProgressBar, EpochLines, RobustnessEvaluation
from robustseg.config.benchmark_of import EVALUATE_OPTIONS, benchmark_of, read_ids
from robustseg.config.help import describe
from robustseg.config.messages import Parser, keys_of
from robustseg.config.named import ConfigFile
from robustseg.config.safety import OPTION, limit_imports, refused_object, split_allowed
from robustseg.data import DataError, SegmentationData
from robustseg.data.lightning import SegmentationDataModule
from robustseg.detectors import DetectorError
from robustseg.evaluation import EvaluationError
from robustseg.evaluation.benchmark import Benchmark, Shard
from robustseg.evaluation.errors import ReportError
from robustseg.models import ModelError, load_segmentation_weights
from robustseg.models.checkpoints.load import WeightsInfo
from robustseg.resume.callback import ResumeCheckpoint
from robustseg.resume.checkpoint_files import CheckpointError
from robustseg.resume.checkpoint_io import AtomicCheckpointIO
from robustseg.resume.continuation import Resume, deciding_settings
from robustseg.resume.failure import EndInTime, end_with_launcher
from robustseg.resume.runs import RunError, last_run, next_free, next_version, run_folder
from robustseg.shipped import ConfigFileError
from robustseg.studies import Study, StudyError
from robustseg.training import RobustSegmentation, TrainingError

EXPECTED_ERRORS = (
    AttackError,
    CheckpointError,
    ConfigFileError,
    DataError,
    DetectorError,
    EvaluationError,
    ModelError,
    ReportError,
    RunError,
    StudyError,
    TrainingError,
    MisconfigurationException,
)
"""What is wrong with what was asked for; the message is all that a user needs."""


class ConfigError(ValueError):
    """A value of the configuration was refused by what it configures."""


class _SaveConfig(SaveConfigCallback):
    """Keeps the record of a run: a resumed run adds its configuration beside the first one."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write the configuration when training starts, and never for a test."""
        if stage != "fit" or self.already_saved:
            return
        folder = Path(trainer.strategy.broadcast(trainer.log_dir) or trainer.default_root_dir)
        if trainer.is_global_zero:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / "config.yaml"
            if path.exists():
                # a run that is requeued every day keeps one copy of each configuration it had
                text = self.parser.dump(self.config, skip_none=False)
                if any(kept.read_text(encoding="utf-8") == text for kept in folder.glob("config*.yaml")):
                    return
                path = next_free(folder, "config_resumed", ".yaml")
            self.parser.save(self.config, str(path), skip_none=False, overwrite=True)
        self.already_saved = True


class RobustSegCLI(LightningCLI):
    """LightningCLI with the robustness suite, the checkpoint policy and where a run is kept.

    Args:
        args: Command line arguments.
        evaluate: Parse and build for an evaluation: no training logger, no checkpoints, no saved config.
        study: The evaluation is that of a study, which the configuration names under ``study``.
    """

    def __init__(self, args: Sequence[str], evaluate: bool = False, study: bool = False):
        self.evaluate = evaluate
        self.study = study
        self.allowed_imports, args = split_allowed(args)
        limit_imports(self.allowed_imports)
        command = "study" if study else "evaluate" if evaluate else "train"
        super().__init__(
            RobustSegmentation,
            save_config_callback=None if evaluate else _SaveConfig,
            seed_everything_default=0,
            # The attack leaves inference mode by itself; without it, tensors that a model caches stay usable.
            trainer_defaults={
                "inference_mode": False,
                "logger": False,
                "default_root_dir": "runs",
                "log_every_n_steps": 10,
            },
            parser_class=Parser,
            parser_kwargs={
                "description": describe(command),
                "prog": f"robustseg {command}",
                "usage": "%(prog)s [--config FILE ...] [--KEY VALUE ...]",
            },
            args=list(args),
            run=False,
            auto_configure_optimizers=False,
            # What the checkpoint should hold is weights; the record of the configuration is config.yaml.
            load_from_checkpoint_support=False,
        )

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Lightning's options, with a data set in the place of a data module."""
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.set_defaults({f"trainer.{name}": value for name, value in self.trainer_defaults.items()})
        parser.add_lightning_class_args(RobustSegmentation, "model")
        parser.add_subclass_arguments(SegmentationData, "data", fail_untyped=False, required=True)

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Lightning's, whose ``--config`` takes the names of shipped configurations as well."""
        parser = self.parser_class(
            **{"dump_header": [f"pytorch_lightning=={metadata.version('pytorch_lightning')}"], **kwargs}
        )
        about = "A YAML file, or the name of a configuration that robustseg configs lists; later ones win."
        parser.add_argument("-c", "--config", action=ConfigFile, help=about)
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Our own options beside Lightning's."""
        # For the help: it was taken from the command line before, and a file may not allow itself.
        parser.add_argument(
            OPTION,
            action=ActionFail(),
            metavar="PACKAGE",
            help="Package whose classes a configuration may name, beside torch, torchvision, timm and robustseg. Can "
            "be repeated. On the command line only.",
        )
        parser.add_argument(
            "--experiment", type=str, default="default", help="Name of the run's folder under trainer.default_root_dir."
        )
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            default=None,
            help="Checkpoint to evaluate."
            if self.evaluate
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
        if self.evaluate:
            for name, kind, default, about in EVALUATE_OPTIONS:
                parser.add_argument(name, type=kind, default=default, help=about)
            strict = "Exit with status 3 when the results are marked unreliable."
            parser.add_argument("--strict", action="store_true", help=strict)
        if self.study:
            parser.add_subclass_arguments(Study, "study", required=True)
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
                "checkpoint.mode": "max",
                "checkpoint.filename": "best_epoch_{epoch}_step_{step}",
                "checkpoint.auto_insert_metric_name": False,
                # With it, a run whose folder was renamed would go on in last-v1.ckpt beside an outdated last.ckpt.
                "checkpoint.enable_version_counter": False,
            }
        )
        parser.link_arguments("data.num_classes", "model.network.init_args.num_classes", apply_on="instantiate")
        parser.link_arguments("data.ignore_index", "model.ignore_index", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse without Lightning's warning about sys.argv."""
        self.config = parser.parse_args(args)
        refusal = refused_object(self.config, self.allowed_imports)
        if refusal is not None:
            parser.error(refusal)

    def before_instantiate_classes(self) -> None:
        """Find the checkpoint and the folder before anything is built or written."""
        if self.config.trainer.accelerator == "auto" and torch.backends.mps.is_available():
            print("robustseg: Apple's GPU lacks the float64 that exact budgets need; training on the CPU.")
            self.config.trainer.accelerator = "cpu"
        checkpoint = self.config.ckpt_path
        self.version: int | None = None
        self.resumed: dict[str, Any] | None = None
        self.settings = deciding_settings(self.config.as_dict())
        if self.evaluate:
            if checkpoint is None:
                command = "study" if self.study else "evaluate"
                raise RunError(f"{command} needs --ckpt_path: the checkpoint whose model is to be scored.")
            self.config.robustness.validate_with = None  # the run's, which may not fit to another suite
            if self.study:
                self.config.robustness.detectors = None  # a study looks at what it says itself
        elif checkpoint == "last":
            self.version, checkpoint, notes = last_run(self.config.trainer.default_root_dir, self.config.experiment)
            for note in notes:
                say(note)
        if checkpoint is not None and not Path(checkpoint).is_file():
            hint = "no such file."
            if self.evaluate and checkpoint == "last":
                hint = "that is for train; give the file, RUN/checkpoints/last.ckpt."
            elif Path(checkpoint).is_dir():
                hint = "it is a folder; give a file in it, or last."
            raise RunError(f"--ckpt_path {checkpoint}: {hint}")
        if checkpoint is not None and not self.evaluate:
            self.resumed = AtomicCheckpointIO().load_checkpoint(checkpoint)
        if self.config.checkpoint.monitor is None:
            # Without a figure to choose by it would keep the newest, as ResumeCheckpoint does.
            self.config.checkpoint.save_top_k = 0
        self.checkpoint = checkpoint
        if checkpoint is not None:
            _start_from_nothing_else(self.config.model)

    def instantiate_classes(self) -> None:
        """Build everything; values that a constructor refuses become one message."""
        try:
            super().instantiate_classes()
            self.datamodule = SegmentationDataModule(self.datamodule)
        except EXPECTED_ERRORS:
            raise
        except ValueError as error:
            # The parser wraps what a constructor said into a list of the types that it tried.
            cause: BaseException = error
            while isinstance(cause.__cause__, ValueError):
                cause = cause.__cause__
            if isinstance(cause, EXPECTED_ERRORS):
                raise cause from error
            raise ConfigError(f"{keys_of(str(cause), self.config.as_dict())}{cause}") from error

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Add the logger of the run, unless the configuration has its own, and the callbacks that every run has."""
        trainer = self.config_init.trainer
        callbacks = [self.config_init.robustness]
        if self.evaluate:
            # Lightning under SLURM would load a stale checkpoint that it finds in default_root_dir.
            kwargs |= {"default_root_dir": str(run_folder(self.checkpoint) / "evaluation"), "logger": False}
            # A training run's limits and precision are not those of its evaluation.
            kwargs |= {"enable_checkpointing": False, "precision": "32-true", "limit_test_batches": None}
            kwargs |= {"fast_dev_run": False, "use_distributed_sampler": False}
        else:
            if trainer.logger in (False, None, True):
                # TensorBoard leaves out what a killed run had logged after the checkpoint.
                purge = None if self.resumed is None else self.resumed["global_step"]
                kwargs["logger"] = TensorBoardLogger(
                    trainer.default_root_dir, name=self.config.experiment, version=self.version, purge_step=purge
                )
            self.save: ResumeCheckpoint = self.config_init.save
            if "logger" not in kwargs:
                # Another logger has folders of its own, in which --ckpt_path last would not find the run.
                root, experiment = trainer.default_root_dir, self.config.experiment
                version = next_version(root, experiment) if self.version is None else self.version
                self.save.run_folder = Path(root) / experiment / f"version_{version}"
            self.save.resume, self.save.settings = self.config.resume, self.settings
            callbacks += [self.config_init.checkpoint, LearningRateMonitor(), self.save]
            if SLURMEnvironment.detect():
                # Its own handler would save in the middle of a step.
                kwargs["plugins"] = [*_as_list(trainer.plugins), SLURMEnvironment(auto_requeue=False)]
        if trainer.enable_progress_bar is not False and sys.stdout.isatty():
            callbacks.append(AttackProgressBar())
        else:
            kwargs["enable_progress_bar"] = False
            callbacks.append(EpochLines())
        built = self._instantiate_trainer({**trainer, **kwargs}, [EndInTime(), *callbacks])
        end_with_launcher(built)
        return built

    def open_data(self, *stages: str) -> None:
        """Download what the data set was told to, on the first process, and open the splits of the stages.

        Lightning would download at the start of training, after these have been looked at.
        """
        if is_first_process():
            self.datamodule.prepare_data()
        for stage in stages:
            self.datamodule.setup(stage)

    def loaded_benchmark(self, check_images: int = 8) -> Benchmark:
        """The model with its checkpoint's weights under its suite, on what the options say.

        Args:
            check_images: Number of images to probe the model on.
        """
        self.open_data("test")
        weights = load_segmentation_weights(self.model.model, self.checkpoint)
        only = None if self.config.ids is None else read_ids(Path(self.config.ids))
        return self.benchmark(weights, Shard.parse(self.config.shard), check_images, only)

    def benchmark(
        self,
        weights: WeightsInfo | None,
        shard: Shard | None = None,
        check_images: int = 8,
        only: Sequence[str] | None = None,
    ) -> Benchmark:
        """The model of this configuration under its suite.

        Args:
            weights: File that the model's weights came from.
            shard: The part to measure; by default all.
            check_images: Number of images to probe the model on.
            only: Ids of samples to score; by default all, or ``robustness.test_num_images`` of them.
        """
        return benchmark_of(
            self.model,
            self.datamodule.data,
            self.config_init.robustness,
            self.config.model.network,
            weights,
            shard or Shard(),
            check_images,
            only,
        )


def _start_from_nothing_else(model: Namespace) -> None:
    """A checkpoint holds all weights: those that training started from need not be there any more."""
    model.init_weights = model.init_without = None
    arguments = model.network.get("init_args") or {}
    for key, value in (("pretrained", False), ("weights", None)):
        if key in arguments:
            arguments[key] = value


def is_first_process() -> bool:
    """Whether this is rank 0, also before the ranks have met."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0


def say(line: str) -> None:
    """Print a line, on the first of several processes."""
    if is_first_process():
        print(f"robustseg: {line}", flush=True)


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]
