"""Objects of a command line or a YAML file: parser, model, data, suite and trainer of a run or an evaluation."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from robustseg.callbacks import EpochLines, ShowTraining
from robustseg.config.benchmark_of import benchmark_of, read_ids
from robustseg.config.callbacks import has_bar, refusal_of, refuse_callbacks, shown_bars
from robustseg.config.errors import ConfigError, cause_of, is_expected
from robustseg.config.folder import (
    HEADER,
    SaveConfig,
    evaluation_arguments,
    keep_checkpoints_in,
    logged_by_an_earlier_version,
    settings_to_log,
    training_arguments,
)
from robustseg.config.help import describe
from robustseg.config.limits import check_settings, write_enums_as_text
from robustseg.config.logger_arguments import Home
from robustseg.config.loggers import StartLoggers, build_loggers, check_loggers
from robustseg.config.messages import Parser, keys_of
from robustseg.config.modes import as_list, settle_modes
from robustseg.config.named import ConfigFile, limit_files
from robustseg.config.options import TRAINER_DEFAULTS, add_options
from robustseg.config.safety import limit_imports, refused_object, split_allowed
from robustseg.config.saying import is_first_process, say, tell
from robustseg.config.start import find_start, leave_uncompiled, refuse_other_data, start_from_nothing_else
from robustseg.config.writes import expand_places, refused_write, split_writable
from robustseg.data import SegmentationData
from robustseg.data.lightning import SegmentationDataModule
from robustseg.evaluation.benchmark import Benchmark, Shard
from robustseg.models import load_segmentation_weights
from robustseg.models.checkpoints.load import WeightsInfo
from robustseg.resume.callback import ResumeCheckpoint
from robustseg.resume.continuation import deciding_settings
from robustseg.resume.failure import EndInTime, end_with_launcher
from robustseg.resume.runs import next_version
from robustseg.terminal import shown
from robustseg.training import RobustSegmentation


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
        self.allowed_writes, args = split_writable(args)
        self.given_arguments = list(args)
        limit_imports(self.allowed_imports)
        limit_files()
        self.command = "study" if study else "evaluate" if evaluate else "train"
        super().__init__(
            RobustSegmentation,
            save_config_callback=None if evaluate else SaveConfig,
            seed_everything_default=0,
            trainer_defaults=TRAINER_DEFAULTS,
            parser_class=Parser,
            parser_kwargs={
                "description": describe(self.command),
                "prog": f"robustseg {self.command}",
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
        header = [HEADER, f"pytorch_lightning=={metadata.version('pytorch_lightning')}"]
        parser = self.parser_class(**{"dump_header": header, **kwargs})
        about = "A YAML file, or the name of a configuration that robustseg configs lists; later ones win."
        parser.add_argument("-c", "--config", action=ConfigFile, help=about)
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Our own options beside Lightning's."""
        add_options(parser, self.evaluate, self.study, self.outputs_for)

    def outputs_for(self, num_classes: int) -> int:
        """Return the number of outputs of the network for data of so many classes."""
        model = self.config.model
        return num_classes + len(model.drop_classes or ()) + (model.void_class is not None)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse without Lightning's warning about sys.argv."""
        self.config = parser.parse_args(args)
        assert isinstance(parser, Parser)
        # Without it, a mode that was given could not be told from a default.
        assert parser.given is not None, "jsonargparse does not finish parsing by _parse_common any more"
        self.given = parser.given
        write_enums_as_text(self.config)
        expand_places(self.config)
        check_settings(self.config, trains=not self.evaluate)
        if not self.evaluate:
            refuse_callbacks(self.config)
        refusal = refused_object(self.config, self.allowed_imports) or refused_write(
            self.config, self.allowed_writes, self.given_arguments, self.evaluate
        )
        if refusal is not None:
            parser.error(refusal)

    def before_instantiate_classes(self) -> None:
        """Find the checkpoint and the folder before anything is built or written."""
        if self.config.trainer.enable_progress_bar is False:
            shown().bar = False
        shown().prepare("building the model and opening the data")
        if self.config.trainer.accelerator == "auto" and torch.backends.mps.is_available():
            say("Apple's GPU lacks the float64 that exact budgets need; training on the CPU.")
            self.config.trainer.accelerator = "cpu"
        settle_modes(self.config, self.given.get("trainer.callbacks"), refuse=not self.evaluate)
        self.settings = deciding_settings(self.config.as_dict())
        self.version, self.checkpoint, self.resumed = find_start(self.config, self.command)
        if self.version is not None and self.config.trainer.logger is False and logged_by_an_earlier_version(self.run):
            say(f"{self.run} is of an earlier version, whose logger: false was TensorBoard: it goes on with that")
            self.config.trainer.logger = True
        if self.evaluate:
            self.config.robustness.validate_with = None  # the run's, which may not fit to another suite
            leave_uncompiled(self.config.model, self.given_arguments)
        if not self.study:  # has no log
            check_loggers(self.config.trainer.logger)
        if self.study:
            self.config.robustness.detectors = None  # a study looks at what it says itself
        checkpoint = self.config.checkpoint
        if checkpoint.monitor is None and checkpoint.save_top_k == 1:
            # Without a figure to choose by it would keep the newest, as ResumeCheckpoint does.
            checkpoint.save_top_k = 0
        if self.checkpoint is not None:
            start_from_nothing_else(self.config.model)

    @property
    def run(self) -> Path:
        """Folder of the continued run, or of a new one."""
        root, experiment = self.config.trainer.default_root_dir, self.config.experiment
        version = next_version(root, experiment) if self.version is None else self.version
        return Path(str(root), str(experiment), f"version_{version}")

    def instantiate_classes(self) -> None:
        """Build everything but loggers; values that a constructor refuses become one message."""
        loggers, self.config.trainer.logger = self.config.trainer.logger, False
        try:
            super().instantiate_classes()
            self.config.trainer.logger = loggers
            overfit = 0 if self.evaluate else self.config.trainer.overfit_batches
            self.datamodule = SegmentationDataModule(self.datamodule, overfit)
            refuse_other_data(self.config, self.datamodule.data)
        except ValueError as error:
            if is_expected(error):
                raise
            cause = cause_of(error)
            if is_expected(cause):
                raise cause from error
            raise ConfigError(f"{keys_of(str(cause), self.config.as_dict())}{cause}") from error

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Add the callbacks that every run has; loggers are built later, since some write at once."""
        trainer = self.config_init.trainer
        # the data module has it; Lightning would replace the order of the data
        kwargs["overfit_batches"] = 0
        # a list of their own, as Lightning puts the others into it
        kwargs["callbacks"] = as_list(trainer.callbacks)
        callbacks = [EndInTime(), self.config_init.robustness]
        if self.evaluate:
            # those of a run of version 0.1
            kwargs["callbacks"] = [each for each in kwargs["callbacks"] if refusal_of(type(each)) is None]
            kwargs |= evaluation_arguments(kwargs["callbacks"], self.checkpoint)
        else:
            self.save: ResumeCheckpoint = self.config_init.save
            self.save.run_folder = self.run
            self.save.resume, self.save.settings = self.config.resume, self.settings
            kwargs |= training_arguments(trainer, self.save.run_folder)
            keep_checkpoints_in(self.save.run_folder, [self.config_init.checkpoint, *kwargs["callbacks"]])
            callbacks += [self.config_init.checkpoint, self.save]
            if not any(isinstance(each, LearningRateMonitor) for each in kwargs["callbacks"]):
                callbacks.append(LearningRateMonitor())
        enabled, in_terminal = trainer.enable_progress_bar is not False, sys.stdout.isatty()
        kwargs["callbacks"] = shown_bars(kwargs["callbacks"], enabled, in_terminal)
        if has_bar(kwargs["callbacks"]):
            shown().hide()  # the configuration has a bar of its own
        else:
            kwargs["enable_progress_bar"] = False
        callbacks += [ShowTraining(), EpochLines()]
        try:
            built = self._instantiate_trainer({**trainer, **kwargs}, callbacks)
        except (TypeError, ValueError, RuntimeError, MisconfigurationException) as error:
            raise ConfigError(f"trainer: {' '.join(str(error).split())}") from error
        end_with_launcher(built)
        return built

    def log_into(self, folder: Path) -> None:
        """Build the loggers to write into the folder of the run or the evaluation, and give them to the trainer."""
        trainer: Any = self.trainer
        if self.config.trainer.fast_dev_run and not self.evaluate:
            return
        # an evaluation is logged once more, and so is a run that had no checkpoint yet
        done = 0 if self.resumed is None else int(self.resumed["global_step"])
        purge_step = None if self.version is None and not self.evaluate else done
        root, experiment = Path(self.config.trainer.default_root_dir), self.config.experiment
        home = Home(folder, root, experiment, not self.evaluate, purge_step)
        settings = settings_to_log(self.parser.dump(self.config, skip_none=False))
        trainer.loggers = build_loggers(self.config.trainer.logger, home)
        trainer.callbacks.insert(0, StartLoggers(home, settings))

    def open_data(self, *stages: str) -> None:
        """Download what the data set was told to, on the first process, and open the splits of the stages.

        Lightning would download at the start of training, after these have been looked at.
        """
        if is_first_process():
            self.datamodule.prepare_data()
        for stage in stages:
            self.datamodule.setup(stage)
        tell(self.datamodule.data.summary())

    def loaded_benchmark(self, check_images: int = 8) -> Benchmark:
        """Return the evaluation of the model with its checkpoint's weights, on what the options say.

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
        """Return the evaluation of this configuration's model under its suite.

        Args:
            weights: File that the model's weights came from.
            shard: The part to measure; by default all.
            check_images: Number of images to probe the model on.
            only: Ids of samples to score; by default all, or ``robustness.test_num_images`` of them.
        """
        built = (self.model, self.datamodule.data, self.config_init.robustness, self.config.model.network)
        return benchmark_of(*built, weights, shard or Shard(), check_images, only)
