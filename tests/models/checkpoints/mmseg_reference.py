"""MMSegmentation's own networks, to compare with, none of which needs mmcv's compiled operators.

mmcv-lite has no ``mmcv.ops``, which mmseg imports for losses and heads that are not compared with; a stub stands in.
"""

import importlib.util
import sys
import types
from typing import Any

import pytest
from torch import Tensor, nn

from .parity import randomise_

MISSING = [name for name in ("mmcv", "mmengine", "mmseg") if importlib.util.find_spec(name) is None]
if MISSING:
    pytest.skip(
        f"{', '.join(MISSING)} not installed: pip install --no-deps -r tests/references.txt", allow_module_level=True
    )


class _Absent(types.ModuleType):
    """Whatever is asked of it is a class that nothing is done with."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (nn.Module,), {})


if importlib.util.find_spec("mmcv._ext") is None and "mmcv.ops" not in sys.modules:
    sys.modules["mmcv.ops"] = _Absent("mmcv.ops")

from mmseg.models import build_segmentor  # noqa: E402
from mmseg.utils import register_all_modules  # noqa: E402

register_all_modules(init_default_scope=True)


def build(config: dict[str, Any]) -> nn.Module:
    """Build mmseg's network from the ``model`` part of one of its configurations, in eval mode, with random weights.

    Statistics and biases of every normalisation are random as well, so that their order and eps matter, and the
    weights of the last classifiers large enough for logits of the order of one.
    """
    network = randomise_(build_segmentor(config))
    for name, module in network.named_modules():
        if name.endswith("conv_seg"):
            nn.init.normal_(module.weight, 0.0, module.weight[0].numel() ** -0.5)
    return network


def wrapped(state: dict[str, Tensor]) -> dict[str, Any]:
    """A state dict as mmengine's runner writes it: with the message hub and its buffers of logged values beside it."""
    from mmengine.logging import MessageHub

    hub = MessageHub.get_instance("robustseg-tests")
    hub.update_scalar("train/loss", 0.5)
    hub.update_info("iter", 80000)
    return {
        "meta": {"epoch": 1, "iter": 80000, "cfg": "model = dict()", "dataset_meta": {"classes": ("a", "b")}},
        "state_dict": state,
        "message_hub": hub.state_dict(),
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.01, "params": [0]}]},
        "param_schedulers": [{"last_step": 80000, "power": 0.9}],
    }


def logits_of(network: nn.Module, normalised: Tensor) -> Tensor:
    """Logits at the images' size for images that are normalised already: what mmseg takes the argmax of."""
    meta = [{"img_shape": tuple(normalised.shape[-2:]), "ori_shape": tuple(normalised.shape[-2:])}]
    logits: Tensor = network.encode_decode(normalised, meta * len(normalised))
    return logits
