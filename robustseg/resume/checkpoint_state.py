"""Check of a checkpoint's training state: all parts that a continuation needs, of the right types, and unaltered."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from robustseg.resume.checkpoint_reading import CheckpointError

OUTLINE = "outline"
"""Key of the outlines in a run's record."""
_PARTS = ("state_dict", "loops", "callbacks", "optimizer_states", "lr_schedulers")
_PROGRESS = ("epoch_progress", "epoch_loop.batch_progress")


def outlines(checkpoint: Mapping[str, Any]) -> dict[str, int]:
    """Return a checksum of the outline of each part of a checkpoint: names, types and shapes, without the numbers."""
    return {part: zlib.crc32(json.dumps(_outline(checkpoint[part])).encode()) for part in _PARTS if part in checkpoint}


def _outline(value: object) -> Any:
    if isinstance(value, Mapping):
        return [[repr(key), _outline(each)] for key, each in value.items()]
    if isinstance(value, (list, tuple)):
        return [_outline(each) for each in value]
    if isinstance(value, Tensor):
        return [list(value.shape), str(value.dtype)]
    return type(value).__name__


def check_state(checkpoint: Mapping[str, Any], name: str, written: object = None) -> None:
    """Refuse a checkpoint whose training state is incomplete, altered, or of other types.

    Args:
        checkpoint: Its content.
        name: Name of the file, for messages.
        written: :func:`outlines` at the time of writing; None in files of version 0.1.

    Raises:
        CheckpointError: A part is missing, empty, altered or ill-typed; the message names the file and the key.
    """
    fault = next(_faults(checkpoint, written), None)
    if fault is not None:
        raise CheckpointError(
            f"checkpoint {name}: {fault}: it was altered, or is no whole checkpoint; give another one, or --ckpt_path "
            "last for the newest that is whole."
        )


def _faults(checkpoint: Mapping[str, Any], written: object) -> Iterator[str]:
    for key in ("epoch", "global_step"):
        if not _is_count(checkpoint.get(key)):
            yield f"{key} = {_shown(checkpoint.get(key))} is no number of steps"
    version = checkpoint.get("pytorch-lightning_version")
    if not isinstance(version, str) or not re.match(r"[0-9]+\.[0-9]+", version):
        yield f"pytorch-lightning_version is {_shown(version)}"
    for key, kind in zip(_PARTS, (dict, dict, dict, list, list), strict=True):
        if not isinstance(checkpoint.get(key), kind):
            yield f"{key} is {_shown(checkpoint.get(key))}"
    for key, state in checkpoint["callbacks"].items():
        if not isinstance(state, dict):
            yield f"callbacks.{_shown(key)} is {_shown(state)}"
    yield from _loop_faults(checkpoint["loops"])
    if written is not None:
        found = outlines(checkpoint)
        for key in _PARTS:
            if not isinstance(written, Mapping) or written.get(key) != found[key]:
                yield f"{key} has other entries, or of other shapes, than when it was written"
    yield from _optimizer_faults(checkpoint)


def _loop_faults(loops: Mapping[str, Any]) -> Iterator[str]:
    fit = loops.get("fit_loop")
    if not isinstance(fit, dict):
        yield f"loops.fit_loop is {_shown(fit)}"
        return
    for name in _PROGRESS:
        progress = fit.get(name)
        for part in ("total", "current"):
            counts = progress.get(part) if isinstance(progress, dict) else None
            for key in ("ready", "started", "processed", "completed"):
                if not isinstance(counts, dict) or not _is_count(counts.get(key)):
                    yield f"loops.fit_loop.{name}.{part}.{key} is missing, or no number of steps"


def _optimizer_faults(checkpoint: Mapping[str, Any]) -> Iterator[str]:
    trained = checkpoint["global_step"] > 0
    if trained and not checkpoint["optimizer_states"]:
        yield "optimizer_states is empty"
    shapes = {value.shape for value in checkpoint["state_dict"].values() if isinstance(value, Tensor)}
    scheduled = False
    for number, state in enumerate(checkpoint["optimizer_states"]):
        where = f"optimizer_states[{number}]"
        groups = state.get("param_groups") if isinstance(state, dict) else None
        entries = state.get("state") if isinstance(state, dict) else None
        if not isinstance(groups, list) or not groups or not isinstance(entries, dict):
            yield f"{where} has no parameter groups, or no state"
            return
        for index, group in enumerate(groups):
            if not isinstance(group, dict) or not isinstance(group.get("params"), list):
                yield f"{where}.param_groups[{index}] has no params"
                return
            if not isinstance(group.get("lr"), (int, float, Tensor)):
                yield f"{where}.param_groups[{index}].lr = {_shown(group.get('lr'))} is no learning rate"
            scheduled = scheduled or "initial_lr" in group
        if trained and not entries and any(group.get("momentum", True) for group in groups):
            yield f"{where}.state is empty"
        for key, entry in entries.items():
            for name, value in entry.items() if isinstance(entry, dict) else [("", entry)]:
                place = f"{where}.state[{_shown(key)}].{name}"
                if not isinstance(value, (Tensor, int, float, type(None))):
                    yield f"{place} is {_shown(value)}"
                elif isinstance(value, Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all()):
                    yield f"{place} holds values that are not finite"
                elif isinstance(value, Tensor) and value.ndim and name in _LIKE_WEIGHTS and value.shape not in shapes:
                    yield f"{place} has the shape {tuple(value.shape)} of no weight"
    if scheduled and not checkpoint["lr_schedulers"]:
        yield "lr_schedulers is empty"
    for number, state in enumerate(checkpoint["lr_schedulers"]):
        if not isinstance(state, dict) or not _is_count(state.get("last_epoch", 0)):
            yield f"lr_schedulers[{number}].last_epoch is no number of steps"


_LIKE_WEIGHTS = ("momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "square_avg", "grad_avg")
"""Values of optimisers with the shape of their weight."""


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _shown(value: object) -> str:
    if value is None:
        return "missing"
    if isinstance(value, (dict, list, Tensor)):
        return f"a {type(value).__name__}"
    return ascii(value)[:60]
