"""SegFormer as NVlabs/SegFormer defines it (mmseg/models: mix_transformer.py, segformer_head.py)."""

import torch
from torch import nn
from torch.nn import functional as F


class PatchEmbedding(nn.Module):
    def __init__(self, before, width, size, stride):
        super().__init__()
        self.proj = nn.Conv2d(before, width, size, stride, size // 2)
        self.norm = nn.LayerNorm(width)

    def forward(self, x):
        x = self.proj(x)
        return self.norm(x.flatten(2).transpose(1, 2)), x.shape[-2:]


class Attention(nn.Module):
    def __init__(self, width, heads, reduction):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        if reduction > 1:
            self.sr = nn.Conv2d(width, width, reduction, reduction)
            self.norm = nn.LayerNorm(width)

    def forward(self, x, size):
        batch, count, width = x.shape
        q = self.q(x).reshape(batch, count, self.heads, -1).transpose(1, 2)
        if hasattr(self, "sr"):
            x = self.sr(x.transpose(1, 2).reshape(batch, width, *size))
            x = self.norm(x.flatten(2).transpose(1, 2))
        k, v = self.kv(x).reshape(batch, -1, 2, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        attention = (q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5).softmax(-1)
        return self.proj((attention @ v).transpose(1, 2).reshape(batch, count, width))


class DepthwiseConv(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 3, 1, 1, groups=width)

    def forward(self, x, size):
        return self.dwconv(x.transpose(1, 2).unflatten(2, size)).flatten(2).transpose(1, 2)


class FeedForward(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.dwconv = DepthwiseConv(4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x, size):
        return self.fc2(F.gelu(self.dwconv(self.fc1(x), size)))


class Block(nn.Module):
    def __init__(self, width, heads, reduction):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads, reduction)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = FeedForward(width)

    def forward(self, x, size):
        x = x + self.attn(self.norm1(x), size)
        return x + self.mlp(self.norm2(x), size)


class Backbone(nn.Module):
    def __init__(self, widths, heads, depths):
        super().__init__()
        for stage, width in enumerate(widths):
            size, stride = (3, 2) if stage else (7, 4)
            embedding = PatchEmbedding(widths[stage - 1] if stage else 3, width, size, stride)
            blocks = [Block(width, heads[stage], (8, 4, 2, 1)[stage]) for _ in range(depths[stage])]
            self.add_module(f"patch_embed{stage + 1}", embedding)
            self.add_module(f"block{stage + 1}", nn.ModuleList(blocks))
            self.add_module(f"norm{stage + 1}", nn.LayerNorm(width, eps=1e-6))

    def forward(self, x):
        levels = []
        for stage in range(1, 5):
            x, size = getattr(self, f"patch_embed{stage}")(x)
            for block in getattr(self, f"block{stage}"):
                x = block(x, size)
            x = getattr(self, f"norm{stage}")(x).transpose(1, 2).unflatten(2, size)
            levels.append(x)
        return levels


class Linear(nn.Module):
    def __init__(self, before, width):
        super().__init__()
        self.proj = nn.Linear(before, width)

    def forward(self, x):
        return self.proj(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[-2:])


class ConvModule(nn.Module):
    def __init__(self, before, width):
        super().__init__()
        self.conv = nn.Conv2d(before, width, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


class Head(nn.Module):
    def __init__(self, widths, width, classes):
        super().__init__()
        # of its base class, unused
        self.conv_seg = nn.Conv2d(128, classes, 1)
        for stage in (4, 3, 2, 1):
            self.add_module(f"linear_c{stage}", Linear(widths[stage - 1], width))
        self.linear_fuse = ConvModule(4 * width, width)
        self.linear_pred = nn.Conv2d(width, classes, 1)

    def forward(self, levels):
        size = levels[0].shape[-2:]
        projected = [getattr(self, f"linear_c{stage}")(levels[stage - 1]) for stage in (4, 3, 2, 1)]
        projected = [F.interpolate(x, size=size, mode="bilinear", align_corners=False) for x in projected]
        return self.linear_pred(self.linear_fuse(torch.cat(projected, 1)))


class SegFormer(nn.Module):
    """Normalised images in, logits at their size out."""

    def __init__(self, classes, widths=(32, 64, 160, 256), heads=(1, 2, 5, 8), depths=(2, 2, 2, 2), channels=256):
        super().__init__()
        self.backbone = Backbone(widths, heads, depths)
        self.decode_head = Head(widths, channels, classes)

    def forward(self, x):
        logits = self.decode_head(self.backbone(x))
        return F.interpolate(logits, size=x.shape[-2:], mode="bilinear", align_corners=False)
