"""Copies between a device and the CPU: several values with one wait, and values to the device with none."""

from __future__ import annotations

import torch
from torch import Tensor


def read(*values: Tensor) -> list[Tensor]:
    """Copy tensors of one device to the CPU, all with one wait for it.

    Args:
        values: Numbers of any shape, at most 64 bits each.

    Returns:
        The same values on the CPU, floats in float32 at least, whole numbers as int64 and flags as bool.
    """
    rows = [_bits(value.detach()) for value in values]
    copied = torch.split(torch.cat(rows).cpu(), [len(row) for row in rows])
    return [_values(bits, value) for bits, value in zip(copied, values, strict=True)]


def positions(mask: Tensor) -> Tensor:
    """Return the indices of the true entries of a mask, B bool, on the CPU; waits for the device once."""
    return mask.cpu().nonzero()[:, 0]


def on_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy what was computed on the CPU to a device, without a wait for the work that is queued there.

    A copy from a device to the CPU waits.
    """
    # Without a wait, the CPU could read its copy before it is there, and Apple's GPUs a source that has changed since.
    return values.to(device, non_blocking=device.type not in ("cpu", "mps"))


def _bits(value: Tensor) -> Tensor:
    """Return the bits of each number as one int64, in a row."""
    row = value.reshape(-1)
    if not value.is_floating_point():
        return row.long()
    if value.dtype == torch.float64:
        return row.view(torch.int64)
    return row.float().view(torch.int32).long()


def _values(bits: Tensor, like: Tensor) -> Tensor:
    if not like.is_floating_point():
        found = bits.bool() if like.dtype == torch.bool else bits
    else:
        found = bits.view(torch.float64) if like.dtype == torch.float64 else bits.int().view(torch.float32)
    return found.view(like.shape)
