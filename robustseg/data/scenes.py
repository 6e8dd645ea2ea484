"""Procedural scenes: toys on a floor, with exact ground truth.

Each class is a shape with a most frequent texture and hue, and neither is reliable:

- The outline always shows the class. It is tens of grey levels strong, so it survives a perturbation of 8/255.
- The coarse texture is the class's own in most objects and any other in the rest; the hue scatters so widely that
  neighbouring classes overlap.
- A fine grating of seven grey levels is the class's own in nearly all objects: a cue like any other to ordinary
  training, and one that a perturbation of 8/255 can erase or forge.
- Scraps of paper with the same textures and hues lie on the floor and belong to it.

Everything is drawn with numpy from ``SeedSequence`` and PCG64, whose streams are the same on every platform.
Distances are in pixels and negative inside an outline.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from robustseg.data.transforms import Pixels
from robustseg.types import IGNORE_INDEX

Field = NDArray[np.floating[Any]]
"""Field of one value, or one colour, per pixel."""
Distance = Callable[[Field, Field, float], Field]
"""Distance of points (u, v) from the outline of a shape of radius r, all in pixels."""
Texture = Callable[[Field, Field], Field]
"""Values in about [-1, 1] of points (u, v), in units of a shape's radius."""

TEXTURES: tuple[Texture, ...] = (
    lambda u, v: np.sin(6.3 * v),
    lambda u, v: np.where(np.sin(5 * v) > 0.93, np.float32(-1.6), np.float32(0.3)),
    lambda u, v: np.sin(6.3 * u + 1.5 * np.sin(5 * v)),
    lambda u, v: np.sin(8 * np.hypot(u, v)),
    lambda u, v: np.clip(4 * (np.cos(7 * u) + np.cos(7 * v)) - 3, -1, 1),
    lambda u, v: np.sign(np.sin(5 * u) * np.sin(5 * v)),
)
"""Stripes, planks, waves, circles, dots and checks: the most frequent textures of ``TOYS``, in their order."""


GREY = (1.0, 1.0, 1.0)
RED_GREEN = (1.0, -1.0, 0.0)
YELLOW_BLUE = (0.5, 0.5, -1.0)


class Toy(NamedTuple):
    """The common properties of the objects of one class."""

    distance: Distance
    hue: float
    """Most frequent hue, in turns."""
    radius: tuple[float, float]
    """Smallest and largest radius, in hundredths of the scene's shorter side."""
    grating: tuple[float, float, float]
    """RGB direction of the fine grating: grey, red against green, or yellow against blue."""
    upright: bool
    """True if the grating's lines are vertical, not horizontal; flips and changes of scale preserve this."""


def _flower(u: Field, v: Field, r: float) -> Field:
    # five petals; dividing by the slope keeps the void rim equally wide all around them
    phi, rho = 5 * np.arctan2(v, u), np.hypot(u, v)
    slope = 1.3 * np.sin(phi) * r / np.maximum(rho, 0.4 * r)
    distance: Field = (rho - r * (0.74 + 0.26 * np.cos(phi))) / np.sqrt(1 + slope * slope)
    return distance


TOYS = (
    # ball
    Toy(lambda u, v, r: np.hypot(u, v) - r, 0.98, (5, 24), GREY, True),
    # crate
    Toy(lambda u, v, r: np.maximum(np.abs(u) - 0.9 * r, np.abs(v) - 0.7 * r), 0.08, (6, 28), GREY, False),
    # tent: two sides at 60 degrees over a base line
    Toy(lambda u, v, r: np.maximum(0.866 * np.abs(u) - 0.5 * v, v) - 0.5 * r, 0.36, (9, 38), RED_GREEN, True),
    # ring
    Toy(lambda u, v, r: np.abs(np.hypot(u, v) - 0.72 * r) - 0.28 * r, 0.17, (7, 30), RED_GREEN, False),
    # flower
    Toy(_flower, 0.82, (7, 32), YELLOW_BLUE, True),
    # pencil: a bar with two tips
    Toy(
        lambda u, v, r: np.abs(v) + 0.6 * np.maximum(np.abs(u) - 0.75 * r, 0) - 0.17 * r,
        0.60,
        (12, 48),
        YELLOW_BLUE,
        False,
    ),
)
"""Classes 1 to 6; class 0 is the floor with the scraps on it."""


