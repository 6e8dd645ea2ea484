"""Reader of tensors from untrusted files."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from robustseg.models.checkpoints.compare import shorten
from robustseg.models.checkpoints.reading import Reading
from robustseg.models.checkpoints.wrappers import AVERAGING_COUNTER, variants
from robustseg.models.errors import ModelError
from robustseg.opening.archives import record_names
from robustseg.opening.regular import WEIGHTS, UnfitFile, open_regular
from robustseg.opening.tensors import DamagedFile, load_safetensors, load_tensors

logger = logging.getLogger(__name__)

AVERAGES = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "model_state_dict_ema", "ema_model_state_dict"),
    *("params_ema", "ema", "teacher"),
)
"""Entries under which training scripts keep a running average of the weights."""
WRAPPINGS = (
    *("state_dict", "model", "model_state_dict", "model_state", "net", "network", "weights", "params", "student"),
    "module",  # DeepSpeed
    *AVERAGES,
)
"""Entries under which training scripts keep the state dict, in the order of the search."""
_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
"""Number at the start of a file in torch's former format, as pickle writes it."""
MOST_WRAPPINGS = 4
"""Largest depth of nested wrappings: in a manipulated file an entry may contain itself."""
AVERAGING = ("ema.", "ema_model.", "model_ema.", "averaged_model.")
"""Prefixes of tensor names from a training module's running average of its network."""
PREFIXES = ("module.", "model.", "_orig_mod.", "net.", "network.", *AVERAGING)
"""Prefixes of tensor names from DataParallel, Lightning, torch.compile and training scripts."""
ATTRIBUTES = ("model.", "net.", "network.")
"""The :data:`PREFIXES` that are a training module's attribute for its network; it may have other attributes."""
FILE_NAMES = ("model.safetensors", "pytorch_model.bin", "last.ckpt")
"""Names of weights files in the folders of libraries and training runs, the more likely ones first."""
SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
BOOKKEEPING = (
    *("argparse.Namespace", "types.SimpleNamespace", "easydict.EasyDict", "yacs.config.CfgNode"),
    *("mmengine.logging.history_buffer.HistoryBuffer", "mmengine.config.config.ConfigDict"),
    "builtins.getattr",  # how mmengine's HistoryBuffer refers to its methods
    *("mmcv.utils.config.ConfigDict", "omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig"),
    *("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype", "numpy.ndarray"),
    *("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"),
    *("numpy.dtypes.Float64DType", "numpy.dtypes.Int64DType", "pathlib.PosixPath", "pathlib.WindowsPath"),
)
"""Objects that training scripts keep beside the weights; each is replaced by an inert stand-in."""


