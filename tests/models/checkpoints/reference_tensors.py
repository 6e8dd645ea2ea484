"""Networks written as functions of their tensors, by the names that another project gives them."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F


class Tensors(dict):
    """A state dict that a network fills, with random values, on its first forward pass."""

    def conv(self, key, x, channels, kernel, stride=1, dilation=1, bias=False):
        # small values before a normalisation, so that the epsilon in it shows
        scale = (1.0 if bias else 0.03) / (x.shape[1] * kernel**2) ** 0.5
        weight = self._tensor(f"{key}.weight", lambda: torch.randn(channels, x.shape[1], kernel, kernel) * scale)
        offset = self._tensor(f"{key}.bias", lambda: torch.randn(channels)) if bias else None
        return F.conv2d(x, weight, offset, stride, dilation * (kernel // 2), dilation)

    def norm(self, key, x, eps=1e-5):
        channels = x.shape[1]
        weight = self._tensor(f"{key}.weight", lambda: torch.rand(channels) + 0.5)
        bias = self._tensor(f"{key}.bias", lambda: torch.randn(channels) * 0.3)
        # near those of the first images, so that values stay of order 1
        own, spread = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False) + 1e-6
        mean = self._tensor(f"{key}.running_mean", lambda: own + 0.3 * spread.sqrt() * torch.randn(channels))
        variance = self._tensor(f"{key}.running_var", lambda: spread * (0.5 + torch.rand(channels)))
        return F.batch_norm(x, mean, variance, weight, bias, eps=eps)

    def norm_prelu(self, keys, x, eps):
        """A normalisation and a ReLU with a slope per channel on its left."""
        slope = self._tensor(f"{keys[1]}.weight", lambda: 0.1 + 0.4 * torch.rand(x.shape[1]))
        return F.prelu(self.norm(keys[0], x, eps), slope)

    def double_size(self, key, x):
        """A transposed convolution of 2×2 over all channels."""
        weight = self._tensor(f"{key}.weight", lambda: torch.randn(x.shape[1], x.shape[1], 2, 2) / x.shape[1] ** 0.5)
        return F.conv_transpose2d(x, weight, None, 2)

    def conv_norm(self, keys, x, channels, kernel, stride=1, dilation=1):
        return self.norm(keys[1], self.conv(keys[0], x, channels, kernel, stride, dilation))

    def conv_norm_relu(self, keys, x, channels, kernel, stride=1, dilation=1):
        return F.relu(self.conv_norm(keys, x, channels, kernel, stride, dilation))

    def interpolate(self, key, x, factor):
        """A transposed convolution for each channel; not exactly bilinear, so that its weights show."""
        size = 2 * factor
        near = [1 - abs(i / factor - (2 * factor - 1) / (2 * factor)) for i in range(size)]
        kernel = torch.tensor([[a * b for a in near] for b in near])
        weight = self._tensor(f"{key}.weight", lambda: kernel * (0.8 + 0.4 * torch.rand(x.shape[1], 1, size, size)))
        return F.conv_transpose2d(x, weight, None, factor, factor // 2, groups=x.shape[1])

    def count(self):
        """Parameters, statistics excluded."""
        return sum(math.prod(value.shape) for key, value in self.items() if "running" not in key)

    def double(self):
        """The same in double precision, in which gradients through many ReLUs are comparable."""
        return Tensors({key: value.double() for key, value in self.items()})

    def _tensor(self, key, make):
        if key not in self:
            self[key] = make()
        return self[key]


class Restated:
    """A network written as a function of its tensors and images, called as a module is."""

    def __init__(self, compute, size):
        self.compute, self.tensors = compute, Tensors()
        with torch.no_grad():
            compute(self.tensors, torch.randn(1, 3, size, size))

    def __call__(self, images):
        return self.compute(self.tensors, images)

    def double(self):
        self.tensors = self.tensors.double()
        return self

    def state_dict(self):
        return dict(self.tensors)

    def named_parameters(self):
        return [(key, value) for key, value in self.tensors.items() if "running" not in key]

    def parameters(self):
        return [value for _, value in self.named_parameters()]
