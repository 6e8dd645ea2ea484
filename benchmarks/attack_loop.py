"""The cost of an attack's step beyond the forward and the input gradient that every attack needs.

    python benchmarks/attack_loop.py [--network resnet18 --size 96 96 --batch 4 --steps 10 --precision fp32]

All contenders run in rounds, one after the other in each round, and ratios are formed within a round, so that a
temporary slowdown of the machine cancels. With --threads 1 on a CPU, processor time is measured, the best choice on a
shared machine. The output shows the medians over the rounds, and the smallest and largest values.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from robustseg import attacks
from robustseg.models import PSPNet, SegmentationModel

EPS, ALPHA = 8 / 255, 0.01
CLASSES = 21
BARE_LOOP = """the bare loop: per step one forward, F.cross_entropy(ignore_index=255), autograd.grad to the input,
    x + α·sign(∇), clamp to x ± ε (torch.min/max with bounds computed once); parameters frozen, model in eval mode,
    start U(−ε, ε), same precision; no checks, no state saved or restored, nothing recorded"""

Contender = Callable[[], Tensor]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet18", help="timm backbone of the PSPNet")
    parser.add_argument("--size", type=int, nargs=2, default=(96, 96), metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=15, help="rounds")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="bf16: autocast")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", nargs="*", help="names of the contenders to run besides the bare loop")
    return parser.parse_args()


def frozen_model(args: argparse.Namespace) -> nn.Module:
    """Build a PSPNet with its own BatchNorm statistics: the initial ones let activations fade into denormals."""
    torch.manual_seed(0)
    model = SegmentationModel(PSPNet(CLASSES, args.network, aux_head=False, channels=128)).to(args.device).train()
    with torch.no_grad():
        for _ in range(40):
            model(torch.rand(args.batch, 3, *args.size, device=args.device))
    return model.eval().requires_grad_(False)


def bare_loop(model: nn.Module, images: Tensor, targets: Tensor, steps: int) -> Tensor:
    low, high = (images - EPS).clamp_(0, 1), (images + EPS).clamp_(0, 1)
    images_adv = torch.min(torch.max(images + torch.empty_like(images).uniform_(-EPS, EPS), low), high)
    for _ in range(steps):
        images_adv.requires_grad_()
        loss = F.cross_entropy(model(images_adv), targets, ignore_index=255)
        (grad,) = torch.autograd.grad(loss, images_adv)
        images_adv = images_adv.detach()
        images_adv = torch.min(torch.max(images_adv + ALPHA * grad.sign(), low), high)
    return images_adv


def contenders(model: nn.Module, images: Tensor, targets: Tensor, steps: int) -> dict[str, Contender]:
    """Return a whole attack of ``steps`` steps for each name."""
    settings = {"eps": EPS, "step_size": ALPHA, "steps": steps}
    ours = {
        "BIM": attacks.BIM(**settings),
        "PGD": attacks.PGD(**settings),
        "PGD l2": attacks.PGD(eps=1.0, step_size=0.25, steps=steps, norm="l2"),
        "SegPGD": attacks.SegPGD(**settings),
        "SegPGD keep=best": attacks.SegPGD(**settings, keep="best"),
        "CosPGD": attacks.CosPGD(**settings),
        "MIFGSM": attacks.MIFGSM(**settings),
        "DS": attacks.DS(**settings),
    }
    result: dict[str, Contender] = {"bare loop": lambda: bare_loop(model, images, targets, steps)}
    result |= {name: lambda attack=attack: attack(model, images, targets) for name, attack in ours.items()}
    try:
        import torchattacks
    except ImportError:
        print("torchattacks is not installed: no comparison with it")
    else:
        # It has no ignore index, and its cross-entropy ignores nothing: it gets labels that are all valid.
        peer = torchattacks.PGD(model, eps=EPS, alpha=ALPHA, steps=steps)
        valid = targets.masked_fill(targets == 255, 0)
        result["torchattacks PGD"] = lambda: peer(images, valid)
    return result


def timed(run: Contender, device: torch.device, clock: Callable[[], float]) -> float:
    start = clock()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start


def peak_bytes(run: Contender, device: torch.device) -> int:
    """Measure the largest sum of live tensors that were allocated during the run, in bytes."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    # Allocations and releases of torch's CPU allocator in the order of time. Unlike the resident set, they do not
    # depend on memory that the allocator or the system keeps for later.
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def one_gradient(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    images_adv = images.clone().requires_grad_()
    loss = F.cross_entropy(model(images_adv), targets, ignore_index=255)
    return torch.autograd.grad(loss, images_adv)[0]


def summary(values: list[float]) -> str:
    return f"{statistics.median(values):6.3f} ({min(values):.3f}..{max(values):.3f})"


def main() -> None:
    args = arguments()
    device = torch.device(args.device)
    torch.set_num_threads(args.threads)
    model = frozen_model(args)
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(args.batch, 3, *args.size, generator=generator).to(device)
    with torch.no_grad():
        targets = model(images).argmax(1)
    targets[torch.rand(targets.shape, generator=generator).to(device) < 0.1] = 255

    # Processor time excludes the time in which other processes have the core. With several threads it would also count
    # their waiting for one another.
    clock = time.process_time if device.type == "cpu" and args.threads == 1 else time.perf_counter
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    print("command:", "python", *sys.argv)
    print(f"python {platform.python_version()}, torch {torch.__version__}, timm {timm.__version__}, on {name}")
    print(
        f"PSPNet on {args.network}, {args.batch}×3×{args.size[0]}×{args.size[1]}, {CLASSES} classes, {args.precision}"
    )
    print(f"{args.steps} steps, {args.repeats} rounds, {args.threads} threads, {clock.__name__}")
    print(f"ratio 1 is {BARE_LOOP}\n")

    def precision() -> AbstractContextManager[object]:
        return torch.autocast(device.type, torch.bfloat16) if args.precision == "bf16" else nullcontext()

    runs = contenders(model, images, targets, args.steps)
    if args.only is not None:
        runs = {name: run for name, run in runs.items() if name == "bare loop" or name in args.only}
    with precision():
        for run in runs.values():  # warm up
            run()
        rounds = []
        for first in range(args.repeats):
            # Each round starts with another contender, so that no contender always follows the same one.
            names = [*runs][first % len(runs) :] + [*runs][: first % len(runs)]
            rounds.append({name: timed(runs[name], device, clock) for name in names})
        base = peak_bytes(lambda: one_gradient(model, images, targets), device)
        peaks = {name: peak_bytes(run, device) for name, run in runs.items()}

    peer = "torchattacks PGD"
    header = f"{'attack':18} {'ms/step':>8}  {'/ bare loop':24} {'/ ' + peer:24} {'peak MiB':>8} {'/ 1 fwd+bwd':>11}"
    print(header, "-" * len(header), sep="\n")
    for name in runs:
        step = statistics.median(times[name] for times in rounds) / args.steps * 1000
        to_bare = summary([times[name] / times["bare loop"] for times in rounds])
        to_peer = summary([times[name] / times[peer] for times in rounds]) if peer in runs else "-"
        memory = f"{peaks[name] / 2**20:8.1f} {peaks[name] / base:11.3f}"
        print(f"{name:18} {step:8.2f}  {to_bare:24} {to_peer:24} {memory}")
    kind = (
        "torch.cuda.max_memory_allocated" if device.type == "cuda" else "live bytes of torch's CPU allocator, profiled"
    )
    print(f"\npeak: {kind}, beyond model and batch; one forward and input gradient takes {base / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
