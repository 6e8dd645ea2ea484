"""Images per second from archives that are read in place, against the unpacked files.

    python benchmarks/archives.py [--size 360 480 --images 24 --format jpg]
    python benchmarks/archives.py --root data/camvid --images 48
    python benchmarks/archives.py --size 1024 2048 --images 8 --format png

The same pictures lie in a tree, in a zip with stored members, in one with deflated members, and in a tar. All samples
are compared to the bit first. Contenders run as in ``data_loading.py``: in rounds, with ratios that are formed within a
round; one process in processor time, and a DataLoader with workers in wall time. Files are read from the operating
system's memory. The last lines are the seconds to open a split, in which every header is checked and an archive's
directory is read.
"""

from __future__ import annotations

import argparse
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import cv2
import torch
from data_loading import Contender, arguments, module, pictures, print_table, rows, samples, turns
from torch.utils.data import DataLoader

from robustseg.data.loading import end_workers, make_loader
from robustseg.opening import packed

BASE = "unpacked files"


def pack(tree: Path, folder: Path) -> dict[str, Path]:
    """Pack a tree in each way and return the roots by name."""
    folder.mkdir(parents=True)
    roots = {BASE: tree, "zip, stored": folder / "stored.zip", "zip, deflated": folder / "deflated.zip"}
    paths = sorted(path for path in tree.rglob("*") if path.is_file())
    for name, method in (("zip, stored", zipfile.ZIP_STORED), ("zip, deflated", zipfile.ZIP_DEFLATED)):
        with zipfile.ZipFile(roots[name], "w", method) as archive:
            for path in paths:
                archive.write(path, path.relative_to(tree))
    roots["tar"] = folder / "plain.tar"
    with tarfile.open(roots["tar"], "w") as archive:
        for path in paths:
            archive.add(path, path.relative_to(tree))
    return roots


def check_equal(roots: dict[str, Path], args: argparse.Namespace) -> None:
    """Compare all samples to the bit.

    Raises:
        AssertionError: Some differ.
    """
    found = [module(root, args, resized=False).dataset("train") for root in roots.values()]
    for index in range(len(found[0])):
        first = found[0][index]
        for other in (dataset[index] for dataset in found[1:]):
            assert torch.equal(first.image, other.image)
            assert torch.equal(first.target, other.target)


def loaders(roots: dict[str, Path], args: argparse.Namespace, workers: int) -> dict[str, Contender]:
    """Return a pass over all pictures by a DataLoader, for each root."""
    result: dict[str, Contender] = {}
    for name, root in roots.items():
        loader: DataLoader[Any] = make_loader(module(root, args).dataset("train"), args.batch, workers)
        result[name] = lambda loader=loader: sum(1 for _ in loader)
    return result


def seconds_to_open(root: Path, args: argparse.Namespace) -> float:
    packed._index.cache_clear()
    start = time.perf_counter()
    module(root, args, check="headers").dataset("train")
    return time.perf_counter() - start


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    print("command:", "python", *sys.argv)
    with pictures(args) as (tree, written):
        roots = pack(tree, written)
        check_equal(roots, args)
        plain = {name: samples(module(root, args, resized=False).dataset("train")) for name, root in roots.items()}
        print(f"{args.images} pictures, equal to the bit\n\none process, one thread, processor time, full size")
        print_table(BASE, rows(turns(args.rounds, plain, time.process_time), BASE, args.images))
        for workers in args.workers:
            print(f"DataLoader, {workers} workers, resized, batches of {args.batch}, wall time")
            measured = turns(args.rounds, loaders(roots, args, workers), time.perf_counter)
            end_workers()
            print_table(BASE, rows(measured, BASE, args.images))
        for name, root in roots.items():
            print(f"seconds to open, {name}: {seconds_to_open(root, args):.3f}")


if __name__ == "__main__":
    main()
