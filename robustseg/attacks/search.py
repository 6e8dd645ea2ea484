"""Search for the modules that a model refers to, by looking at objects without calling them."""

from __future__ import annotations

import functools
import itertools
import sys
import types
import weakref
from collections import UserDict, UserList, deque
from collections.abc import Iterable
from contextlib import suppress

from torch import nn

MOST = 20_000
"""Objects that are looked at; modules beyond are found when they run."""
_ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes})
_FOREIGN = {"torch", "numpy", "pytorch_lightning", "lightning", "lightning_fabric", *sys.stdlib_module_names}
"""Packages whose objects are no parts of a model."""
_KNOWN = (UserDict, UserList, types.SimpleNamespace, functools._lru_cache_wrapper)
"""Classes of theirs that may hold parts all the same."""
_OWN = frozenset(vars(nn.Module()))
"""Attributes that every module has."""


def modules_of(model: object) -> list[nn.Module]:
    """Return the modules of a model, itself included: those that it holds, or that its functions refer to.

    The search covers submodules, attributes and slots of objects and classes, containers, weak references, bound
    methods, ``functools.partial``, and the closure, the defaults and the global names of Python functions. Modules to
    which nothing of this refers yet are found when they run, see :class:`~robustseg.attacks.state.Hold`.
    """
    found: dict[int, nn.Module] = {}
    seen: dict[int, object] = {}
    queue = deque([model])
    for _ in range(MOST):
        if not queue:
            break
        thing = queue.popleft()
        if type(thing) in _ATOMS or id(thing) in seen:
            continue
        seen[id(thing)] = thing  # a reference, so that no other object gets its id
        with suppress(Exception):  # of an object that does not let itself be looked at
            if isinstance(thing, nn.Module):
                for module in thing.modules():
                    found[id(module)] = seen[id(module)] = module
                    own = vars(module)
                    queue.extend(own[name] for name in own.keys() - _OWN if not _is_plain(own[name]))
            else:
                queue.extend(_parts(thing))
    return list(found.values())


def is_compiled(model: object, modules: Iterable[nn.Module]) -> bool:
    """Return whether ``torch.compile`` made the model or one of its modules, or one says that it runs such code."""
    function = isinstance(model, types.FunctionType) and hasattr(model, "_torchdynamo_orig_callable")
    return function or any(
        "_orig_mod" in module._modules
        or getattr(module, "_compiled_call_impl", None) is not None
        or getattr(module, "runs_compiled_code", False) is True
        for module in modules
    )


def _is_plain(value: object) -> bool:
    """Return whether a value is a setting, such as most attributes of most layers."""
    kind = type(value)
    return kind in _ATOMS or (kind is tuple and _ATOMS.issuperset(map(type, value)))  # type: ignore[call-overload]


def _parts(thing: object) -> Iterable[object]:
    """Return the objects to which an object refers directly."""
    if isinstance(thing, weakref.ref):
        return [thing()]
    if isinstance(thing, weakref.ProxyTypes):
        return [thing.__init__.__self__]
    if isinstance(thing, (dict, types.MappingProxyType)):
        return itertools.islice(thing.values(), MOST)
    if isinstance(thing, (list, tuple, set, frozenset, deque)):
        return itertools.islice(thing, MOST)
    if isinstance(thing, functools.partial):
        return [thing.func, *thing.args, *thing.keywords.values()]
    if isinstance(thing, types.MethodType):
        return [thing.__self__, thing.__func__]
    if isinstance(thing, types.GeneratorType):
        return [] if thing.gi_frame is None else list(thing.gi_frame.f_locals.values())
    if isinstance(thing, types.FunctionType):
        return [] if _is_foreign(thing) else _parts_of_function(thing)
    if isinstance(thing, type):
        return _parts_of_class(thing)
    return [] if _is_foreign(type(thing)) and not isinstance(thing, _KNOWN) else _parts_of_object(thing)


def _is_foreign(thing: type | types.FunctionType) -> bool:
    return (thing.__module__ or "").partition(".")[0] in _FOREIGN


def _parts_of_function(function: types.FunctionType) -> list[object]:
    parts: list[object] = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    parts += vars(function).values()  # functools.wraps and torch.compile keep the original there
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # a variable without a value yet
            parts.append(cell.cell_contents)
    codes = [function.__code__]
    for code in codes:
        codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
        parts += [function.__globals__[name] for name in code.co_names if name in function.__globals__]
    return parts


def _parts_of_class(kind: type) -> list[object]:
    """Return the values of a class and its bases, without their functions, of which a call may run none."""
    named = [pair for base in kind.__mro__ if not _is_foreign(base) for pair in vars(base).items()]
    return [
        value
        for name, value in named
        if not name.startswith("__") and (isinstance(value, nn.Module) or not callable(value))
    ]


def _parts_of_object(thing: object) -> list[object]:
    kind = type(thing)
    parts = [*_parts_of_class(kind), *(vars(base).get("__call__") for base in kind.__mro__)]
    for slot in [value for value in parts if isinstance(value, types.MemberDescriptorType)]:
        with suppress(AttributeError):  # a slot without a value
            parts.append(slot.__get__(thing))
    with suppress(AttributeError):  # an object of slots only
        parts += object.__getattribute__(thing, "__dict__").values()
    return parts
