"""Models whose answers depend on what is around a pixel, images for them, and their noise."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from robustseg.attacks import NoiseSource
from tests.helpers.nets import HEIGHT, WIDTH

STREAM = 0xADA7
"""Of the patches of an adaptive attack."""


class Context(nn.Module):
    """Four classes by what is around a pixel, borders of the input included."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 7, padding=3)
        self.norm = nn.BatchNorm2d(4)
        with torch.no_grad():
            self.conv.weight.copy_(torch.randn(self.conv.weight.shape, generator=generator))
            self.conv.bias.copy_(torch.randn(4, generator=generator))

    def forward(self, images):
        return self.norm(self.conv(images))


def ids_of(count=3):
    return [f"image {number}" for number in range(count)]


def model():
    return Context().eval()


def images_of(count=3, size=(24, 30), seed=0):
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).float()


def by_pixel(images):
    """A pixel's class by its own colour alone."""
    return torch.cat([images, 0.5 * torch.ones_like(images[:, :1])], 1)


def constant(images):
    return torch.stack([torch.zeros_like(images[:, 0]), torch.ones_like(images[:, 0])], 1)


def upper_half(images):
    """Class 1 in the upper half of whatever is shown."""
    upper = torch.arange(images.shape[-2]).view(1, -1, 1).expand(len(images), -1, images.shape[-1])
    upper = (upper < images.shape[-2] // 2).to(images.dtype)
    return torch.stack([1 - upper, upper], 1)


def check_that_nothing_else_changes(score):
    """Modes, weights and statistics of a net that is in training, its images and torch's generator."""
    answer = Context().train()
    answer.conv.eval()
    images = images_of()
    state = {name: value.clone() for name, value in answer.state_dict().items()}
    kept, random = images.clone(), torch.random.get_rng_state()
    in_train = score(answer, images)
    assert [module.training for module in answer.modules()] == [True, False, True]
    assert all(torch.equal(value, state[name]) for name, value in answer.state_dict().items())
    assert torch.equal(images, kept)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert torch.equal(torch.as_tensor(in_train), torch.as_tensor(score(answer.eval(), images)))


def counting(sizes, tried, most=999):
    """The model, which runs out of memory with more than so many patches."""

    def counted(shown):
        tried.append(len(shown))
        if len(shown) > most:
            raise torch.OutOfMemoryError("too many")
        sizes.append(len(shown))
        return model()(shown)

    return counted


def noise_of(ids, seed=0):
    return NoiseSource.for_samples(seed, ids, torch.device("cpu"))


def corners_of(ids, k, size, draws=1, seed=0, shape=(HEIGHT, WIDTH)):
    """Top and left of each image's patches in each of several draws, by the definition."""
    source = noise_of(ids, seed).fork(STREAM)
    found = []
    for _ in range(draws):
        drawn = source.uniform(torch.empty(len(ids), k, 2, dtype=torch.float64)).tolist()
        found.append(
            [[[int(u * (n - size + 1)) for u, n in zip(place, shape, strict=True)] for place in p] for p in drawn]
        )
    return found


def literal_cross_entropy(logits, targets):
    """Sum over valid pixels, and their number."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for row in range(targets.shape[0]):
        for column in range(targets.shape[1]):
            label = int(targets[row, column])
            if label != 255:
                pixel = logits[:, row, column]
                total = total + pixel.exp().sum().log() - pixel[label]
                count += 1
    return total, count


class NearAndFar(nn.Module):
    """A class by the colour of a pixel and by the mean colour of what is around it: affine in the images."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.near = nn.Conv2d(3, 4, 5, padding=2, padding_mode="replicate")
        self.far = nn.Conv2d(3, 4, 11, padding=5)
        for parameter in self.parameters():
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)

    def forward(self, images):
        return self.near(images - 0.5) + self.far(images - 0.5)


def scene(target=0):
    """Smooth images that show class 2 mostly, and a target map."""
    generator = torch.Generator().manual_seed(3)
    images = F.interpolate(torch.rand(4, 3, 5, 6, generator=generator), size=(24, 30), mode="bilinear")
    return 0.4 + 0.2 * images, torch.full((4, 24, 30), target)


def noisy_images_and_targets(seed, target, shape=(12, 15)):
    """Two grey and noisy images, and a map of one class, or of random ones."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.4 + 0.2 * torch.rand(2, 3, *shape, generator=generator, dtype=torch.float64)
    if target == "random":
        return images, torch.randint(4, (2, *shape), generator=generator)
    return images, torch.full((2, *shape), target)


def summed_cross_entropy(model, images, targets):
    """B sums over pixels, by PyTorch's definition."""
    return F.cross_entropy(model(images), targets, reduction="none").flatten(1).sum(1).detach()
