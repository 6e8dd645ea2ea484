"""Images per second from files to tensors, against decoding alone and against torchvision's means.

    python benchmarks/data_loading.py [--size 360 480 --images 24 --format jpg --resize 180 240]
    python benchmarks/data_loading.py --root data/camvid --resize 180 240
    python benchmarks/data_loading.py --size 1024 2048 --images 8 --format png --resize 512 1024
    python benchmarks/data_loading.py --formats   # the comparison behind the format of data.disk_cache

Pictures are written to a temporary folder unless --root names a CamVid. All contenders run in rounds, one after the
other in each round, and ratios are formed within a round, so that a temporary slowdown of the machine cancels.
Everything in one process and one thread is clocked in processor time, which excludes the time in which other processes
have the core. The DataLoader with its workers is clocked in wall time, against our own data set in wall time. Files are
read from the operating system's memory, so the time of a disk is not included. The output shows the medians over the
rounds, and the smallest and largest values.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import albumentations
import cv2
import numpy as np
import PIL
import torch
import torchvision
from data_loading_formats import compare_formats
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2
from torchvision.tv_tensors import Image as ImageTensor
from torchvision.tv_tensors import Mask

from robustseg.data import CamVid, SegmentationDataset
from robustseg.data.loading import end_workers, make_loader

Contender = Callable[[], object]
BASE = "OpenCV decodes image and mask"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(360, 480), metavar=("H", "W"), help="of the pictures")
    parser.add_argument("--images", type=int, default=24, help="pictures per pass")
    parser.add_argument("--format", choices=("jpg", "png"), default="jpg", help="of the images; masks are PNG")
    parser.add_argument("--root", help="a CamVid, of which the first --images of the training split are read")
    parser.add_argument("--resize", type=int, nargs=2, default=(180, 240), metavar=("H", "W"), help="data.image_size")
    parser.add_argument("--crop", type=int, nargs=2, metavar=("H", "W"), help="by default that of --resize")
    parser.add_argument("--batch", type=int, default=4, help="of the DataLoader")
    parser.add_argument("--workers", type=int, nargs="*", default=(1, 2), help="of the DataLoader, one row each")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--formats", action="store_true", help="compare formats for a cache on disk instead")
    parser.add_argument("--folder", help="for the pictures and the cache; by default a temporary one")
    args = parser.parse_args()
    for name, least in (("images", 1), ("batch", 1), ("rounds", 1)):
        if getattr(args, name) < least:
            parser.error(f"--{name} {getattr(args, name)}: use at least {least}.")
    for name in ("size", "resize", "crop"):
        if getattr(args, name) is not None and min(getattr(args, name)) < 16:
            parser.error(f"--{name} {' '.join(map(str, getattr(args, name)))}: use at least 16 16.")
    if args.root is not None and not (Path(args.root) / "train").is_dir():
        parser.error(f"--root {args.root}: it holds no folder train.")
    if args.folder is not None and not Path(args.folder).is_dir():
        parser.error(f"--folder {args.folder}: no such folder.")
    return args


def street(index: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Draw an image that compresses about as well as a photograph of a street, and its mask of a few dozen regions."""
    rng = np.random.default_rng(index)
    height, width = size
    image = np.full((*size, 3), 128, np.float32)
    for octave in range(2, 8):  # the spectrum of natural images falls with the frequency
        coarse = rng.normal(0, 48 / octave, (2**octave, 2 ** (octave + 1), 3)).astype(np.float32)
        image += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    mask = np.zeros(size, np.uint8)
    for _ in range(40):
        corner, extent = rng.random(2) * size, rng.random(2) * size * 0.3 + 2
        rows, columns = (slice(int(corner[k]), int(corner[k] + extent[k])) for k in range(2))
        mask[rows, columns] = rng.integers(12)
        image[rows, columns] += rng.normal(0, 30, 3)
    image += rng.normal(0, 1.5, image.shape)  # noise of the sensor
    return image.clip(0, 255).astype(np.uint8), mask


def write_pictures(root: Path, args: argparse.Namespace) -> None:
    for name in ("train", "trainannot"):
        (root / name).mkdir(parents=True)
    for index in range(args.images):
        image, mask = street(index, tuple(args.size))
        options = {"quality": 92} if args.format == "jpg" else {}
        Image.fromarray(image).save(root / "train" / f"{index:04d}.{args.format}", **options)
        Image.fromarray(mask).save(root / "trainannot" / f"{index:04d}.png")


