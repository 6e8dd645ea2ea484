"""Limits of settings that Lightning takes without a look: what cannot work is refused before anything is built."""

from __future__ import annotations

import inspect
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from pydoc import locate
from typing import Any, NamedTuple

from jsonargparse import Namespace

from robustseg.config.errors import ConfigError
from robustseg.config.options import COMMAND_LINE_ONLY, FROM_DATA
from robustseg.data.lightning import SegmentationDataModule

_LARGEST_SEED = 2**32 - 1
_LARGEST = 2**63 - 1
"""Largest whole number of a tensor."""


class Rule(NamedTuple):
    """A condition on a setting; None means the setting's default and is not looked at."""

    holds: Callable[[Any], bool]
    remedy: str


def _at_least(least: float, remedy: str) -> Rule:
    return Rule(lambda value: not isinstance(value, (int, float)) or value >= least, remedy)


_NO_VALIDATION = "use a positive number; trainer.limit_val_batches: 0 leaves validation out"
RULES = {
    "trainer.max_epochs": Rule(lambda value: value >= 1 or value == -1, "a run has 1 epoch or more"),
    "trainer.max_steps": Rule(lambda value: value >= 1 or value == -1, "use 1 or more, or -1 for those of max_epochs"),
    "trainer.min_epochs": _at_least(1, "use 1 or more, or null"),
    "trainer.min_steps": _at_least(1, "use 1 or more, or null"),
    "trainer.limit_train_batches": Rule(lambda value: value > 0, "nothing would be trained; use null for all"),
    "trainer.limit_test_batches": Rule(
        lambda value: value == 1.0 and isinstance(value, float),
        "it has no effect, as an evaluation scores every image: use robustness.test_num_images",
    ),
    "trainer.overfit_batches": _at_least(0, "use 0 for none"),
    "trainer.accumulate_grad_batches": _at_least(1, "an update has 1 batch or more"),
    "trainer.gradient_clip_val": _at_least(0, "use a positive limit, or null for none"),
    "trainer.check_val_every_n_epoch": _at_least(1, _NO_VALIDATION),
    "trainer.val_check_interval": Rule(
        lambda value: not isinstance(value, (int, float)) or value > 0,
        _NO_VALIDATION,
    ),
    "trainer.num_sanity_val_steps": _at_least(-1, "use 0 for none, or -1 for all of the validation split"),
    "trainer.log_every_n_steps": _at_least(0, "use 1 or more, or 0 for no figures of steps"),
    "trainer.enable_checkpointing": Rule(lambda value: value is True, "a run is continued from its checkpoints"),
    "trainer.barebones": Rule(lambda value: value is False, "such a run would keep nothing: leave it out"),
    "checkpoint.filename": Rule(
        lambda value: not {"..", "/"} & set(Path(value).parts), "it leads out of the run's folder: use a name"
    ),
    "model.optimizer.init_args.lr": Rule(
        lambda value: not isinstance(value, float) or value > 0, "use a positive number"
    ),
    "checkpoint.every_n_train_steps": _at_least(0, "use 1 or more, or null"),
    "checkpoint.every_n_epochs": _at_least(0, "use 1 or more, or null"),
    "checkpoint.save_top_k": _at_least(-1, "use 0 for none, or -1 for all"),
}
"""Conditions by the key of the setting."""
_TAKES_NO_NULL = re.compile(r"(int|float|bool|str)( \| (int|float|bool|str))*")
_ORDERED = (("min_epochs", "max_epochs"), ("min_steps", "max_steps"))


def check_settings(config: Namespace, trains: bool) -> None:
    """Refuse settings that cannot work, or that would be ignored.

    Args:
        config: As parsed.
        trains: Whether a run is trained; an evaluation does not look at limits of training.

    Raises:
        ConfigError: There is one; the message names the key and the remedy.
    """
    for option in COMMAND_LINE_ONLY:
        key = option.removeprefix("--")
        if key in config:
            value = _written(config[key])
            raise ConfigError(f"{key} = {value} in a file, which cannot set it: give {option} on the command line.")
    seed = config.seed_everything
    if isinstance(seed, bool) or not 0 <= seed <= _LARGEST_SEED:
        raise ConfigError(
            f"seed_everything = {_written(seed)}: order and noise follow from it: use a whole number "
            f"from 0 to {_LARGEST_SEED}."
        )
    for key, holder, name, _ in _leaves(config):
        value = holder[name]
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{key} = {value} is not a finite number: use one, or leave it out.")
        if isinstance(value, int) and abs(value) > _LARGEST:
            raise ConfigError(f"{key} = {value} is too large a number: use {_LARGEST} or less.")
    _check_nulls(config)
    if trains:
        _check_training(config)


