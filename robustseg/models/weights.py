"""Reading tensors from files that may come from strangers, and comparing them with what a module expects."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from robustseg.models.errors import ModelError

NAMES_SHOWN = 4
"""How many keys a message names before it only counts."""


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a file without executing anything in it.

    Args:
        path: ``.safetensors``, or a ``.pt``, ``.pth`` or ``.ckpt`` file that holds a state dict, alone or under
            ``state_dict`` (Lightning, timm) or ``model`` (torchvision's and DeiT's training scripts).

    Returns:
        Name to CPU tensor.

    Raises:
        ModelError: The file is missing, unreadable, holds other objects than tensors, or is not a state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"weights file {path} {'is a folder' if path.is_dir() else 'does not exist'}.")
    content = read_plain(path)
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not content:
        kind = "an empty dict" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise ModelError(f"{path} is not a state dict: it holds {kind}.")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ModelError(
                f"{path} is not a state dict: its entry {key!r} is a {type(value).__name__}, not a tensor."
            )
    return dict(content)


def read_plain(path: str | Path) -> object:
    """Read tensors and plain values from a file, executing nothing in it.

    Raises:
        ModelError: The file is unreadable or asks for other objects.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path, device="cpu")
        return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # the readers raise a dozen types on damaged files, from EOFError to KeyError
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused:
            reason = f"it asks for the Python object {refused[1]}, and only tensors and plain values are unpickled"
        else:
            reason = f"truncated or not a file of tensors ({type(error).__name__})"
        raise ModelError(f"{path} cannot be loaded: {reason}.") from error


def without_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries under ``prefix`` with it removed; all entries as they are where none has it."""
    inner = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return inner or dict(state)


@dataclass(frozen=True)
class Mismatch:
    """How the tensors found differ from those expected; true where they do."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    wrong: tuple[str, ...]
    """Keys present on both sides whose tensors differ in shape or kind."""
    shapes: str
    """The first of ``wrong`` with its shapes, for the message."""

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.wrong)

    def __str__(self) -> str:
        parts = [
            f"{len(keys)} {label} ({shorten(keys)}{extra})"
            for label, keys, extra in (
                ("missing", self.missing, ""),
                ("unexpected", self.unexpected, ""),
                ("of another shape or kind", self.wrong, f"; {self.shapes}"),
            )
            if keys
        ]
        return ", ".join(parts)


def compare(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Mismatch:
    """Say how ``found`` differs from ``expected`` in names, shapes and kinds (dense float, integer or bool)."""
    wrong = [key for key in expected if key in found and not _fits(expected[key], found[key])]
    shapes = ""
    if wrong:
        own, other = expected[wrong[0]], found[wrong[0]]
        shapes = f"{wrong[0]} is {_describe(other)} in the file, {_describe(own)} in the network"
    return Mismatch(
        missing=tuple(key for key in expected if key not in found),
        unexpected=tuple(key for key in found if key not in expected),
        wrong=tuple(wrong),
        shapes=shapes,
    )


def shorten(keys: Iterable[str]) -> str:
    """The first few keys, and the number of the others."""
    keys = list(keys)
    more = len(keys) - NAMES_SHOWN
    return ", ".join(keys[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _fits(own: Tensor, other: Tensor) -> bool:
    # a sparse, quantised or complex tensor would pass a check of shapes and fail, or lose its imaginary part, in copy_
    return (
        own.shape == other.shape
        and other.layout == torch.strided
        and not other.is_quantized
        and not other.is_complex()
        and own.is_floating_point() == other.is_floating_point()
    )


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