@contextmanager
def pictures(args: argparse.Namespace) -> Iterator[tuple[Path, Path]]:
    """Provide a CamVid and a folder for all that is written, and remove both afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="data_loading_", dir=args.folder))
    try:
        if args.root is None:
            write_pictures(folder / "pictures", args)
        else:
            for name in ("train", "trainannot"):
                (folder / "pictures" / name).mkdir(parents=True)
                for path in sorted((Path(args.root) / name).iterdir())[: args.images]:
                    shutil.copy(path, folder / "pictures" / name)
        yield folder / "pictures", folder / "written"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def module(root: Path, args: argparse.Namespace, resized: bool = True, **changes: Any) -> CamVid:
    size = tuple(args.resize) if resized else None
    common = {"check": "none", "num_workers": 0, "batch_size": args.batch, "augment": False}
    if changes.get("augment"):
        common["crop_size"] = tuple(args.crop or args.resize)
    return CamVid(str(root), image_size=size, **{**common, **changes})


def samples(dataset: SegmentationDataset) -> Contender:
    def run() -> None:
        for index in range(len(dataset)):
            dataset[index]

    return run


def each(pairs: Iterable[tuple[Path, Path]], read: Callable[[str, str], object]) -> Contender:
    names = [(str(image), str(mask)) for image, mask in pairs]

    def run() -> None:
        for image, mask in names:
            read(image, mask)

    return run


def with_opencv(image: str, mask: str) -> object:
    return cv2.imread(image, cv2.IMREAD_COLOR), cv2.imread(mask, cv2.IMREAD_UNCHANGED)


def with_pillow(image: str, mask: str) -> object:
    return np.array(Image.open(image)), np.array(Image.open(mask))


def with_pillow_and_v2(transform: v2.Transform) -> Callable[[str, str], object]:
    """Load like torchvision.datasets.VOCSegmentation, with the transforms of torchvision's references."""

    def read(image: str, mask: str) -> object:
        picture = ImageTensor(v2.functional.pil_to_tensor(Image.open(image).convert("RGB")))
        return transform(picture, Mask(v2.functional.pil_to_tensor(Image.open(mask))))

    return read


def with_decode_image(transform: v2.Transform) -> Callable[[str, str], object]:
    def read(image: str, mask: str) -> object:
        picture = ImageTensor(decode_image(image, ImageReadMode.RGB))
        return transform(picture, Mask(decode_image(mask, ImageReadMode.UNCHANGED)))

    return read


def to_tensors(*before: v2.Transform) -> v2.Transform:
    kinds = {ImageTensor: torch.float32, Mask: torch.int64, "others": None}
    return v2.Compose([*before, v2.ToDtype(kinds, scale=True)])


def augmentation(crop: tuple[int, int]) -> list[v2.Transform]:
    """Return our augmentation as torchvision's transforms."""
    fill = {ImageTensor: (124, 116, 104), Mask: 255}
    return [
        v2.ScaleJitter(crop, (0.5, 2.0), antialias=True),
        v2.RandomCrop(crop, pad_if_needed=True, fill=fill),
        v2.RandomHorizontalFlip(),
        v2.ColorJitter(0.25, 0.25, 0.25, 0.05),
    ]


def contenders(root: Path, written: Path, args: argparse.Namespace) -> dict[str, Contender]:
    """Return a pass over all pictures, in one process and one thread, for each name."""
    plain = module(root, args, resized=False).dataset("train")
    pairs = [(pair.image, pair.mask) for pair in plain.pairs]
    resize, crop = v2.Resize(list(args.resize), antialias=True), tuple(args.crop or args.resize)
    kept, warm = {"cache": True}, {"disk_cache": str(written / "warm")}

    def cold() -> None:
        shutil.rmtree(written / "cold", ignore_errors=True)
        samples(module(root, args, disk_cache=str(written / "cold")).dataset("train"))()

    return {
        BASE: each(pairs, with_opencv),
        "Pillow decodes image and mask": each(pairs, with_pillow),
        "our data set": samples(plain),
        "torchvision decode_image": each(pairs, with_decode_image(to_tensors())),
        "torchvision Pillow (VOCSegmentation)": each(pairs, with_pillow_and_v2(to_tensors())),
        "resized: our data set": samples(module(root, args).dataset("train")),
        "resized: torchvision decode_image": each(pairs, with_decode_image(to_tensors(resize))),
        "resized: torchvision Pillow": each(pairs, with_pillow_and_v2(to_tensors(resize))),
        "resized: our cache in memory": samples(module(root, args, **kept).dataset("train")),
        "resized: our disk_cache, cold": cold,
        "resized: our disk_cache, warm": samples(module(root, args, **warm).dataset("train")),
        "full size: our disk_cache, warm": samples(module(root, args, resized=False, **warm).dataset("train")),
        "augmented: our data set": samples(module(root, args, augment=True).dataset("train")),
        "augmented: our disk_cache, warm": samples(module(root, args, augment=True, **warm).dataset("train")),
        "augmented: our cache in memory": samples(module(root, args, augment=True, **kept).dataset("train")),
        "augmented: torchvision decode_image": each(pairs, with_decode_image(to_tensors(resize, *augmentation(crop)))),
    }


