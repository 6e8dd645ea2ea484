"""Conditions for the exact continuation of a checkpoint, and the consequences of differences."""

from __future__ import annotations

from collections.abc import Mapping
from pydoc import locate
from types import MappingProxyType
from typing import Any, Literal

import pytorch_lightning as pl
from packaging.version import InvalidVersion, Version

import robustseg
from robustseg.attacks import NOISE_VERSION
from robustseg.attacks.settings import settings_of
from robustseg.data import derived_seed, run_seed
from robustseg.data.lightning import SegmentationDataModule
from robustseg.evaluation.protocol import differences
from robustseg.training.record import plain
from robustseg.training.split import TrainingError

Resume = Literal["exact", "elastic", "changed"]
"""Allowed differences: none; the number of ranks that share an update's images; any setting."""

RUN_KEY = "robustseg_run"
"""Entry in a checkpoint with the facts and settings of its run."""
RUN_FORMAT = 1
NOISE_SINCE: Mapping[str, int] = MappingProxyType({str(NOISE_VERSION): 0})
"""First step by version of the noise, in a run that began with this version."""

_NOT_COMPARED = {
    # the initial weights do not matter once the checkpoint has weights
    "model.init_weights",
    "model.init_without",
    "model.network.init_args.pretrained",
    "model.network.init_args.weights",
    # of the execution: a circumstance, with which rounding may differ
    "model.compile",
    "model.channels_last",
    # policies for errors that would otherwise end the run
    "model.on_non_finite_loss",
    "data.init_args.on_bad_sample",
    *(
        f"data.init_args.{name}"
        for name in ("val_batch_size", "num_workers", "root", "cache", "check", "val_length", "test_length")
    ),
    "data.init_args.disk_cache",
    # compared as facts
    "data.init_args.batch_size",
    "data.init_args.global_batch_size",
}
_COUNTED_IN_BATCHES = ("limit_train_batches", "val_check_interval", "overfit_batches")
_TRAINER = (
    "max_epochs",
    "max_steps",
    "min_epochs",
    "min_steps",
    "limit_train_batches",
    "overfit_batches",
    "accumulate_grad_batches",
    "gradient_clip_val",
    "gradient_clip_algorithm",
    "precision",
    "sync_batchnorm",
    "check_val_every_n_epoch",
    "val_check_interval",
    "callbacks",
)
_SHARED = ("ranks", "batch_size", "accumulate_grad_batches")


