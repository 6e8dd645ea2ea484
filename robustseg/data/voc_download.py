"""Downloads of PASCAL VOC and SBD, which need no registration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from robustseg.data.errors import DataError
from robustseg.data.pictures import reason


def download_voc(root: Path) -> None:
    """Fetch VOC 2012's training and validation images (2 GB) and unpack them to ``root/VOCdevkit``.

    Raises:
        DataError: It failed.
    """
    from torchvision.datasets import VOCSegmentation

    page = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/"
    _fetch("PASCAL VOC 2012", root, page, lambda: VOCSegmentation(str(root), year="2012", download=True))


def download_sbd(root: Path) -> None:
    """Fetch SBD (1.4 GB) and unpack it to ``root``, with ``cls``, ``img`` and the lists there.

    Raises:
        DataError: It failed.
    """
    from torchvision.datasets import SBDataset

    page = "http://home.bharathh.info/pubs/codes/SBD/download.html"
    _fetch("SBD", root, page, lambda: SBDataset(str(root), mode="segmentation", download=True))


def _fetch(name: str, root: Path, page: str, fetch: Callable[[], object]) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
        fetch()
    # URLError and the errors of shutil and tarfile on full disks are OSErrors; a wrong checksum is a RuntimeError
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        raise DataError(
            f"the download of {name} to {root} failed ({reason(error)}): fetch it from {page}, unpack it there and set "
            f"data.download to false."
        ) from error