class _StandIn:
    """Inert stand-in for a pickled object; it discards its state."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...

    def __setitem__(self, key: object, value: object) -> None: ...

    def append(self, value: object) -> None:
        """Discard an element of a list."""


def read_state_dict(path: str | Path, key: str | None = None) -> dict[str, Tensor]:
    """Read the tensors of a file without executing anything in it.

    Args:
        path: ``.safetensors``, or a ``.pt``, ``.pth`` or ``.ckpt`` file that holds a state dict, alone or in one of
            the :data:`WRAPPINGS`, such as ``state_dict`` (Lightning, timm, mmengine) or ``model`` (torchvision, DeiT).
        key: The setting that names the file, for messages.

    Returns:
        A mapping from name to CPU tensor.

    Raises:
        ModelError: The file is missing, unreadable, holds other objects than tensors, or is not a state dict.
    """
    return read_weights(path, key).tensors


def read_weights(path: str | Path, key: str | None = None) -> Reading:
    """Read the tensors of a file and the other content; arguments and errors as for :func:`read_state_dict`."""
    path = Path(path)
    if not path.exists() or path.is_dir():
        raise ModelError(f"weights file {path} {_no_file(path, key or '--ckpt_path or model.init_weights')}.")
    whole = content = read_plain(path)
    wrappings: list[str] = []
    beside: list[str] = []
    while len(wrappings) < MOST_WRAPPINGS and isinstance(content, dict) and (wrapping := wrapping_of(content)):
        others = [key for key in content if key != wrapping]
        states = [key for key in others if is_state_dict(content[key])]
        if states:
            others_named = shorten(map(_printable, states))
            logger.warning("%s: loaded %s, and not %s, which it holds beside it", path, wrapping, others_named)
        beside += [f"{_printable(key)} (another state dict)" if key in states else _printable(key) for key in others]
        wrappings.append(wrapping)
        content = content[wrapping]
    if not isinstance(content, dict) or not content:
        kind = "an empty dict" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise ModelError(f"{path} is not a state dict: it holds {kind}.")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or not _has_numbers(value):
            raise ModelError(f"{path} is not a state dict: {_no_entry(name, value)}.")
        # Names are printed: a terminal would obey escape sequences, and a line break could forge a line of a message.
        if not name.isprintable():
            raise ModelError(
                f"{path} holds a tensor named {name!a}: no module has such a name; do not trust this file."
            )
    counted = any(name.rpartition(".")[2] == AVERAGING_COUNTER for name in content)
    named = any(all(name.startswith(prefix) for name in content) for prefix in AVERAGING)
    averaged = counted or named or any(wrapping in AVERAGES for wrapping in wrappings)
    return Reading(path, dict(content), whole, tuple(wrappings), tuple(beside), averaged)


def _printable(key: object) -> str:
    return text if (text := str(key)).isprintable() else ascii(text)


def _no_file(path: Path, key: str) -> str:
    if not path.is_dir():
        return f"does not exist: check {key}"
    inside = sorted(file.name for file in path.iterdir() if file.suffix in SUFFIXES and file.is_file())
    preferred = [name for name in FILE_NAMES if name in inside] or inside
    if len(preferred) == 1 or preferred != inside:
        return f"is a folder: set {key} to the file in it, {path / preferred[0]}"
    return f"is a folder: set {key} to a file in it{f', one of {shorten(inside)}' if inside else ''}"


def _has_numbers(tensor: Tensor) -> bool:
    """Return False for a tensor that torch cannot even sum: one without values, a nested one, or floats of 8 bit."""
    return not (tensor.is_meta or tensor.is_nested or (tensor.is_floating_point() and tensor.itemsize < 2))


def _no_entry(name: object, value: object) -> str:
    if not isinstance(name, str):
        return (
            f"its entry {name!r} has a {type(name).__name__} for a name: save model.state_dict(), whose names are text"
        )
    if isinstance(value, _StandIn):
        return (
            f"its entry {name!r} is no tensor but another object, as a numpy array is: save torch.from_numpy(...) of "
            f"each"
        )
    if isinstance(value, Tensor):
        kind = "without values" if value.is_meta else "of tensors" if value.is_nested else f"of {value.dtype}"
        return f"its entry {name!r} is a tensor {kind}: save the state dict of the whole network in float32"
    return f"its entry {name!r} is a {type(value).__name__}, not a tensor"


def wrapping_of(content: Mapping[object, object]) -> str | None:
    """Return the entry of :data:`WRAPPINGS` that holds the state dict of a file; None without one.

    Entries with tensors come before others: some files have a network's settings under ``model``, and its weights
    under another name.
    """
    wrappings = [key for key in WRAPPINGS if isinstance(content.get(key), dict)]
    return next((key for key in wrappings if _holds_tensors(content[key])), wrappings[0] if wrappings else None)


def _holds_tensors(value: object, depth: int = MOST_WRAPPINGS) -> bool:
    if not isinstance(value, dict) or depth == 0:
        return False
    return any(isinstance(entry, Tensor) for entry in value.values()) or any(
        _holds_tensors(value.get(key), depth - 1) for key in WRAPPINGS
    )


def is_state_dict(value: object) -> bool:
    """Return whether this is a dict of tensors by name, such as timm's running average ``state_dict_ema``."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in value.items())
    )


