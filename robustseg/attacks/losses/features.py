"""Features of a model's intermediate layers, read by forward hooks, and their distance from the clean image's."""

from __future__ import annotations

import copy
import difflib
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from robustseg.attacks.errors import AttackError
from robustseg.attacks.guard import Guarded, Model
from robustseg.attacks.losses.base import IGNORED
from robustseg.attacks.scaling import Scaling, wide
from robustseg.attacks.victim import Victim
from robustseg.devices import on_device
from robustseg.numerics.resampling import average_pool

Visit = Callable[[int, Tensor], None]
"""Function of a layer's index among the chosen layers and of its output."""


class Taps:
    """Forward hooks on some layers of a model, which are removed on leaving the ``with`` block.

    Args:
        model: A module.
        layers: Dotted names as in ``named_modules()``, or endings of names that only one layer has; or
            integers, which count the feature maps of the model's timm backbone (negative ones from the last).

    Raises:
        AttackError: A plain function, a name that no layer or several have, or no timm backbone.
    """

    def __init__(self, model: Model, layers: Sequence[int | str]):
        if isinstance(model, Guarded):
            model = model.model  # names are those of its own named_modules()
        if not isinstance(model, nn.Module):
            raise AttackError(
                f"the model is a {type(model).__name__}, not a module, so that it has no layers whose features could "
                "be read: give the module itself."
            )
        self._layers = [(layer, _find(model, layer)) for layer in layers]
        self._handles: list[RemovableHandle] = []
        self._counts = [0] * len(layers)
        self._visit: Visit | None = None

    def __enter__(self) -> Taps:
        for place, (layer, module) in enumerate(self._layers):
            self._handles.append(module.register_forward_hook(self._hook(place, layer)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def read(self, forward: Callable[[], Tensor], visit: Visit) -> Tensor:
        """Run ``forward`` and show each layer's output to ``visit``, before a later layer can change it in place.

        Raises:
            AttackError: A layer's output is no features of these images, or the layer did not run exactly once.
        """
        self._counts = [0] * len(self._layers)
        self._visit = visit
        try:
            with _no_compiled_code():
                logits = forward()
        finally:
            self._visit = None
        for (layer, _), count in zip(self._layers, self._counts, strict=True):
            if count != 1:
                raise AttackError(f"layer {layer!r} ran {count} times in a forward: choose a layer that runs once.")
        return logits

    def _hook(self, place: int, layer: int | str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if self._visit is not None:
                self._counts[place] += 1
                self._visit(place, _features(layer, output))

        return hook


def _no_compiled_code() -> AbstractContextManager[object]:
    """Let modules that went through torch.compile run as written, since compiled code calls no hooks."""
    compiled = "torch._dynamo" in sys.modules  # otherwise nothing was compiled, and its import would take a second
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


def _find(model: nn.Module, layer: int | str) -> nn.Module:
    if isinstance(layer, int):
        for module in model.modules():
            # A network of timm with features_only; its other networks have a plain list under this name.
            if hasattr(getattr(module, "feature_info", None), "channels"):
                return module
        raise AttackError(
            f"layer {layer} counts the feature maps of a timm backbone, and {type(model).__name__} has none: choose "
            "layers by their names in named_modules()."
        )
    modules: dict[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
    if layer in modules:
        return modules[layer]
    ends = [name for name in modules if name.endswith(f".{layer}")]
    if len(ends) == 1:
        return modules[ends[0]]
    if ends:
        raise AttackError(f"layer {layer!r} may be {_listed(ends)}: give more of the name.")
    near = difflib.get_close_matches(layer, modules, n=4, cutoff=0.5) or [name for name in modules if name]
    raise AttackError(f"{type(model).__name__} has no layer {layer!r}; there are, for example, {_listed(near)}.")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _features(layer: int | str, output: object) -> Tensor:
    if isinstance(layer, int):
        if not isinstance(output, (list, tuple)):
            raise AttackError(f"the backbone of layer {layer} gives a {type(output).__name__}, not a list of features.")
        if not -len(output) <= layer < len(output):
            raise AttackError(
                f"layer {layer}: the backbone gives {len(output)} feature maps; choose from 0 to {len(output) - 1}."
            )
        output = output[layer]
    if not isinstance(output, Tensor) or not output.is_floating_point():
        kind = output.dtype if isinstance(output, Tensor) else type(output).__name__
        raise AttackError(f"layer {layer!r} gives a {kind}, not a tensor of features: choose a layer inside of it.")
    return output


class _Clean(NamedTuple):
    """One layer's output for the clean images."""

    features: Tensor
    """B×…, the layer's output."""
    share: Tensor | None
    """B×1×h×w, valid share of the pixels under each position; None if positions do not map to parts of the image."""
    energy: Tensor
    """B values, sum of squares; 1 where it is 0."""

    def select(self, rows: Tensor) -> _Clean:
        share = None if self.share is None else self.share[rows]
        return _Clean(self.features[rows], share, self.energy[rows])

    def distance(self, difference: Tensor) -> Tensor:
        """Compute ‖f − f₀‖² / ‖f₀‖² of each image from f − f₀, B values."""
        return _sum_of_squares(difference, self.share) / self.energy


class FeatureVictim(Victim):
    """A victim that also measures the distance of its features from those of the clean images.

    Takes one forward of the clean images and keeps their features in memory.

    Args:
        victim: Shares its counters.
        taps: Hooks on the victim's model, set.
        weights: One of each layer.
        images: B×3×H×W, the clean images.
        targets: B×H×W, :data:`~robustseg.attacks.losses.base.IGNORED` where ignored.

    Raises:
        AttackError: A layer's output is no features of these images.
    """

    def __init__(self, victim: Victim, taps: Taps, weights: Sequence[float], images: Tensor, targets: Tensor):
        super().__init__(victim.model, 0)
        self.share(victim)
        self._taps = taps
        self._weights = weights
        self._clean: list[_Clean] = []
        self._places: list[int] = []
        self._differences: list[Tensor] = []
        clean: dict[int, _Clean] = {}

        def keep(place: int, features: Tensor) -> None:
            clean[place] = _clean(features, images, targets)

        with torch.no_grad():
            taps.read(lambda: victim(images), keep)
        self._clean = [clean[place] for place in range(len(weights))]

    def __call__(self, images: Tensor) -> Tensor:
        """Compute the logits; with autograd on, measure the distances as well."""
        if not torch.is_grad_enabled():
            return super().__call__(images)
        self._places, self._differences = [], []

        def measure(place: int, features: Tensor) -> None:
            self._places.append(place)
            self._differences.append(wide(features) - self._clean[place].features)

        return self._taps.read(lambda: super(FeatureVictim, self).__call__(images), measure)

    def distance(self) -> Tensor:
        """Sum the layers' weighted relative squared distances of the last forward with autograd: B values."""
        found, self._differences = zip(self._places, self._differences, strict=True), []
        return torch.stack([self._weights[place] * self._clean[place].distance(each) for place, each in found]).sum(0)

    def _scaled(self, logits: Tensor, scaling: Scaling) -> Tensor:
        # The gradient enters the model at the layers as well.
        logits, *self._differences = scaling.leaving([logits, *self._differences])
        return logits

    def select(self, rows: Tensor) -> FeatureVictim:
        """Return the victim for the images at ``rows``, with the same counters."""
        part = copy.copy(self)
        part._rows = self._rows[rows.cpu()]
        here = on_device(rows, self._clean[0].features.device)
        part._clean = [clean.select(here) for clean in self._clean]
        return part


def _clean(features: Tensor, images: Tensor, targets: Tensor) -> _Clean:
    if features.ndim < 2 or len(features) != len(images):
        raise AttackError(
            f"a layer gives {tuple(features.shape)} for {len(images)} images: choose layers whose features have the "
            "images as their first dimension."
        )
    # Cloned: a later layer may work in place.
    features = features.clone()
    share = _valid_share(features, targets)
    energy = _sum_of_squares(wide(features), share)
    return _Clean(features, share, torch.where(energy > 0, energy, torch.ones_like(energy)))


def _valid_share(features: Tensor, targets: Tensor) -> Tensor | None:
    """Compute the valid share of the pixels under each position of B×C×h×w maps, B×1×h×w; None for other features.

    Maps differ from tokens and channels-last features by their size: both sides are the image's over one stride.
    """
    if features.ndim != 4:
        return None
    (height, width), (image_height, image_width) = features.shape[-2:], targets.shape[-2:]
    if abs(image_height * width - image_width * height) > max(image_height, image_width):
        return None
    valid = (targets != IGNORED).unsqueeze(1).to(torch.promote_types(features.dtype, torch.float32))
    return average_pool(valid, (height, width))


def _sum_of_squares(values: Tensor, share: Tensor | None) -> Tensor:
    squares = values.square()
    return (squares if share is None else squares * share).flatten(1).sum(1)