class Canvas(NamedTuple):
    """A scene that is being drawn."""

    image: Field
    """RGB image, H×W×3 in [0, 1]."""
    mask: Pixels
    """Class ids, H×W."""
    unit: float
    """A hundredth of the shorter side, in pixels."""


def render_scene(entropy: Sequence[int], size: tuple[int, int] = (96, 96)) -> tuple[Pixels, Pixels]:
    """Draw a scene.

    Args:
        entropy: Non-negative integers that determine the scene.
        size: (height, width) in pixels.

    Returns:
        The H×W×3 RGB image and the H×W mask: 0 for the floor, 1 to 6 for ``TOYS``, and the ignore index along the
        outlines, since a pixel there shows both sides.
    """
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))
    height, width = size
    unit = min(size) / 100
    canvas = Canvas(_floor(rng, size, unit), np.zeros(size, np.uint8), unit)
    crowd = height * width / min(size) ** 2
    for _ in range(round(crowd * rng.integers(2, 6))):
        _draw_scrap(canvas, rng)
    # small toys last, so that most of them stay visible
    toys = [_choose_toy(rng) for _ in range(round(crowd * rng.integers(6, 12)))]
    for label, radius in sorted(toys, key=lambda toy: -toy[1]):
        _draw_toy(canvas, rng, label, radius * unit)
    return _photograph(canvas.image, rng), canvas.mask


def _choose_toy(rng: Generator) -> tuple[int, float]:
    label = int(rng.integers(len(TOYS))) + 1
    smallest, largest = TOYS[label - 1].radius
    return label, float(smallest * (largest / smallest) ** rng.random())


def _photograph(image: Field, rng: Generator) -> Pixels:
    height, width, _ = image.shape
    # the light falls off across the scene
    slope = rng.uniform(-0.18, 0.18, 2).astype(np.float32)
    light = 1 + slope[0] * np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    light = light + slope[1] * np.linspace(-1, 1, width, dtype=np.float32)
    noise = rng.standard_normal(image.shape, np.float32)
    noise *= np.float32(rng.uniform(0.003, 0.009))
    noise += image * light[..., None]
    pixels: Pixels = (np.clip(noise, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)
    return pixels


def _floor(rng: Generator, size: tuple[int, int], unit: float) -> Field:
    y, x = (axis.astype(np.float32) / np.float32(unit) for axis in np.ogrid[: size[0], : size[1]])
    angle, bend = rng.uniform(0, np.pi), rng.uniform(0.5, 2.0)
    u = np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y
    v = np.float32(np.cos(angle)) * y - np.float32(np.sin(angle)) * x
    phases = rng.uniform(0, 2 * np.pi, 3).astype(np.float32)
    grain = np.sin(v * np.float32(0.55) + np.float32(bend) * np.sin(u * np.float32(0.05) + phases[0]) + phases[1])
    boards = np.where(np.sin(v * np.float32(0.19) + phases[2]) > np.float32(0.985), np.float32(-1), np.float32(0))
    base = _colour(rng, rng.uniform(0, 1), (0.1, 0.4), (0.4, 0.75))
    relief = np.float32(rng.uniform(0.02, 0.06)) * grain + np.float32(rng.uniform(0, 0.15)) * boards
    image: Field = base + relief[..., None]
    return image


def _colour(rng: Generator, hue: float, saturation: tuple[float, float], value: tuple[float, float]) -> Field:
    rgb = colorsys.hsv_to_rgb(hue % 1.0, rng.uniform(*saturation), rng.uniform(*value))
    return np.array(rgb, np.float32)


class Patch(NamedTuple):
    """A rectangle of the canvas around a shape."""

    rows: slice
    columns: slice
    x: Field
    """Columns (1×w) and, in ``y``, rows (h×1) of the canvas, in pixels."""
    y: Field
    u: Field
    """Coordinates along the axes of the shape, ``u`` and ``v``, h×w in pixels from its centre."""
    v: Field


def _place(canvas: Canvas, rng: Generator, radius: float) -> Patch:
    height, width = canvas.mask.shape
    x0, y0, angle = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0, 2 * np.pi)
    reach = radius * 1.1 + 2
    rows = slice(max(0, int(y0 - reach)), min(height, int(y0 + reach) + 2))
    columns = slice(max(0, int(x0 - reach)), min(width, int(x0 + reach) + 2))
    y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None]
    x = np.arange(columns.start, columns.stop, dtype=np.float32)[None]
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    dx, dy = x - np.float32(x0), y - np.float32(y0)
    return Patch(rows, columns, x, y, cos * dx + sin * dy, cos * dy - sin * dx)


