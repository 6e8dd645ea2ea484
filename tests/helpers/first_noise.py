"""The noise of version 1, from torch's generators on the CPU, for the figures of version 0.1."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from robustseg.attacks import NoiseSource


class FirstNoise(NoiseSource):
    """One generator per image, as version 0.1 drew its numbers; without parts and forks that need others."""

    @classmethod
    def for_samples(
        cls, seed: int | tuple[int, ...], ids: Sequence[str], device: torch.device, step: int = 0
    ) -> FirstNoise:
        source = cls(0, None, device)
        source.generators = [torch.Generator().manual_seed(_hash(seed, step, "sample", sample)) for sample in ids]
        return source

    def uniform(self, like: Tensor) -> Tensor:
        return self._draw(torch.rand, like)

    def normal(self, like: Tensor) -> Tensor:
        return self._draw(torch.randn, like)

    def _draw(self, draw: Callable[..., Tensor], like: Tensor) -> Tensor:
        assert len(like) == len(self.generators)
        return torch.stack([draw(like.shape[1:], generator=each, dtype=like.dtype) for each in self.generators])


def _hash(*parts: object) -> int:
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
