"""Masks of the Semantic Boundaries Dataset, stored as MATLAB files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.io import loadmat

from robustseg.data.errors import DataError, not_permitted
from robustseg.data.transforms import Pixels

_MAGIC = b"MATLAB 5.0 MAT-file"


def check_sbd_header(path: Path) -> None:
    """Check that a file begins like a MATLAB 5 file.

    Raises:
        DataError: The file is missing, unreadable or begins otherwise.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(_MAGIC))
    except PermissionError as error:
        raise not_permitted(path) from error
    except OSError as error:
        raise DataError(f"{path} cannot be opened ({error.strerror}): unpack SBD again.") from error
    if start != _MAGIC:
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
        variables = loadmat(path)
    except Exception as error:  # for truncated or altered files: a dozen types, from TypeError to zlib's
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} cannot be decoded ({reason}): unpack SBD again.") from error
    if "GTcls" not in variables:
        found = "GTinst, the objects: take SBD's folder cls" if "GTinst" in variables else "no GTcls: unpack SBD again"
        raise DataError(f"{path} holds {found}.")
    record = variables["GTcls"]
    if record.size != 1 or "Segmentation" not in (record.dtype.names or ()):
        raise DataError(f"{path} holds a GTcls without Segmentation: unpack SBD again.")
    mask = np.asarray(record["Segmentation"].item())
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise DataError(f"{path} holds a GTcls.Segmentation that is no array of 8-bit ids: unpack SBD again.")
    return np.ascontiguousarray(mask)
