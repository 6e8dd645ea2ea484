from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.real import camvid


@pytest.fixture
def camvid_root() -> Path:
    """The real CamVid, where this machine has it."""
    return camvid()


def write_image(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **({"quality": 95} if path.suffix.lower() != ".png" else {}))


def pattern(index: int, size: tuple[int, int] = (24, 32)) -> tuple[np.ndarray, np.ndarray]:
    """An image that differs by index and a mask in which all ids of CamVid and its void occur."""
    rng = np.random.default_rng(index)
    mask = np.arange(size[0] * size[1], dtype=np.uint8).reshape(size) // 8 % 12
    image = np.empty((*size, 3), np.uint8)
    image[:] = rng.integers(40, 215, 3)
    image[: size[0] // 2] //= 2
    return image, mask


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small data set in SegNet's layout: 5 training, 3 validation images, PNG and JPEG mixed."""
    for split, names in {
        "train": ["a.png", "b.jpg", "c.JPG", "d.jpeg", "e.PNG"],
        "val": ["f.png", "g.jpg", "h.png"],
    }.items():
        for number, name in enumerate(names):
            image, mask = pattern(number)
            write_image(tmp_path / split / name, image)
            write_image(tmp_path / f"{split}annot" / f"{Path(name).stem}.png", mask)
    return tmp_path
