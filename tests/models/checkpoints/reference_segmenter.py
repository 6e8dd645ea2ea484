"""Segmenter as rstrudel/segmenter defines it (segm/model: vit.py, blocks.py, decoder.py, segmenter.py, utils.py).

nmndeep/Robust-Segmentation has a copy of it (semseg/models/segmenter.py), with the same names.
"""

import torch
from torch import nn
from torch.nn import functional as F


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        batch, count, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, count, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        attention = (q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5).softmax(-1)
        return self.proj((attention @ v).transpose(1, 2).reshape(batch, count, width))


class FeedForward(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.mlp = FeedForward(width)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbedding(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.proj = nn.Conv2d(3, width, 16, 16)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class Encoder(nn.Module):
    def __init__(self, grid, width, depth, heads):
        super().__init__()
        self.grid = grid
        self.patch_embed = PatchEmbedding(width)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, grid * grid + 1, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 1000)

    def forward(self, x):
        height, width = (side // 16 for side in x.shape[-2:])
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), self.patch_embed(x)], 1)
        positions = self.pos_embed
        if x.shape[1] != positions.shape[1]:
            own = positions[0, 1:].reshape(1, self.grid, self.grid, -1).permute(0, 3, 1, 2)
            resized = F.interpolate(own, size=(height, width), mode="bilinear")
            resized = resized.permute(0, 2, 3, 1).reshape(1, height * width, -1)
            positions = torch.cat([positions[:, :1], resized], 1)
        x = x + positions
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class MaskTransformer(nn.Module):
    def __init__(self, classes, width, heads, layers):
        super().__init__()
        self.classes = classes
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.cls_emb = nn.Parameter(torch.randn(1, classes, width))
        self.proj_dec = nn.Linear(width, width)
        self.proj_patch = nn.Parameter(width**-0.5 * torch.randn(width, width))
        self.proj_classes = nn.Parameter(width**-0.5 * torch.randn(width, width))
        self.decoder_norm = nn.LayerNorm(width)
        self.mask_norm = nn.LayerNorm(classes)

    def forward(self, x, rows):
        x = torch.cat([self.proj_dec(x), self.cls_emb.expand(len(x), -1, -1)], 1)
        for block in self.blocks:
            x = block(x)
        x = self.decoder_norm(x)
        patches = x[:, : -self.classes] @ self.proj_patch
        classes = x[:, -self.classes :] @ self.proj_classes
        patches = patches / patches.norm(dim=-1, keepdim=True)
        classes = classes / classes.norm(dim=-1, keepdim=True)
        masks = self.mask_norm(patches @ classes.transpose(1, 2))
        return masks.transpose(1, 2).reshape(len(x), self.classes, rows, -1)


class Segmenter(nn.Module):
    """Normalised images in, logits at their size out."""

    def __init__(self, classes, grid=4, width=128, depth=2, layers=2):
        super().__init__()
        heads = width // 64
        self.encoder = Encoder(grid, width, depth, heads)
        self.decoder = MaskTransformer(classes, width, heads, layers)

    def forward(self, x):
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % 16, 0, -height % 16), value=0)
        masks = self.decoder(self.encoder(x)[:, 1:], x.shape[-2] // 16)
        return F.interpolate(masks, size=x.shape[-2:], mode="bilinear")[:, :, :height, :width]
