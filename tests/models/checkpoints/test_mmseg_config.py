"""The configuration beside MMSegmentation's weights, which is read as text."""

from __future__ import annotations

import pytest
import torch

from robustseg.models import FCN, ModelError, SegmentationModel, UPerNet, load_segmentation_weights
from robustseg.models.checkpoints.recognise import LAYOUTS, ForeignError, check_config

USUAL = """model = dict(
    backbone=dict(contract_dilation=True, depth=18, dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1), style='pytorch'),
    decode_head=dict(align_corners=False, num_classes=5),
    auxiliary_head=dict(align_corners=False, type='FCNHead'))
"""
LAYOUT = next(layout for layout in LAYOUTS if layout.name.startswith("MMSegmentation FCN over ResNet-18"))


def network(**arguments):
    with torch.device("meta"):
        return FCN(5, "resnet18", **arguments)


def test_the_usual_configuration_passes():
    for text in (USUAL, USUAL.replace("=", ": ").replace("(1, 2, 1, 1)", "[1, 2, 1, 1]"), "", None):
        check_config(LAYOUT, text, network())


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("align_corners=False", "align_corners=True", "set align_corners: true"),
        ("strides=(1, 2, 1, 1)", "strides=(1, 2, 2, 1)", "a stride of 16"),
        ("strides=(1, 2, 1, 1)", "strides=[1, 2, 2, 2]", "a stride of 32"),
        ("contract_dilation=True", "contract_dilation=False", "contract_dilation=False"),
        ("style='pytorch'", 'style="caffe"', "style="),
        ("depth=18", "multi_grid=(1, 2, 4)", "multi_grid=(1, 2, 4)"),
    ],
)
def test_what_differs_is_refused(old, new, words):
    with pytest.raises(ForeignError) as caught:
        check_config(LAYOUT, USUAL.replace(old, new), network())
    assert words in str(caught.value)
    with torch.device("meta"):
        check_config(LAYOUT, USUAL.replace(old, new), UPerNet(5))
    check_config(LAYOUTS[0], USUAL.replace(old, new), network())


def test_what_is_set_as_it_says_passes():
    check_config(LAYOUT, USUAL.replace("align_corners=False", "align_corners=True"), network(align_corners=True))
    with pytest.raises(ForeignError, match="align_corners: false"):
        check_config(LAYOUT, USUAL, network(align_corners=True))


@pytest.mark.parametrize("key", ["cfg", "config"])
def test_the_text_is_found_in_the_file(key, tmp_path, monkeypatch):
    model = SegmentationModel(FCN(5, "resnet10t", 16, 8, backbone_args={"channels": [8, 16, 32, 64]}))
    bare = {f"x{name}": value for name, value in model.network.state_dict().items()}
    layout = LAYOUT.__class__("MMSegmentation test", FCN, "fcn_small", (r"xbackbone\.",), ((r"x", ""),))
    monkeypatch.setattr("robustseg.models.checkpoints.recognise.LAYOUTS", (layout,))
    for text in (USUAL, None):
        torch.save({"meta": {key: text}, "state_dict": bare}, tmp_path / "file.pth")
        if text:
            with pytest.raises(ModelError, match=r"file\.pth: .*a stride of 8: only its files of stride 16"):
                load_segmentation_weights(model, tmp_path / "file.pth")
        else:
            assert load_segmentation_weights(model, tmp_path / "file.pth")["layout"] == layout.name
