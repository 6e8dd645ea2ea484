"""Victims with answers to several views of an image: the model behind a blur, and several answers side by side.

An attack that works pixel by pixel does not depend on where its pixels come from. It is given a canvas as logits and
targets: the image's B×C×H×W and B×H×W and those of N further pixels, laid out in one row as B×C×1×(H·W + N) and
B×1×(H·W + N). Its loss, active pixels, stopping rule and counts then cover all of them.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from robustseg.attacks.base import OnStep, reads_logits, reads_no_logits
from robustseg.attacks.errors import AttackError
from robustseg.attacks.guard import Model
from robustseg.attacks.losses.base import IGNORED
from robustseg.attacks.noise import NoiseSource
from robustseg.attacks.victim import Victim
from robustseg.detectors.patches import integer
from robustseg.devices import on_device

Blur = Callable[[Tensor], Tensor]
PIXELS = 2**22
"""Pixels of patches in one forward by default: 16 patches of 512×512, about 5 GiB with DRN-D-22."""
Corners = list[list[tuple[int, int]]]
"""Top left corners of each image's patches."""


class _Wrapped(Victim):
    """A victim that asks another one and shares its images and counters."""

    def __init__(self, victim: Victim, model: Model):
        super().__init__(model, 0)
        self.share(victim)
        self._victim = victim

    def select(self, rows: Tensor) -> Any:
        part = copy.copy(self)
        part._victim = self._victim.select(rows)
        part.share(part._victim)
        return part


class BlurredVictim(_Wrapped):
    """The model behind a blur.

    Args:
        victim: The model without the blur.
        blur: Function of B×3×H×W images.
    """

    def __init__(self, victim: Victim, blur: Blur):
        # Attacks that read layers take the model itself.
        super().__init__(victim, _Blurred(victim.model, blur))
        self._blur = blur

    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits B×C×H×W of the blurred images."""
        return self._victim(self._blur(images))


class _Blurred(nn.Module):
    def __init__(self, model: Model, blur: Blur):
        super().__init__()
        self.model = model
        self.blur = blur

    def forward(self, images: Tensor) -> Tensor:
        return self.model(self.blur(images))


class CanvasVictim(_Wrapped):
    """The model's answers to the image and to further views of it, as a canvas."""

    def __init__(self, victim: Victim):
        super().__init__(victim, victim.model)

    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits of the canvas, B×C×1×(H·W + N)."""
        whole = self._flat(images)
        return torch.cat([whole, *self._further(images, whole)], 2).unsqueeze(2)

    def canvas_of(self, targets: Tensor) -> Tensor:
        """Return the targets of the canvas, B×1×(H·W + N), for those of the image, B×H×W."""
        return torch.cat([targets.flatten(1), self._further_targets(targets)], 1).unsqueeze(1)

    @abstractmethod
    def _further(self, images: Tensor, whole: Tensor) -> list[Tensor]:
        """Return the logits of further pixels, B×C×… each; ``whole`` are the image's, B×C×H·W."""

    @abstractmethod
    def _further_targets(self, targets: Tensor) -> Tensor:
        """Return the targets of the further pixels, B×N."""

    def _flat(self, images: Tensor) -> Tensor:
        """Return the logits as B×C×H·W; another canvas lays out more pixels, in one row."""
        return self._victim(images).flatten(2)

    @staticmethod
    def shown_to(on_step: OnStep, targets: Tensor) -> OnStep:
        """Wrap ``on_step`` so that it sees the whole image's part of the canvas.

        Args:
            on_step: The observer, which is given logits and targets of the image.
            targets: B×H×W, those of the attack's call.
        """
        height, width = targets.shape[-2:]
        pixels = height * width

        def show(step: Any) -> None:
            logits = step.logits
            if logits.numel():
                logits = logits[..., :pixels].unflatten(-1, (height, width)).squeeze(2)
            on_step(step._replace(logits=logits, targets=targets[step.rows]))

        return show if reads_logits(on_step) else reads_no_logits(show)


class TwiceVictim(CanvasVictim):
    """The model without and with a blur in front, side by side.

    Args:
        victim: The model without the blur.
        blur: Function of B×3×H×W images.
    """

    def __init__(self, victim: Victim, blur: Blur):
        super().__init__(victim)
        self._blur = blur

    def _further(self, images: Tensor, whole: Tensor) -> list[Tensor]:
        return [self._flat(self._blur(images))]

    def _further_targets(self, targets: Tensor) -> Tensor:
        return targets.flatten(1)


