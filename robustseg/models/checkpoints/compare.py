"""Differences between the tensors of a file and those that a module expects, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

NAMES_SHOWN = 4
"""Number of keys, or modules, that a message names; further ones are only counted."""


@dataclass(frozen=True)
class Mismatch:
    """Difference between found and expected tensors; true if there is any."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    wrong: tuple[str, ...]
    """Keys present on both sides whose tensors differ in shape or kind."""
    shapes: tuple[str, ...]
    """Shape or kind in the file and in the network, for each key of ``wrong``."""

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.wrong)

    def __str__(self) -> str:
        parts = [
            f"{len(keys)} {label} ({by_module(keys)}{extra})"
            for label, keys, extra in (
                ("missing", self.missing, ""),
                ("unexpected", self.unexpected, ""),
                ("of another shape or kind", self.wrong, f"; {self.shapes[0]}" if self.shapes else ""),
            )
            if keys
        ]
        return ", ".join(parts)

    def report(self) -> str:
        """Return the whole difference, one line per tensor."""
        lines = []
        for label, keys, texts in (
            ("missing in the file", self.missing, self.missing),
            ("unexpected in the file", self.unexpected, self.unexpected),
            ("of another shape or kind", self.wrong, self.shapes),
        ):
            if keys:
                lines += [f"{len(keys)} {label}: {by_module(keys)}", *(f"  {text}" for text in texts)]
        return "\n".join(lines)


def compare(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Mismatch:
    """Compare ``found`` with ``expected`` by names, shapes and kinds (dense float, integer or bool)."""
    wrong = [key for key in expected if key in found and not _fits(expected[key], found[key])]
    return Mismatch(
        missing=tuple(key for key in expected if key not in found),
        unexpected=tuple(key for key in found if key not in expected),
        wrong=tuple(wrong),
        shapes=tuple(
            f"{key} is {_describe(found[key])} in the file, {_describe(expected[key])} in the network" for key in wrong
        ),
    )


def not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """List the keys of tensors with a NaN or an infinity, which come from a diverged training."""
    return [
        key
        for key, value in state.items()
        # the sum first, in a tenth of the time: only an overflow can make it wrong
        if value.is_floating_point() and not value.sum().isfinite() and not bool(value.isfinite().all())
    ]


def by_module(keys: Iterable[str]) -> str:
    """Name a few keys or, if there are many, their modules with the number of keys in each."""
    keys = list(keys)
    if len(keys) <= NAMES_SHOWN:
        return ", ".join(keys)
    depth = max(key.count(".") for key in keys)
    groups = Counter[str]()
    while depth > 0:
        groups = Counter(".".join(key.split(".")[: min(depth, key.count("."))]) or key for key in keys)
        if len(groups) <= NAMES_SHOWN:
            break
        depth -= 1
    if not groups or groups.keys() == set(keys):
        return shorten(keys)
    return shorten([f"{count} in {module}" if count > 1 else module for module, count in groups.items()])


def shorten(keys: Iterable[str]) -> str:
    """Name the first few keys and the number of the others."""
    keys = list(keys)
    more = len(keys) - NAMES_SHOWN
    return ", ".join(keys[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _fits(own: Tensor, other: Tensor) -> bool:
    # copy_ would fail on a sparse or quantised tensor of the right shape, and drop the imaginary part of a complex one
    return (
        own.shape == other.shape
        and other.layout == torch.strided
        and not other.is_quantized
        and not other.is_complex()
        and own.is_floating_point() == other.is_floating_point()
    )


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
