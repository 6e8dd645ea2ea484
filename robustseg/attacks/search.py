"""Search for the modules that a model refers to, by looking at objects without calling them."""

from __future__ import annotations

import functools
import sys
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from torch import nn

MOST = 2000
"""Objects that are looked into; the modules beyond are found when they run."""
_ATOMS = (type(None), bool, int, float, complex, str, bytes)
_FOREIGN = {"torch", "numpy", "pytorch_lightning", "lightning", "lightning_fabric", *sys.stdlib_module_names}
"""Packages whose objects are no part of a model, other than the containers and functions below."""
_OWN = frozenset(vars(nn.Module()))
"""Attributes that every module has."""


def modules_of(model: object) -> list[nn.Module]:
    """Return the modules of a model, itself included: those that it holds, or that its functions refer to.

    The search covers submodules, attributes and slots of objects, containers, weak references, bound methods,
    ``functools.partial``, and the closure, the defaults and the global names of Python functions. Modules that nothing
    of this refers to yet are found when they run, see :class:`~robustseg.attacks.state.Hold`.
    """
    found: dict[int, nn.Module] = {}
    seen: dict[int, object] = {}
    queue = deque([model])
    while queue and len(seen) < MOST:
        thing = _referent(queue.popleft())
        if isinstance(thing, _ATOMS) or id(thing) in seen:
            continue
        seen[id(thing)] = thing
        if isinstance(thing, nn.Module):
            for module in thing.modules():
                found[id(module)] = seen[id(module)] = module
                queue.extend(value for name, value in vars(module).items() if name not in _OWN)
        else:
            queue.extend(_parts(thing))
    return list(found.values())


def is_compiled(model: object, modules: Iterable[nn.Module]) -> bool:
    """Return whether the model or a part of it was compiled by ``torch.compile``."""
    return hasattr(model, "_torchdynamo_orig_callable") or any(
        "_orig_mod" in module._modules or getattr(module, "_compiled_call_impl", None) is not None for module in modules
    )


def _referent(thing: object) -> object:
    """Return what a weak reference refers to, or the object itself."""
    if isinstance(thing, weakref.ref):
        return thing()
    if isinstance(thing, weakref.ProxyTypes):
        with suppress(ReferenceError):
            return thing.__init__.__self__
    return thing


def _parts(thing: object) -> Iterable[object]:
    """Return the objects that one which is no module directly refers to."""
    if isinstance(thing, Mapping):
        return list(thing.values())
    if isinstance(thing, (list, tuple, set, frozenset, deque)):
        return list(thing)
    if isinstance(thing, functools.partial):
        return [thing.func, *thing.args, *thing.keywords.values()]
    if isinstance(thing, types.MethodType):
        return [thing.__self__, thing.__func__]
    if isinstance(thing, types.FunctionType):
        return [] if _is_foreign(thing.__module__) else _parts_of_function(thing)
    if isinstance(thing, type):
        return [] if _is_foreign(thing.__module__) else _values(thing, lambda value: not callable(value))
    return [] if _is_foreign(type(thing).__module__) else _parts_of_object(thing)


def _is_foreign(module: str | None) -> bool:
    # A script's own module is named __main__, as one of the standard library's.
    return module != "__main__" and (module or "").partition(".")[0] in _FOREIGN


def _parts_of_function(function: types.FunctionType) -> list[object]:
    parts: list[object] = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    parts += vars(function).values()  # what functools.wraps and torch.compile keep of the original
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # a variable without a value yet
            parts.append(cell.cell_contents)
    codes = [function.__code__]
    for code in codes:
        codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
        parts += [function.__globals__[name] for name in code.co_names if name in function.__globals__]
    return parts


def _parts_of_object(thing: object) -> list[object]:
    parts: list[object] = list(getattr(thing, "__dict__", {}).values())
    for kind in type(thing).__mro__:
        if not _is_foreign(kind.__module__):
            slots = [value for value in vars(kind).values() if isinstance(value, types.MemberDescriptorType)]
            for slot in slots:
                with suppress(AttributeError):  # a slot without a value
                    parts.append(slot.__get__(thing))
            # Of the functions only the one that a call runs: others may not belong to it.
            parts += _values(kind, lambda value: isinstance(value, nn.Module) or not callable(value))
            parts.append(vars(kind).get("__call__"))
    return parts


def _values(kind: type, wanted: Callable[[Any], bool]) -> list[object]:
    return [value for name, value in vars(kind).items() if not name.startswith("__") and wanted(value)]
