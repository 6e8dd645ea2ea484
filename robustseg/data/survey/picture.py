"""Picture of surveyed pairs: images with their masks in the colours of the proposed table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np
from PIL import Image, ImageDraw

from robustseg.data.errors import DataError
from robustseg.data.mask_forms import COLOUR_MODES, GREY_MODES, form_of
from robustseg.data.pairing import FilePair
from robustseg.data.pictures import ImageForm, decode_image, open_picture
from robustseg.data.survey.proposal import Proposal

_CELL = (240, 180)
"""Width and height of an image in pixels."""
_COLUMNS = 2
_PAIRS = 8
_TEXT, _GAP = 14, 8


def draw_pairs(pairs: Sequence[FilePair], proposal: Proposal | None) -> Image.Image:
    """Draw up to eight evenly spread pairs, two in a row, each with its name.

    Args:
        pairs: The pairs, at least one.
        proposal: The reading of the masks; without one they are drawn as viewers show them.
    """
    places = np.unique(np.linspace(0, len(pairs) - 1, min(_PAIRS, len(pairs))).round().astype(int))
    width, height = 2 * _CELL[0] + 2 * _GAP, _CELL[1] + _TEXT + _GAP
    rows = -(-len(places) // _COLUMNS)
    sheet = Image.new("RGB", (width * min(_COLUMNS, len(places)), height * rows), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for number, place in enumerate(places):
        left, top = number % _COLUMNS * width, number // _COLUMNS * height
        draw.text((left + 2, top + 1), pairs[place].id[-70:].encode("ascii", "replace").decode(), fill=(0, 0, 0))
        for column, picture in enumerate(_both(pairs[place], proposal)):
            if picture is not None:
                sheet.paste(picture, (left + column * (_CELL[0] + 2), top + _TEXT))
    return sheet


def _both(pair: FilePair, proposal: Proposal | None) -> list[Image.Image | None]:
    found: list[Image.Image | None] = []
    for mask in (False, True):
        try:
            picture = (
                _mask(pair, proposal)
                if mask
                else Image.fromarray(decode_image(pair.image, convert=get_args(ImageForm)))
            )
        except DataError:  # a problem that is named in words
            found.append(None)
            continue
        scale = min(_CELL[0] / picture.width, _CELL[1] / picture.height)
        size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        resample = Image.Resampling.NEAREST if mask else Image.Resampling.BILINEAR
        found.append(picture.resize(size, resample))
    return found


def _mask(pair: FilePair, proposal: Proposal | None) -> Image.Image:
    with open_picture(pair.mask) as picture:
        if picture.mode not in (*GREY_MODES, *COLOUR_MODES, "P"):
            raise DataError(f"mask {pair.mask} has the colour mode {picture.mode}.")
        form = form_of(picture, pair.mask)
    codes = form.colour.copy()
    if proposal is not None and proposal.masks != "colours":
        code_of = {row.id: row.colour[0] << 16 | row.colour[1] << 8 | row.colour[2] for row in proposal.rows}
        numbers = form.shown if proposal.masks == "shown" or (form.stored < 0).all() else form.stored
        codes = np.array([code_of.get(number, 0xFF00FF) for number in numbers.tolist()])
    places = np.searchsorted(form.distinct, form.places)
    channels = np.stack([codes >> 16 & 255, codes >> 8 & 255, codes & 255], 1).astype(np.uint8)
    return Image.fromarray(channels[places])
