"""Pictures that are embedded in a report."""

from __future__ import annotations

import base64
import io
from typing import Literal, NamedTuple

from PIL import Image

from robustseg.evaluation.errors import ReportError
from robustseg.opening.pictures import parse_picture

_PNG = b"\x89PNG\r\n\x1a\n"


class PanelPicture(NamedTuple):
    """A picture of one image under one attack, see :func:`~robustseg.evaluation.draw_panel`, with its caption."""

    kind: Literal["worst", "best"]
    """Group of the images with the fewest or with the most correct pixels under attack."""
    id: str
    """Id of the sample."""
    attack: str
    """Name of the attack in the card."""
    clean_pixel_acc: float | None
    """Pixel accuracy of this image without attack, in [0, 1]."""
    robust_pixel_acc: float | None
    """Pixel accuracy of this image under the attack, in [0, 1]."""
    picture: bytes | Image.Image
    """The panel, as the bytes of a PNG file or as a PIL image."""


def data_uri(picture: PanelPicture) -> str:
    """Return the panel as ``data:image/png;base64,…``.

    Raises:
        ReportError: The bytes are no readable PNG file.
    """
    if isinstance(picture.picture, Image.Image):
        buffer = io.BytesIO()
        # Metadata of the image (dates, text) are left out, since they would change the report's bytes.
        picture.picture.convert("RGB").save(buffer, format="PNG", optimize=True)
        content = buffer.getvalue()
    else:
        content = picture.picture
        _check_png(content, picture.id)
    return f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}"


def _check_png(content: bytes, name: str) -> None:
    remedy = "give the bytes of a PNG file or a PIL image."
    if not content.startswith(_PNG):
        raise ReportError(f"the picture of {name!r} is not a PNG file: {remedy}")
    try:
        with parse_picture(content) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ReportError(f"the picture of {name!r} cannot be decoded ({error}): {remedy}") from None
