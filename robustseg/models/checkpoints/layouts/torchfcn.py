"""Layouts of FCN-32s, FCN-16s and FCN-8s of wkentaro/pytorch-fcn, and of the Caffe files that it converted."""

from __future__ import annotations

from robustseg.models.checkpoints.layouts.layout import Layout
from robustseg.models.fcn_vgg import CAFFE_MEAN, CAFFE_STD, FCN8s, FCN16s, FCN32s

_CONVOLUTIONS = {
    **{"1_1": 0, "1_2": 2, "2_1": 5, "2_2": 7, "3_1": 10, "3_2": 12, "3_3": 14},
    **{"4_1": 17, "4_2": 19, "4_3": 21, "5_1": 24, "5_2": 26, "5_3": 28},
}
"""Index of each convolution in VGG16's features; pytorch-fcn names them by block and position."""


def _layout(network: type[FCN32s], upsampling: str) -> Layout:
    stride = upsampling.removeprefix("upscore") or "32"
    file = f"fcn{stride}s_vgg16_caffe" if network is FCN8s else f"fcn{stride}s_vgg16 with normalisation: caffe"
    return Layout(
        name=f"wkentaro/pytorch-fcn FCN{stride}s",
        network=network,
        config=file,
        marks=(r"conv1_1\.", r"fc6\.", r"score_fr\.", rf"{upsampling}\."),
        renames=(
            *((rf"conv{name}\.", f"backbone.features.{index}.") for name, index in _CONVOLUTIONS.items()),
            (r"fc([67])\.", r"backbone.fc\1."),
        ),
        settings={"normalisation": "caffe"},
        mean=CAFFE_MEAN,
        std=CAFFE_STD,
    )


LAYOUTS = (_layout(FCN8s, "upscore8"), _layout(FCN16s, "upscore16"), _layout(FCN32s, "upscore"))
