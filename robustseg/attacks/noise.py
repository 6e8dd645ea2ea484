"""Randomness of the attacks: a pure function of keys and counters, equal on every device and in any batch."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from robustseg.attacks import bits
from robustseg.devices import on_device

NOISE_VERSION: Final = 2
"""Version of the numbers that a seed gives; raised with every change of them.

Version 1 came from torch's generators of each device, which differ between the CPU and GPUs, and between GPU models.
"""


class NoiseSource:
    """Source of an attack's random numbers.

    A number is a function of the image's key, of the draw's number for this image, and of the element's index within
    the image, see :mod:`robustseg.attacks.bits`. It depends neither on the device, nor on the batch, nor on the memory
    format, and no generator of torch is asked. Scalars that the whole batch shares (the scale of dynamic scaling) are
    made of Python's integers: drawing them never waits for a device.

    Args:
        seed: Seed of the batch.
        ids: B int64 numbers that tell the images apart; None for their rows in the batch.
        device: Device of the images.
    """

    def __init__(self, seed: int, ids: Tensor | None, device: torch.device):
        self._seed = seed
        self._shared = _Shared()
        self._images = _Images(bits.mix(seed), ids, device)
        # Rows of a part of the batch.
        self._rows: Tensor | None = None

    @classmethod
    def from_generator(cls, generator: torch.Generator, device: torch.device) -> NoiseSource:
        """Make a source for the rows of one batch; ``generator`` advances by one number."""
        seed = int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device).item())
        return cls(seed, None, device)

    @classmethod
    def for_samples(
        cls, seed: int | tuple[int, ...], ids: Sequence[str], device: torch.device, step: int = 0
    ) -> NoiseSource:
        """Make a source that is a function of (seed, step, sample id): the same in any batch, on any rank.

        Args:
            seed: Seed of the run, or several numbers, such as the run's seed and the attack's own.
            ids: B sample ids.
            device: Device of the images.
            step: Global step in training; 0 in evaluation.
        """
        numbers = torch.tensor([bits.signed(_hash("sample", sample)) for sample in ids], dtype=torch.int64)
        return cls(_hash("batch", seed, step), on_device(numbers, device), device)

    def uniform(self, like: Tensor) -> Tensor:
        """Draw U[0, 1) of the shape, dtype and device of ``like`` (B×…), contiguous.

        The numbers are multiples of 2^-24, in float64 of 2^-53. Half precision gets them rounded, and stays below 1.
        """
        if like.dtype == torch.float64:
            return bits.uniform_double(self._words(like), self._words(like)).view(like.shape)
        drawn = bits.uniform(self._words(like)).view(like.shape)
        if like.dtype == torch.float32:
            return drawn
        return drawn.to(like.dtype).clamp_max_(1 - torch.finfo(like.dtype).eps / 2)

    def normal(self, like: Tensor) -> Tensor:
        """Draw N(0, 1) of the shape, dtype and device of ``like`` (B×…), contiguous; float32 numbers in any dtype."""
        return bits.normal(self._words(like)).view(like.shape).to(like.dtype)

    def scalar(self) -> float:
        """Draw one number from U[0, 1), a multiple of 2^-53, shared by the batch."""
        self._shared.drawn += 1
        return (bits.mix(bits.mix(self._seed) + self._shared.drawn * bits.GOLDEN) >> 11) * 2.0**-53

    def select(self, rows: Tensor, count: int) -> NoiseSource:
        """Return the source for some images, which gives them the same numbers as within the whole batch.

        Args:
            rows: Indices of these images.
            count: Number of images in the whole batch.
        """
        self._images.reserve(count)
        part = copy.copy(self)
        part._rows = rows if self._rows is None else self._rows[rows.to(self._rows.device)]
        return part

    def fork(self, seed: int, device: torch.device | None = None) -> NoiseSource:
        """Return an independent source for one part of an attack; this source does not advance.

        Args:
            seed: 0 for the numbers that this source would give next; any other value for other numbers.
            device: Device of the new source; this source's by default.
        """
        fork = copy.copy(self)
        fork._seed = _hash("fork", self._seed, seed) if seed else self._seed
        fork._shared = _Shared(0 if seed else self._shared.drawn)
        fork._images = self._images.fork(bits.mix(fork._seed), self._rows, not seed, device or self._images.device)
        fork._rows = None
        return fork

    def _words(self, like: Tensor) -> Tensor:
        """Draw the random words of one number for each element: B×… int32, flat in each image."""
        count = len(like)
        if self._rows is None:
            self._images.reserve(count)
        known = len(self._images) if self._rows is None else len(self._rows)
        if known != count and not (self._rows is None and self._images.by_row):
            raise ValueError(f"noise for {known} samples was given to a batch of {count} images.")
        keys = self._images.next_keys(self._rows, count)
        return bits.words(on_device(keys, like.device), math.prod(like.shape[1:]))


class _Shared:
    """The number of scalars drawn, common to a source and its parts."""

    def __init__(self, drawn: int = 0):
        self.drawn = drawn


class _Images:
    """The keys of a batch's images and the numbers of their draws, common to a source and its parts.

    Each image counts its own draws: its numbers must not depend on the draws of others, from which it was absent.

    Args:
        seed: Mixed seed of the batch.
        ids: B int64; None for the rows, of a batch that may grow.
        device: Device of the images.
    """

    def __init__(self, seed: int, ids: Tensor | None, device: torch.device):
        self.device = device
        self.by_row = ids is None
        self._seed = seed
        self._ids = torch.empty(0, dtype=torch.int64, device=device) if ids is None else ids
        # Never changed in place: they may have been made in inference mode.
        self._drawn = torch.zeros_like(self._ids)
        self._keys: Tensor | None = None

    def __len__(self) -> int:
        return len(self._ids)

    def reserve(self, count: int) -> None:
        """Make room for this number of images if they are told apart by their rows."""
        if self.by_row and count > len(self):
            self._drawn = torch.cat([self._drawn, self._drawn.new_zeros(count - len(self))])
            self._ids, self._keys = torch.arange(count, device=self.device), None

    def fork(self, seed: int, rows: Tensor | None, continued: bool, device: torch.device) -> _Images:
        """Copy the images at ``rows``, or all, for another seed; ``continued`` keeps the numbers of their draws."""
        ids, drawn = self._ids, self._drawn
        if rows is not None:
            rows = on_device(rows, self.device)
            ids, drawn = ids[rows], drawn[rows]
        fork = _Images(seed, on_device(ids, device), device)
        fork.by_row = self.by_row and rows is None
        if continued:
            fork._drawn = on_device(drawn, device)
        return fork

    def next_keys(self, rows: Tensor | None, count: int) -> Tensor:
        """Return the keys of the next draw of the images at ``rows`` (the first ones if None): B int64."""
        if self._keys is None:
            self._keys = bits.mixed(self._ids + bits.signed(self._seed))
        if rows is None and count == len(self):
            keys, numbers = self._keys, self._drawn
            self._drawn = numbers + 1
        else:
            rows = torch.arange(count, device=self.device) if rows is None else on_device(rows, self.device)
            keys, numbers = self._keys[rows], self._drawn[rows]
            self._drawn = self._drawn.index_copy(0, rows, numbers + 1)
        return bits.mixed(keys + numbers * bits.signed(bits.GOLDEN))


def _hash(*parts: object) -> int:
    """Compute a stable 64-bit number: Python's own hash of strings changes from process to process."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")
