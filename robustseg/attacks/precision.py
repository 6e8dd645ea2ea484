"""The precision of a search: attacks may look for adversarial images in bfloat16, and judge them in float32."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustseg.attacks.errors import AttackError

SearchPrecision = Literal["bf16", "fp16", "float32"]
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "float32": torch.float32}
_CASTABLE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
"""Layers whose own weights autocast converts at every forward."""


@dataclass(frozen=True)
class Search:
    """The precision and the memory layout of the forwards and gradients that an attack searches by.

    An adversarial image is valid whatever found it, so that a search in low precision can be weaker, but not dishonest.
    Losses, schedules, projections and noise stay in float32. So do the forwards that judge: what is kept of several
    iterates, restarts or members, and whether an image is finished. The model's weights are not changed.

    Args:
        precision: ``bf16``, ``fp16`` or ``float32``. The first two are torch's autocast.
        channels_last: Lay out images, features and weights with the channels last, which is faster in bf16 and fp16.

    Raises:
        ValueError: An unknown precision.
    """

    precision: SearchPrecision = "bf16"
    channels_last: bool = True

    def __post_init__(self) -> None:
        if self.precision not in _DTYPES:
            raise ValueError(f"search.precision = {self.precision!r}: use {', '.join(_DTYPES)}.")
        if not isinstance(self.channels_last, bool):
            raise ValueError(f"search.channels_last = {self.channels_last!r}: use true or false.")

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the forwards."""
        return _DTYPES[self.precision]

    @property
    def memory_format(self) -> torch.memory_format:
        """Layout of images and weights."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def why_not(self, device: torch.device, dtype: torch.dtype = torch.float32) -> str:
        """Return why a model cannot be searched so on a device; empty if it can.

        Args:
            device: Device of the model.
            dtype: Number format of the images, and of the forwards that judge.
        """
        if dtype != torch.float32:
            return f"images and model are in {str(dtype).removeprefix('torch.')}, and results are judged in float32"
        if self.precision != "float32" and not _supported(self.dtype, device.type):
            return f"this {'GPU' if device.type in ('cuda', 'mps') else device.type.upper()} does not compute in it"
        return ""

    def describe(self) -> dict[str, Any]:
        """Return the settings that figures depend on, as plain JSON."""
        return {"precision": self.precision, "channels_last": self.channels_last}


def _supported(dtype: torch.dtype, device: str) -> bool:
    """Return whether a kind of device computes in ``dtype``, not by way of float32 at many times the cost."""
    if not torch.amp.is_autocast_available(device):
        return False
    if device == "cuda":
        return dtype == torch.float16 or torch.cuda.is_bf16_supported(including_emulation=False)
    if device == "cpu":
        name = "_is_mkldnn_bf16_supported" if dtype == torch.bfloat16 else "_is_mkldnn_fp16_supported"
        return bool(getattr(torch.ops.mkldnn, name)())
    return True


class Searching:
    """The forwards of one attack's search, in the thread that made this object.

    Layers get a forward of their own for the time of the attack. It takes copies of the weights, which are made once,
    since autocast would convert frozen weights at every forward; in other threads and outside of the search it is the
    layer's own.

    Args:
        search: Precision and layout.
        modules: Modules of the model.
    """

    def __init__(self, search: Search, modules: Sequence[nn.Module]):
        self.search = search
        self.used = False
        """Some forward was one of this search."""
        self._on = False
        self._thread = threading.get_ident()
        self.layers: dict[nn.Module, Callable[..., Tensor]] = {
            module: _InSearch(self, module) for module in modules if _is_castable(module)
        }
        """The forward of each layer that has copies."""

    @contextmanager
    def forward(self, images: Tensor) -> Iterator[None]:
        """Run a forward of the search in a ``with`` block.

        Raises:
            AttackError: The images' device or dtype does not go with the search.
        """
        reason = self.search.why_not(images.device, images.dtype)
        if reason:
            raise AttackError(
                f"search.precision = {self.search.precision}: {reason}: use search.precision: float32, or no search."
            )
        self.used = True
        low = self.search.precision != "float32"
        before, self._on = self._on, True
        try:
            with torch.autocast(images.device.type, self.search.dtype if low else None, enabled=low):
                yield
        finally:
            self._on = before

    def takes(self, device: str) -> bool:
        """Return whether a layer that runs now is to use its copies, which a model's own autocast may forbid."""
        if not self._on or threading.get_ident() != self._thread:
            return False
        enabled = torch.is_autocast_enabled(device)
        if self.search.precision == "float32":
            return not enabled
        return enabled and torch.get_autocast_dtype(device) == self.search.dtype


class _InSearch:
    """The forward of a layer that takes copies of its weights while its attack searches."""

    def __init__(self, searching: Searching, layer: Any):
        self._searching = searching
        self._layer = layer
        self._own = layer.forward
        self._copies: tuple[Tensor, Tensor | None] | None = None

    def __call__(self, input: Tensor) -> Tensor:
        layer = self._layer
        if not self._searching.takes(input.device.type):
            return self._own(input)  # type: ignore[no-any-return]
        if self._copies is None:
            self._copies = self._copied(layer.weight), None if layer.bias is None else self._copied(layer.bias)
        weight, bias = self._copies
        if isinstance(layer, nn.Linear):
            return F.linear(input, weight, bias)
        return layer._conv_forward(input, weight, bias)  # type: ignore[no-any-return]

    def _copied(self, tensor: Tensor) -> Tensor:
        search = self._searching.search
        layout = search.memory_format if tensor.ndim == 4 else torch.contiguous_format
        return tensor.detach().to(search.dtype, copy=True).contiguous(memory_format=layout)


def _is_castable(module: nn.Module) -> bool:
    """Return whether a layer computes with its own weights in float32 and nothing else.

    Parametrised layers are of other classes, and hooks before the forward may change the weights.
    """
    own = type(module) in _CASTABLE and "forward" not in vars(module) and not module._forward_pre_hooks
    weight, bias = (module._parameters.get(name) if own else None for name in ("weight", "bias"))
    if weight is None or "bias" not in module._parameters or weight.dtype != torch.float32:
        return False
    return all(type(each) is nn.Parameter for each in (weight, bias) if each is not None)
