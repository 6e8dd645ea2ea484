"""Safety checks of configurations: they may name classes of a few packages and kinds only.

A configuration may come from an untrusted source, with a downloaded checkpoint for example, and the parser imports and
calls any object that a ``class_path`` names. Two checks come before:

* :func:`limit_imports`: only packages in :data:`TRUSTED` and those named by ``--allow_import`` can be imported. Objects
  from elsewhere that one of them has imported, such as ``torch.os.system``, are refused as well.
* :func:`refused_object`: the trusted packages can also load files and compile code (``torch.hub.load``), so only their
  classes in :data:`BUILDABLE` may be built.
"""

from __future__ import annotations

import argparse
import inspect
import os
import pydoc
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_type_hints

from jsonargparse import Namespace, set_parsing_settings
from lightning_fabric.plugins import CheckpointIO, ClusterEnvironment
from pytorch_lightning import Callback
from pytorch_lightning.accelerators import Accelerator
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins import LayerSync, Precision
from pytorch_lightning.profilers import Profiler
from pytorch_lightning.strategies import Strategy
from torch import nn
from torch.optim import Optimizer

from robustseg.attacks import Attack, AttackLoss, InputTransform, StepRule, TargetMap, ThreatModel
from robustseg.data import SegmentationData
from robustseg.detectors import Detector
from robustseg.models import Network, SlidingWindow
from robustseg.studies import Study

TRUSTED = ("torch", "torchvision", "timm", "robustseg", "pytorch_lightning", "lightning_fabric", "torchmetrics")
"""Packages that a configuration may import from."""

BUILDABLE: tuple[type[Any], ...] = (
    *(Attack, AttackLoss, InputTransform, StepRule, TargetMap, ThreatModel),
    *(Network, SlidingWindow, SegmentationData, Detector, Study),
    *(Optimizer, Callback, Logger, Profiler, Strategy, Accelerator),
    *(Precision, CheckpointIO, ClusterEnvironment, LayerSync),
)
"""Base classes of the objects that a configuration may build from trusted packages; none of them executes or unpickles
its arguments."""

_MAKERS = ("robustseg", "torchvision.models.segmentation")
"""Modules with functions that a configuration may call, if they return one of BUILDABLE or a torch module."""

OPTION = "--allow_import"
_KEY = "allow_import"


def split_allowed(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take ``--allow_import PACKAGE`` out of a command line; configuration files cannot contain this option.

    Args:
        args: Arguments of a command; the option may be repeated, and may list several packages with commas.

    Returns:
        The packages, and the other arguments. A name that is no valid package name ends the process with status 2.
    """
    parser = argparse.ArgumentParser("robustseg", add_help=False, allow_abbrev=False)
    parser.add_argument(OPTION, "--allow-import", action="extend", type=_packages, default=[], metavar="PACKAGE")
    options, rest = parser.parse_known_args(args)
    return options.allow_import, rest


def _packages(text: str) -> list[str]:
    names = [name.strip() for name in text.strip("[]").split(",")]
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")) or _within(name, ["jsonargparse"]):
            raise argparse.ArgumentTypeError(f"{name!r} is not a package to allow: name one such as mypackage.")
    return names


def limit_imports(allowed: Sequence[str]) -> None:
    """Let configurations import from :data:`TRUSTED` and from ``allowed`` only, for the rest of this process.

    The parser checks the path before the import, and the object's own module after it. Packages that an earlier call
    allowed stay importable; :func:`refused_object` decides about the objects in them.
    """
    set_parsing_settings(
        import_path_denylist=["*"],
        import_path_allowlist=[*TRUSTED, *allowed],
        # Otherwise any class_path within a dict of arbitrary values is built.
        instantiate_subclass_spec_in_any=False,
    )


def refused_import(message: str) -> str | None:
    """Shorten the parser's message about an import that is not allowed; return None for other messages."""
    found = re.search(r"Importing '([\w.]+)' is not allowed, denied by the", message)
    if found is None:
        return None
    keys = re.findall(r'Parser key "([^"]+)"', message[: found.start()])
    return _outside(keys[-1] if keys else "the configuration", found[1], found[1])


def refused_object(config: Namespace, allowed: Sequence[str]) -> str | None:
    """Return a message about the first object of a configuration that may not be built; None if there is none.

    Args:
        config: The parsed configuration, before its objects are built.
        allowed: Packages named by ``--allow_import``; all of their objects may be built.
    """
    for key, named in _named(config):
        path = named if isinstance(named, str) else _path(named)
        if isinstance(named, str):
            if not _within(named, [*TRUSTED, *allowed]):
                return _outside(key, named, named)
            named = _locate(named)
        home = path if named is None else _home(named)
        if _within(home, allowed) or (_within(home, TRUSTED) and _is_buildable(named)):
            continue
        if not _within(home, TRUSTED):
            return _outside(key, path, home)
        return (
            f"{key} names {path}, which is no class that a configuration may build, such as an attack, a network, an "
            f"optimiser or a callback: add {OPTION} {_package(home)} if you trust whatever can be called in it."
        )
    return None


def _outside(key: str, path: str, home: str) -> str:
    return (
        f"{key} names {path}, which is outside of torch, torchvision, timm and robustseg: add {OPTION} "
        f"{_package(home)} if you trust it."
    )


def _named(value: object, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each class path, as text, and each class or function, with its key."""
    if isinstance(value, Namespace | Mapping):
        items = vars(value) if isinstance(value, Namespace) else value
        if isinstance(path := items.get("class_path"), str):
            yield key, path
        for name, inner in items.items():
            yield from _named(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple | set | frozenset):
        for index, inner in enumerate(value):
            yield from _named(inner, f"{key}[{index}]")
    elif callable(value) and not isinstance(value, os.PathLike):
        yield key, value


def _is_buildable(named: object) -> bool:
    if inspect.isclass(named):
        return issubclass(named, BUILDABLE)
    # The configuration chooses a function's arguments, so only functions with a declared return type are called.
    if not inspect.isfunction(named) or not _within(named.__module__, _MAKERS):
        return False
    made = get_type_hints(named).get("return")
    return inspect.isclass(made) and issubclass(made, (*BUILDABLE, nn.Module))


def _locate(path: str) -> object | None:
    """Find the object at a path in a trusted package; return None if there is none."""
    try:
        return pydoc.locate(path)
    except pydoc.ErrorDuringImport:
        return None


def _home(named: object) -> str:
    """Return the name of the module that defines an object, independent of the path that led to it."""
    if inspect.ismodule(named):
        return named.__name__
    owner = named if inspect.isclass(named) or inspect.isroutine(named) else type(named)
    return str(getattr(owner, "__module__", None))


def _path(named: object) -> str:
    return f"{_home(named)}.{getattr(named, '__qualname__', type(named).__qualname__)}"


def _package(path: str) -> str:
    return path.partition(".")[0]


def _within(path: str, packages: Sequence[str]) -> bool:
    return any(path == package or path.startswith(f"{package}.") for package in packages)
