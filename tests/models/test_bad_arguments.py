"""Arguments of networks that cannot be: each is named with what there is."""

import pytest
import torch

from robustseg.models import (
    FCN,
    DeepLabV3,
    DLASeg,
    DRNSeg,
    FCN8s,
    ModelError,
    SegFormer,
    Segmenter,
    UPerNet,
)

COMMON = {
    FCN: {"backbone": "resnet18", "output_stride": 16},
    DeepLabV3: {"backbone": "resnet10t"},
    FCN8s: {"channels": 16},
}


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        (FCN, {"backbone": "resnet5O"}, ["resnet5O", "did you mean", "resnet50"]),
        (FCN, {"backbone": "hf-hub:someone/model"}, ["hf-hub:someone/model", "unknown"]),
        (FCN, {"backbone": "resnet18.nonsense"}, ["resnet18.nonsense", "resnet18.tv_in1k"]),
        (
            FCN,
            {"backbone": "dla46_c", "output_stride": 8},
            ["dla46_c", "output_stride: 8", "output_stride: null", "32"],
        ),
        (FCN, {"backbone": "densenet121", "output_stride": 32}, ["densenet121", "output_stride: 32", "null"]),
        (FCN, {"backbone": "vit_tiny_patch16_224", "output_stride": 8}, ["vit_tiny", "output_stride: null", "16"]),
        (FCN, {"backbone": "vit_tiny_patch16_224", "output_stride": None}, ["one size", "img_size", "dynamic_img_pad"]),
        (FCN, {"output_stride": 12}, ["output_stride = 12", "8, 16, 32"]),
        (FCN, {"backbone_args": {"chanels": [8]}}, ["resnet18", "backbone_args", "chanels"]),
        (FCN, {"backbone_args": {"out_indices": [1]}}, ["backbone_args", "out_indices"]),
        (FCN, {"pretrained": True, "weights": "w.pth"}, ["pretrained: true", "weights: FILE"]),
        (FCN, {"channels": 0}, ["channels = 0"]),
        (FCN, {"dropout": 1.0}, ["dropout = 1.0"]),
        (FCN, {"num_classes": 0}, ["num_classes = 0"]),
        (DeepLabV3, {"rates": []}, ["rates = []"]),
        (DeepLabV3, {"rates": [6, 0]}, ["rates = [6, 0]"]),
        (DeepLabV3, {"project_kernel": 2}, ["project_kernel = 2"]),
        (DeepLabV3, {"aux_kernel": 0}, ["aux_kernel = 0"]),
        (DeepLabV3, {"aux_channels": 0}, ["aux_channels = 0"]),
        (FCN, {"convs": 0}, ["convs = 0"]),
        (FCN, {"backbone": "resnet50", "dilate_once": True}, ["dilate_once"]),
        (FCN, {"backbone": "convnext_atto", "dilate_once": True}, ["dilate_once"]),
        (FCN8s, {"backbone": "resnet18"}, ["resnet18", "vgg16"]),
        (FCN8s, {"backbone": "vgg16.nonsense"}, ["vgg16.nonsense", "vgg16.tv_in1k"]),
        (FCN8s, {"channels": 0}, ["channels = 0"]),
        (FCN8s, {"width": 0}, ["width = 0"]),
        (FCN8s, {"width": 32, "pretrained": True}, ["width = 32", "64"]),
        (FCN8s, {"normalisation": "keras"}, ["keras", "imagenet", "caffe"]),
        (FCN8s, {"normalisation": "caffe", "pretrained": True}, ["normalisation: imagenet", "weights: FILE"]),
        (FCN8s, {"pretrained": True, "weights": "vgg.pth"}, ["pretrained: true", "weights: FILE"]),
        (FCN8s, {"weights": "gone.pth"}, ["gone.pth", "does not exist"]),
        (FCN8s, {"num_classes": 0}, ["num_classes = 0"]),
        (UPerNet, {"channels": 0}, ["channels = 0"]),
        (UPerNet, {"dropout": 1.0}, ["dropout = 1.0"]),
        (UPerNet, {"backbone": "convnext_tinny"}, ["convnext_tinny", "did you mean", "convnext_tiny"]),
        (UPerNet, {"backbone": "resnet18", "conv_stem": True}, ["resnet18", "conv_stem", "convnext_tiny"]),
        (UPerNet, {"conv_stem": True, "pretrained": True}, ["pretrained = true", "conv_stem", "weights: FILE"]),
        (UPerNet, {"backbone": "vit_tiny_patch16_224", "backbone_args": {"img_size": 64}}, ["16, 16, 16, 16", "four"]),
        (SegFormer, {"channels": 0}, ["channels = 0"]),
        (SegFormer, {"dropout": -0.1}, ["dropout = -0.1"]),
        (SegFormer, {"norm_eps": 0.0}, ["norm_eps = 0.0", "1e-6"]),
        (SegFormer, {"pretrained": True}, ["pretrained = true", "mit_b0", "weights: FILE"]),
        (SegFormer, {"backbone": "mit_b7"}, ["mit_b7", "mit_b0 to mit_b5"]),
        (
            SegFormer,
            {"backbone": "vit_tiny_patch16_224", "backbone_args": {"img_size": 64}},
            ["16, 16, 16, 16", "four"],
        ),
        (Segmenter, {"num_classes": 1}, ["num_classes = 1", "two"]),
        (Segmenter, {"layers": 0}, ["layers = 0"]),
        (Segmenter, {"dropout": 2.0}, ["dropout = 2.0"]),
        (Segmenter, {"norm_eps": -1.0}, ["norm_eps = -1.0"]),
        (Segmenter, {"position_resize": "area"}, ["position_resize = area", "bilinear"]),
        (Segmenter, {"backbone": "resnet50"}, ["resnet50", "vit_small_patch16_224"]),
        (Segmenter, {"backbone": "vit_small_patch16_225"}, ["vit_small_patch16_225", "did you mean"]),
        (Segmenter, {"backbone": "vit_base_patch16_siglip_224"}, ["siglip", "class token"]),
        (Segmenter, {"backbone_args": {"dept": 2}}, ["backbone_args", "dept"]),
        (DRNSeg, {"backbone": "drn_a_50"}, ["drn_a_50", "drn_d_22"]),
        (DRNSeg, {"width": 0}, ["width = 0"]),
        (DRNSeg, {"upsampling": "nearest"}, ["nearest", "bilinear"]),
        (DRNSeg, {"weights": "gone.pth"}, ["gone.pth", "does not exist"]),
        (DLASeg, {"down_ratio": 3}, ["down_ratio = 3", "2, 4, 8 or 16"]),
        (DLASeg, {"down_ratio": 1}, ["down_ratio = 1"]),
        (DLASeg, {"backbone": "resnet18"}, ["resnet18", "dla34"]),
        (DLASeg, {"backbone": "dla35"}, ["dla35", "did you mean"]),
        (DLASeg, {"backbone_args": {"out_indices": [1]}}, ["backbone_args", "out_indices"]),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)[:40]),
)
def test_bad_arguments_name_the_key(kind, arguments, words):
    with torch.device("meta"), pytest.raises(ModelError) as caught:
        kind(**{"num_classes": 4, **COMMON.get(kind, {}), **arguments})
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value), caught.value
