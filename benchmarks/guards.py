"""The cost of an attack's guards, as a ratio to the same attack without them.

    python benchmarks/guards.py [--size 128 128 --batch 2 --steps 10 --rounds 9]

The guards are the search for the model's modules, their state that is saved and restored, the look at each module that
runs, the copies of the images that a model is given, the checks of each answer's form, the copy of the images that an
attack is given, the check of what it returns, and the budget that is asserted at the end. Each guard is timed where it
is called. Only the looks are counted instead, and one is measured on a module that does nothing: it is shorter than a
reading of the clock. The ratio is that of the whole time to the time that remains without the guards. The difference of
two runs would be smaller than the noise of a shared machine. On a CPU with one thread, processor time is measured.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from robustseg.attacks import PGD, Attack, SegPGD, base, guard, state, victim
from robustseg.attacks.errors import ModelErrors
from robustseg.models import PSPNet, SegmentationModel

SMALL = {"backbone": "resnet10t", "backbone_args": {"channels": [32, 64, 128, 256]}, "channels": 64}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(128, 128), metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def frozen_model(args: argparse.Namespace) -> SegmentationModel:
    """Build a PSPNet with its own BatchNorm statistics: the initial ones let activations fade into denormals."""
    torch.manual_seed(0)
    model = SegmentationModel(PSPNet(7, pretrained=False, output_stride=8, aux_head=False, **SMALL))
    model.to(args.device).train()
    with torch.no_grad():
        for _ in range(20):
            model(torch.rand(args.batch, 3, *args.size, device=args.device))
    return model.eval().requires_grad_(False)


class Stopwatch:
    """A clock that runs while a guard does, less what reading it costs.

    Args:
        device: Device of the attack, which is waited for.
        clock: Function that returns seconds.
    """

    def __init__(self, device: torch.device, clock: Callable[[], float]):
        self.seconds = 0.0
        self.readings = 0
        self._device = device
        self._clock = clock

    def now(self) -> float:
        self.readings += 1
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return self._clock()

    def timed(self, guard: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            start = self.now()
            try:
                return guard(*args)
            finally:
                self.seconds += self.now() - start

        return call


@contextmanager
def watched(watch: Stopwatch) -> Iterator[None]:
    """Time the guards of all attacks within the block."""

    def forward(self: guard.Guarded, images: Tensor) -> Tensor:
        start = watch.now()
        with ModelErrors(), self._watch():
            copy = images.clone()
            watch.seconds += watch.now() - start
            logits = self.model(copy)
            start = watch.now()
        watch.seconds += watch.now() - start
        return logits

    timed: list[tuple[Any, str]] = [
        *((state.Hold, name) for name in ("__init__", "release")),
        (guard.Guarded, "__init__"),
        (victim, "checked_answer"),
        (victim.Victim, "_compare"),
        (base, "check_form"),
        (base.Attack, "_within_budget"),
    ]
    with ExitStack() as stack:
        stack.enter_context(patch.object(guard.Guarded, "forward", forward))
        for owner, name in timed:
            stack.enter_context(patch.object(owner, name, watch.timed(getattr(owner, name))))
        yield


def seconds_of_looks(attack: Attack, model: nn.Module, images: Tensor, targets: Tensor, watch: Stopwatch) -> float:
    """Return what the looks at the modules that run add to a call: their number, times what one adds to a module."""
    idle, looks = nn.Identity(), 0

    def looped() -> float:
        start = watch.now()
        for _ in range(5000):
            idle(images)
        return (watch.now() - start) / 5000

    def count(hold: state.Hold, module: nn.Module, inputs: object) -> None:
        nonlocal looks
        looks += 1

    with patch.object(state.Hold, "_meet", count):
        attack(model, images, targets)
    hold = state.Hold("eval")
    hold.take([idle])
    bare = min(looped() for _ in range(5))
    with hold.watch():
        watched = min(looped() for _ in range(5))
    hold.release()
    return looks * (watched - bare)


def one_ratio(attack: Attack, model: nn.Module, images: Tensor, targets: Tensor, threads: int) -> tuple[float, float]:
    """Return the ratio and the seconds of one call."""
    clock = time.process_time if threads == 1 and not images.is_cuda else time.perf_counter
    looks = seconds_of_looks(attack, model, images, targets, Stopwatch(images.device, clock))
    watch = Stopwatch(images.device, clock)
    with watched(watch):
        start = watch.now()
        attack(model, images, targets)
        total = watch.now() - start
    # The copy of the images that the attack is given is a part of the call itself.
    watch.timed(torch.clone)(images)
    # Each interval holds one reading of the clock, as the time between two readings that follow each other.
    readings, start = watch.readings, watch.now()
    for _ in range(1000):
        watch.now()
    reading = (watch.now() - start) / 1001
    guards = watch.seconds - reading * readings / 2 + looks
    total -= reading * readings
    return total / (total - guards), total


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    print("command:", "python", *sys.argv)
    print(f"python {platform.python_version()}, torch {torch.__version__}, PSPNet {SMALL}, {args.threads} threads")
    model = frozen_model(args)
    images = torch.rand(args.batch, 3, *args.size, device=args.device)
    targets = torch.randint(0, 7, (args.batch, *args.size), device=args.device)
    for name, attack in (("PGD", PGD(steps=args.steps)), ("SegPGD l2", SegPGD(eps=3, norm="l2", steps=args.steps))):
        found = [one_ratio(attack, model, images, targets, args.threads) for _ in range(args.rounds + 1)][1:]
        ratios, totals = zip(*found, strict=True)
        print(
            f"{name}, {args.steps} steps, {args.batch} images of {args.size[0]}×{args.size[1]}: "
            f"{statistics.median(totals):.3f} s, ratio {statistics.median(ratios):.4f} "
            f"({min(ratios):.4f}..{max(ratios):.4f})"
        )


if __name__ == "__main__":
    main()
