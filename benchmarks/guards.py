"""The cost of an attack's guards, as a ratio to the same attack without them.

    python benchmarks/guards.py [--size 128 128 --batch 2 --steps 10 --rounds 9]

The guards are the copies of the images that a model is given, the check of each answer's form, the copy of the images
that an attack is given, the check of what it returns, and the budget that is asserted at the end. Without them the
model gets the iterate itself, and the result is returned as it is. Both run in turns, and ratios are formed within a
round. On a CPU with one thread, processor time is measured.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
from torch import Tensor, nn

from robustseg.attacks import PGD, Attack, SegPGD, Victim
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


@contextmanager
def without_guards() -> Iterator[None]:
    """Turn the guards off within the block."""
    with ExitStack() as off:
        off.enter_context(patch("robustseg.attacks.victim.ask", lambda model, images: model(images)))
        off.enter_context(patch("robustseg.attacks.victim.checked_answer", lambda logits, images: logits))
        off.enter_context(patch("robustseg.attacks.base.check_form", lambda images_adv, images, attack: images_adv))
        off.enter_context(patch.object(Victim, "_compare", lambda victim, logits: None))
        off.enter_context(patch.object(Attack, "_within_budget", lambda attack, images_adv, images, victim: images_adv))
        yield


def seconds(attack: Attack, model: nn.Module, images: Tensor, targets: Tensor, one_thread: bool) -> float:
    clock = time.process_time if one_thread and not images.is_cuda else time.perf_counter
    start = clock()
    attack(model, images, targets)
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
    return clock() - start


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
        ratios, alone = [], []
        for number in range(args.rounds + 1):
            times = {}
            for guarded in (True, False) if number % 2 else (False, True):
                with ExitStack() as stack:
                    if not guarded:
                        stack.enter_context(without_guards())
                    times[guarded] = seconds(attack, model, images, targets, args.threads == 1)
            if number:  # the first round warms up
                ratios.append(times[True] / times[False])
                alone.append(times[False])
        spread = f"{min(ratios):.4f}..{max(ratios):.4f}"
        print(
            f"{name}, {args.steps} steps, {args.batch} images of {args.size[0]}×{args.size[1]}: "
            f"{statistics.median(alone):.3f} s without guards, ratio {statistics.median(ratios):.4f} ({spread})"
        )


if __name__ == "__main__":
    main()
