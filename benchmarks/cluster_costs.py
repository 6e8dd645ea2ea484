"""The costs of running on a cluster: a second rank, checkpoints to continue from, and the memory of these and of EMA.

    python benchmarks/cluster_costs.py [--rounds 3] [--only scaling small full]
    python benchmarks/cluster_costs.py --device cuda --precision bf16-mixed

Every figure is from a Lightning run of RobustSegmentation with SegPGD in the loop on the embedded scenes, in its own
processes, one per rank. Compared runs follow each other in every round, and ratios are formed within a round, so that a
temporary slowdown of the machine cancels. The output is one Markdown table of medians over the rounds, with the
smallest and largest values. Beside wall-clock time it shows the processor time of all threads of a process: other users
of the machine, and waiting for the disk or another rank, lengthen only the wall-clock time.

scaling      the same images per rank on one process, on two independent processes (the cost of two processes without
             any communication, which is the machine's), and on two ranks of DistributedDataParallel
small, full  the time that a checkpoint blocks training, with ResumeCheckpoint (which returns when every byte is on the
             disk) and with Lightning's own callbacks. small: at the real step time of the quick start's network. full:
             for the state of PSPNet-ResNet50 with SGD, which depends neither on the attack nor on the image size, from
             SegPGD1 steps on 32×32 pixels. EMA is on in both. Also the parts of a checkpoint's time, its size and
             peak memory

A step is SegPGD3's on half of the batch and an update with all of it. Checkpoints here are a few steps apart; one that
is written in the background is waited for before the next step.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from cluster_costs_case import Run
from cluster_costs_processes import Processes, Results

WARMUP = 2
"""Steps at the beginning of each run that are not counted; likewise, the first checkpoint is not counted."""
WRITERS = {
    "robustseg": "`ResumeCheckpoint`",
    "robustseg async": "`ResumeCheckpoint`, asynchronous",
    "lightning": "Lightning's `ModelCheckpoint`",
    "lightning async": "Lightning's with `AsyncCheckpointIO`",
}
NETWORKS = {"small": "PSPNet-ResNet10t", "full": "PSPNet-ResNet50"}
SECTIONS = ("scaling", "small", "full")
EVERY = {"small": 2, "full": 1}
"""Steps between checkpoints."""

Row = tuple[str, str, str, str]
Rounds = list[dict[str, Results]]
"""Measurements of each contender's processes, by round."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="these sections")
    parser.add_argument("--steps", type=int, default=6, help="counted steps of a run of the scaling")
    parser.add_argument("--network", choices=NETWORKS, help="of the scaling; by default small, on a GPU full")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="default 96 96, on a GPU 473 473")
    parser.add_argument("--batch", type=int, default=8, help="images per rank")
    parser.add_argument("--threads", type=int, default=1, help="per process")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", default="32-true", help="Lightning's, for example bf16-mixed")
    parser.add_argument("--folder", help="where checkpoints are written; by default the system's temporary folder")
    parser.add_argument("--quick", action="store_true", help="one round of the least: does it work")
    args = parser.parse_args()
    on_gpu = args.device == "cuda"
    args.network = args.network or ("full" if on_gpu else "small")
    args.size = tuple(args.size or ((473, 473) if on_gpu else (96, 96)))
    if args.quick:
        args.rounds, args.steps, args.size, args.batch = 1, 1, (32, 32), 2
    for name in ("rounds", "steps", "threads"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} {getattr(args, name)}: use at least 1.")
    if args.folder is not None and not os.path.isdir(args.folder):
        parser.error(f"--folder {args.folder}: no such folder.")
    if args.batch < 2:
        parser.error(f"--batch {args.batch}: use at least 2, of which one is attacked.")
    return args


def turns(rounds: int, contenders: dict[str, Callable[[], Results]]) -> Rounds:
    """Run all contenders in every round, each round beginning with another one."""
    names = [*contenders]
    results = []
    for first in range(rounds):
        order = names[first % len(names) :] + names[: first % len(names)]
        results.append({name: contenders[name]() for name in order})
    return results


