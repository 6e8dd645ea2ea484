"""Files of tensors from anywhere: regular, intact, and read without executing anything in them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from robustseg.opening.archives import damage, has_index, record_sizes
from robustseg.opening.plain import check_tree
from robustseg.opening.regular import WEIGHTS, check_regular, open_regular

_MOST = 2**24
"""Most values in a file, tensors and plain ones."""


class DamagedFile(ValueError):
    """Error for a file of tensors whose bytes or values cannot be right; the message is the rest of a sentence."""


def load_tensors(path: str | os.PathLike[str], map_location: Any = "cpu", known: Sequence[Any] = ()) -> Any:
    """Read the tensors and plain values of a file of ``torch.save``, after a comparison with its checksums.

    Args:
        path: The file.
        map_location: Argument of ``torch.load``.
        known: Stand-ins for further objects in it, as of ``torch.serialization.safe_globals``.

    Raises:
        OSError: It cannot be read, or is no regular file.
        DamagedFile: Its bytes or the values in it cannot be right.
        Exception: Torch refuses it, with a dozen types, from EOFError to KeyError.
    """
    with open_regular(path, WEIGHTS) as file:
        if (reason := damage(file)) is not None:
            raise DamagedFile(reason)
        sizes = record_sizes(file)
        file.seek(0)
        with torch.serialization.safe_globals(list(known)):
            content = torch.load(file, map_location=map_location, weights_only=True)
    check_content(content, sizes)
    return content


def unreadable(path: Path) -> Exception | None:
    """Return torch's error for an intact file; the file is memory-mapped, so that its tensors are not read."""
    try:
        with open_regular(path, WEIGHTS) as file:
            archive = has_index(file)
            file.seek(0)
            # torch maps a path only, and would wait for some files that the system makes up
            torch.load(path if archive else file, map_location="cpu", weights_only=True, mmap=archive)
    except MemoryError:
        raise
    except Exception as error:
        return error
    return None


def check_content(content: object, sizes: Sequence[int] | None = None) -> None:
    """Count the values of a file, and compare its tensors with the bytes that are there for them.

    Args:
        content: Content of the file.
        sizes: Sizes of its records; None if it is no archive.

    Raises:
        DamagedFile: There are too many values or levels, or a tensor has more values than the file has bytes for it.
    """
    tensors: list[Tensor] = []

    def inside(value: Any) -> Iterable[object]:
        if isinstance(value, Tensor):
            tensors.append(value)
        if isinstance(value, Mapping):
            return [*value.keys(), *value.values()]
        return value if isinstance(value, (list, tuple, set, frozenset)) else ()

    try:
        check_tree(content, inside, most=_MOST)
    except ValueError as error:
        raise DamagedFile(f"is no file of tensors: {error}") from None
    if sizes is None:
        return
    storages = {
        storage._cdata: storage.nbytes()
        for tensor in tensors
        if tensor.layout == torch.strided and tensor.device.type == "cpu"
        for storage in [tensor.untyped_storage()]
    }
    if surplus := Counter(storages.values()) - Counter(sizes):
        raise DamagedFile(f"is damaged: a tensor of {max(surplus):,} bytes has no record of that size")


def load_safetensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a safetensors file, whose reader compares sizes with the file.

    Raises:
        OSError: It cannot be read, or is no regular file.
        SafetensorError: It is damaged.
    """
    check_regular(path, WEIGHTS)
    tensors: dict[str, Tensor] = load_file(path, device="cpu")
    return tensors


def load_safetensors_about(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file with its metadata; errors as for :func:`load_safetensors`."""
    check_regular(path, WEIGHTS)
    with safe_open(path, framework="pt") as file:
        opened: Any = file
        return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
