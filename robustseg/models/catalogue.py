"""Named networks: the shipped configurations ``network/*``."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from inspect import isabstract
from types import MappingProxyType
from typing import Any

import torch
import yaml
from torch import nn

from robustseg.models.checkpoints.recognise import LAYOUTS, Layout
from robustseg.models.errors import ModelError
from robustseg.models.network import IMAGENET_MEAN, IMAGENET_STD, Network
from robustseg.opening.regular import read_text
from robustseg.shipped import files

_FOLDER = "network/"
_PROBE = 256
"""Side in pixels of the image that the logits' stride is measured on."""


@dataclass(frozen=True)
class Variant:
    """A named network.

    Attributes:
        name: That of the file in ``network``.
        text: The file's content, which is the configuration.
    """

    name: str
    text: str

    @property
    def network(self) -> str:
        """Name of the class."""
        return str(self._content["class_path"]).rpartition(".")[2]

    @property
    def init_args(self) -> dict[str, Any]:
        """Arguments of the class, apart from the number of classes."""
        return dict(self._content.get("init_args", {}))

    @property
    def _content(self) -> Mapping[str, Any]:
        content: Mapping[str, Any] = yaml.safe_load(self.text)["model"]["network"]
        return content

    def build(self, num_classes: int) -> Network:
        """Build the network on the meta device: its tensors have no values, and nothing is downloaded or read.

        Raises:
            ModelError: A library that it needs is not installed.
        """
        arguments = {key: value for key, value in self.init_args.items() if key not in ("pretrained", "weights")}
        with torch.device("meta"):
            return classes()[self.network](num_classes, **arguments).eval()


@cache
def catalogue() -> Mapping[str, Variant]:
    """Return every named network, by name.

    Raises:
        ConfigFileError: The files were not installed with the package.
    """
    found = {name.removeprefix(_FOLDER): path for name, path in files().items() if name.startswith(_FOLDER)}
    return MappingProxyType({name: Variant(name, read_text(path)) for name, path in found.items()})


def classes() -> dict[str, type[Network]]:
    """Return every class of this package that can be built as a network, by name."""
    return {cls.__name__: cls for cls in _concrete(Network) if cls.__module__.startswith("robustseg.")}


def _concrete(base: type[Any]) -> Iterator[type[Network]]:
    for cls in base.__subclasses__():
        yield from _concrete(cls)
        if not isabstract(cls) and not cls.__name__.startswith("_"):
            yield cls


@dataclass(frozen=True)
class Facts:
    """The properties of a network, in words and figures for a table.

    Attributes:
        parameters: Number of parameters.
        stride: Input pixels per cell of the coarsest features; None if the network does not say.
        logits_stride: Input pixels per cell of the logits, before they are resized to the image.
        normalisation: Normalisation of the images that the network expects, in words.
        loads: Other projects and networks with checkpoints that it can load.
    """

    parameters: int
    stride: int | None
    logits_stride: int
    normalisation: str
    loads: tuple[str, ...]


def facts(variant: Variant) -> Facts:
    """Determine the properties of a network, without memory for its tensors.

    Raises:
        ModelError: A library that it needs is not installed.
    """
    network = variant.build(21)
    with torch.no_grad():
        logits = network(torch.empty(1, 3, _PROBE, _PROBE, device="meta"))
    stride = getattr(getattr(network, "backbone", None), "stride", None)
    return Facts(
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        stride=stride if isinstance(stride, int) else None,
        logits_stride=round(_PROBE / logits.shape[-1]),
        normalisation=describe_normalisation(network),
        loads=_loads(variant, network),
    )


def describe_normalisation(network: Network) -> str:
    """Describe the normalisation of the images that a network expects, in a few words."""
    mean, std = ([round(value, 4) for value in values] for values in (network.image_mean, network.image_std))
    known = {
        (IMAGENET_MEAN, IMAGENET_STD): "ImageNet",
        ((0.5,) * 3, (0.5,) * 3): "-1 to 1",
        ((0.0,) * 3, (1.0,) * 3): "0 to 1",
    }
    words = known.get((tuple(mean), tuple(std)))
    if words is None:
        unit = all(value > 0.9 / 255 and value < 1.1 / 255 for value in std)
        words = "0 to 255, mean off" if unit and any(mean) else f"mean {mean}, std {std}"
    return words + (", BGR" if network.channel_order == "bgr" else "")


def layouts_of(variant: Variant, network: nn.Module) -> list[Layout]:
    """Return the other projects' layouts that a network can load: those of its kind and with its settings."""
    return [
        layout
        for layout in LAYOUTS
        if isinstance(network, layout.network)
        and _family(config_name(layout)) == _family(variant.name)
        and all(getattr(network, name, None) == value for name, value in layout.settings.items())
    ]


def config_name(layout: Layout) -> str:
    """Return the named network that a layout refers to; what follows the name there is advice."""
    return layout.config.partition(" ")[0]


def _family(name: str) -> str:
    """Replace the size of the backbone in a name by ``*``, since a layout does not depend on it."""
    return re.sub(r"(?<=_)(r\d+|b\d|[tsbl])(?=_|$)", "*", name)


def _loads(variant: Variant, network: nn.Module) -> tuple[str, ...]:
    library = getattr(network, "library", None)
    own = (f"{library} as it is",) if isinstance(library, str) else ()
    return own + tuple(layout.name for layout in layouts_of(variant, network))


def find_variant(name: str) -> Variant:
    """Find a named network.

    Raises:
        ModelError: There is none of that name; the message lists similar ones.
    """
    table = catalogue()
    name = name.rpartition("/")[2].removesuffix(".yaml")
    if name in table:
        return table[name]
    lower = {known.lower(): known for known in table}
    close = [lower[match] for match in difflib.get_close_matches(name.lower(), lower, n=4, cutoff=0.5)]
    close += [known for known in table if known.startswith(name.lower().split("_")[0]) and known not in close]
    hint = f"did you mean {', '.join(close[:6])}?" if close else "robustseg models lists all."
    raise ModelError(f"there is no network {name!r}: {hint}")
