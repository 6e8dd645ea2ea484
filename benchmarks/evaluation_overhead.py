"""The cost of an evaluation beyond the attacks, in processor time and in memory that grows with the number of images.

    python benchmarks/evaluation_overhead.py [--images 6 --size 180 240 --steps 20 --rounds 3]
    python benchmarks/evaluation_overhead.py --memory 8 64

The evaluation is robustseg.evaluation.benchmark's: Lightning's test loop, loading, records on disk and pictures of the
extremes, without the probe of the model and the report, which do not depend on the number of images. It is compared
with the same attacks in a plain loop over the same batches, with one forward and the confusion matrices of each
attack's images and of the clean ones. Both run in turns, and ratios are formed within a round. On a CPU with one
thread, processor time is measured.
"""

from __future__ import annotations

import argparse
import logging
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from robustseg.attacks import PGD, Attack, NoiseSource, SegPGD, attack_mode
from robustseg.data import SyntheticScenes, collate
from robustseg.evaluation.benchmark import Benchmark
from robustseg.evaluation.benchmark.run import measure
from robustseg.metrics import confusion_matrix
from robustseg.models import PSPNet, SegmentationModel

SMALL = {"backbone": "resnet10t", "backbone_args": {"channels": [32, 64, 128, 256]}, "channels": 64}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--size", type=int, nargs=2, default=(180, 240), metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20, help="of PGD and SegPGD each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--memory", type=int, nargs="+", metavar="N", help="peak memory for each number of images instead"
    )
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def frozen_model(args: argparse.Namespace) -> SegmentationModel:
    """Build a PSPNet with its own BatchNorm statistics: the initial ones let activations fade into denormals."""
    torch.manual_seed(0)
    model = (
        SegmentationModel(PSPNet(7, pretrained=False, output_stride=8, aux_head=False, **SMALL)).to(args.device).train()
    )
    with torch.no_grad():
        for _ in range(20):
            model(torch.rand(args.batch, 3, *args.size, device=args.device))
    return model.eval().requires_grad_(False)


def benchmark(args: argparse.Namespace, images: int, attacks: dict[str, Attack]) -> Benchmark:
    data = SyntheticScenes(
        image_size=tuple(args.size), test_length=images, batch_size=args.batch, num_workers=0, cache=False
    )
    return Benchmark(frozen_model(args), data, attacks, check_images=0)


def evaluation(args: argparse.Namespace, of: Benchmark, folder: Path) -> None:
    trainer = pl.Trainer(
        accelerator="gpu" if args.device == "cuda" else "cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        inference_mode=False,
        default_root_dir=folder,
    )
    measure(trainer, of, folder)


def plain_loop(args: argparse.Namespace, of: Benchmark) -> torch.Tensor:
    """Run the attacks and one forward of their images; only the confusion matrices are kept."""
    model = of.model.to(args.device)
    total = torch.zeros(7, 7, dtype=torch.int64, device=args.device)
    for batch in DataLoader(of.data.dataset(of.split), args.batch, collate_fn=collate):
        images, targets = batch.images.to(args.device), batch.targets.to(args.device)
        found = [images]
        for attack in of.attacks.values():
            noise = NoiseSource.for_samples((0, attack.seed), batch.ids, images.device)
            found.append(attack(model, images, targets, generator=noise))
        with torch.no_grad(), attack_mode(model) as evaluated:
            for each in found:
                total += confusion_matrix(evaluated(each).argmax(1), targets, 7).sum(0)
    return total.cpu()


def overhead(args: argparse.Namespace) -> None:
    attacks: dict[str, Attack] = {"pgd": PGD(steps=args.steps), "segpgd": SegPGD(steps=args.steps)}
    of = benchmark(args, args.images, attacks)
    clock = time.process_time if args.device == "cpu" and args.threads == 1 else time.perf_counter
    print(
        f"{args.images} images of {args.size[0]}×{args.size[1]}, PGD and SegPGD of {args.steps} steps, {clock.__name__}"
    )
    ratios = []
    for number in range(args.rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            times = {}
            for name in ("plain", "evaluation") if number % 2 else ("evaluation", "plain"):
                start = clock()
                if name == "plain":
                    plain_loop(args, of)
                else:
                    evaluation(args, of, Path(folder))
                times[name] = clock() - start
        if number:  # the first round warms up
            ratios.append(times["evaluation"] / times["plain"])
            print(f"plain {times['plain']:.2f} s, evaluation {times['evaluation']:.2f} s, ratio {ratios[-1]:.3f}")
    print(f"median ratio {statistics.median(ratios):.3f} ({min(ratios):.3f}..{max(ratios):.3f})")


def child(args: argparse.Namespace) -> None:
    """Print the peak resident memory in MiB of an evaluation of ``args.child`` images, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        evaluation(args, benchmark(args, args.child, {"pgd1": PGD(steps=1)}), Path(folder))
    print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.1f}")


def memory(args: argparse.Namespace) -> None:
    for images in args.memory:
        size = [str(number) for number in args.size]
        command = [sys.executable, __file__, "--child", str(images), "--size", *size, "--batch", str(args.batch)]
        done = subprocess.run([*command, "--device", args.device], capture_output=True, text=True, check=True)
        peak = next(line.split()[1] for line in done.stdout.splitlines() if line.startswith("peak"))
        print(f"{images:6} images: peak resident memory {peak} MiB", flush=True)


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    if args.child is not None:
        child(args)
        return
    print("command:", "python", *sys.argv)
    print(f"python {platform.python_version()}, torch {torch.__version__}, PSPNet {SMALL}, {args.threads} threads")
    if args.memory:
        memory(args)
    else:
        overhead(args)


if __name__ == "__main__":
    main()
