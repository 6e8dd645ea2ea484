"""The processor time and the strength of attacks that search in bf16 with the channels last, against float32.

    python benchmarks/search_precision.py RUN/config.yaml RUN/checkpoints/last.ckpt [… …] [--images 16 --batch 4]

Both searches run on the same images with the same start noise, one after the other on each batch, in alternating order,
so that a temporary slowdown of the machine cancels. With one thread processor time is measured. The scores are those of
float32 forwards. Without a run it measures time alone, on a network of 1.6 million parameters with random weights and
images of 96×128 pixels.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn

from robustseg.attacks import APGD, PGD, Attack, CosPGD, Search
from robustseg.config.build import RobustSegCLI
from robustseg.data import collate
from robustseg.evaluation.attacking import attack_batch, full_precision, predict
from robustseg.models import PSPNet, SegmentationModel
from robustseg.types import Batch

SEARCH = Search("bf16", channels_last=True)
SETTINGS = {"eps": "8/255", "step_size": "0.01"}


class Subject(NamedTuple):
    """A model and the batches to attack."""

    name: str
    model: nn.Module
    batches: list[Batch]
    trained: bool


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", help="config.yaml and checkpoint of each run, in turn")
    parser.add_argument("--images", type=int, default=16, help="the first of the test split")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5, help="rounds without a run")
    parser.add_argument("--threads", type=int, default=1)
    found = parser.parse_args()
    if len(found.runs) % 2:
        parser.error("give a config.yaml and a checkpoint for each run")
    return found


def untrained(args: argparse.Namespace) -> Subject:
    """Build the network with its own BatchNorm statistics: the initial ones let activations fade into denormals."""
    torch.manual_seed(0)
    network = PSPNet(21, "resnet10t", aux_head=False, channels=64, backbone_args={"channels": [32, 64, 128, 256]})
    model = SegmentationModel(network).train()
    images = torch.rand(args.batch, 3, 96, 128)
    with torch.no_grad():
        for _ in range(40):
            model(images)
        targets = model.eval()(images).argmax(1)
    count = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    batch = Batch(images, targets, [str(row) for row in range(args.batch)])
    return Subject(f"PSPNet of {count:.1f} M parameters, {args.batch}×96×128", model, [batch] * args.repeats, False)


def trained(config: str, checkpoint: str, args: argparse.Namespace) -> Subject:
    """Load a run's model and the first images of its test split."""
    benchmark = RobustSegCLI(["--config", config, "--ckpt_path", checkpoint], evaluate=True).loaded_benchmark()
    dataset = benchmark.data.dataset(benchmark.split)
    samples = [dataset[index] for index in benchmark.indices[: args.images]]
    batches = [collate(samples[start : start + args.batch]) for start in range(0, len(samples), args.batch)]
    size = "×".join(map(str, batches[0].images.shape[-2:]))
    return Subject(f"{config}: {len(samples)} images of {size}", benchmark.model.eval(), batches, True)


def subjects(args: argparse.Namespace) -> Iterator[Subject]:
    for config, checkpoint in zip(args.runs[::2], args.runs[1::2], strict=True):
        yield trained(config, checkpoint, args)
    if not args.runs:
        yield untrained(args)


def measured(subject: Subject, attack: Attack) -> tuple[list[float], dict[str, float]]:
    """Return the ratio of the times on each batch, and the share of correct pixels by the search's precision."""
    ratios, right, pixels = [], {"float32": 0, "bf16": 0}, 0
    for number, batch in enumerate(subject.batches):
        seconds = {}
        for precision in ("float32", "bf16")[:: 1 - 2 * (number % 2)]:
            search = SEARCH if precision == "bf16" else None
            start = time.process_time()
            found = attack_batch(subject.model, attack, batch.ids, batch.images, batch.targets, search=search)
            seconds[precision] = time.process_time() - start
            predictions = predict(subject.model, found.result.images_adv, batch.targets)
            right[precision] += int((predictions == batch.targets).sum())
        ratios.append(seconds["bf16"] / seconds["float32"])
        pixels += int((batch.targets != 255).sum())
    return ratios, {precision: 100 * count / pixels for precision, count in right.items()}


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    print("command:", "python", *sys.argv)
    print(f"python {platform.python_version()}, torch {torch.__version__}, {args.threads} threads, processor time")
    attacks: dict[str, Attack] = {
        f"PGD{args.steps}": PGD(**SETTINGS, steps=args.steps),
        f"CosPGD{args.steps}": CosPGD(**SETTINGS, steps=args.steps),
        f"APGD{args.steps}": APGD(eps="8/255", steps=args.steps),
    }
    for subject in subjects(args):
        print(f"\n{subject.name}")
        print(f"{'attack':10} {'time, bf16 / float32':>26}  pixel_acc after float32, after bf16, difference")
        with full_precision():
            for name, attack in attacks.items():
                ratios, scores = measured(subject, attack)
                times = f"{statistics.median(ratios):.3f} ({min(ratios):.3f}..{max(ratios):.3f})"
                low, high = scores["bf16"], scores["float32"]
                figures = f"{high:6.2f} {low:6.2f} {low - high:+.2f}" if subject.trained else ""
                print(f"{name:10} {times:>26}  {figures}", flush=True)


if __name__ == "__main__":
    main()
