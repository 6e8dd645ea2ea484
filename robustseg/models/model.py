"""The model as attacks, losses and metrics see it: [0, 1] images in, logits at the input's size out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from robustseg.models.compiled import AsGiven, Compile, Compiled, network_in_compiled
from robustseg.models.errors import ModelError
from robustseg.models.layout import layout_at_fault, to_channels_last
from robustseg.models.network import IMAGENET_MEAN, IMAGENET_STD, Network
from robustseg.models.outputs import kept_outputs
from robustseg.models.window import SlidingWindow
from robustseg.numerics.resampling import resize


class SegmentationModel(nn.Module):
    """A segmentation model: normalisation, network and upsampling in one differentiable module.

    The normalisation is inside, so that a threat model's ε is in units of [0, 1] images for every network. ``mean`` and
    ``std`` are persistent buffers: weights need the normalisation they were trained with, so it is saved in the
    checkpoint, and the checkpoint's values win on loading. With non-persistent buffers, a differing configuration would
    silently degrade the model.

    Args:
        network: The raw network; a plain module with a ``num_classes`` attribute is enough.
        mean: Per-channel mean for images in [0, 1]; None for the network's, or else ImageNet's.
        std: Per-channel standard deviation for images in [0, 1]; None for the network's, or else ImageNet's.
        window: In eval mode, images larger than this go through the network in overlapping windows, which attacks see
            as part of the model. None for whole images of any size. It is not in the state dict.
        compile: Run the network as compiled by torch.compile, with its settings or the default ones; False does not. A
            ``network`` that went through torch.compile is unwrapped, and compiled with the settings of that call.
        channels_last: Keep weights and images in memory with the channels last, which computes the same up to rounding.
        drop_classes: Outputs of the network that the model does not have; the others are the data's classes, in order.
        void_class: Output of the network for pixels that the data ignores. The model has it as its last class, which
            attacks and predictions may choose like any other, and figures are means over the classes before it.

    Raises:
        ModelError: ``mean`` and ``std`` differ in length, ``std`` is not positive, or the network has no such outputs.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        window: SlidingWindow | None = None,
        compile: Compile | bool = False,
        channels_last: bool = False,
        drop_classes: Sequence[int] = (),
        void_class: int | None = None,
    ) -> None:
        super().__init__()
        settings: Compile | AsGiven | None = Compile() if compile is True else compile or None
        if (inner := network_in_compiled(network)) is not None:
            settings, network = settings or AsGiven(network), inner
        self.normalisation_given = mean is not None or std is not None
        """True if the normalisation was given: another project's file then does not replace it."""
        mean = getattr(network, "image_mean", IMAGENET_MEAN) if mean is None else mean
        std = getattr(network, "image_std", IMAGENET_STD) if std is None else std
        if len(mean) != len(std) or not all(value > 0 for value in std):
            raise ModelError(f"mean = {list(mean)}, std = {list(std)}: give one mean and one positive std per channel.")
        self.network = network
        self.window = window
        self.compiled = None if settings is None else Compiled(settings, type(network).__name__)
        self.channels_last = channels_last
        self.drop_classes, self.void_class = tuple(drop_classes), void_class
        self._kept: list[int] | None = None
        if drop_classes or void_class is not None:
            self._kept = kept_outputs(self.num_outputs, drop_classes, void_class)
        if channels_last:
            to_channels_last(network)
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(list(std), dtype=torch.float32).view(1, -1, 1, 1))

    @property
    def runs_compiled_code(self) -> bool:
        """True if hooks on the network's layers have no effect, for the attacks."""
        return self.compiled is not None

    @property
    def execution(self) -> dict[str, Any]:
        """Execution of the network, as far as it is not as written, in plain values; rounding differs with it."""
        compiled = {} if self.compiled is None else {"compile": self.compiled.settings.describe()}
        return compiled | ({"channels_last": True} if self.channels_last else {})

    @property
    def num_classes(self) -> int:
        """The number of classes C, which is the number of logits per pixel; with ``void_class``, that is the last one.

        Raises:
            ModelError: The network does not say.
        """
        return self.num_outputs if self._kept is None else len(self._kept)

    @property
    def num_scored(self) -> int:
        """The number of classes that figures are means over, the first ones: all but void.

        Raises:
            ModelError: The network does not say.
        """
        return self.num_classes - (self.void_class is not None)

    @property
    def outputs(self) -> dict[str, Any]:
        """Outputs of the network that the data has no class for, in plain values; empty if there are none."""
        if self._kept is None:
            return {}
        return {"drop_classes": list(self.drop_classes), "void_class": self.void_class}

    def class_pixels(self, of_data: Callable[[], list[int]]) -> Callable[[], list[int]]:
        """Return a function that counts the pixels of each of the model's classes; void, which data ignore, has none.

        Args:
            of_data: Function that counts those of the data's classes.
        """
        return of_data if self.void_class is None else lambda: [*of_data(), 0]

    @property
    def num_outputs(self) -> int:
        """The number of logits per pixel of the network.

        Raises:
            ModelError: The network does not say.
        """
        value = getattr(self.network, "num_classes", None)
        if not isinstance(value, int):
            raise ModelError(f"{type(self.network).__name__} has no num_classes: wrap it in ExternalNetwork.")
        return value

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits at the input's size, through ``window`` if there is one, in eval mode.

        In train mode images are training crops and go through whole: BatchNorm's statistics of some windows would be
        neither the crops' nor the image's.

        Args:
            images: B×3×H×W float in [0, 1].

        Returns:
            B×C×H×W logits, float32 or wider also under autocast.

        Raises:
            ModelError: ``images`` are not float B×3×H×W, or the network did not return B×C×h×w logits.
        """
        self._check_images(images)
        if self.window is None or self.training or self.window.covers(*images.shape[-2:]):
            return self._whole(images)
        return self.window.average(self._whole, images)

    def forward_with_aux(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute the logits and the auxiliary head's, both at the input's size, for whole images without a window.

        Args:
            images: B×3×H×W float in [0, 1].

        Returns:
            B×C×H×W logits and B×C×H×W auxiliary logits, or None if the network has no auxiliary head.

        Raises:
            ModelError: ``images`` are not float B×3×H×W, or the network did not return B×C×h×w logits.
        """
        self._check_images(images)
        inner = next((part for part in self.network.modules() if isinstance(part, Network)), None)
        if inner is not None and inner is not self.network:
            wrapper, name = type(self.network).__name__, type(inner).__name__
            raise ModelError(
                f"network is a {wrapper} around a {name}, which hides the auxiliary head: give the {name} itself, or "
                "set model.aux_weight to 0."
            )
        return self._run(images, with_aux=inner is not None)

    def _whole(self, images: Tensor) -> Tensor:
        return self._run(images, with_aux=False)[0]

    def _run(self, images: Tensor, with_aux: bool) -> tuple[Tensor, Tensor | None]:
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        try:
            if self.compiled is None:
                return _pass(self, images, with_aux)
            return self.compiled(_pass, self, images.contiguous(memory_format=layout), with_aux)
        except (RuntimeError, AssertionError, TypeError, ValueError) as error:  # not what ends a recomputation early
            if self.channels_last and (reason := layout_at_fault(self.network, self._normalise(images), error)):
                raise ModelError(
                    f"model.channels_last: {type(self.network).__name__} needs another layout of its features "
                    f"({reason}): leave model.channels_last out, or call reshape in place of view in the network."
                ) from error
            raise

    def _normalise(self, images: Tensor) -> Tensor:
        normalised = (images - self.mean) / self.std
        return normalised.flip(1) if getattr(self.network, "channel_order", "rgb") == "bgr" else normalised

    def _check_images(self, images: Tensor) -> None:
        channels = self.mean.shape[1]
        if images.dim() != 4 or images.shape[1] != channels or not images.is_floating_point():
            raise ModelError(
                f"images are {images.dtype} {list(images.shape)}: float B×{channels}×H×W in [0, 1] expected."
            )

    def _resize(self, logits: Tensor, images: Tensor) -> Tensor:
        self._check_logits(logits, images)
        if self._kept is not None:
            logits = logits[:, self._kept]
        if logits.dtype in (torch.float16, torch.bfloat16):
            # interpolation in half precision makes neighbouring logits equal, and the loss loses its small gradients
            logits = logits.float()
        if logits.shape[-2:] == images.shape[-2:]:
            return logits
        aligned = bool(getattr(self.network, "align_corners", False))
        return resize(logits, images.shape[-2:], aligned)

    def _check_logits(self, logits: object, images: Tensor) -> None:
        name = type(self.network).__name__
        if not isinstance(logits, Tensor):
            hint = "wrap it in ExternalNetwork" if isinstance(logits, dict) else "return the logits only"
            raise ModelError(f"{name} returned a {type(logits).__name__}, not B×C×h×w logits: {hint}.")
        if logits.dim() != 4 or logits.shape[0] != images.shape[0]:
            raise ModelError(
                f"{name} returned {list(logits.shape)} for images {list(images.shape)}: B×C×h×w logits expected."
            )
        classes = getattr(self.network, "num_classes", logits.shape[1])
        if logits.shape[1] != classes:
            raise ModelError(f"{name} returned {logits.shape[1]} logits per pixel, but its num_classes = {classes}.")


def _pass(model: SegmentationModel, images: Tensor, with_aux: bool) -> tuple[Tensor, Tensor | None]:
    """Compute the logits and, if wanted, the auxiliary head's, at the images' size; this is what is compiled."""
    normalised = model._normalise(images)
    if model.channels_last:
        normalised = normalised.contiguous(memory_format=torch.channels_last)
    if not with_aux:
        return model._resize(model.network(normalised), images), None
    logits, aux = model.network.forward_with_aux(normalised)  # type: ignore[operator]
    return model._resize(logits, images), None if aux is None else model._resize(aux, images)