def read_plain(path: str | Path) -> object:
    """Read tensors and plain values from a file, executing nothing in it.

    Raises:
        ModelError: The file is unreadable or refers to other objects.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return load_safetensors(path)
        return load_tensors(path, known=[(_StandIn, name) for name in BOOKKEEPING])
    except MemoryError:
        raise
    except UnfitFile as error:
        raise ModelError(f"{path} cannot be loaded: {error.strerror}.") from error
    except Exception as error:  # on damaged files the readers raise a dozen types, from EOFError to KeyError
        raise ModelError(f"{path} cannot be loaded: {_reason(path, error)}.") from error


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "permission denied: make it readable"
    if other := _not_weights(path):
        return other
    if isinstance(error, DamagedFile):
        return f"it {error}: download or copy it again"
    refused = re.search(r"GLOBAL ([\w.]+)", str(error))
    if refused:
        return (
            f"it asks for the Python object {refused[1]}, and only tensors and plain values are unpickled; if it is a "
            f"whole network, or holds one, save model.state_dict() with torch.save where its code is; if you trust "
            f"it, torch.load(..., weights_only=False) reads it there"
        )
    return f"truncated or not a file of tensors ({type(error).__name__}): download or copy it again"


def _not_weights(path: Path) -> str | None:
    """Describe a known kind of file that was saved instead of weights; None for any other."""
    with open_regular(path, WEIGHTS) as file:
        begin = file.read(64)
        names = record_names(file)
    if "constants.pkl" in names:
        return "it is a TorchScript archive: save the state_dict() of torch.jit.load(...) with torch.save"
    if names and all(name.endswith(".npy") for name in names):
        return "it holds arrays of NumPy, not of torch: convert it to a state dict and save that with torch.save"
    if begin.startswith(b"\x80") and _MAGIC not in begin:
        return (
            "it was written by pickle.dump and not by torch.save: load it where it comes from, and save its tensors "
            "with torch.save"
        )
    if begin.startswith(b"\x89HDF"):
        return "it is an HDF5 file, as Keras writes, and holds no weights of torch"
    start = begin.lstrip().lower()
    if not start:
        return "it is empty: download or copy it again"
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, not the file itself: fetch that with git lfs pull"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page, such as the one that asks to log in or to confirm a download: download it again"
    return None


class Inner(NamedTuple):
    """A state dict without some of the prefixes of its names."""

    state: dict[str, Tensor]
    prefixes: tuple[str, ...]
    """The removed prefixes, outermost first."""
    beside: tuple[str, ...]
    """Names that are left out, since they lack some of the prefixes."""


def unwrapped(state: Mapping[str, Tensor], *, barest_first: bool = False) -> Iterator[Inner]:
    """Yield the state dict itself, then with one or more common :data:`PREFIXES` of its names removed.

    The same follows without the wrappers around parts of the network, see
    :func:`~robustseg.models.checkpoints.wrappers.variants`.

    Names beside the :data:`ATTRIBUTES` are left out: a Lightning module's criterion, or the normalisation that a
    wrapper keeps beside its network. If ``network.`` stands beside ``mean`` and ``std``, the file is a model of this
    package, and all names are kept.
    """
    found = list(variants(state))
    for variant in reversed(found) if barest_first else found:
        yield from _unwrapped(Inner(variant, (), ()))


def _unwrapped(outer: Inner) -> Iterator[Inner]:
    yield outer
    for prefix in PREFIXES:
        inner = {key.removeprefix(prefix): value for key, value in outer.state.items() if key.startswith(prefix)}
        beside = [key for key in outer.state if not key.startswith(prefix)]
        known = [key for key in beside if prefix == "module." and key == AVERAGING_COUNTER]
        own = prefix == "network." and {"mean", "std"} & set(beside)
        if inner and (beside == known or (prefix in ATTRIBUTES and not own)):
            left_out = [f"{''.join(outer.prefixes)}{key}" for key in beside if key not in known]
            yield from _unwrapped(Inner(inner, (*outer.prefixes, prefix), (*outer.beside, *left_out)))


def without_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the entries under ``prefix`` with it removed, or all entries unchanged if none has it."""
    inner = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return inner or dict(state)