def loaders(root: Path, written: Path, args: argparse.Namespace) -> dict[str, Contender]:
    """Return a pass over all pictures by DataLoaders with workers that live for all rounds, for each name."""
    result: dict[str, Contender] = {}
    kinds: dict[str, dict[str, Any]] = {"files": {}, "disk_cache": {"disk_cache": str(written / "warm")}}
    for kind, changes in kinds.items():
        for workers in (0, *args.workers):
            data = module(root, args, **changes)
            loader: DataLoader[Any] = make_loader(data.dataset("train"), args.batch, workers)
            result[f"DataLoader, {workers} workers, {kind}"] = lambda loader=loader: sum(1 for _ in loader)
    return result


def turns(rounds: int, runs: dict[str, Contender], clock: Callable[[], float]) -> list[dict[str, float]]:
    """Measure the seconds of each contender, by round; each round starts with another contender."""
    for run in runs.values():  # warm up, fill the caches, start the workers
        run()
    result = []
    for first in range(rounds):
        names = [*runs][first % len(runs) :] + [*runs][: first % len(runs)]
        seconds = {}
        for name in names:
            start = clock()
            runs[name]()
            seconds[name] = clock() - start
        result.append(seconds)
    return result


def summary(values: list[float], digits: int = 2) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}..{max(values):.{digits}f})"


def rows(measured: list[dict[str, float]], base: str, images: int) -> list[tuple[str, str, str]]:
    """Build rows of contender, images per second, and speed relative to ``base``."""
    return [
        (
            name,
            summary([images / seconds[name] for seconds in measured], 0),
            summary([seconds[base] / seconds[name] for seconds in measured]),
        )
        for name in measured[0]
    ]


def print_table(base: str, table: list[tuple[str, str, str]]) -> None:
    header = f"{'images/s':38} {'median (range)':>26} {'/ ' + base:>36}"
    print(header, "-" * len(header), sep="\n")
    for name, speed, ratio in table:
        print(f"{name:38} {speed:>26} {ratio:>36}")
    print()


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    print("command:", "python", *sys.argv)
    print(
        f"python {platform.python_version()}, torch {torch.__version__}, torchvision {torchvision.__version__}, "
        f"numpy {np.__version__}, OpenCV {cv2.__version__}, Pillow {PIL.__version__}, "
        f"albumentations {albumentations.__version__}, on {platform.processor() or platform.machine()}"
    )
    with pictures(args) as (root, written):
        files = [path for path in root.rglob("*") if path.is_file()]
        dataset = module(root, args, resized=False).dataset("train")
        height, width = dataset.arrays(0)[1].shape
        kilobytes = sum(path.stat().st_size for path in files) / len(dataset) / 1e3
        print(
            f"{len(dataset)} pictures of {height}x{width} from {args.root or 'here'}, {kilobytes:.0f} kB with mask, "
            f"resized to {args.resize[0]}x{args.resize[1]}, {args.rounds} rounds"
        )
        if args.formats:
            resized = module(root, args).dataset("train")
            for found in (dataset, resized):
                compare_formats([found.arrays(index) for index in range(len(found))], written / "formats", args.rounds)
            return
        measured = turns(args.rounds, contenders(root, written, args), time.process_time)
        entries = ((64 + 4 * rows * columns) / 1e3 for rows, columns in (args.resize, (height, width)))
        print("an entry of data.disk_cache takes {:.0f} kB resized and {:.0f} kB at full size\n".format(*entries))
        print("one process, one thread, processor time")
        print_table(BASE, rows(measured, BASE, len(dataset)))
        print(f"resized, batches of {args.batch}, wall time")
        measured = turns(args.rounds, loaders(root, written, args), time.perf_counter)
        end_workers()
        base = "DataLoader, 0 workers, files"
        print_table(base, rows(measured, base, len(dataset)))


if __name__ == "__main__":
    main()