class PatchVictim(CanvasVictim):
    """The model on the image and on K random patches, each predicted on its own.

    With ``redraw`` each forward has other patches, but the canvas has one fixed map of targets. Therefore the target of
    all further pixels is class 0, and their logits of class 0 and of their true target are swapped. An ignored pixel of
    a patch is replaced by a valid one of the image, which keeps the number of pixels fixed.

    Args:
        victim: The model.
        size: Side of a patch in pixels.
        k: Number of patches per image.
        noise: Noise that places the patches; its numbers come from the CPU.
        images: B×3×H×W, the clean images.
        targets: B×H×W, :data:`~robustseg.attacks.losses.base.IGNORED` where ignored.
        redraw: Draw new patches for each forward.
        per_forward: Most patches in one forward, but one of each image at least; None for :data:`PIXELS`.

    Raises:
        AttackError: A patch is larger than the images.
    """

    def __init__(
        self,
        victim: Victim,
        size: int,
        k: int,
        noise: NoiseSource,
        images: Tensor,
        targets: Tensor,
        redraw: bool,
        per_forward: int | None = None,
    ):
        super().__init__(victim)
        self._height, self._width = images.shape[-2:]
        if size > min(self._height, self._width):
            raise AttackError(
                f"patch_size = {size} is larger than the images of {self._height}×{self._width} pixels: set it to "
                f"about {min(self._height, self._width) // 2}."
            )
        self._size, self._k = size, k
        self._per_forward = per_forward or max(1, PIXELS // size**2)
        self._noise = noise
        self._count = len(images)
        self._corners = None if redraw else self._draw()
        self._targets = targets
        self._spare = None if not redraw or bool((targets != IGNORED).all()) else _valid_pixels(targets, k * size**2)

    def _draw(self) -> Corners:
        """Draw k corners per image, uniform over the places within it."""
        drawn = self._noise.uniform(torch.empty(self._count, self._k, 2, dtype=torch.float64)).tolist()
        free = self._height - self._size, self._width - self._size
        return [[(integer(down, 0, free[0]), integer(right, 0, free[1])) for down, right in each] for each in drawn]

    def _further(self, images: Tensor, whole: Tensor) -> list[Tensor]:
        # An attack may pass several versions of all images at once.
        corners = (self._corners or self._draw()) * (len(images) // self._count)
        # All images' first patches, then their second ones: the order in which a victim counts several versions of a
        # batch.
        patches = self._cut(images, corners).transpose(0, 1).flatten(0, 1)
        logits = [self._answer(part, patches) for part in torch.split(patches, self._at_once(len(images)))]
        further = [one for part in logits for one in part.view(-1, len(images), *part.shape[1:]).unbind()]
        return further if self._corners is not None else [self._exchanged(further, whole, corners)]

    def _at_once(self, images: int) -> int:
        """Return the number of patches in one forward: a multiple of the images, of which each has as many in it."""
        return images * max(1, self._per_forward // images)

    def _answer(self, part: Tensor, patches: Tensor) -> Tensor:
        """Return the logits of some of the patches; of several parts none keeps its graph, but makes it once more."""
        if len(part) == len(patches) or not (part.requires_grad and torch.is_grad_enabled()):
            return self._flat(part)
        counts: list[Tensor] = []

        def ask(part: Tensor) -> Tensor:
            if not counts:  # the first time; the second one is no answer to anything new
                counts.append(self.forwards)
                return self._flat(part)
            before = self.forwards.clone()
            logits = self._flat(part)
            self.forwards.copy_(before)
            return logits

        with set_checkpoint_early_stop(False):  # it is an exception, which would pass for one of the model
            logits: Tensor = checkpoint(ask, part, use_reentrant=False)
        return logits

    def _cut(self, values: Tensor, corners: Corners) -> Tensor:
        """Cut the patches of B×…×H×W values: B×K×…×s×s."""
        size = self._size
        return torch.stack(
            [
                torch.stack([value[..., top : top + size, left : left + size] for top, left in places])
                for value, places in zip(values.unbind(), corners, strict=True)
            ]
        )

    def _exchanged(self, further: list[Tensor], whole: Tensor, corners: Corners) -> Tensor:
        """Return the logits of all patches, B×C×(K·s²), rearranged for a target of class 0."""
        logits, versions = torch.cat(further, 2), len(whole) // self._count
        targets = self._targets.repeat(versions, 1, 1)
        wanted = self._cut(targets, corners).flatten(1)
        if self._spare is not None:
            spare, ignored = self._spare.repeat(versions, 1), wanted == IGNORED
            valid = whole.gather(2, spare.unsqueeze(1).expand(-1, whole.shape[1], -1))
            logits = torch.where(ignored.unsqueeze(1), valid, logits)
            wanted = torch.where(ignored, targets.flatten(1).gather(1, spare), wanted)
        wanted = wanted.unsqueeze(1)
        first, true = logits[:, :1], logits.gather(1, wanted)
        return torch.cat([true, logits[:, 1:]], 1).scatter(1, wanted, first)

    def _further_targets(self, targets: Tensor) -> Tensor:
        if self._corners is None:
            return targets.new_zeros(len(targets), self._k * self._size**2)
        return self._cut(targets, self._corners).flatten(1)

    def select(self, rows: Tensor) -> PatchVictim:
        """Return the victim for some of the images: ``rows`` are their indices in the batch, on the CPU."""
        part: PatchVictim = super().select(rows)
        part._noise = self._noise.select(rows, self._count)
        part._count = len(rows)
        part._corners = None if self._corners is None else [self._corners[row] for row in rows.tolist()]
        here = on_device(rows, self._targets.device)
        part._targets = self._targets[here]
        part._spare = None if self._spare is None else self._spare[here]
        return part


def _valid_pixels(targets: Tensor, count: int) -> Tensor:
    """Return the places of ``count`` valid pixels of each image, repeated in turn: B×``count``."""
    valid = (targets != IGNORED).flatten(1)
    first = (~valid).long().sort(dim=1, stable=True).indices
    turn = torch.arange(count, device=targets.device) % valid.sum(1, keepdim=True)
    return first.gather(1, turn)
