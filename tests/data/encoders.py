"""Writers of PNG files in forms that Pillow does not write, and of all forms that show the same picture."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
"""PNG's colour types."""


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def save_png(path: Path, pixels: np.ndarray, colour_type: int, bits: int = 8, *extra: tuple[bytes, bytes]) -> Path:
    """Write H×W or H×W×C numbers of ``bits`` bits, with further chunks before the pixels."""
    height, width = pixels.shape[:2]
    if bits < 8:
        padded = np.pad(pixels, ((0, 0), (0, -width % (8 // bits)))).reshape(height, -1, 8 // bits).astype(int)
        rows = (padded << np.arange(8 - bits, -1, -bits)).sum(2).astype(np.uint8)
    else:
        rows = pixels.astype(">u2" if bits == 16 else np.uint8).reshape(height, -1)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", head), *extra, (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks))
    return path


def save_grey(path: Path, ids: np.ndarray, bits: int) -> Path:
    """A greyscale PNG of 1, 2, 4, 8 or 16 bits."""
    return save_png(path, ids, GREY, bits)


def save_palette(path: Path, indices: np.ndarray, colours: np.ndarray, bits: int = 8) -> Path:
    """A palette PNG; ``colours`` has three columns, or a fourth of opacity."""
    extra = [(b"PLTE", colours[:, :3].astype(np.uint8).tobytes())]
    if colours.shape[1] == 4:
        extra.append((b"tRNS", colours[:, 3].astype(np.uint8).tobytes()))
    return save_png(path, indices, PALETTE, bits, *extra)


def same_picture(shown: np.ndarray) -> Iterator[tuple[str, Callable[[Path], Path]]]:
    """Yield the name and the writer of each PNG form that shows the same H×W×4 RGBA picture.

    These are the forms that oxipng, optipng and pngcrush choose among.
    """
    colours, indices = np.unique(shown.reshape(-1, 4), axis=0, return_inverse=True)
    indices = indices.reshape(shown.shape[:2])
    grey, opaque = (shown[..., :3] == shown[..., :1]).all(), (shown[..., 3] == 255).all()
    yield "RGBA", lambda path: save_png(path, shown, RGBA)
    if opaque:
        yield "RGB", lambda path: save_png(path, shown[..., :3], RGB)
    hidden = colours[colours[:, 3] == 0]
    if not opaque and len(hidden) == 1 and (colours[:, 3] % 255 == 0).all():
        key = struct.pack(">HHH", *hidden[0, :3].tolist())
        if (colours[:, :3] == hidden[0, :3]).all(1).sum() == 1:
            yield "RGB with tRNS", lambda path: save_png(path, shown[..., :3], RGB, 8, (b"tRNS", key))
            if grey:
                yield "grey with tRNS", lambda path: save_png(path, shown[..., 0], GREY, 8, (b"tRNS", key[:2]))
    if grey:
        yield "grey and alpha", lambda path: save_png(path, shown[..., [0, 3]], GREY_ALPHA)
    if grey and opaque:
        yield "grey of 8 bits", lambda path: save_grey(path, shown[..., 0], 8)
        yield "grey of 16 bits", lambda path: save_grey(path, shown[..., 0].astype(np.uint16) * 257, 16)
        for bits in (1, 2, 4):
            step = 255 // (2**bits - 1)
            if (shown[..., 0] % step == 0).all():
                yield f"grey of {bits} bits", lambda path, b=bits, s=step: save_grey(path, shown[..., 0] // s, b)
    if len(colours) > 256:
        return
    popular = np.argsort(-np.bincount(indices.ravel()), kind="stable")
    for name, order in (
        ("sorted", np.arange(len(colours))),
        ("reversed", np.arange(len(colours))[::-1]),
        ("by frequency", popular),
    ):
        entries = colours[order] if not opaque else colours[order][:, :3]
        bits = next(b for b in (1, 2, 4, 8) if len(colours) <= 2**b)
        moved = np.argsort(order)[indices]
        yield f"palette {name}", lambda path, m=moved, e=entries, b=bits: save_palette(path, m, e, b)
