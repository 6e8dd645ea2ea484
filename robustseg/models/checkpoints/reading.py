"""What is known of a file of weights: read, fitted to a model, compared with it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from robustseg.models.checkpoints.compare import Mismatch, compare
from robustseg.models.checkpoints.layouts.layout import Layout, State
from robustseg.models.checkpoints.record import record_in


@dataclass(frozen=True)
class Reading:
    """A file of weights, filled stage by stage; loading and ``robustseg inspect`` use the same.

    :func:`~robustseg.models.checkpoints.read.read_weights` gives what the file holds, and
    :func:`~robustseg.models.checkpoints.rename.fit_to` adds what a model makes of it.
    """

    path: Path
    tensors: State
    """CPU tensors by the names in the file, without wrappings."""
    content: object = None
    """All that the file holds, the tensors among it."""
    wrappings: tuple[str, ...] = ()
    """Entries around the tensors, from outside."""
    beside: tuple[str, ...] = ()
    """What is kept beside them, in words."""
    averaged: bool = False
    """Whether the file says that they are a running average (EMA, SWA) of those that were trained."""

    layout: Layout | None = None
    """Project and network whose names the tensors have, where that is not the model's."""
    named: State = field(default_factory=dict)
    """The tensors by the model's names, as close to these as can be where nothing fits."""
    mismatch: Mismatch | None = None
    """How they differ from the model's; None before they were fitted to one."""

    @cached_property
    def sha256(self) -> str:
        """Of the file, hexadecimal."""
        return sha256(self.path)

    @cached_property
    def record(self) -> dict[str, Any] | None:
        """What a checkpoint of this package says about itself; see :func:`~robustseg.models.read_record`."""
        return record_in(self.content)

    @property
    def config(self) -> str | None:
        """The configuration that mmengine and mmcv keep beside the tensors, as text."""
        meta = self.content.get("meta") if isinstance(self.content, dict) else None
        texts = [meta.get(key) for key in ("cfg", "config")] if isinstance(meta, dict) else []
        return next((text for text in texts if isinstance(text, str)), None)

    def compared(self, expected: State, named: State, layout: Layout | None = None) -> Reading:
        """Add the tensors by a model's names, and how they differ from those that it expects."""
        return replace(self, named=named, layout=layout, mismatch=compare(expected, named))


def sha256(path: str | Path) -> str:
    """The file's SHA-256, hexadecimal; that of nothing where it does not exist."""
    path = Path(path)
    digest = hashlib.sha256()
    if path.is_file():
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