def spread(values: Iterable[float], digits: int = 3) -> str:
    """Format the median and the range, to ``digits`` significant digits of the median."""
    values = list(values)
    median = statistics.median(values)
    places = max(0, digits - 1 - math.floor(math.log10(abs(median)))) if median else digits
    return f"{median:.{places}f} ({min(values):.{places}f}..{max(values):.{places}f})"


def step(result: dict[str, Any], clock: int, every: int | None = None) -> float:
    """Return the median seconds of a step without a checkpoint after it; clock 0 is wall-clock, 1 processor time."""
    steps = [took[clock] for number, took in enumerate(result["steps"], 1) if every is None or number % every]
    return statistics.median(steps[WARMUP:] or steps)


def hook(result: dict[str, Any], name: str, kind: str, clock: int) -> float:
    """Return a callback's median seconds at a step's end: without a checkpoint, with one, or until it is written."""
    calls = [took[clock] for took in result[name][kind]]
    return statistics.median(calls[1:] or calls)


def scaling(args: argparse.Namespace, processes: Processes) -> list[Row]:
    run = Run(args.steps + WARMUP, args.size, args.batch, args.network)
    contenders = {"1 process": lambda: processes.run(run)}
    if processes.gpus is None or len(processes.gpus) > 1:
        contenders["2 processes, nothing shared"] = lambda: processes.side_by_side(run, 2)
        contenders["2 ranks, DDP"] = lambda: processes.run(replace(run, ranks=2))
    results = turns(args.rounds, contenders)

    def mean(round_: dict[str, Results], name: str, clock: int) -> float:
        return statistics.fmean(step(result, clock) for result in round_[name])

    rows = []
    for name in contenders:
        speed = spread(args.batch / mean(each, name, 0) for each in results)
        ratio = spread(mean(each, "1 process", 0) / mean(each, name, 0) for each in results)
        relative = "1" if name == "1 process" else f"{ratio} of 1 process"
        if name == "2 ranks, DDP":
            apart = spread(mean(each, "2 processes, nothing shared", 0) / mean(each, name, 0) for each in results)
            relative += f", {apart} of 2 without DDP"
        processor = spread(1000 * mean(each, name, 1) / args.batch for each in results)
        more = spread(mean(each, name, 1) / mean(each, "1 process", 1) for each in results)
        rows.append(
            (f"weak scaling: {name}", f"{speed} images/s each", relative, f"{processor} ms per image, × {more}")
        )
    if len(contenders) == 1:
        rows.append(("weak scaling: 2 ranks", "not measured: one GPU", "", ""))
    return rows + per_step(results, "2 ranks, DDP" if len(contenders) > 1 else "1 process")


def per_step(results: Rounds, ranks: str) -> list[Row]:
    """Build the rows of the costs that exact resume adds to every step, with or without a checkpoint."""

    def row(what: str, name: str, call: Callable[[dict[str, Any], int], float]) -> Row:
        wall, processor = (spread(1000 * call(each[name][0], clock) for each in results) for clock in (0, 1))
        share = spread(100 * call(each[name][0], 0) / step(each[name][0], 0) for each in results)
        return f"each step: {what}, {name}", f"{wall} ms", f"{share} % of a step", f"{processor} ms"

    return [
        row("seeding", "1 process", lambda result, clock: result["seeding"][clock]),
        row("`ResumeCheckpoint`, none due", "1 process", lambda result, clock: hook(result, "save", "idle", clock)),
        row("agreeing on signals", ranks, lambda result, clock: result["agreeing"][clock]),
    ]


