"""The cost of an attack's step beyond the forward and the input gradient that every attack needs.

    python benchmarks/attack_loop.py [--network small --size 96 128 --batch 4 --steps 3 5 10 --precision fp32]

The network is small by default, 1.6 million parameters, so that the fixed costs of a call show. An update of
adversarial training (SegPGD-AT, half of the batch attacked) is compared with a limit of its own.

All contenders run in rounds, one after the other in each round, and ratios are formed within a round, so that a
temporary slowdown of the machine cancels. With --threads 1 on a CPU, processor time is measured, the best choice on a
shared machine. The output shows the medians over the rounds, and the smallest and largest values.
"""

from __future__ import annotations

import argparse
import copy
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
from robustseg.training import RobustSegmentation
from robustseg.types import Batch

EPS, ALPHA = 8 / 255, 0.01
CLASSES = 21
BARE_LOOP = """the bare loop: per step one forward, F.cross_entropy(ignore_index=255), autograd.grad to the input,
    x + α·sign(∇), clamp to x ± ε (torch.min/max with bounds computed once); parameters frozen, model in eval mode,
    start U(−ε, ε), same precision; no checks, no state saved or restored, nothing recorded"""

LIMIT = """the limit of an update: the bare loop on half of the batch in eval mode, forward and backward of the
    cross-entropy on all of it in train mode, a step of SGD"""
SMALL = {"backbone": "resnet10t", "channels": 64, "backbone_args": {"channels": [32, 64, 128, 256]}}
PEER = "torchattacks PGD"
UPDATE, UPDATE_LIMIT = "SegPGD-AT update", "limit of an update"
DEFAULT = ("PGD", "PGD l2", "SegPGD", "SegPGD keep=best", "CosPGD", "APGD", "MIFGSM", "DS", UPDATE)

Contender = Callable[[], Tensor]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="small", help="timm backbone of the PSPNet")
    parser.add_argument("--size", type=int, nargs=2, default=(96, 128), metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, nargs="+", default=(3, 5, 10), help="one table for each")
    parser.add_argument("--repeats", type=int, default=15, help="rounds")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="bf16: autocast")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", nargs="*", default=DEFAULT, help="names of the contenders")
    return parser.parse_args()


def frozen_model(args: argparse.Namespace) -> nn.Module:
    """Build a PSPNet with its own BatchNorm statistics: the initial ones let activations fade into denormals."""
    torch.manual_seed(0)
    settings = SMALL if args.network == "small" else {"backbone": args.network, "channels": 128}
    model = SegmentationModel(PSPNet(CLASSES, aux_head=False, **settings)).to(args.device).train()
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
        "APGD": attacks.APGD(eps=EPS, steps=steps),
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
        result[PEER] = lambda: peer(images, valid)
    return result | updates(model, images, targets, steps)


def updates(model: nn.Module, images: Tensor, targets: Tensor, steps: int) -> dict[str, Contender]:
    """Return an update of adversarial training without Lightning's loop around it, and its limit."""
    half = len(images) // 2
    batch = Batch(images, targets, [str(number) for number in range(len(images))])
    attack = attacks.SegPGD(eps=EPS, step_size=ALPHA, steps=steps)
    module = Unlogged(copy.deepcopy(model.network), attack).to(images.device).requires_grad_(True).train()
    plain = copy.deepcopy(model).requires_grad_(True).train()
    optimizers = [torch.optim.SGD(net.parameters(), 1e-6) for net in (module, plain)]

    def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    def limit() -> Tensor:
        plain.eval().requires_grad_(False)
        images_adv = bare_loop(plain, images[half:], targets[half:], steps)
        logits = plain.train().requires_grad_(True)(torch.cat([images[:half], images_adv]))
        return step(optimizers[1], F.cross_entropy(logits, targets, ignore_index=255))

    return {
        UPDATE_LIMIT: limit,
        UPDATE: lambda: step(optimizers[0], module.training_step(batch, 0)),
    }


class Unlogged(RobustSegmentation):
    """The training module without a trainer."""

    def log(self, *args: object, **kwargs: object) -> None:
        pass

    @property
    def global_step(self) -> int:
        return 0


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
    print(f"{args.repeats} rounds, {args.threads} threads, {clock.__name__}")
    print(f"ratio 1 is {BARE_LOOP}\n{UPDATE}: ratio 1 is {LIMIT}")

    def precision() -> AbstractContextManager[object]:
        return torch.autocast(device.type, torch.bfloat16) if args.precision == "bf16" else nullcontext()

    with precision():
        base = peak_bytes(lambda: one_gradient(model, images, targets), device)
        for steps in args.steps:
            runs = contenders(model, images, targets, steps)
            always = {"bare loop", PEER, *([UPDATE_LIMIT] if UPDATE in args.only else [])}
            runs = {name: run for name, run in runs.items() if name in always or name in args.only}
            rounds = measured(runs, args.repeats, device, clock)
            print_table(steps, rounds, {name: peak_bytes(run, device) for name, run in runs.items()}, base)
    kind = (
        "torch.cuda.max_memory_allocated" if device.type == "cuda" else "live bytes of torch's CPU allocator, profiled"
    )
    print(f"\npeak: {kind}, beyond model and batch; one forward and input gradient takes {base / 2**20:.1f} MiB")


def measured(
    runs: dict[str, Contender], repeats: int, device: torch.device, clock: Callable[[], float]
) -> list[dict[str, float]]:
    """Time all contenders in rounds; each round starts with another one, so that none always follows the same."""
    for run in runs.values():  # warm up
        run()
    rounds = []
    for first in range(repeats):
        names = [*runs][first % len(runs) :] + [*runs][: first % len(runs)]
        rounds.append({name: timed(runs[name], device, clock) for name in names})
    return rounds


def print_table(steps: int, rounds: list[dict[str, float]], peaks: dict[str, int], base: int) -> None:
    header = f"T = {steps:<14} {'ms/step':>8}  {'/ bare loop':24} {'/ ' + PEER:24} {'peak MiB':>8} {'/ 1 fwd+bwd':>11}"
    print("\n" + header, "-" * len(header), sep="\n")
    for name in rounds[0]:
        if name == UPDATE_LIMIT:
            continue
        step = statistics.median(times[name] for times in rounds) / steps * 1000
        limit = UPDATE_LIMIT if name == UPDATE else "bare loop"
        to_limit = summary([times[name] / times[limit] for times in rounds])
        to_peer = "-"
        if PEER in rounds[0] and name != UPDATE:
            to_peer = summary([times[name] / times[PEER] for times in rounds])
        memory = f"{peaks[name] / 2**20:8.1f} {peaks[name] / base:11.3f}"
        print(f"{name:18} {step:8.2f}  {to_limit:24} {to_peer:24} {memory}")


if __name__ == "__main__":
    main()
