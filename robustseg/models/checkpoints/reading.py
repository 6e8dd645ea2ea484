"""Reading of a weights file: its content, the fit to a model, and the comparison with it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from robustseg.models.checkpoints.compare import Mismatch, compare
from robustseg.models.checkpoints.layouts.layout import Layout, State
from robustseg.models.checkpoints.record import record_in
from robustseg.opening.regular import WEIGHTS, open_regular


@dataclass(frozen=True)
class Reading:
    """A weights file and the results of its processing, shared by loading and ``robustseg inspect``.

    :func:`~robustseg.models.checkpoints.read.read_weights` sets the content of the file, and
    :func:`~robustseg.models.checkpoints.rename.fit_to` adds the fit to a model.
    """

    path: Path
    tensors: State
    """CPU tensors by the names in the file, without wrappings."""
    content: object = None
    """The whole content of the file, the tensors included."""
    wrappings: tuple[str, ...] = ()
    """Entries around the tensors, outermost first."""
    beside: tuple[str, ...] = ()
    """Content beside the tensors, in words."""
    averaged: bool = False
    """True if the file marks the tensors as a running average (EMA, SWA) of the trained ones."""

    layout: Layout | None = None
    """Project and network of the tensor names; None if they are the model's."""
    named: State = field(default_factory=dict)
    """The tensors by the model's names, or by the closest names if none fit."""
    mismatch: Mismatch | None = None
    """Difference from the model's tensors; None before the fit."""

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file, hexadecimal."""
        return sha256(self.path)

    @cached_property
    def record(self) -> dict[str, Any] | None:
        """Record of a checkpoint of this package; see :func:`~robustseg.models.read_record`."""
        return record_in(self.content)

    @property
    def config(self) -> str | None:
        """Configuration that mmengine and mmcv keep beside the tensors, as text."""
        meta = self.content.get("meta") if isinstance(self.content, dict) else None
        texts = [meta.get(key) for key in ("cfg", "config")] if isinstance(meta, dict) else []
        return next((text for text in texts if isinstance(text, str)), None)

    def compared(self, expected: State, named: State, layout: Layout | None = None) -> Reading:
        """Add the tensors by a model's names, and their difference from the expected ones."""
        return replace(self, named=named, layout=layout, mismatch=compare(expected, named))


def sha256(path: str | Path) -> str:
    """Compute a file's SHA-256, hexadecimal; that of empty content if it does not exist."""
    path = Path(path)
    digest = hashlib.sha256()
    if path.is_file():
        with open_regular(path, WEIGHTS) as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
