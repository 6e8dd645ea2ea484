"""The cost of a detector's score beyond the forwards that it needs.

    python benchmarks/detector_cost.py [--size 180 240 --patch 100 --displacement 6 12 --k 1 5 10 50 --rounds 7]

Spatial consistency with K pairs is compared with its 2·K patches, cut out beforehand and put through the same model in
the same batches under no_grad, with the argmax of the logits and nothing else; patches of random sizes have one batch
per size. Scale consistency is compared with the forwards of two images, and self-entropy with K votes with those of its
patches. All run in rounds, a score and its forwards one after the other, and ratios are formed within a round, so that
a temporary slowdown of the machine cancels. The output shows the medians over the rounds, and the smallest and largest
values, of wall-clock time and of this process's processor time; on a GPU only the former counts.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from attack_loop import peak_bytes, summary
from torch import Tensor, nn

from robustseg import models
from robustseg.detectors import ScaleConsistency, SpatialConsistency, self_entropy

ID = "image"
NETWORK = Path(__file__).parents[1] / "configs/network/pspnet_small.yaml"


class Contender(NamedTuple):
    """A detector's score, and the forwards that it needs."""

    patches: int
    score: Callable[[], object]
    forwards: Callable[[], object]


class Times(NamedTuple):
    """Wall-clock and processor time in seconds."""

    wall: float
    processor: float


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", type=Path, default=NETWORK, help="a file of configs/network, without its weights")
    parser.add_argument("--classes", type=int, default=11)
    parser.add_argument("--size", type=int, nargs=2, default=(180, 240), metavar=("H", "W"))
    parser.add_argument("--patch", type=int, default=100)
    parser.add_argument("--smallest", type=int, help="random sizes from here to --patch; three quarters of it")
    parser.add_argument("--displacement", type=int, nargs=2, default=(6, 12), metavar=("LOW", "HIGH"))
    parser.add_argument("--k", type=int, nargs="+", default=(1, 5, 10, 50), help="pairs; random sizes with the last")
    parser.add_argument("--votes", type=int, default=10, help="of the self-entropy")
    parser.add_argument("--sigma", type=float, default=3.0, help="of the scale consistency")
    parser.add_argument("--patches-per-forward", type=int, help="all at once if not given")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    for name, value in {"--rounds": args.rounds, "--threads": args.threads, "--votes": args.votes}.items():
        if value < 1:
            parser.error(f"{name} {value}: use at least 1.")
    if not args.network.is_file():
        parser.error(f"--network {args.network}: no such file.")
    if args.smallest is None:
        args.smallest = 3 * args.patch // 4
    try:
        ScaleConsistency(args.sigma)
        for size in (args.patch, (args.smallest, args.patch)):
            for k in args.k:
                spatial(args, k, size).sampler.check(*args.size)
    except ValueError as error:
        parser.error(str(error))
    return args


def frozen_model(args: argparse.Namespace) -> nn.Module:
    """Build the network with its own BatchNorm statistics: the initial ones let activations fade into denormals."""
    settings = yaml.safe_load(args.network.read_text(encoding="utf-8"))["model"]["network"]
    torch.manual_seed(0)
    network = getattr(models, settings["class_path"].rpartition(".")[2])(
        args.classes, **{**settings.get("init_args", {}), "pretrained": False}
    )
    model = models.SegmentationModel(network).to(args.device).train()
    with torch.no_grad():
        for _ in range(20):
            model(torch.rand(2, 3, *args.size, device=args.device))
    return model.eval().requires_grad_(False)


def spatial(args: argparse.Namespace, k: int, size: int | tuple[int, int]) -> SpatialConsistency:
    return SpatialConsistency(size, k, tuple(args.displacement), args.patches_per_forward)


def forwards(model: nn.Module, batches: Sequence[Tensor], at_once: int | None) -> list[Tensor]:
    with torch.no_grad():
        return [model(part).argmax(1) for batch in batches for part in batch.split(at_once or len(batch))]


def patches_of(score: Callable[[nn.Module], object], model: nn.Module) -> list[Tensor]:
    """Record the batches that a score passes to the model, joined by the size of their patches."""
    seen: dict[int, list[Tensor]] = defaultdict(list)

    def recorded(images: Tensor) -> Tensor:
        seen[images.shape[-1]].append(images.clone())
        return model(images)

    score(recorded)
    return [torch.cat(batches) for batches in seen.values()]


