"""ESPNet of sacmehta/ESPNet, restated: its names of tensors, and what it computes with them."""

import torch
from torch.nn import functional as F

EPS = 1e-3


def espnet(tensors, x, p=2, q=3, classes=12):
    """The logits of images whose sides are multiples of 8."""
    inp1 = F.avg_pool2d(x, 3, 2, 1)
    inp2 = F.avg_pool2d(inp1, 3, 2, 1)
    level1 = br(tensors, "encoder.level1", tensors.conv("encoder.level1.conv", x, 16, 3, 2))
    b1 = br(tensors, "encoder.b1", torch.cat([level1, inp1], 1))
    first = level2 = esp(tensors, "encoder.level2_0", b1, 64, down=True)
    for index in range(p):
        level2 = esp(tensors, f"encoder.level2.{index}", level2, 64, add=True)
    b2 = br(tensors, "encoder.b2", torch.cat([level2, first, inp2], 1))
    first = level3 = esp(tensors, "encoder.level3_0", b2, 128, down=True)
    for index in range(q):
        level3 = esp(tensors, f"encoder.level3.{index}", level3, 128, add=True)
    b3 = br(tensors, "encoder.b3", torch.cat([first, level3], 1))
    scores = tensors.norm("br", tensors.conv("encoder.classifier.conv", b3, classes, 1), EPS)
    scores = torch.cat([tensors.conv("level3_C.conv", b2, classes, 1), tensors.double_size("up_l3.0", scores)], 1)
    scores = esp(tensors, "combine_l2_l3.1", br(tensors, "combine_l2_l3.0", scores), classes)
    scores = br(tensors, "up_l2.1", tensors.double_size("up_l2.0", scores))
    scores = br(tensors, "conv", tensors.conv("conv.conv", torch.cat([scores, b1], 1), classes, 3))
    return tensors.double_size("classifier", scores)


def br(tensors, key, x):
    return tensors.norm_prelu((f"{key}.bn", f"{key}.act"), x, EPS)


def esp(tensors, key, x, channels, down=False, add=False):
    n = channels // 5
    reduced = tensors.conv(f"{key}.c1.conv", x, n, 3 if down else 1, 2 if down else 1)
    d1, d2, d4, d8, d16 = (
        tensors.conv(f"{key}.d{d}.conv", reduced, channels - 4 * n if d == 1 else n, 3, 1, d) for d in (1, 2, 4, 8, 16)
    )
    joint = torch.cat([d1, d2, d2 + d4, d2 + d4 + d8, d2 + d4 + d8 + d16], 1)
    return br(tensors, key if down else f"{key}.bn", joint + x if add else joint)
