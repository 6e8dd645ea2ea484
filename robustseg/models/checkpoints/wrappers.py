"""Variants of a state dict without the wrappers that training puts around parts of a network."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor

RESERVED = (
    *("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_fpw_module", "_forward_module"),
    "_module",
)
"""Names of the module inside of the wrappers of torch.compile, checkpointing, FSDP, Fabric and Opacus."""
WRAPPERS = (*RESERVED, "module")
"""All wrappers, with that of DataParallel and AveragedModel, whose name a network may use itself."""

AVERAGING_COUNTER = "n_averaged"
"""Entry of torch.optim.swa_utils.AveragedModel beside ``module.``."""

_MAGNITUDE = re.compile(r"(?P<module>.*\.|)(?:parametrizations\.(?P<new>\w+)\.original0|(?P<old>\w+)_g)")
"""Name of the magnitude of weight normalisation, in the newer and the older form."""


def bare(name: str, wrappers: Collection[str] = WRAPPERS) -> str:
    """Return a tensor's name without wrappers, wherever they stand in it."""
    return ".".join(part for part in name.split(".") if part not in wrappers)


def variants(state: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yield a state dict as it is, and then with less and less of what training put around the network.

    Weight normalisation is multiplied out, ``weight = g v / ‖v‖`` (Salimans & Kingma, 2016, Eq. 2). Wrappers are
    removed from names, unless two tensors would get the same one.
    """
    seen = [dict(state)]
    yield seen[0]
    plain = _without_weight_norm(state)
    for found in (plain, _bared(plain, RESERVED), _bared(plain, WRAPPERS)):
        if found.keys() != seen[-1].keys():
            seen.append(found)
            yield found


def as_expected(state: Mapping[str, Tensor], expected: Collection[str]) -> dict[str, Tensor]:
    """Rename tensors to those expected names that differ from theirs in wrappers only.

    Names of a network that hold wrappers themselves, since it is compiled or has a module called ``module``, are found
    this way from a file without them, or with others.
    """
    own = {bare(name): name for name in expected}
    named = {name if name in expected else own.get(bare(name), name): value for name, value in state.items()}
    return named if len(own) == len(expected) and len(named) == len(state) else dict(state)


def _bared(state: Mapping[str, Tensor], wrappers: Collection[str]) -> dict[str, Tensor]:
    kept = {key: value for key, value in state.items() if key.rpartition(".")[2] != AVERAGING_COUNTER}
    named = {bare(name, wrappers): value for name, value in kept.items()}
    return named if len(named) == len(kept) else dict(state)


def _without_weight_norm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = dict(state)
    for name, magnitude in state.items():
        match = _MAGNITUDE.fullmatch(name)
        if match is None:
            continue
        old = match["old"]
        other = f"{match['module']}{old}_v" if old else name.removesuffix("0") + "1"
        direction, weight = state.get(other), f"{match['module']}{old or match['new']}"
        if direction is None or weight in state or not _scales(magnitude, direction):
            continue
        kept = [axis for axis, size in enumerate(magnitude.shape) if size > 1]
        axis = -1 if not magnitude.dim() else kept[0] if kept else 0
        # in place of the magnitude, so that the order of the tensors stays
        found = {weight if key == name else key: value for key, value in found.items() if key != other}
        found[weight] = torch._weight_norm(direction, magnitude, axis)
    return found


def _scales(magnitude: Tensor, direction: Tensor) -> bool:
    """Return whether a tensor can be the magnitude of weight normalisation: of size 1 along all axes but one."""
    if not (magnitude.is_floating_point() and direction.is_floating_point()):
        return False
    if not magnitude.dim():
        return True
    sizes = [(own, other) for own, other in zip(magnitude.shape, direction.shape, strict=False) if own != 1]
    return magnitude.dim() == direction.dim() and len(sizes) <= 1 and all(own == other for own, other in sizes)