def deciding_settings(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of model, data and trainer that determine a run's weights, as plain values.

    Args:
        configuration: The whole configuration, nested.
    """
    trainer = configuration.get("trainer") or {}
    settings = {name: _compared(configuration.get(name), name) for name in ("model", "data")}
    return dict(plain({**settings, "trainer": {key: trainer.get(key) for key in _TRAINER}}))


def _compared(value: Any, at: str) -> Any:
    if isinstance(value, Mapping):
        return {k: _compared(entry, f"{at}.{k}") for k, entry in value.items() if f"{at}.{k}" not in _NOT_COMPARED}
    return value


def run_facts(trainer: pl.Trainer, datamodule: SegmentationDataModule) -> dict[str, Any]:
    """Return the facts that determine the order of the data and the sums over ranks."""
    ids = datamodule.data.sample_ids("train")
    return {
        "seed": run_seed(),
        "ranks": trainer.world_size,
        "batch_size": datamodule.batch_size,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "samples": len(ids),
        "sample_ids": f"{derived_seed(*ids):016x}",
    }


def run_record(
    facts: Mapping[str, Any], settings: Mapping[str, Any] | None, noise: Mapping[str, int] = NOISE_SINCE
) -> dict[str, Any]:
    """Return the entry :data:`RUN_KEY` of a checkpoint.

    Args:
        facts: :func:`run_facts`.
        settings: :func:`deciding_settings`, or None.
        noise: First step by version of the noise, see :func:`noise_since`.
    """
    return {
        "format": RUN_FORMAT,
        "version": robustseg.__version__,
        "noise": dict(noise),
        "facts": dict(facts),
        "settings": None if settings is None else dict(settings),
    }


def noise_since(checkpoint: Mapping[str, Any], name: str = "the checkpoint") -> dict[str, int]:
    """Return the first step by version of the noise, of a run that continues a checkpoint with this version.

    Args:
        checkpoint: Content of the checkpoint; those that name no version are of version 1.
        name: Name of the file, for messages.

    Raises:
        TrainingError: The entry is no such mapping.
    """
    found = checkpoint[RUN_KEY].get("noise", {"1": 0})
    if not isinstance(found, Mapping) or not found or not all(type(step) is int for step in found.values()):
        raise TrainingError(f"{name}: {RUN_KEY}.noise is no step by version: give another checkpoint.")
    if max(found, key=lambda version: (found[version], version)) in NOISE_SINCE:
        return dict(found)
    step = checkpoint.get("global_step")  # checked with the rest of the training state
    return dict(found) | dict.fromkeys(NOISE_SINCE, step if type(step) is int else 0)


def check_continuation(
    checkpoint: Mapping[str, Any],
    facts: Mapping[str, Any],
    settings: Mapping[str, Any] | None,
    resume: Resume,
    name: str = "the checkpoint",
) -> list[str]:
    """Refuse a checkpoint that this run cannot continue under ``resume``.

    Args:
        checkpoint: Content of the checkpoint.
        facts: :func:`run_facts` of this run.
        settings: :func:`deciding_settings` of this run; None without a configuration to compare.
        resume: Allowed differences.
        name: Name of the file, for messages.

    Returns:
        Sentences on the differences from an uninterrupted run; none if the continuation is exact.
    """
    found = checkpoint.get(RUN_KEY)
    if not isinstance(found, Mapping) or not isinstance(found.get("facts"), Mapping):
        raise TrainingError(
            f"{name} holds no state to continue a run from: start a new one from its weights with "
            f"--model.init_weights {name}."
        )
    if found.get("format") != RUN_FORMAT or _is_newer(str(found.get("version"))):
        raise TrainingError(
            f"{name} was written by robustseg {found.get('version')} (format {found.get('format')}); this is "
            f"{robustseg.__version__} (format {RUN_FORMAT}): continue it with that version, or start a new run from "
            f"its weights with --model.init_weights {name}."
        )
    before = dict(found["facts"])
    for key in _SHARED:
        if type(before.get(key)) is not int or before[key] < 1:
            raise TrainingError(f"{name}: {RUN_KEY}.facts.{key} is no number of 1 or more: give another checkpoint.")
    if not _is_settings(found.get("settings")):
        raise TrainingError(f"{name}: {RUN_KEY}.settings are no settings of a run: give another checkpoint.")
    shared = differences({key: before.get(key) for key in _SHARED}, {key: facts[key] for key in _SHARED})
    rest = differences(
        {key: value for key, value in before.items() if key not in _SHARED},
        {key: value for key, value in facts.items() if key not in _SHARED},
    )
    if settings is not None and isinstance(found.get("settings"), Mapping):
        rest += _other_settings(found["settings"], settings, before, facts)
    if rest and resume != "changed":
        # A checkpoint with other shapes cannot be continued at all.
        network = any(line.startswith("model.network") for line in rest)
        otherwise = (
            f"or start a new run from its weights, as far as they fit, with --model.init_weights {name}."
            if network
            else "or say --resume changed to continue with this one, which no uninterrupted run would have ended like."
        )
        raise TrainingError(
            f"{name} is of a run with other settings ({'; '.join(rest)}): continue with the configuration of that run, "
            f"{otherwise}"
        )
    if shared and resume == "exact":
        hint = (
            "or say --resume elastic to go on with other sums, but the same images in each update."
            if _global(before) == _global(facts)
            else f"an update had {_global(before)} images there and has {_global(facts)} here."
        )
        raise TrainingError(f"{name} is of a run with {'; '.join(shared)}: give it the same, {hint}")
    if _global(before) != _global(facts) and resume == "elastic":
        raise TrainingError(
            f"{name}: an update had {_global(before)} images there ({_product(before)}) and has {_global(facts)} here "
            f"({_product(facts)}): choose data.batch_size or trainer.accumulate_grad_batches so that their product "
            f"with the number of processes is {_global(before)}."
        )
    notes = [f"no longer the same run: {line}" for line in rest]
    since = noise_since(checkpoint, name)
    if since != found.get("noise") and _is_attacked(found.get("settings")):
        notes.append(
            f"no longer the same run: from step {since[str(NOISE_VERSION)]} on the attacker's noise is of version "
            f"{NOISE_VERSION}, other numbers for the same seed; the weights up to there stay valid"
        )
    if _global(before) != _global(facts):
        notes.append(f"no longer the same run: an update had {_global(before)} images, now it has {_global(facts)}")
    if shared:
        notes.append(f"no longer equal to the bit ({'; '.join(shared)}): {_consequences(before, facts)}")
    return notes


def _is_settings(found: object) -> bool:
    """Return whether this may be :func:`deciding_settings` of a run."""
    return found is None or (isinstance(found, Mapping) and isinstance(found.get("trainer"), Mapping))


def _is_attacked(settings: object) -> bool:
    """Return whether a run draws noise as far as its settings say."""
    model = settings.get("model") if isinstance(settings, Mapping) else None
    return not isinstance(model, Mapping) or model.get("attack") is not None


def _is_newer(version: str) -> bool:
    try:
        return Version(version) > Version(robustseg.__version__)
    except InvalidVersion:
        return True


def _other_settings(
    before: Mapping[str, Any], now: Mapping[str, Any], facts_before: Mapping[str, Any], facts: Mapping[str, Any]
) -> list[str]:
    if any(facts_before[key] != facts[key] for key in _SHARED):
        before, now = _in_images(before, facts_before), _in_images(now, facts)
    return differences(_as_now(before, now), now)


def _as_now(before: Any, now: Any) -> Any:
    """Return the settings of an older version, with the defaults of newer arguments added."""
    if not isinstance(before, Mapping) or not isinstance(now, Mapping):
        return before
    same = {key: _as_now(value, now.get(key)) for key, value in before.items()}
    arguments, cls = now.get("init_args"), locate(str(now.get("class_path")))
    if isinstance(arguments, Mapping) and isinstance(same.get("init_args"), Mapping) and isinstance(cls, type):
        defaults = {key: plain(value) for key, value in settings_of(cls).items() if key in arguments}
        same["init_args"] = defaults | same["init_args"]
    return same


def _in_images(settings: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with images in place of batches, without those that the facts cover."""
    trainer = {key: value for key, value in settings["trainer"].items() if key != "accumulate_grad_batches"}
    for key in _COUNTED_IN_BATCHES:
        if type(trainer.get(key)) is int:
            trainer[key] = f"{trainer[key] * _per_batch(facts)} images"
    return {**settings, "trainer": trainer}


def _global(facts: Mapping[str, Any]) -> int:
    return int(facts["ranks"]) * int(facts["batch_size"]) * int(facts["accumulate_grad_batches"])


def _per_batch(facts: Mapping[str, Any]) -> int:
    return int(facts["ranks"]) * int(facts["batch_size"])


def _product(facts: Mapping[str, Any]) -> str:
    return f"{facts['ranks']} processes × {facts['batch_size']} × {facts['accumulate_grad_batches']} batches"


def _consequences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    parts = ["sums over processes are added in another order", "random numbers per process (dropout) are others"]
    if before["batch_size"] != now["batch_size"]:
        parts.append(
            "BatchNorm normalises over another number of images, and batches are split for the attacker elsewhere"
        )
    if before["accumulate_grad_batches"] != now["accumulate_grad_batches"]:
        parts.append("the loss is averaged within each of the accumulated batches")
    return "; ".join(parts)


def rescale_batches(checkpoint: Mapping[str, Any], facts: Mapping[str, Any]) -> int | None:
    """Convert the batch counts of a checkpoint's loops to this run's batches, if batches or updates differ in size.

    Args:
        checkpoint: Content of the checkpoint, changed in place; saved between two updates.
        facts: :func:`run_facts` of this run.

    Returns:
        Number of the epoch's images before the next whole update of this run; None if nothing differs.
    """
    before = checkpoint[RUN_KEY]["facts"]
    if all(before[key] == facts[key] for key in _SHARED):
        return None
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for counts in (progress["total"], progress["current"]):
        # from the batch at whose end the checkpoint was written
        lag = counts["ready"] - counts["completed"]
        batches = counts["ready"] * _per_batch(before) // _global(facts) * int(facts["accumulate_grad_batches"])
        counts.update(ready=batches, started=batches, processed=batches, completed=max(batches - lag, 0))
    return int(progress["current"]["ready"]) * _per_batch(facts)


def close_epoch(checkpoint: Mapping[str, Any]) -> bool:
    """Mark the epoch of a checkpoint as completed if it was written at an epoch's end.

    Lightning does so itself if ``max_epochs`` limits the run. If ``max_steps`` limits it, Lightning (2.6) treats the
    epoch as interrupted, and skips the next one.

    Args:
        checkpoint: Content of the checkpoint, changed in place.

    Returns:
        True if the checkpoint was written at an epoch's end.
    """
    progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]
    at_end = bool(progress["current"]["ready"] == progress["current"]["processed"])
    if at_end:
        for counts in (progress["total"], progress["current"]):
            counts["completed"] = counts["processed"]
    return at_end
