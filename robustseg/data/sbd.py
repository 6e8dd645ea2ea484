"""Masks of the Semantic Boundaries Dataset, stored as MATLAB files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from robustseg.data.errors import DataError, not_permitted
from robustseg.data.matlab import MAGIC, MatlabError, fields, numbers, variables
from robustseg.data.transforms import Pixels
from robustseg.opening.regular import open_regular, read_bytes

_MOST = 2**26
"""Most bytes of a file, and of a variable in it, unpacked; the masks have 0.2 megapixels."""


def check_sbd_header(path: Path) -> None:
    """Check that a file begins like a MATLAB 5 file.

    Raises:
        DataError: The file is missing, unreadable or begins otherwise.
    """
    try:
        with open_regular(path, _MOST) as file:
            start = file.read(len(MAGIC))
    except OSError as error:
        raise _unreadable(path, error) from error
    if start != MAGIC:
        raise DataError(f"{path} is no MATLAB 5 file, as SBD's masks are: unpack SBD again.")


def read_sbd_mask(path: Path) -> Pixels:
    """Decode ``GTcls.Segmentation``: H×W ids, 0 for the background and 1 to 20 for VOC's classes.

    Args:
        path: A file of SBD's folder ``cls``; files of ``inst``, with numbers of objects, are refused.

    Raises:
        DataError: The file is missing, damaged, or holds something else.
    """
    check_sbd_header(path)
    try:
        found = {matrix.name: matrix for matrix in variables(read_bytes(path, _MOST), _MOST)}
        record = fields(found["GTcls"]).get("Segmentation") if "GTcls" in found else None
        mask = None if record is None else numbers(record)
    except MatlabError as error:
        raise DataError(f"{path} cannot be decoded ({error}): unpack SBD again.") from error
    except OSError as error:
        raise _unreadable(path, error) from error
    if "GTcls" not in found:
        instead = "GTinst, the objects: take SBD's folder cls" if "GTinst" in found else "no GTcls: unpack SBD again"
        raise DataError(f"{path} holds {instead}.")
    if record is None:
        raise DataError(f"{path} holds a GTcls without Segmentation: unpack SBD again.")
    if mask is None or mask.ndim != 2 or mask.dtype != np.uint8:
        raise DataError(f"{path} holds a GTcls.Segmentation that is no array of 8-bit ids: unpack SBD again.")
    return np.ascontiguousarray(mask)


def _unreadable(path: Path, error: OSError) -> DataError:
    if isinstance(error, PermissionError):
        return not_permitted(path)
    return DataError(f"{path} cannot be opened ({error.strerror}): unpack SBD again.")
