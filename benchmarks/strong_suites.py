"""The processor time and the strength of the strong suites in float32 and in a bf16 search, image by image.

    python benchmarks/strong_suites.py RUN/config.yaml RUN/checkpoints/last.ckpt [--suite sea --images 8 --batch 4]

``sea`` is SEA with 3 × 300 steps, ``ensemble`` StrongEnsemble with 7 × 60, ``strong`` the attacks of
configs/robustness/strong.yaml one after the other. Both searches run on the same batch with the same start noise, in
alternating order. Images that are finished leave in both. Scores are those of float32 forwards; of ``strong`` they are
the worst case per image.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from robustseg.attacks import SEA, Attack, Search, StrongEnsemble
from robustseg.config.build import RobustSegCLI
from robustseg.data import collate
from robustseg.evaluation.attacking import attack_batch, full_precision, predict
from robustseg.evaluation.benchmark import Benchmark
from robustseg.types import Batch

SEARCHES: Mapping[str, Search | None] = {"float32": None, "bf16": Search("bf16", channels_last=True)}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("checkpoint")
    parser.add_argument("--suite", choices=("sea", "ensemble", "strong"), default="sea")
    parser.add_argument("--images", type=int, default=8, help="the first of the test split")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, help="of each member of sea and ensemble")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def loaded(args: argparse.Namespace) -> Benchmark:
    """Return the run's evaluation under the suite."""
    command = ["--config", args.config, "--ckpt_path", args.checkpoint]
    if args.suite == "strong":
        command += ["--robustness.attacks", "null", "--config", "robustness/strong"]
    benchmark = RobustSegCLI(command, evaluate=True).loaded_benchmark()
    if args.suite != "strong":
        attack = SEA(steps=args.steps or 300) if args.suite == "sea" else StrongEnsemble(steps=args.steps or 60)
        benchmark.attacks = {args.suite: attack.for_data(benchmark.data.class_pixels)}
    return benchmark


def batches(benchmark: Benchmark, images: int, size: int) -> list[Batch]:
    dataset = benchmark.data.dataset(benchmark.split)
    samples = [dataset[index] for index in benchmark.indices[:images]]
    return [collate(samples[start : start + size]) for start in range(0, len(samples), size)]


def left(model: nn.Module, attacks: list[Attack], batch: Batch, search: Search | None) -> tuple[Tensor, float]:
    """Return the correct pixels that the worst attack leaves of each image, and the processor time of an image."""
    start, fewest = time.process_time(), []
    for attack in attacks:
        found = attack_batch(model, attack, batch.ids, batch.images, batch.targets, search=search)
        predictions = predict(model, found.result.images_adv, batch.targets)
        fewest.append((predictions == batch.targets).flatten(1).sum(1))
    return torch.stack(fewest).amin(0), (time.process_time() - start) / len(batch.ids)


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    benchmark = loaded(args)
    model, attacks = benchmark.model.eval(), list(benchmark.attacks.values())
    print("command:", "python", *sys.argv)
    print(f"python {platform.python_version()}, torch {torch.__version__}, {args.threads} threads, processor time")
    print(f"{'image':>24} {'float32 s':>9} {'bf16 s':>7} {'ratio':>6}   pixels left: float32    bf16   of")
    seconds, counts, valid = dict.fromkeys(SEARCHES, 0.0), dict.fromkeys(SEARCHES, 0), 0
    with full_precision():
        for number, batch in enumerate(batches(benchmark, args.images, args.batch)):
            rows = {}
            for name in list(SEARCHES)[:: 1 - 2 * (number % 2)]:
                rows[name] = left(model, attacks, batch, SEARCHES[name])
            (high, slow), (low, fast) = rows["float32"], rows["bf16"]
            pixels = (batch.targets != 255).flatten(1).sum(1)
            for row, sample in enumerate(batch.ids):
                times = f"{slow:9.2f} {fast:7.2f} {fast / slow:6.3f}"
                print(f"{sample:>24} {times} {int(high[row]):21} {int(low[row]):7} {int(pixels[row]):5}", flush=True)
            for name, (found, each) in rows.items():
                seconds[name] += each * len(batch.ids)
                counts[name] += int(found.sum())
            valid += int(pixels.sum())
    ratio = seconds["bf16"] / seconds["float32"]
    accuracies = {name: 100 * count / valid for name, count in counts.items()}
    print(f"all: {ratio:.3f} of the processor time; pixel_acc {accuracies['float32']:.2f} and {accuracies['bf16']:.2f}")


if __name__ == "__main__":
    main()
