"""Loggers of a run or an evaluation: built to write into its folder, started before it, continued on a restart."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from jsonargparse import Namespace
from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.loggers import (
    CometLogger,
    CSVLogger,
    Logger,
    MLFlowLogger,
    WandbLogger,
)

from robustseg.config.logger_arguments import Home, arguments_of, class_of
from robustseg.config.messages import Parser
from robustseg.config.modes import as_list
from robustseg.config.saying import is_first_process, say
from robustseg.files import write_json
from robustseg.opening.plain import read_json
from robustseg.training.csv_file import CsvFile
from robustseg.training.loggers import LoggerError, PanelFiles, guard, missing, refusal, start, warn_of

LOGGERS = "loggers.json"
"""File in the folder of a run or an evaluation: the version that each logger gave itself, by its name."""

_SWITCHES = ("MLFLOW_DISABLE_TELEMETRY", "MLFLOW_ALLOW_FILE_STORE", "WANDB_QUIET")
"""Documented switches of these packages, for the user to set otherwise: no reports on the use, files in the run's
folder, no summary and advice at the end."""

_PACKAGES: dict[type[Logger], str] = {
    WandbLogger: "wandb",
    MLFlowLogger: "mlflow",
    CometLogger: "comet_ml",
}
"""Modules that Lightning's loggers need."""


def build_loggers(setting: Any, home: Home) -> list[Logger]:
    """Build the loggers of a configuration, to write into one folder unless they are told otherwise.

    Args:
        setting: ``trainer.logger`` as parsed: true or null for TensorBoard, false for none, one logger or several.
        home: Folder of the run or the evaluation.

    Returns:
        The loggers, and at the end one for the pictures that none of them takes. On other ranks than the first, which
        log nothing, that one alone.

    Raises:
        LoggerError: A logger cannot be built, for example without its package, or not beside the others.
    """
    files = guard(PanelFiles(home.folder))
    if not is_first_process():
        return [files]
    entries = _entries(setting)
    kinds = [class_of(entry) for entry in entries]
    if home.is_run and not entries:
        say("trainer.logger is false: figures of training are shown and not kept; true is TensorBoard")
    kept, loggers = _versions(home), []
    for entry, kind, name in zip(entries, kinds, _names(kinds), strict=True):
        filled = arguments_of(entry, kind, home, kept.get(name), "" if name == kind.__name__ else name)
        logger = guard(_built(filled.entry, kind), partial(_prepare, home.folder, filled.purge_step))
        _say_where(logger, home)
        loggers.append(logger)
    return [*loggers, files]


def _entries(setting: Any) -> list[Namespace]:
    default: Any = Namespace  # has no annotations
    return [default(class_path="TensorBoardLogger")] if setting in (True, None) else as_list(setting or None)


def check_loggers(setting: Any) -> None:
    """Refuse loggers that cannot be built, before data is opened or anything written.

    Raises:
        LoggerError: A package is missing, or two loggers would be one.
    """
    kinds = [class_of(entry) for entry in _entries(setting)]
    for kind in kinds:
        for base, module in _PACKAGES.items():
            if issubclass(kind, base) and not _is_there(module):
                raise missing(kind, module.replace("_", "-"))
    if sum(issubclass(kind, WandbLogger) for kind in kinds) > 1:
        raise LoggerError("trainer.logger: two WandbLoggers would be one, as W&B has one run per process: leave one.")


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ValueError:  # sys.modules has None
        return False


def _prepare(folder: Path, purge_step: int | None, logger: Logger) -> None:
    """Make the folder, which W&B does not do, and let a CSVLogger go on with its file."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(logger, CSVLogger) and logger._experiment is None:
        logger._experiment = CsvFile(logger.log_dir, purge_step)


def _names(kinds: Sequence[type[Logger]]) -> list[str]:
    """Name each logger by its class, those of the same class numbered from the second on."""
    names = [kind.__name__ for kind in kinds]
    return [name if (n := names[:place].count(name)) == 0 else f"{name}_{n}" for place, name in enumerate(names)]


def _built(entry: Namespace, kind: type[Logger]) -> Logger:
    for name in _SWITCHES:
        os.environ.setdefault(name, "true")
    arguments = entry.get("init_args") or {}
    if arguments.get("offline") or "offline" in (arguments.get("mode"), os.environ.get("WANDB_MODE")):
        os.environ.setdefault("WANDB_SILENT", "true")  # no address to tell, only advice
    parser = Parser(exit_on_error=False)
    parser.add_argument("--logger", type=Logger)
    try:
        built = parser.instantiate_classes(type(entry)(logger=entry)).logger
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise refusal(kind, cause if isinstance(cause, Exception) else error) from error
    assert isinstance(built, Logger)
    return built


def _say_where(logger: Logger, home: Home) -> None:
    place = getattr(logger, "log_dir", None) or logger.save_dir
    if isinstance(place, (str, Path)):
        inside = Path(place).resolve()
        if home.folder.resolve() not in (inside, *inside.parents):
            say(f"{type(logger).__name__} writes into {place}, as configured; all else is in {home.folder}")


def _versions(home: Home) -> dict[str, Any]:
    """Read the versions that the loggers of an earlier start had; none if there was none."""
    try:
        kept = {} if home.purge_step is None else read_json(home.folder / LOGGERS)
    except (OSError, ValueError):
        return {}
    known = kept.items() if isinstance(kept, dict) else ()
    # the folder may be a stranger's, and some loggers make paths of versions
    return {name: version for name, version in known if re.fullmatch(r"\w[\w.-]*", str(version))}


class StartLoggers(pl.Callback):
    """Starts the loggers of a run or an evaluation: gives them its settings, once, and keeps their versions.

    Args:
        home: Folder of the run or the evaluation.
        settings: The whole configuration as plain values.
    """

    def __init__(self, home: Home, settings: Mapping[str, Any]):
        self.home = home
        self.settings = settings
        self._started = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Log the settings; a logger that fails before this is an error, and later a warning."""
        if self._started or not trainer.is_global_zero:
            return
        self._started = True
        loggers = [logger for logger in trainer.loggers if not isinstance(logger, PanelFiles)]
        kept, found = _versions(self.home), {}
        for name, logger in zip(_names([type(logger) for logger in loggers]), loggers, strict=True):
            if name not in kept:  # a continued one has them, and MLflow refuses others
                logger.log_hyperparams(dict(self.settings))
            start(logger)
            try:
                version = logger.version
            except Exception as error:
                raise refusal(type(logger), error) from error
            if isinstance(version, (str, int)) and str(version).split("/")[0] not in ("", self.home.folder.name):
                found[name] = version
        if found and found != kept:
            write_json(found, self.home.folder / LOGGERS)


@rank_zero_only
def close(loggers: Sequence[Logger]) -> None:
    """End what a logger leaves open for the whole process: a later run would be logged into the same W&B run."""
    for logger in loggers:
        if isinstance(logger, WandbLogger) and vars(logger).get("_experiment") is not None:
            try:
                logger.experiment.finish()
            except Exception as error:
                warn_of(logger, error)
