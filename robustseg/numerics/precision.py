"""Full float32 precision: autocast and torch's old and new switches of TF32 and bfloat16 products."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TypeVar

import torch

_Value = TypeVar("_Value")
_DEVICES = ("cpu", "cuda", "mps", "xpu", "hpu", "mtia")
_SWITCHES = (
    *(("generic", "all"), ("cuda", "all"), ("mkldnn", "all")),
    *((backend, operator) for backend in ("cuda", "mkldnn") for operator in ("matmul", "conv", "rnn")),
)
"""Backend and operator of torch's ``fp32_precision``, a general one before those that inherit its value."""
_FULL = ("none", "ieee")


@contextmanager
def full_precision() -> Iterator[None]:
    """Switch off autocast, TF32 and bfloat16 products in a ``with`` block; figures of robustness are computed so.

    torch has an old form of the switches (``set_float32_matmul_precision``, ``cudnn.allow_tf32``) and a new one
    (``torch.backends.….fp32_precision``, for each operator). The old one raises where the new one says something else.
    Both are switched off, so that compilers can read them, and are afterwards as they were.
    """
    before = _switches()
    with ExitStack() as stack:
        stack.callback(_restore, before)
        if _readable(lambda: torch.backends.cudnn.allow_tf32):
            torch._C._set_cudnn_allow_tf32(False)
            stack.callback(torch._C._set_cudnn_allow_tf32, True)
        for switch in before:
            if _get(switch) not in _FULL:
                _set(switch, "ieee")
        products = _readable(torch.get_float32_matmul_precision)
        if products not in (None, "highest"):
            torch.set_float32_matmul_precision("highest")
            stack.callback(torch.set_float32_matmul_precision, products)
        for kind in _autocasts():
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def lowered() -> str | None:
    """Name what computes float32 in lower precision now, in words; None for nothing. The look is cheap."""
    on = [f"autocast on {kind}" for kind in _autocasts()]
    on += [f"{value} in {backend}.{op}" for (backend, op), value in _switches().items() if value not in _FULL]
    if not _has_switches():
        on += ["TF32 in products"] * (torch.get_float32_matmul_precision() != "highest")
        on += ["TF32 in cuDNN"] * torch.backends.cudnn.allow_tf32
    return ", ".join(on) or None


def matmul_precision() -> str:
    """Return the precision of float32 products: highest, high or medium, or those of CUDA and the CPU."""
    known = _readable(torch.get_float32_matmul_precision)
    return known or ", ".join(f"{backend} {_get((backend, 'matmul'))}" for backend in ("cuda", "mkldnn"))


def _autocasts() -> list[str]:
    return [kind for kind in _DEVICES if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)]


def _has_switches() -> bool:
    return hasattr(torch._C, "_get_fp32_precision_getter")  # since torch 2.9


def _switches() -> dict[tuple[str, str], str]:
    return {switch: _get(switch) for switch in _SWITCHES} if _has_switches() else {}


def _get(switch: tuple[str, str]) -> str:
    # torch.backends.mkldnn.fp32_precision writes the general switch, so none of these attributes is used.
    return str(torch._C._get_fp32_precision_getter(*switch))


def _set(switch: tuple[str, str], value: str) -> None:
    torch._C._set_fp32_precision_setter(*switch, value)


def _readable(read: Callable[[], _Value]) -> _Value | None:
    with suppress(RuntimeError):  # both forms were used, and differ
        return read()
    return None


def _restore(before: dict[tuple[str, str], str]) -> None:
    for switch, value in before.items():
        if _get(switch) != value:
            _set(switch, value)
