"""DRNSeg of fyu/drn (drn.py and segment.py), restated: its names of tensors, and what it computes with them."""

from __future__ import annotations

from torch.nn import functional as F

CHANNELS = (16, 32, 64, 128, 256, 512, 512, 512)
BASIC, BOTTLENECK = False, True
DESIGNS = {
    "drn_c_26": ("C", BASIC, (1, 1, 2, 2, 2, 2, 1, 1)),
    "drn_c_42": ("C", BASIC, (1, 1, 3, 4, 6, 3, 1, 1)),
    "drn_c_58": ("C", BOTTLENECK, (1, 1, 3, 4, 6, 3, 1, 1)),
    "drn_d_22": ("D", BASIC, (1, 1, 2, 2, 2, 2, 1, 1)),
    "drn_d_38": ("D", BASIC, (1, 1, 3, 4, 6, 3, 1, 1)),
    "drn_d_54": ("D", BOTTLENECK, (1, 1, 3, 4, 6, 3, 1, 1)),
    "drn_d_105": ("D", BOTTLENECK, (1, 1, 3, 4, 23, 3, 1, 1)),
}


def drn_features(tensors, x, name, width, numbered=True):
    """The layers, by the numbers that nn.Sequential gives them in DRNSeg, or by the classification network's names."""
    arch, bottleneck, depths = DESIGNS[name]
    widths = [channels * width // 16 for channels in CHANNELS]
    if arch == "D":
        first = ["base.0.0", "base.0.1"] if numbered else ["layer0.0", "layer0.1"]
    else:
        first = ["base.0", "base.1"] if numbered else ["conv1", "bn1"]
    x = tensors.conv_norm_relu(first, x, widths[0], 7)
    for layer in range(1, 9):
        number = layer if arch == "D" else layer + 2
        key = f"base.{number}" if numbered else f"layer{layer}"
        stride = 2 if layer in (2, 3, 4) else 1
        dilation = {5: 2, 6: 4, 7: 2}.get(layer, 1)
        for index in range(depths[layer - 1]):
            step = stride if index == 0 else 1
            if layer in (3, 4, 5, 6):
                block = bottleneck_block if bottleneck else basic_block
                x = block(tensors, f"{key}.{index}", x, widths[layer - 1], step, dilation)
            elif arch == "C":
                x = basic_block(tensors, f"{key}.{index}", x, widths[layer - 1], step, dilation, added=layer < 7)
            else:
                names = [f"{key}.{3 * index}", f"{key}.{3 * index + 1}"]
                x = tensors.conv_norm_relu(names, x, widths[layer - 1], 3, step, dilation)
    return x


def basic_block(tensors, key, x, channels, stride, dilation, added=True):
    out = tensors.conv_norm_relu([f"{key}.conv1", f"{key}.bn1"], x, channels, 3, stride, dilation)
    out = tensors.conv_norm([f"{key}.conv2", f"{key}.bn2"], out, channels, 3, 1, dilation)
    skipped = shortcut(tensors, key, x, channels, stride)
    return F.relu(out + skipped) if added else F.relu(out)


def bottleneck_block(tensors, key, x, channels, stride, dilation):
    out = tensors.conv_norm_relu([f"{key}.conv1", f"{key}.bn1"], x, channels, 1)
    out = tensors.conv_norm_relu([f"{key}.conv2", f"{key}.bn2"], out, channels, 3, stride, dilation)
    out = tensors.conv_norm([f"{key}.conv3", f"{key}.bn3"], out, 4 * channels, 1)
    return F.relu(out + shortcut(tensors, key, x, 4 * channels, stride))


def shortcut(tensors, key, x, channels, stride):
    if stride == 1 and x.shape[1] == channels:
        return x
    return tensors.conv_norm([f"{key}.downsample.0", f"{key}.downsample.1"], x, channels, 1, stride)


def drn_seg(tensors, x, name="drn_d_22", width=16, classes=19, torch_up=False):
    """The first of what DRNSeg returns: log-probabilities."""
    scores = tensors.conv("seg", drn_features(tensors, x, name, width), classes, 1, bias=True)
    if torch_up:
        scores = F.interpolate(scores, scale_factor=8, mode="bilinear", align_corners=True)
    else:
        scores = tensors.interpolate("up", scores, 8)
    return F.log_softmax(scores, dim=1)