def checkpoints(args: argparse.Namespace, processes: Processes, section: str) -> list[Row]:
    every, writers = EVERY[section], [*WRITERS]
    run = Run((2 if args.quick else 3) * every, args.size, args.batch, section, every=every, ema=True)
    if section == "full":
        run = replace(run, size=(32, 32), batch=2, attack_steps=1)
        if args.quick:
            run, writers = replace(run, network="small"), writers[:2]
    contenders = {name: lambda name=name: processes.run(replace(run, writer=name)) for name in writers}
    results = turns(args.rounds, contenders)
    ours = [each["robustseg"][0] for each in results]
    size, title = ours[0]["sizes"], NETWORKS[run.network]
    rows = [writer_row(f"{title}, {size['file']:.1f} MB", name, results, section) for name in writers]
    for part in ours[0]["parts"]:
        wall, processor = (spread((1000 * each["parts"][part][clock] for each in ours), 2) for clock in (0, 1))
        rows.append((f"{title}, of a checkpoint: {part}", f"{wall} ms", "", f"{processor} ms"))
    wall, processor = (spread(1000 * hook(each, "ema", "idle", clock) for each in ours) for clock in (0, 1))
    rows.append((f"{title}, each step: updating EMA", f"{wall} ms", "", f"{processor} ms"))
    parts = " + ".join(f"{name} {size[name]:.1f}" for name in ("weights", "EMA", "optimiser", "rest"))
    rows.append((f"{title}, a checkpoint on the disk", f"{size['file']:.1f} MB", f"{parts} MB", ""))
    if section == "full":
        run = replace(run, writer="none")
        without = {"no EMA, no checkpoints": replace(run, ema=False), "EMA, no checkpoints": run}
        measured = {name: processes.run(each) for name, each in without.items()}
        measured |= {f"EMA, {WRITERS[name]}": [each[name][0] for each in results] for name in writers}
        rows += memory(title, measured)
    return rows


def writer_row(what: str, writer: str, results: Rounds, section: str) -> Row:
    """Build a writer's row: the time that it blocks training, and the distance of checkpoints at which it costs 1 %."""
    runs = [each[writer][0] for each in results]

    def milliseconds(kind: str, clock: int) -> str:
        return spread(1000 * hook(run, "save", kind, clock) for run in runs)

    if section == "full":
        apart = statistics.median(100 * hook(run, "save", "blocked", 0) for run in runs)
        relative = f"≤ 1 % from {math.ceil(apart)} s apart; every 15 minutes {apart / 900:.2f} %"
    else:
        steps = [hook(run, "save", "blocked", 0) / step(run, 0, EVERY[section]) for run in runs]
        relative = f"{spread(steps, 2)} steps: ≤ 1 % from {math.ceil(100 * statistics.median(steps))} steps apart"
    blocked, processor = f"{milliseconds('blocked', 0)} ms", f"{milliseconds('blocked', 1)} ms"
    if "async" in writer:
        blocked += f", then {milliseconds('background', 0)} beside it"
        processor += f", then {milliseconds('background', 1)}"
    return f"{what}, training waits for {WRITERS[writer]}", blocked, relative, processor


def memory(title: str, measured: dict[str, Results]) -> list[Row]:
    """Build the rows of the processes' peak memory; the others are compared with the first."""
    rows = []
    for key, kind in (("resident", "peak resident memory"), ("device", "peak memory of the GPU")):
        peaks = {name: [run[key] for run in runs] for name, runs in measured.items() if key in runs[0]}
        for name, values in peaks.items():
            more = statistics.median(values) - statistics.median(next(iter(peaks.values())))
            rows.append((f"{title}, {kind}: {name}", f"{spread(values, 4)} MiB", f"{more:+.0f} MiB", ""))
    return rows


def main() -> None:
    args = arguments()
    processes = Processes(args.device, args.precision, args.threads, args.folder)
    print("command:", "python", *sys.argv)
    print(processes.machine(), flush=True)
    print(
        f"{NETWORKS[args.network]} at {args.size[0]}×{args.size[1]}, {args.batch} images per rank, {args.precision}, "
        f"{args.threads} threads per process, {args.rounds} rounds"
    )
    load = os.getloadavg()[0]
    rows: list[Row] = []
    for section in args.only:
        rows += scaling(args, processes) if section == "scaling" else checkpoints(args, processes, section)
    print(f"load average before {load:.1f}, after {os.getloadavg()[0]:.1f}\n")
    print("| what | wall-clock: median (min..max) | relative | processor time |", "|---|---|---|---|", sep="\n")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
