"""DLASeg of ucbdrive/dla (dla.py and dla_up.py), restated: its names of tensors, and what it computes with them."""

from __future__ import annotations

import torch
from torch.nn import functional as F

BASIC, BOTTLENECK = False, True
# blocks of the trees, channels, kind of block, whether the roots are residual
DESIGNS = {
    "dla34": ((1, 1, 1, 2, 2, 1), (16, 32, 64, 128, 256, 512), BASIC, False),
    "dla46_c": ((1, 1, 1, 2, 2, 1), (16, 32, 64, 64, 128, 256), BOTTLENECK, False),
    "dla60": ((1, 1, 1, 2, 3, 1), (16, 32, 128, 256, 512, 1024), BOTTLENECK, False),
    "dla102": ((1, 1, 1, 3, 4, 1), (16, 32, 128, 256, 512, 1024), BOTTLENECK, True),
}


def dla_levels(tensors, x, name, channels=None, prefix="base."):
    """The six levels of the classification network."""
    depths, published, bottleneck, residual = DESIGNS[name]
    channels = channels or published
    x = tensors.conv_norm_relu([f"{prefix}base_layer.0", f"{prefix}base_layer.1"], x, channels[0], 7)
    levels = []
    for level in (0, 1):
        for index in range(depths[level]):
            stride = 2 if level == 1 and index == 0 else 1
            keys = [f"{prefix}level{level}.{3 * index}", f"{prefix}level{level}.{3 * index + 1}"]
            x = tensors.conv_norm_relu(keys, x, channels[level], 3, stride)
        levels.append(x)
    for level in (2, 3, 4, 5):
        key = f"{prefix}level{level}"
        children = [F.max_pool2d(x, 2)] if level > 2 else []
        x = tree(tensors, key, x, depths[level], channels[level], 2, children, bottleneck, residual)
        levels.append(x)
    tensors.conv(f"{prefix}fc", F.adaptive_avg_pool2d(x, 1), 1000, 1, bias=True)
    return levels


def tree(tensors, key, x, depth, channels, stride, children, bottleneck, residual):
    bottom = F.max_pool2d(x, stride) if stride > 1 else x
    if x.shape[1] != channels:
        projected = tensors.conv_norm([f"{key}.project.0", f"{key}.project.1"], bottom, channels, 1)
    else:
        projected = bottom
    if depth > 1:  # the trees inside have their own projections: this one's result is not used
        first = tree(tensors, f"{key}.tree1", x, depth - 1, channels, stride, [], bottleneck, residual)
        return tree(tensors, f"{key}.tree2", first, depth - 1, channels, 1, [*children, first], bottleneck, residual)
    first = block(tensors, f"{key}.tree1", x, channels, stride, projected, bottleneck)
    second = block(tensors, f"{key}.tree2", first, channels, 1, first, bottleneck)
    together = torch.cat([second, first, *children], 1)
    root = tensors.conv_norm([f"{key}.root.conv", f"{key}.root.bn"], together, channels, 1)
    return F.relu(root + second) if residual else F.relu(root)


def block(tensors, key, x, channels, stride, skipped, bottleneck):
    names = [[f"{key}.conv{number}", f"{key}.bn{number}"] for number in (1, 2, 3)]
    if bottleneck:
        x = tensors.conv_norm_relu(names[0], x, channels // 2, 1)
        x = tensors.conv_norm_relu(names[1], x, channels // 2, 3, stride)
        x = tensors.conv_norm(names[2], x, channels, 1)
    else:
        x = tensors.conv_norm_relu(names[0], x, channels, 3, stride)
        x = tensors.conv_norm(names[1], x, channels, 3)
    return F.relu(x + skipped)


def ida(tensors, key, maps, factors):
    """Project, enlarge and merge, one by one, maps into the first of them."""
    fine, made = maps[0], []
    channels = fine.shape[1]
    for index in range(1, len(maps)):
        other = maps[index]
        if other.shape[1] != channels:
            other = tensors.conv_norm_relu([f"{key}.proj_{index}.0", f"{key}.proj_{index}.1"], other, channels, 1)
        other = tensors.interpolate(f"{key}.up_{index}", other, factors[index])
        fine = torch.cat([fine, other], 1)
        fine = tensors.conv_norm_relu([f"{key}.node_{index}.0", f"{key}.node_{index}.1"], fine, channels, 3)
        made.append(fine)
    return made


def dla_seg(tensors, x, name="dla34", channels=None, classes=19, down_ratio=2):
    """The first of what DLASeg returns: log-probabilities."""
    levels = dla_levels(tensors, x, name, channels)[{2: 1, 4: 2, 8: 3}[down_ratio] :]
    scales = [2**index for index in range(len(levels))]
    for step in range(len(levels) - 1):
        begin = len(levels) - step - 2
        factors = [scale // scales[begin] for scale in scales[begin:]]
        levels[begin + 1 :] = ida(tensors, f"dla_up.ida_{step}", levels[begin:], factors)
        scales[begin + 1 :] = [scales[begin]] * (step + 1)
    scores = tensors.conv("fc.0", levels[-1], classes, 1, bias=True)
    return F.log_softmax(tensors.interpolate("up", scores, down_ratio), dim=1)
