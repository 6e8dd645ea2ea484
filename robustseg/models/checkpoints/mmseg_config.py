"""Settings in MMSegmentation's configuration that the tensors of its weights do not show."""

from __future__ import annotations

import re
from math import prod

from torch import nn

from robustseg.models.checkpoints.layouts.layout import ForeignError, Layout
from robustseg.models.networks import EncoderDecoder

_PROJECT = "MMSegmentation"
_STEM_STRIDE = 4


def check_config(layout: Layout, text: str | None, network: nn.Module) -> None:
    """Refuse ResNet-based weights whose configuration computes something else than the network here.

    The configuration is searched as text and never executed.

    Args:
        layout: Layout of the weights; other projects and backbones are not checked.
        text: Configuration in the file, as mmengine and mmcv write it; None if there is none.
        network: The network here.

    Raises:
        ForeignError: A setting differs.
    """
    if text is None or not layout.name.startswith(_PROJECT) or not isinstance(network, EncoderDecoder):
        return
    aligned = _values(text, "align_corners", "True|False")
    wanted = "true" if "True" in aligned else "false"
    if len(aligned) == 1 and network.align_corners != (wanted == "true"):
        raise ForeignError(f"its configuration says align_corners={aligned.pop()}: set align_corners: {wanted}.")
    strides = [tuple(map(int, re.findall(r"\d+", value))) for value in _values(text, "strides", r"[(\[][\d,\s]+[)\]]")]
    stride = _STEM_STRIDE * prod(strides[0]) if len(strides) == 1 else network.output_stride
    if stride != network.output_stride:
        raise ForeignError(
            f"its configuration says strides={strides[0]}, which is a stride of {stride}: only its files of stride "
            f"{network.output_stride} can be loaded here."
        )
    for name, pattern, other in (
        ("contract_dilation", "True|False", "False"),
        ("style", r"'\w+'|\"\w+\"", "caffe"),
        ("multi_grid", r"[(\[][\d,\s]+[)\]]", "("),
    ):
        for value in _values(text, name, pattern):
            if other in value.replace("[", "("):
                raise ForeignError(f"its configuration says {name}={value}, which no network here computes.")


def _values(text: str, name: str, pattern: str) -> set[str]:
    """Return all values of a setting in the text."""
    return set(re.findall(rf"\b{name}[\"']?\s*[=:]\s*({pattern})", text))
