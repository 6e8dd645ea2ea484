"""Checksum in a JSON file of the package, by which its reader notices that it was altered."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

SEAL = "crc32"
"""Key of the checksum at the top of a file."""


class SealError(ValueError):
    """Error for content that its checksum does not fit."""


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return JSON-serialisable content with its checksum.

    Raises:
        ValueError: A number is not finite, which JSON cannot represent.
    """
    return {**content, SEAL: _checksum(content)}


def unsealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return parsed content without its checksum, compared with it; older files have none.

    Raises:
        SealError: The content is not what was written.
    """
    rest = {key: value for key, value in content.items() if key != SEAL}
    if SEAL in content and content[SEAL] != _checksum(rest):
        raise SealError(f"it was altered or damaged after it was written: its {SEAL} does not fit")
    return rest


def _checksum(content: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True, allow_nan=False).encode())
