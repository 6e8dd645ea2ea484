"""Randomness of the attacks: explicit generators, so that the global random state is neither read nor changed."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class NoiseSource:
    """Source of an attack's random numbers.

    Noise of an image's shape comes from one generator per image if these are given, so that the adversarial example of
    an image does not depend on its batch. Scalars that the whole batch shares (the scale of dynamic scaling) come from
    the shared generator, on the CPU: drawing them never waits for a device.

    Args:
        shared: CPU generator for scalars.
        per_image: One generator per image, or a single generator for the whole batch, on the images' device.
    """

    def __init__(
        self,
        shared: torch.Generator,
        per_image: Sequence[torch.Generator] | torch.Generator,
    ):
        self._shared = shared
        self._per_image = per_image
        # For part of a batch with one generator: its rows, and the number of rows to draw, those of the whole batch.
        self._part: tuple[Tensor, int] | None = None

    @classmethod
    def from_generator(cls, generator: torch.Generator, device: torch.device) -> NoiseSource:
        """Make a source with one generator for the whole batch; ``generator`` advances by one number."""
        seed = int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device).item())
        return cls(_generator(seed, torch.device("cpu")), _generator(seed, device))

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
        shared = _generator(_hash(seed, step, "shared"), torch.device("cpu"))
        return cls(shared, [_generator(_hash(seed, step, "sample", sample), device) for sample in ids])

    def uniform(self, like: Tensor) -> Tensor:
        """Draw U[0, 1) of the shape, dtype and device of ``like`` (B×…)."""
        return self._draw(torch.rand, like)

    def normal(self, like: Tensor) -> Tensor:
        """Draw N(0, 1) of the shape, dtype and device of ``like`` (B×…)."""
        return self._draw(torch.randn, like)

    def scalar(self) -> float:
        """Draw one number from U[0, 1), shared by the batch."""
        return float(torch.rand((), generator=self._shared, dtype=torch.float64).item())

    def select(self, rows: Tensor, count: int) -> NoiseSource:
        """Return the source for some images, which gives them the same numbers as within the whole batch.

        Args:
            rows: Indices of these images.
            count: Number of images in the whole batch.
        """
        part = copy.copy(self)
        if isinstance(self._per_image, torch.Generator):
            outer, total = self._part or (torch.arange(count, device=rows.device), count)
            part._part = (outer[rows], total)
        else:
            part._per_image = [self._per_image[row] for row in rows.tolist()]
        return part

    def fork(self, seed: int, device: torch.device | None = None) -> NoiseSource:
        """Return an independent source for one part of an attack; this source does not advance.

        Args:
            seed: 0 for the numbers that this source would give next; any other value for other numbers.
            device: Device of the new generators; this source's by default. ``seed`` must not be 0 if it is given.
        """
        fork = copy.copy(self)
        fork._shared = _forked(self._shared, seed)
        if isinstance(self._per_image, torch.Generator):
            fork._per_image = _forked(self._per_image, seed, device)
            if self._part is not None and device is not None:
                fork._part = (self._part[0].to(device), self._part[1])
        else:
            fork._per_image = [_forked(generator, seed, device) for generator in self._per_image]
        return fork

    def _draw(self, draw: Callable[..., Tensor], like: Tensor) -> Tensor:
        # Half-precision draws would be coarse: U[0, 1) in bfloat16 has 256 values.
        dtype = torch.promote_types(like.dtype, torch.float32)
        if isinstance(self._per_image, torch.Generator):
            rows, count = self._part or (None, len(like))
            shape = (count, *like.shape[1:])
            drawn = draw(shape, generator=self._per_image, dtype=dtype, device=like.device)
            drawn = drawn if rows is None else drawn[rows]
        elif len(self._per_image) == len(like):
            drawn = torch.stack(
                [draw(like.shape[1:], generator=g, dtype=dtype, device=like.device) for g in self._per_image]
            )
        else:
            raise ValueError(f"noise for {len(self._per_image)} samples was given to a batch of {len(like)} images.")
        return drawn.to(like.dtype)


def _generator(seed: int, device: torch.device) -> torch.Generator:
    return torch.Generator(device=device).manual_seed(seed)


def _forked(generator: torch.Generator, seed: int, device: torch.device | None = None) -> torch.Generator:
    if seed:
        return _generator(_hash(generator.initial_seed(), seed), device or generator.device)
    fork = torch.Generator(device=generator.device)
    fork.set_state(generator.get_state())
    return fork


def _hash(*parts: object) -> int:
    """Compute a stable 63-bit seed: Python's own hash of strings changes from process to process."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
