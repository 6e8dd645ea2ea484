"""Random bits as a function of a key and an index, in integer operations that are equal on every device.

A draw has 64 bits of key for each image, and each element of the image an index. The word of an element is the index
plus one half of the key, sent through the three multiply-xorshift rounds of ``triple32`` (Wellons, 2018, "Prospecting
for Hash Functions"), with the other half of the key added after the first. Keys are mixed by the finaliser of
splitmix64 (Steele et al., OOPSLA 2014). All sums and products wrap around; a right shift of a signed number is masked,
which makes a logical one of it. Floating point begins after the last integer, with conversions and products that are
exact.
"""

from __future__ import annotations

import functools
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from robustseg.devices import on_device

GOLDEN = 0x9E3779B97F4A7C15
"""Distance of the counters of splitmix64, 2^64 over the golden ratio."""
_KEY_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_WORD_ROUNDS = ((17, 0xED5AD4BB), (11, 0xAC4C1B51), (15, 0x31848BAB))
_PER_OCTAVE = 7
"""Bits of the number of table intervals in each octave of the tail's probability."""
_QUANTILE_BITS = 21
"""Bits after the point of the quantiles in the table."""


def mix(number: int) -> int:
    """Compute the finaliser of splitmix64, a bijection of the 64-bit integers."""
    number %= 1 << 64
    for shift, factor in _KEY_ROUNDS:
        number = (number ^ number >> shift) * factor % (1 << 64)
    return number ^ number >> 31


def signed(number: int, bits: int = 64) -> int:
    """Return the signed integer with the same lowest bits as ``number``, as tensors hold it."""
    number %= 1 << bits
    return number - (1 << bits) if number >> bits - 1 else number


def mixed(numbers: Tensor) -> Tensor:
    """Compute :func:`mix` of each int64."""
    for shift, factor in _KEY_ROUNDS:
        numbers = _folded(numbers, shift, 64) * signed(factor)
    return _folded(numbers, 31, 64)


def words(keys: Tensor, count: int) -> Tensor:
    """Compute the random words of the elements 0 … ``count`` − 1 under each key.

    Args:
        keys: B int64 keys.
        count: Number of elements of an image.

    Returns:
        B×count int32, all 32 bits random.
    """
    low = (keys << 32 >> 32).to(torch.int32).unsqueeze(1)
    high = (keys >> 32).to(torch.int32).unsqueeze(1)
    found = torch.arange(count, dtype=torch.int32, device=keys.device) + low
    spare = torch.empty_like(found)
    for number, (shift, factor) in enumerate(_WORD_ROUNDS):
        if number == 1:
            found.add_(high)
        _fold_(found, shift, spare)
        found.mul_(signed(factor, 32))
    return _fold_(found, 14, spare)


def uniform(found: Tensor) -> Tensor:
    """Turn random words into float32 numbers in [0, 1), the multiples of 2^-24."""
    return _shifted(found, 8).to(torch.float32).mul_(2.0**-24)


def uniform_double(found: Tensor, further: Tensor) -> Tensor:
    """Turn two tensors of random words into float64 numbers in [0, 1), the multiples of 2^-53."""
    return (_shifted(found, 5).double() * 2.0**26 + _shifted(further, 6).double()) * 2.0**-53


def normal(found: Tensor) -> Tensor:
    """Turn random words, which are overwritten, into float32 numbers of a normal distribution, from −5.42 to 5.42.

    23 bits are the distance from the end of the tail, in units of 2^-24 of the probability, and one bit is the sign.
    The quantile is interpolated linearly in a table that has 128 intervals for each octave of the probability: the
    error is below 1e-5.
    """
    # Odd numbers below 2^24, which float32 holds exactly. Their exponent and first bits are the place in the table.
    place = _shifted(found, 9).mul_(2).add_(1).to(torch.float32).view(torch.int32)
    rest = 23 - _PER_OCTAVE
    interval = (place >> rest).sub_(127 << _PER_OCTAVE).flatten()
    table = on_device(torch.tensor(_quantiles()), found.device)
    quantile = table.index_select(0, interval).view_as(found)
    step = table.index_select(0, interval.add_(1)).view_as(found)
    torch.sub(quantile, step, out=step)
    quantile.sub_(step.mul_(place.bitwise_and_((1 << rest) - 1)).bitwise_right_shift_(rest))
    sign = found.bitwise_right_shift_(7).bitwise_and_(2).sub_(1)
    return quantile.mul_(sign).to(torch.float32).mul_(2.0**-_QUANTILE_BITS)


@functools.cache
def _quantiles() -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """Compute the quantiles −Φ⁻¹(2^-25·(1 + j/128)·2^k) of 24 octaves k, and of one half, times 2^21, rounded."""
    quantile, intervals = NormalDist().inv_cdf, 1 << _PER_OCTAVE
    places = [(1 + j / intervals) * 2.0 ** (k - 25) for k in range(24) for j in range(intervals)]
    return np.array([round(-quantile(place) * 2**_QUANTILE_BITS) for place in [*places, 0.5]], dtype=np.int32)


def _shifted(found: Tensor, shift: int, bits: int = 32) -> Tensor:
    """Shift the bits to the right, with zeros on the left."""
    return (found >> shift).bitwise_and_((1 << bits - shift) - 1)


def _folded(found: Tensor, shift: int, bits: int) -> Tensor:
    return found ^ _shifted(found, shift, bits)


def _fold_(found: Tensor, shift: int, spare: Tensor) -> Tensor:
    """Fold int32 words in place: the images of a batch are large, and allocating costs more than the operations."""
    torch.bitwise_right_shift(found, shift, out=spare)
    return found.bitwise_xor_(spare.bitwise_and_((1 << 32 - shift) - 1))
