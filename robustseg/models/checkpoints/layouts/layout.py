"""Layout of another project's state dict: its marks, and the renaming of its tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from robustseg.models.errors import ModelError

State = dict[str, Tensor]
"""Mapping from name to tensor."""


class ForeignError(ModelError):
    """Error for recognised weights that belong to another network; the message does not name the file."""


@dataclass(frozen=True)
class Layout:
    """State dict of one network of another project, and the network of this package that computes the same.

    Attributes:
        name: Project and network, for messages: ``"hszhao/semseg PSPNet"``.
        network: Class of the network in this package.
        config: Shipped configuration under ``network`` that builds it, for messages.
        deeper: Configurations for other ResNets than that of ``config``, by their depth.
        backbone: timm's name of a ResNet of any depth with these tensors.
        marks: Regular expressions; each must match the beginning of some key.
        absent: Regular expressions that may match the beginning of no key.
        renames: Pairs of a regular expression for the beginning of a key and its replacement; the first that matches
            is applied. Keys without a match keep their names; unexpected ones are reported.
        dropped: Regular expressions of keys that are not used in a forward pass, such as counters and buffers that the
            network here computes itself.
        settings: Attributes of the network that its tensors' shapes do not show, with their values in the training of
            these weights.
        adapt: Function of the renamed tensors and the network, for changes beyond renaming; returns the network's
            tensors.
        mean: RGB mean of the images in [0, 1] units in the training of these weights; None if unknown: the model keeps
            its own.
        std: Standard deviation of the same images.
    """

    name: str
    network: type[nn.Module]
    config: str
    marks: tuple[str, ...]
    renames: tuple[tuple[str, str], ...]
    absent: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
    adapt: Callable[[State, nn.Module], State] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    deeper: Mapping[int, str] = field(default_factory=dict)
    backbone: str = "resnet{}"

    def config_of(self, keys: Iterable[str]) -> str:
        """Return the shipped configuration under ``network`` for a state dict, by the depth of its ResNet."""
        depth = resnet_depth(keys)
        own = re.search(r"_r(\d+)", self.config)
        if depth is None or own is None or depth == int(own[1]):
            return self.config
        return self.deeper.get(depth) or f"{self.config} with backbone: {self.backbone.format(depth)}"

    def recognises(self, keys: Iterable[str]) -> bool:
        """Return whether these are the keys of such a state dict."""
        keys = list(keys)
        return all(any(re.match(mark, key) for key in keys) for mark in self.marks) and not any(
            re.match(pattern, key) for pattern in self.absent for key in keys
        )

    def convert(self, state: Mapping[str, Tensor], network: nn.Module) -> State:
        """Rename the tensors to the names of ``network.state_dict()``.

        Raises:
            ForeignError: The network has tensors of these shapes but computes something else.
        """
        self._check_settings(network, self.config_of(state))
        renamed = {
            self._rename(key): value
            for key, value in state.items()
            if not any(re.match(pattern, key) for pattern in self.dropped)
        }
        return renamed if self.adapt is None else self.adapt(renamed, network)

    def _rename(self, key: str) -> str:
        for pattern, replacement in self.renames:
            new, count = re.subn(rf"\A(?:{pattern})", replacement, key, count=1)
            if count:
                return new
        return key

    def _check_settings(self, network: nn.Module, config: str) -> None:
        if not isinstance(network, self.network):
            raise ForeignError(
                f"the weights are those of {self.name}, and the network is a {type(network).__name__}: "
                f"use {self.network.__name__}, as in network/{config}."
            )
        wrong = {name: value for name, value in self.settings.items() if getattr(network, name, None) != value}
        if wrong:
            asked = ", ".join(f"{name}: {_yaml(value)}" for name, value in wrong.items())
            raise ForeignError(
                f"the weights are those of {self.name}, which needs {asked} in model.network.init_args, as in "
                f"network/{config}; the shapes of the tensors do not show it."
            )


_DEPTHS: dict[tuple[int, ...], tuple[int | None, int | None]] = {
    (2, 2, 2, 2): (18, None),
    (3, 4, 6, 3): (34, 50),
    (3, 4, 23, 3): (None, 101),
    (3, 8, 36, 3): (None, 152),
}
"""Depths of ResNets with blocks of two and of three convolutions, by the number of blocks in each stage."""


def resnet_depth(keys: Iterable[str]) -> int | None:
    """Return the depth of the ResNet among these names; None without a known one."""
    found = {match.groups() for key in keys if (match := re.match(r"(?:.*\.)?layer([1-9])\.(\d+)\.(\w+)", key))}
    blocks = tuple(len({number for stage, number, _ in found if stage == each}) for each in "1234")
    if any(stage in "56789" for stage, _, _ in found):  # a DRN
        return None
    bottleneck = any(name == "conv3" for _, _, name in found)
    return _DEPTHS.get(blocks, (None, None))[bottleneck]


def _yaml(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
