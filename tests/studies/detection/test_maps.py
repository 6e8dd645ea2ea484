"""Maps of values beside pictures: one scale of colours for all maps, the same bytes for the same data."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image

from robustseg.evaluation.report.maps import Panel, map_plot


def pictures_in(svg):
    """The embedded pictures, H×W×3 in 0…255, in their order."""
    found = re.findall(r'href="data:image/png;base64,\s*([^"]+)"', svg)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(each))).convert("RGB")) for each in found]


def colours(picture):
    return {tuple(pixel) for pixel in picture.reshape(-1, 3).tolist()}


def rows():
    low = torch.tensor([[0.0, 0.5], [1.0, 0.0]])
    picture = torch.zeros(3, 2, 2)
    picture[0, 0, 0] = 1
    return [[Panel("image", picture), Panel("be$ni$gn", low)], [Panel("image", picture), Panel("attack", 2 * low)]]


def test_all_maps_have_one_scale_of_colours():
    plot = map_plot("maps", "entropy <of> pixels", rows(), 2.0, "nats")
    first, low, _, high, *_ = pictures_in(plot.svg)
    assert first.shape == low.shape == (2, 2, 3)
    assert colours(first) == {(255, 0, 0), (0, 0, 0)}
    inferno = colormaps["inferno"]
    colour = {share: tuple(inferno(share, bytes=True)[:3]) for share in (0.0, 0.25, 0.5, 1.0)}
    assert colours(low) == {colour[0], colour[0.25], colour[0.5]}
    assert colours(high) == {colour[0], colour[0.5], colour[1.0]}
    assert plot.wide
    assert "be$ni$gn" in plot.svg
    assert "nats" in plot.svg
    assert plot.svg == map_plot("maps", "entropy <of> pixels", rows(), 2.0, "nats").svg


def test_a_row_may_be_shorter():
    first, second = rows()
    assert len(pictures_in(map_plot("maps", "t", [first, second[:1]], 2.0, "nats").svg)) >= 3


def test_pictures_alone_have_no_scale():
    svg = map_plot("maps", "t", [[rows()[0][0]]], 2.0, "nats").svg
    assert len(pictures_in(svg)) == 1
    assert "nats" not in svg