def contenders(args: argparse.Namespace, model: nn.Module) -> dict[str, Contender]:
    image = torch.rand(1, 3, *args.size, generator=torch.Generator().manual_seed(1)).to(args.device)
    detectors = {f"spatial, K = {k}": spatial(args, k, args.patch) for k in args.k}
    detectors[f"spatial, K = {args.k[-1]}, random sizes"] = spatial(args, args.k[-1], (args.smallest, args.patch))
    detectors[f"scale, sigma = {args.sigma:g}"] = ScaleConsistency(args.sigma)
    scores: dict[str, Callable[[nn.Module], object]] = {
        name: lambda asked, detector=detector: detector.scores(asked, image, [ID])
        for name, detector in detectors.items()
    }
    scores[f"self-entropy, K = {args.votes}"] = lambda asked: self_entropy(
        asked, image, [ID], patch_size=args.patch, k=args.votes, patches_per_forward=args.patches_per_forward
    )
    found = {}
    for name, score in scores.items():
        batches = patches_of(score, model)
        at_once = 1 if name.startswith("scale") else args.patches_per_forward
        found[name] = Contender(
            sum(len(batch) for batch in batches),
            lambda score=score: score(model),
            lambda batches=batches, at_once=at_once: forwards(model, batches, at_once),
        )
    return found


def timed(run: Callable[[], object], device: torch.device) -> Times:
    wall, processor = time.perf_counter(), time.process_time()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return Times(time.perf_counter() - wall, time.process_time() - processor)


def measure(found: dict[str, Contender], rounds: int, device: torch.device) -> dict[str, list[tuple[Times, Times]]]:
    """Measure (score, forwards) of each contender in each round."""
    measured: dict[str, list[tuple[Times, Times]]] = {name: [] for name in found}
    for number in range(rounds + 1):
        # Each round starts with another contender, and every second round with the forwards.
        for name in [*found][number % len(found) :] + [*found][: number % len(found)]:
            order = (found[name].score, found[name].forwards)
            times = [timed(run, device) for run in (order if number % 2 else order[::-1])]
            if number:  # the first round warms up
                measured[name].append((times[0], times[1]) if number % 2 else (times[1], times[0]))
    return measured


def row(name: str, contender: Contender, times: Sequence[tuple[Times, Times]], peaks: tuple[int, int]) -> str:
    wall = summary([score.wall / bare.wall for score, bare in times])
    processor = summary([score.processor / bare.processor for score, bare in times])
    seconds = statistics.median(score.wall for score, _ in times)
    memory = f"{peaks[0] / 2**20:9.1f} {peaks[0] / peaks[1]:7.3f}"
    return f"{name:31} {contender.patches:7} {seconds * 1000:9.1f}  {wall:22} {processor:22} {memory}"


def main() -> None:
    args = arguments()
    device = torch.device(args.device)
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    print("command:", "python", *sys.argv)
    print(f"python {platform.python_version()}, torch {torch.__version__}, {args.threads} threads, on {name}")
    print(
        f"{args.network.name}, {args.classes} classes, one image of {args.size[0]}×{args.size[1]}, patches of "
        f"{args.patch} or {args.smallest} to {args.patch}, displacement {list(args.displacement)}, {args.rounds} rounds"
    )
    model = frozen_model(args)
    found = contenders(args, model)
    before = os.getloadavg()[0]
    measured = measure(found, args.rounds, device)
    print(f"load of the machine {before:.1f} before and {os.getloadavg()[0]:.1f} after, {os.cpu_count()} cores\n")
    header = (
        f"{'score':31} {'patches':>7} {'ms':>9}  {'/ forwards, wall':22} {'/ forwards, processor':22} "
        f"{'peak MiB':>9} {'/ forw.':>7}"
    )
    print(header, "-" * len(header), sep="\n")
    for name, contender in found.items():
        peaks = peak_bytes(contender.score, device), peak_bytes(contender.forwards, device)
        print(row(name, contender, measured[name], peaks))


if __name__ == "__main__":
    main()
