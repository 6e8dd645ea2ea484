"""Arguments of loggers that make them write into the folder of a run, and go on with what they wrote before."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from pydoc import locate
from typing import Any, NamedTuple

from jsonargparse import Namespace
from pytorch_lightning.loggers import (
    CometLogger,
    CSVLogger,
    Logger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)

from robustseg.config.writes import expanded
from robustseg.training.loggers import LoggerError

FOLDERS = ("save_dir", "root_dir", "log_dir", "dir")
"""Arguments by which loggers of strangers are told where to write."""


class Home(NamedTuple):
    """Folder of a run or an evaluation, where its loggers write."""

    folder: Path
    root: Path
    """Folder of all experiments, ``trainer.default_root_dir``."""
    experiment: str
    is_run: bool
    """True for a training run's, false for an evaluation's."""
    purge_step: int | None
    """First step that is logged anew, in a folder where an earlier start may have written; None for a new folder."""


def class_of(entry: Namespace) -> type[Logger]:
    """Return the class that an entry of ``trainer.logger`` names."""
    kind = locate(entry.class_path) or locate(f"pytorch_lightning.loggers.{entry.class_path}")
    assert isinstance(kind, type), entry.class_path
    assert issubclass(kind, Logger), entry.class_path
    return kind


class _Entry:
    """The arguments of one logger, as configured, and its class."""

    def __init__(self, entry: Namespace, kind: type[Logger]):
        self.kind = kind
        self.init = dict(vars(entry.get("init_args") or entry.__class__()))
        self.further = dict(entry.get("dict_kwargs") or {})
        self.purge_step: int | None = None
        self._defaults: dict[str, Any] = {}
        for base in reversed(kind.__mro__):
            own = vars(base).get("__init__")
            parameters = inspect.signature(own).parameters.values() if inspect.isfunction(own) else ()
            self._defaults |= {each.name: each.default for each in parameters}

    def given(self, name: str) -> Any:
        """Return the value of an argument; None if it is the default, as a saved configuration holds that too."""
        value = {**self.init, **self.further}.get(name)
        return None if value == self.default(name) else value

    def default(self, name: str) -> Any:
        """Return the default of an argument; None if there is none."""
        default = self._defaults.get(name)
        return None if default is inspect.Parameter.empty else default

    def set(self, **values: Any) -> None:
        """Set those arguments that the class takes and that are not given."""
        for name, value in values.items():
            if (name in self.init or name in self._defaults) and self.given(name) is None and value is not None:
                self.further.pop(name, None)
                self.init[name] = value


class Filled(NamedTuple):
    """An entry of ``trainer.logger`` with the arguments that lead its logger to the folder of a run."""

    entry: Namespace
    purge_step: int | None
    """First step whose figures are to be removed from the logger's files; None if none are."""


def arguments_of(entry: Namespace, kind: type[Logger], home: Home, version: Any, part: str) -> Filled:
    """Fill in an entry of ``trainer.logger``.

    Args:
        entry: As parsed.
        kind: Class of the logger.
        home: Folder of the run or the evaluation.
        version: Version that the logger had there before; None if there is none.
        part: Folder within ``home``, for a further logger of the same class; empty for the first.

    Raises:
        LoggerError: The logger would write among the runs of other experiments.
    """
    filled = _Entry(entry, kind)
    _way(kind)(filled, home, version, part)
    changed = entry.clone()
    changed.init_args, changed.dict_kwargs = type(entry)(**filled.init), filled.further
    return Filled(changed, filled.purge_step)


def _way(kind: type[Logger]) -> Callable[[_Entry, Home, Any, str], None]:
    ways: dict[type[Any], Callable[[_Entry, Home, Any, str], None]] = {
        TensorBoardLogger: _files,
        CSVLogger: _files,
        WandbLogger: _wandb,
        MLFlowLogger: _mlflow,
        CometLogger: _comet,
    }
    return next((way for base, way in ways.items() if issubclass(kind, base)), _stranger)


def _files(of: _Entry, home: Home, version: Any, part: str) -> None:
    """TensorBoard and CSV write into save_dir/name/version."""
    where, name, own = of.given("save_dir"), of.given("name"), of.given("version")
    run, events = home.folder.name, issubclass(of.kind, TensorBoardLogger)
    if where is None or _is_home(str(where), home):
        others = name not in (None, "", home.experiment) or str(own) not in ("None", run, run.removeprefix("version_"))
        if home.is_run and others:
            raise LoggerError(
                f"trainer.logger: {of.kind.__name__} has name = {name}, version = {own}, but the files of this run are "
                f"in {home.folder}: leave them out (--experiment names the run), or give it a save_dir of its own."
            )
        for key in ("save_dir", "name", "version"):
            of.init.pop(key, None)
        version = f"{run}/{part}" if part else run
        of.set(save_dir=str(home.folder.parent.parent), name=home.folder.parent.name, version=version)
        of.purge_step = home.purge_step
    else:
        of.set(version=version)
        # a version that is given may be that of the training run, whose figures an evaluation must not remove
        of.purge_step = home.purge_step if version is not None and (home.is_run or own is None) else None
    if events:
        of.set(default_hp_metric=False)
        if of.purge_step is not None:
            of.init.setdefault("purge_step", None)  # one of the further arguments, for the writer
            of.set(purge_step=of.purge_step)


def _is_home(save_dir: str, home: Home) -> bool:
    """Return whether a logger's own folder would be among the experiments or runs, and pass for one."""
    return Path(expanded(save_dir)).resolve() in {place.resolve() for place in (home.root, home.root / home.experiment)}


def _wandb(of: _Entry, home: Home, version: Any, part: str) -> None:
    of.set(resume="allow")
    if of.given("dir") is None:
        of.set(save_dir=str(home.folder))
    if "WANDB_PROJECT" not in os.environ:
        of.set(project=home.experiment)
    of.set(name=home.folder.name)
    if of.given("version") is None:
        of.set(id=version)


def _mlflow(of: _Entry, home: Home, version: Any, part: str) -> None:
    of.set(experiment_name=home.experiment, run_name=home.folder.name, run_id=version)
    # MLflow itself sets MLFLOW_TRACKING_URI; the default is what it was when Lightning was imported
    if not (of.init.get("tracking_uri") or of.default("tracking_uri")):
        of.set(save_dir=str(home.folder / "mlruns"))


def _comet(of: _Entry, home: Home, version: Any, part: str) -> None:
    of.set(project=home.experiment, experiment_key=version)
    of.further = {"offline_directory": str(home.folder), "name": home.folder.name, **of.further}


def _stranger(of: _Entry, home: Home, version: Any, part: str) -> None:
    folders = [name for name in FOLDERS if name in of.init]
    if not any(of.given(name) for name in folders):
        of.set(**{name: str(home.folder / part) for name in folders[:1]})
    if "version" in of.init:
        of.set(version=version)
