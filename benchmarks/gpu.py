"""Checks of a GPU: one table of correctness and speed in at most five minutes.

    python benchmarks/gpu.py --output gpu.md
    python benchmarks/gpu.py --device cpu --tiny   # the same checks at the smallest size, in place of a GPU

Correctness: the noise and the attacks against the CPU's, searches in fp16 and bf16 against float32, everything twice,
traces of a call, synchronisations, a training resumed to the bit, networks under trainer.deterministic. Speed: img/s
of one step (a forward, an input gradient, a step) and the share of the roofline, the throughput of large convolutions
in the same precision and layout; ratios, within rounds, to the bare loop of benchmarks/attack_loop.py and to
torchattacks' PGD.
Weights are random, or trained within a few seconds on the embedded scenes; nothing is downloaded.

A check that fails is a row with its reason. The exit status is 1 if a row of correctness failed. Rows for which no
time is left say "out of time"; correctness comes first.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

# cuBLAS reads it when it starts; deterministic products need it.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
from gpu_attacks import attack_checks
from gpu_device import Device, commit
from gpu_speed import Bench
from gpu_table import Check, Row, markdown, run_checks, status
from gpu_training import other_networks, training_checks

SEED = 0
"""Of weights, batches and noise, fixed within each check."""


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 or cpu")
    parser.add_argument("--minutes", type=float, default=5.0, help="for all rows, the imports included")
    parser.add_argument("--batch", type=int, help="images of the speed rows, by default 8; halved where memory ends")
    parser.add_argument("--only", choices=("correctness", "speed"), help="one part of the rows")
    parser.add_argument("--match", metavar="TEXT", help="only rows with this in their name")
    parser.add_argument("--tiny", action="store_true", help="small networks and images, for a CPU")
    parser.add_argument("--output", type=Path, help="Markdown file for the table")
    args = parser.parse_args(given)
    if args.batch is None:
        args.batch = 2 if args.tiny else 8
    if args.batch < 1:
        parser.error(f"--batch {args.batch}: use at least 1.")
    if not args.minutes > 0:
        parser.error(f"--minutes {args.minutes:g}: use more than 0.")
    if args.output is not None and not args.output.absolute().parent.is_dir():
        parser.error(f"--output {args.output}: no such folder.")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", args.device):
        parser.error(f"--device {args.device}: use cuda, cuda:N or cpu.")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if args.device != "cpu" and int(args.device.partition(":")[2] or 0) >= found:
        parser.error(f"--device {args.device}: torch finds {found} GPUs; --device cpu --tiny tries the script.")
    return args


def checks(args: argparse.Namespace, device: Device) -> Iterator[Check]:
    """Yield the rows to be, the most important one first."""
    if args.only != "speed":
        yield from attack_checks(device, args.tiny)
        yield from training_checks(device, args.tiny)
    if args.only != "correctness":
        yield from Bench(device, args.tiny, args.batch, 0.05 if args.tiny else 5.0).checks()
    if args.only != "speed" and not args.tiny:
        yield from other_networks(device)


def main(given: list[str] | None = None) -> int:
    """Run the checks, print the table and return the exit status."""
    start = time.perf_counter()
    args = arguments(given)
    device = Device(args.device)
    facts = [
        ("command", " ".join(["python benchmarks/gpu.py", *(sys.argv[1:] if given is None else given)])),
        ("commit", commit()),
        *device.facts(),
        ("seed", str(SEED)),
    ]
    rows: list[Row] = []
    chosen = (check for check in checks(args, device) if args.match is None or args.match in check.name)
    try:
        run_checks(chosen, 60 * args.minutes - (time.perf_counter() - start), device.lost, rows)
    finally:  # Ctrl-C leaves the rows so far
        table = markdown(rows, facts)
        print(table)
        if args.output is not None:
            args.output.write_text(table, encoding="utf-8")
    return status(rows)


if __name__ == "__main__":
    sys.exit(main())
