"""Formats for decoded samples on disk: processor time to read one, and its size; see data_loading.py --formats."""

from __future__ import annotations

import statistics
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from safetensors.numpy import load_file, save_file

from robustseg.data.disk_cache import DiskCache

Pair = tuple[np.ndarray, np.ndarray]


class Format(NamedTuple):
    """Functions that write a sample to a file and read it from there."""

    write: Callable[[Path, np.ndarray, np.ndarray], None]
    read: Callable[[Path, tuple[int, int]], Pair]


def split(content: np.ndarray, size: tuple[int, int]) -> Pair:
    end = 3 * size[0] * size[1]
    return content[:end].reshape(*size, 3), content[end:].reshape(size)


def write_bytes(path: Path, image: np.ndarray, mask: np.ndarray) -> None:
    path.write_bytes(image.tobytes() + mask.tobytes())


def read_bytes(path: Path, size: tuple[int, int]) -> Pair:
    content = np.empty(path.stat().st_size, np.uint8)
    with open(path, "rb", buffering=0) as file:
        file.readinto(content)
    return split(content, size)


def read_mapped(path: Path, size: tuple[int, int]) -> Pair:
    """Read a sample by mapping and copying it; the copy touches the pixels, since mapping alone reads nothing."""
    return split(np.array(np.memmap(path, np.uint8, "r")), size)


def write_npy(path: Path, image: np.ndarray, mask: np.ndarray) -> None:
    with open(path, "wb") as file:
        np.save(file, image)
        np.save(file, mask)


def read_npy(path: Path, size: tuple[int, int]) -> Pair:
    with open(path, "rb") as file:
        return np.load(file), np.load(file)


def write_png(path: Path, image: np.ndarray, mask: np.ndarray) -> None:
    options = [cv2.IMWRITE_PNG_COMPRESSION, 1]
    first = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)[1].tobytes()
    path.write_bytes(len(first).to_bytes(8, "little") + first + cv2.imencode(".png", mask, options)[1].tobytes())


def read_png(path: Path, size: tuple[int, int]) -> Pair:
    content = np.fromfile(path, np.uint8)
    end = 8 + int.from_bytes(content[:8].tobytes(), "little")
    return cv2.imdecode(content[8:end], cv2.IMREAD_COLOR_RGB), cv2.imdecode(content[end:], cv2.IMREAD_UNCHANGED)


def write_zlib(path: Path, image: np.ndarray, mask: np.ndarray) -> None:
    path.write_bytes(zlib.compress(image.tobytes() + mask.tobytes(), 1))


def read_zlib(path: Path, size: tuple[int, int]) -> Pair:
    return split(np.frombuffer(zlib.decompress(path.read_bytes()), np.uint8), size)


def write_zlib_mask(path: Path, image: np.ndarray, mask: np.ndarray) -> None:
    path.write_bytes(image.tobytes() + zlib.compress(mask.tobytes(), 1))


def read_zlib_mask(path: Path, size: tuple[int, int]) -> Pair:
    content, end = path.read_bytes(), 3 * size[0] * size[1]
    mask = np.frombuffer(zlib.decompress(memoryview(content)[end:]), np.uint8)
    return np.frombuffer(content, np.uint8, end).reshape(*size, 3), mask.reshape(size)


def write_safetensors(path: Path, image: np.ndarray, mask: np.ndarray) -> None:
    save_file({"image": image, "mask": mask}, path)


def read_safetensors(path: Path, size: tuple[int, int]) -> Pair:
    tensors = load_file(path)
    return tensors["image"], tensors["mask"]


def disk_cache(folder: Path) -> Format:
    cache = DiskCache(folder)

    def read(path: Path, size: tuple[int, int]) -> Pair:
        found = cache.load(cache.key(path.name))
        assert found is not None
        return found

    def write(path: Path, image: np.ndarray, mask: np.ndarray) -> None:
        cache.store(cache.key(path.name), image, mask)
        path.write_bytes(cache.path(cache.key(path.name)).read_bytes())  # for its size

    return Format(write, read)


PLAIN = "plain bytes"
FORMATS = {
    PLAIN: Format(write_bytes, read_bytes),
    "plain bytes, mapped and copied": Format(write_bytes, read_mapped),
    ".npy twice": Format(write_npy, read_npy),
    "safetensors": Format(write_safetensors, read_safetensors),
    "plain image, mask by zlib level 1": Format(write_zlib_mask, read_zlib_mask),
    "zlib level 1": Format(write_zlib, read_zlib),
    "PNG level 1 by OpenCV": Format(write_png, read_png),
}


def compare_formats(pairs: list[Pair], folder: Path, rounds: int) -> None:
    """Print a table of reading times and sizes; every format must return the written sample."""
    folder.mkdir(parents=True, exist_ok=True)
    formats = {**FORMATS, "data.disk_cache: with checksum": disk_cache(folder)}
    size = (int(pairs[0][1].shape[0]), int(pairs[0][1].shape[1]))
    sizes = {}
    for name, form in formats.items():
        paths = [folder / f"{name}_{number}" for number in range(len(pairs))]
        for path, (image, mask) in zip(paths, pairs, strict=True):
            form.write(path, image, mask)
            found = form.read(path, size)
            assert np.array_equal(found[0], image), name
            assert np.array_equal(found[1], mask), name
        sizes[name] = sum(path.stat().st_size for path in paths) / len(pairs)
    measured: list[dict[str, float]] = []
    for _ in range(rounds):
        seconds = {}
        for name, form in formats.items():
            start = time.process_time()
            for number in range(len(pairs)):
                form.read(folder / f"{name}_{number}", size)
            seconds[name] = (time.process_time() - start) / len(pairs)
        measured.append(seconds)
    print(f"\nto read a sample of {size[0]}x{size[1]}, processor time, and what it takes on disk")
    for name in formats:
        ratios = [seconds[name] / seconds[PLAIN] for seconds in measured]
        median = statistics.median(seconds[name] for seconds in measured) * 1e3
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f})"
        print(f"{name:36} {median:8.3f} ms {'× ' + spread:>26} {sizes[name] / 1e3:10.1f} kB")