def _check_training(config: Namespace) -> None:
    trainer = config.trainer
    for key, rule in RULES.items():
        value = config.get(key)
        if value is not None and not rule.holds(value):
            raise ConfigError(f"{key} = {_written(value)}: {rule.remedy}.")
    if trainer.max_epochs == -1 and trainer.max_steps == -1:
        raise ConfigError("trainer.max_epochs = -1: the learning rate schedule needs an end: use trainer.max_steps.")
    for lower, upper in _ORDERED:
        least, most = trainer.get(lower), trainer.get(upper)
        if least is not None and most is not None and 0 <= most < least:
            raise ConfigError(f"trainer.{lower} = {least} is more than trainer.{upper} = {most}: lower it.")
    for key in ("experiment", "trainer.default_root_dir"):
        value = config.get(key)
        if not str(value or "").strip():
            raise ConfigError(f"{key} is empty: name a folder, or leave it out.")
    if Path(config.experiment).is_absolute() or ".." in Path(config.experiment).parts:
        raise ConfigError(
            f"experiment = {config.experiment} leads out of trainer.default_root_dir: use a name, and set that folder."
        )


def _check_nulls(config: Namespace) -> None:
    """Refuse null for an argument of a class that takes a number, a truth value or text; the parser lets it pass."""
    for key, holder, name, path in _leaves(config):
        if holder[name] is not None or not path or key in FROM_DATA:
            continue
        cls = locate(path)
        kind = _annotation(cls, name) if isinstance(cls, type) else ""
        if _TAKES_NO_NULL.fullmatch(kind):
            raise ConfigError(f"{key} = null: {getattr(cls, '__name__', cls)} takes {kind}: leave it out.")


def _annotation(cls: type, name: str) -> str:
    """Return the annotation of an argument of a class, of the first base that names it, as text."""
    for base in cls.__mro__:
        own = vars(base).get("__init__")
        found = inspect.signature(own).parameters.get(name) if inspect.isfunction(own) else None
        if found is not None:
            return str(getattr(found.annotation, "__name__", found.annotation))
    return ""


def check_folder(root: str, key: str = "trainer.default_root_dir") -> None:
    """Refuse a folder that cannot be made or written, and leave none behind.

    Raises:
        ConfigError: It cannot.
    """
    folder = Path(root)
    missing = [each for each in (folder, *folder.parents) if not each.exists() and not each.is_symlink()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(0, "Permission denied")
    except OSError as error:
        raise ConfigError(
            f"{key} = {root}: no run can be kept there ({error.strerror or error}): choose another folder, or get the "
            "right to write there."
        ) from error
    finally:
        for each in missing:
            if each.is_dir():
                each.rmdir()


def check_batches(trainer: Any, datamodule: SegmentationDataModule) -> None:
    """Refuse an epoch without a batch, and an update or a validation after more batches than an epoch has.

    Args:
        trainer: The trainer, before training.
        datamodule: Its data, opened.

    Raises:
        ConfigError: There is no batch, or too few for an update or the interval.
        DataError: The training split is smaller than a batch.
    """
    batches = datamodule.batches(trainer.world_size, trainer.accumulate_grad_batches)
    interval, limit = trainer.val_check_interval, trainer.limit_train_batches
    used = int(batches * limit) if isinstance(limit, float) else min(batches, limit)
    if trainer.fast_dev_run:
        return
    if not used:
        raise ConfigError(
            f"trainer.limit_train_batches = {limit} of {batches} batches is none: use {1 / batches:.2g} or more."
        )
    if trainer.accumulate_grad_batches > used:
        raise ConfigError(
            f"trainer.accumulate_grad_batches = {trainer.accumulate_grad_batches}, but an epoch has {used} batches: "
            "lower it, or raise trainer.limit_train_batches."
        )
    if isinstance(interval, int) and interval > used and trainer.check_val_every_n_epoch and trainer.limit_val_batches:
        raise ConfigError(
            f"trainer.val_check_interval = {interval}, but an epoch has {used} batches: lower it, or set "
            "trainer.check_val_every_n_epoch to null to count batches over all epochs."
        )


def write_enums_as_text(config: Namespace) -> None:
    """Replace values that YAML cannot write by their text: defaults of a class may be members of an Enum of strings."""
    for _, holder, name, _ in _leaves(config):
        if isinstance(holder[name], Enum) and isinstance(holder[name], str):
            holder[name] = str(holder[name].value)


def _leaves(tree: Any, prefix: str = "", owner: str = "") -> Iterator[tuple[str, Any, Any, str]]:
    """Return each value that holds no others: its key, holder and name, and the class that it is an argument of."""
    if isinstance(tree, Namespace):
        tree = vars(tree)
    for name in list(tree) if isinstance(tree, Mapping) else range(len(tree)):
        key = f"{prefix}[{name}]" if isinstance(tree, (list, tuple)) else f"{prefix}.{name}" if prefix else str(name)
        if isinstance(tree[name], (Namespace, Mapping, list, tuple)):
            path = tree.get("class_path") if name == "init_args" and isinstance(tree, Mapping) else None
            yield from _leaves(tree[name], key, path if isinstance(path, str) else "")
        else:
            yield key, tree, name, owner


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
