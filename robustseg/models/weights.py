"""Reading tensors from files that may come from strangers."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from robustseg.models.errors import ModelError
from robustseg.models.mismatch import shorten

logger = logging.getLogger(__name__)

WRAPPINGS = ("state_dict", "model", "model_state_dict", "model_state", "net", "network", "weights")
"""Entries under which training scripts keep the state dict, in the order in which they are looked for."""
PREFIXES = ("module.", "model.", "_orig_mod.", "net.")
"""What DataParallel, Lightning, torch.compile and training scripts put before the names of a network's tensors."""
BOOKKEEPING = (
    *("argparse.Namespace", "types.SimpleNamespace", "easydict.EasyDict", "yacs.config.CfgNode"),
    *("mmengine.logging.history_buffer.HistoryBuffer", "mmengine.config.config.ConfigDict"),
    "builtins.getattr",  # how mmengine's HistoryBuffer refers to its methods
    *("mmcv.utils.config.ConfigDict", "omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig"),
    *("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype", "numpy.ndarray"),
    *("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"),
    *("numpy.dtypes.Float64DType", "numpy.dtypes.Int64DType", "pathlib.PosixPath", "pathlib.WindowsPath"),
)
"""Objects that training scripts keep beside the weights; each is replaced by a stand-in that does nothing."""


class _StandIn:
    """Takes whatever a pickle hands to an object, and forgets it."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...

    def __setitem__(self, key: object, value: object) -> None: ...

    def append(self, value: object) -> None:
        """Forget an element of a list."""


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a file without executing anything in it.

    Args:
        path: ``.safetensors``, or a ``.pt``, ``.pth`` or ``.ckpt`` file that holds a state dict, alone or in one of
            the :data:`WRAPPINGS`, such as ``state_dict`` (Lightning, timm, mmengine) or ``model`` (torchvision, DeiT).

    Returns:
        Name to CPU tensor.

    Raises:
        ModelError: The file is missing, unreadable, holds other objects than tensors, or is not a state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"weights file {path} {'is a folder' if path.is_dir() else 'does not exist'}.")
    content = read_plain(path)
    while isinstance(content, dict) and (wrapping := wrapping_of(content)):
        others = [key for key in content if key != wrapping and is_state_dict(content[key])]
        if others:
            logger.warning("%s: loaded %s, and not %s, which it holds beside it", path, wrapping, shorten(others))
        content = content[wrapping]
    if not isinstance(content, dict) or not content:
        kind = "an empty dict" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise ModelError(f"{path} is not a state dict: it holds {kind}.")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ModelError(
                f"{path} is not a state dict: its entry {key!r} is a {type(value).__name__}, not a tensor."
            )
    return dict(content)


def wrapping_of(content: Mapping[object, object]) -> str | None:
    """Which of the :data:`WRAPPINGS` holds the state dict of a file; None where there is none."""
    return next((key for key in WRAPPINGS if isinstance(content.get(key), dict)), None)


def is_state_dict(value: object) -> bool:
    """Whether this is a dict of tensors by name, such as the running average that timm keeps as ``state_dict_ema``."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in value.items())
    )


def read_plain(path: str | Path) -> object:
    """Read tensors and plain values from a file, executing nothing in it.

    Raises:
        ModelError: The file is unreadable or asks for other objects.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path, device="cpu")
        stand_ins: list[Any] = [(_StandIn, name) for name in BOOKKEEPING]
        with torch.serialization.safe_globals(stand_ins):
            return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # the readers raise a dozen types on damaged files, from EOFError to KeyError
        raise ModelError(f"{path} cannot be loaded: {_reason(path, error)}.") from error


def _reason(path: Path, error: Exception) -> str:
    if other := _not_weights(path):
        return other
    refused = re.search(r"GLOBAL ([\w.]+)", str(error))
    if refused:
        return (
            f"it asks for the Python object {refused[1]}, and only tensors and plain values are unpickled; if you "
            f"trust it, write its tensors alone to a file, with torch.load(..., weights_only=False) and torch.save"
        )
    return f"truncated or not a file of tensors ({type(error).__name__}): download or copy it again"


def _not_weights(path: Path) -> str | None:
    """What a file is that was saved in place of weights; None where it is not one of the known kinds."""
    with path.open("rb") as file:
        start = file.read(64).lstrip().lower()
    if not start:
        return "it is empty: download or copy it again"
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, not the file itself: fetch that with git lfs pull"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page, such as the one that asks to log in or to confirm a download: download it again"
    return None


def sha256(path: str | Path) -> str:
    """The file's SHA-256, hexadecimal; that of nothing where it does not exist."""
    path = Path(path)
    digest = hashlib.sha256()
    if path.is_file():  # read_state_dict has the message for a missing file
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def unwrapped(state: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The state dict as it is, and without each of the :data:`PREFIXES` that all names have, and without several.

    Beside ``model.`` there may be others, which are left out: a Lightning module's criterion, or the normalisation
    that a wrapper keeps beside its network.
    """
    yield dict(state)
    for prefix in PREFIXES:
        inner = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if inner and (prefix == "model." or len(inner) == len(state)):
            yield from unwrapped(inner)


def without_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries under ``prefix`` with it removed; all entries as they are where none has it."""
    inner = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return inner or dict(state)
