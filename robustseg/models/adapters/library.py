"""Functions that the adapters share: imports, checks of arguments, and changes to the built networks."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from robustseg.models.errors import ModelError
from robustseg.models.heads import PooledBatchNorm2d


def import_library(module: str, package: str, user: str) -> Any:
    """Import an optional library.

    Args:
        module: Name of the module.
        package: Name of the package to install, for the message.
        user: Name of the class that needs it, for the message.

    Raises:
        ModelError: The library, or one that it needs, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ModelError(
            f"{user} needs {module.partition('.')[0]}, which cannot be imported ({error}): pip install {package}."
        ) from error


def check_known(key: str, name: str, known: Iterable[str], owner: str) -> None:
    """Refuse a name that is not among the known ones.

    Raises:
        ModelError: The name is unknown; the message lists similar names, or the first twelve if there are none.
    """
    known = sorted(known)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=4, cutoff=0.6) or known[:12]
        raise ModelError(f"{key} = {name!r} is unknown to {owner}: did you mean {', '.join(close)}?")


def check_reserved(args: Mapping[str, Any], reserved: Mapping[str, str]) -> None:
    """Refuse arguments that the network sets itself.

    Args:
        args: The given arguments.
        reserved: The advice for each refused argument.

    Raises:
        ModelError: One of ``reserved`` is among the arguments.
    """
    for key in args:
        if key in reserved:
            raise ModelError(f"args may not hold {key}: {reserved[key]}.")


def reason(error: Exception) -> str:
    """Return a library's own message on one short line."""
    text = " ".join((str(error).strip() or type(error).__name__).split())
    return f"{type(error).__name__}: {text[:200]}"


def define_for_one(module: nn.Module) -> None:
    """Keep BatchNorm behind global pooling defined for a batch of one; see :class:`PooledBatchNorm2d`.

    Every plain BatchNorm2d is replaced, since only the size of the input shows which ones are behind a pooling.
    Elsewhere, and in the state dict, the two classes are the same.
    """
    for child in module.modules():
        for name, layer in child.named_children():
            if type(layer) is nn.BatchNorm2d:
                new = PooledBatchNorm2d(
                    layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats
                )
                new.load_state_dict(layer.state_dict(), assign=True)
                for own, parameter in layer.named_parameters(recurse=False):
                    setattr(new, own, parameter)
                new.train(layer.training)
                setattr(child, name, new)
