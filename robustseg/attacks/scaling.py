"""Scaling of the gradients inside a model, so that half precision holds them.

A backward in float16 overflows at 65504 and loses what is below 6e-8. The gradient of a sum over the pixels reaches the
one end in a large image that is fooled, and the other in an image that the model is sure of. So the gradient of each
image is divided by a power of two when it enters the model, by which it gets a norm in [1, 2), and multiplied by it in
float32 when it has left the model. In float32 such a scaling would change no bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_LEAST, _LARGEST = 2.0**-62, 2.0**62
"""Bounds of the powers; a float32 norm of gradients that are far beyond them is 0 or infinite."""


def wide(tensor: Tensor) -> Tensor:
    """Return half precision as float32, and other tensors as they are."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def leaf(images: Tensor) -> Tensor:
    """Return the images as a leaf that collects their gradient in float32 at least; a victim casts it back."""
    return wide(images.detach()).requires_grad_()


def in_float16(tensor: Tensor) -> bool:
    """Return whether operations on a tensor give float16: it is of that type, or autocast to it is on."""
    kind = tensor.device.type
    if tensor.dtype == torch.float16 or not torch.amp.is_autocast_available(kind):
        return tensor.dtype == torch.float16
    return torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16


class Scaling:
    """The powers of two of one forward: gradients pass :meth:`leaving` first, then the model, then :meth:`entering`.

    Args:
        together: One power for the whole batch, for models in which images influence one another.
    """

    def __init__(self, together: bool = False):
        self._together = together
        self._power: Tensor | None = None

    def entering(self, images: Tensor) -> Tensor:
        """Return the images for the model; the gradient that comes back through them is multiplied by the powers."""
        if not (images.requires_grad and torch.is_grad_enabled()):
            return images
        seen = images.view_as(images)
        seen.register_hook(self._undo)  # type: ignore[no-untyped-call]
        return seen

    def leaving(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the model's outputs, B×… each, in float32 at least; their gradients are divided by the powers."""
        found: tuple[Tensor, ...] = _Leaving.apply(self, *map(wide, outputs))
        return list(found)

    def _undo(self, grad: Tensor) -> Tensor | None:
        if self._power is None:
            return None
        return (wide(grad) * _column(self._power, grad)).to(grad.dtype)

    def _divide(self, grads: Sequence[Tensor | None]) -> list[Tensor | None]:
        parts = [torch.linalg.vector_norm(grad.flatten(1), dim=1) for grad in grads if grad is not None]
        norm = parts[0].float() if len(parts) == 1 else torch.linalg.vector_norm(torch.stack(parts).float(), dim=0)
        if self._together:
            norm = norm.amax().expand_as(norm)
        # The bits of the exponent alone: a power of two on every device, which log2 and exp2 do not promise.
        power = (norm.contiguous().view(torch.int32) & 0x7F800000).view(torch.float32)
        self._power = power.clamp(_LEAST, _LARGEST)
        return [None if grad is None else grad / _column(self._power, grad).to(grad.dtype) for grad in grads]


class _Leaving(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scaling: Scaling, *outputs: Tensor) -> tuple[Tensor, ...]:
        ctx.scaling = scaling
        ctx.set_materialize_grads(False)
        # Detached, not views: a loss may change its logits in place.
        return tuple(output.detach() for output in outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, *ctx.scaling._divide(grads)


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))