def _paint(canvas: Canvas, patch: Patch, distance: Field, colour: Field) -> None:
    region = canvas.image[patch.rows, patch.columns]
    cover = np.clip(np.float32(0.5) - distance, 0, 1)[..., None]
    region += cover * (colour - region)


def _texture(rng: Generator, patch: Patch, radius: float, favourite: int, loyalty: float) -> Field:
    own = rng.random() < loyalty
    pick = favourite if own else int(rng.integers(len(TEXTURES)))
    strength = np.float32(rng.uniform(0.06, 0.16))
    r = np.float32(max(radius, 1.0))
    texture: Field = strength * TEXTURES[pick](patch.u / r, patch.v / r)
    return texture


def _grating(rng: Generator, patch: Patch, toy: Toy) -> Field:
    """Return lines 3 pixels apart and 7 grey levels strong."""
    if rng.random() > 0.98:
        toy = TOYS[int(rng.integers(len(TOYS)))]
    wave = np.sin(np.float32(2.1) * (patch.x if toy.upright else patch.y))
    lines: Field = np.float32(0.028) * np.array(toy.grating, np.float32) * wave[..., None]
    return lines


def _draw_scrap(canvas: Canvas, rng: Generator) -> None:
    """Paint a flat, irregular patch that belongs to the floor."""
    radius = float(rng.uniform(4, 22)) * canvas.unit
    patch = _place(canvas, rng, radius)
    phi = np.arctan2(patch.v, patch.u)
    phases = rng.uniform(0, 2 * np.pi, 2).astype(np.float32)
    edge = 0.7 + np.float32(0.15) * np.cos(2 * phi + phases[0]) + np.float32(0.12) * np.cos(3 * phi + phases[1])
    distance = np.hypot(patch.u, patch.v) - np.float32(radius) * edge.astype(np.float32)
    colour = _colour(rng, rng.uniform(0, 1), (0.1, 0.5), (0.35, 0.9))
    texture = _texture(rng, patch, radius, 0, loyalty=0.0)
    _paint(canvas, patch, distance, colour + texture[..., None])


def _draw_toy(canvas: Canvas, rng: Generator, label: int, radius: float) -> None:
    toy = TOYS[label - 1]
    patch = _place(canvas, rng, radius)
    distance = toy.distance(patch.u, patch.v, radius).astype(np.float32)
    _cast_shadow(canvas, rng, patch, distance)
    colour = _colour(rng, toy.hue + rng.normal(0, 0.045), (0.35, 0.9), (0.5, 0.95))
    texture = _texture(rng, patch, radius, label - 1, loyalty=0.85)
    # lit from the upper left
    shade = np.float32(-0.08 / radius) * (patch.x + patch.y - (patch.x.mean() + patch.y.mean()))
    relief = (texture + shade)[..., None] + _grating(rng, patch, toy)
    _paint(canvas, patch, distance, colour + relief)
    mask = canvas.mask[patch.rows, patch.columns]
    mask[distance < 0] = label
    mask[np.abs(distance) < np.float32(0.75)] = IGNORE_INDEX


def _cast_shadow(canvas: Canvas, rng: Generator, patch: Patch, distance: Field) -> None:
    """Darken the canvas below and to the right of a shape."""
    shift = max(1, round(float(rng.uniform(1.5, 4)) * canvas.unit))
    softness = np.float32(rng.uniform(2, 5) * canvas.unit)
    height, width = canvas.mask.shape
    rows = slice(min(patch.rows.start + shift, height), min(patch.rows.stop + shift, height))
    columns = slice(min(patch.columns.start + shift, width), min(patch.columns.stop + shift, width))
    region = canvas.image[rows, columns]
    shadow = np.clip(np.float32(0.5) - distance[: region.shape[0], : region.shape[1]] / softness, 0, 1)
    region *= 1 - np.float32(rng.uniform(0.3, 0.5)) * shadow[..., None]
