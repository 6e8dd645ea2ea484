"""Speed of the attack loop on a device: images per second, share of the roofline, and ratios to other loops."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from attack_loop import ALPHA, EPS, bare_loop, one_gradient, peak_bytes, timed
from gpu_device import Device, Precision
from gpu_networks import calibrated, shipped
from gpu_table import Check
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from robustseg import attacks

STEPS = 3
"""Steps of each timed attack; a step is what is reported."""


@dataclass(frozen=True)
class Subject:
    """A network at the size that it is timed at.

    Attributes:
        title: Its name in the table.
        name: That of its configuration in ``configs/network``.
        side: Height and width of the images in pixels.
    """

    title: str
    name: str
    side: int


LARGE = (
    Subject("PSPNet-R50 473²", "pspnet_r50", 473),
    Subject("UPerNet-ConvNeXt-T 512²", "upernet_convnext_t", 512),
    Subject("SegFormer-B2 512²", "segformer_b2", 512),
)
TINY = (Subject("PSPNet small 65²", "pspnet_small", 65), Subject("SegFormer small 64²", "segformer_small", 64))


@dataclass(frozen=True)
class Variant:
    """A way to compute: precision, memory layout and compilation."""

    precision: Precision
    channels_last: bool = False
    compiled: bool = False

    def __str__(self) -> str:
        return ", ".join([self.precision, *["channels_last"] * self.channels_last, *["compiled"] * self.compiled])


PLAIN = (Variant("bf16", True), Variant("tf32"), Variant("fp32"))
COMPILED = (Variant("bf16", True, True), Variant("tf32", False, True))
WAYS = (*PLAIN, COMPILED[0], Variant("bf16"), Variant("tf32", True), Variant("fp16", True), COMPILED[1])
"""The ways of the most interest first; compiling takes a minute for each network."""


@dataclass
class Bench:
    """Everything that the rows of one run share.

    Attributes:
        device: Where the networks run.
        tiny: Small shapes, for a test on a CPU.
        batch: Images at a time; halved for a row that does not fit into the memory.
        seconds: Time for the rounds of one row.
    """

    device: Device
    tiny: bool
    batch: int
    seconds: float
    _models: dict[str, nn.Module] = field(default_factory=dict)
    _peaks: dict[tuple[Precision, bool], float] = field(default_factory=dict)

    def checks(self) -> Iterator[Check]:
        """Yield the rows: every network in the plain ways first, since compiling takes a minute each."""
        subjects, ways = (TINY, (*PLAIN[:3], COMPILED[0])) if self.tiny else (LARGE, WAYS)
        for variant in ways:
            for subject in subjects[:1] if self.tiny and variant.compiled else subjects:
                needs = 0.0 if self.tiny else 40.0 if variant.compiled else 2 * self.seconds
                run = partial(self.row, subject, variant)
                yield Check(f"{subject.title}, {variant}", run, correctness=False, needs=needs, longest=120)

    def row(self, subject: Subject, variant: Variant) -> str:
        """Time one network in one way, with half the batch as often as the memory does not suffice."""
        batch = self.batch
        while True:
            try:
                return self._row(subject, variant, batch)
            except torch.OutOfMemoryError:
                if batch == 1:
                    raise
            batch //= 2
            self.device.lost()  # frees what the failed run has left

    def _row(self, subject: Subject, variant: Variant, batch: int) -> str:
        layout = torch.channels_last if variant.channels_last else torch.contiguous_format
        model = self._model(subject).to(memory_format=layout)
        generator = torch.Generator().manual_seed(1)
        images = torch.rand(batch, 3, subject.side, subject.side, generator=generator).to(self.device.torch)
        flops = self._flops(model, images[:1]) * batch
        called: nn.Module = self._compiled(model) if variant.compiled else model
        with cudnn_benchmark(), self.device.precision(variant.precision):
            with torch.no_grad():
                targets = model(images).argmax(1)
            images = images.contiguous(memory_format=layout)
            runs = contenders(called, images, targets)
            start = time.perf_counter()
            for run in runs.values():  # warms up: kernels are chosen, and compiled
                run()
            self.device.wait()
            warm = time.perf_counter() - start
            rounds = self._rounds(runs)
            peak = peak_bytes(lambda: one_gradient(called, images, targets), self.device.torch)
            top = self._roofline(variant.precision, variant.channels_last)
        return report(rounds, batch, flops, top, peak, warm if variant.compiled else None)

    def _model(self, subject: Subject) -> nn.Module:
        if subject.name not in self._models:
            side = min(subject.side, 128)
            self._models[subject.name] = calibrated(shipped(subject.name), (side, side), self.device.torch)
        return self._models[subject.name]

    def _compiled(self, model: nn.Module) -> nn.Module:
        torch.compiler.reset()
        # Without a GPU only the path through the compiler is of interest, not its minutes of work.
        return torch.compile(model, backend="aot_eager" if self.tiny else "inductor", dynamic=False)  # type: ignore[return-value]

    def _flops(self, model: nn.Module, image: Tensor) -> float:
        """Count the operations of one image's forward and input gradient."""
        # grad() refuses the counter's hooks; the weights are frozen, so that this computes the same
        with FlopCounterMode(display=False) as counter:
            model(image.clone().requires_grad_()).sum().backward()
        return float(counter.get_total_flops())

    def _rounds(self, runs: dict[str, Callable[[], Tensor]]) -> list[dict[str, float]]:
        rounds: list[dict[str, float]] = []
        end = time.perf_counter() + self.seconds
        while len(rounds) < 2 or (time.perf_counter() < end and len(rounds) < 30):
            names = [*runs][len(rounds) % len(runs) :] + [*runs][: len(rounds) % len(runs)]
            rounds.append({name: timed(runs[name], self.device.torch, time.perf_counter) for name in names})
        return rounds

    def _roofline(self, precision: Precision, channels_last: bool) -> float:
        """Return the most operations per second of large convolutions and products, measured once per way."""
        key = (precision, channels_last)
        if key not in self._peaks:
            self._peaks[key] = max(self._throughput(*shape, channels_last) for shape in self._shapes())
        return self._peaks[key]

    def _shapes(self) -> list[tuple[int, int, int, int]]:
        """Return channels in and out, kernel and side: PSPNet's head and backbone, a transformer's products."""
        if self.tiny:
            return [(32, 32, 3, 16), (64, 64, 1, 16)]
        return [(4096, 512, 3, 60), (512, 512, 3, 60), (1024, 1024, 1, 60), (2048, 2048, 1, 64)]

    def _throughput(self, channels: int, out: int, kernel: int, side: int, channels_last: bool) -> float:
        layout = torch.channels_last if channels_last else torch.contiguous_format
        where = self.device.torch
        features = torch.randn(self.batch, channels, side, side, device=where).contiguous(memory_format=layout)
        features.requires_grad_()
        weight = torch.randn(out, channels, kernel, kernel, device=where).contiguous(memory_format=layout)
        # Autocast keeps a cast of parameters only; the casts of this benchmark are made once, before.
        if torch.is_autocast_enabled(where.type):
            dtype = torch.get_autocast_dtype(where.type)
            features, weight = features.detach().to(dtype).requires_grad_(), weight.to(dtype)

        def run() -> Tensor:
            result = F.conv2d(features, weight, padding=kernel // 2)
            return torch.autograd.grad(result, features, torch.ones_like(result))[0]

        for _ in range(3):
            timed(run, where, time.perf_counter)
        fastest = min(timed(run, where, time.perf_counter) for _ in range(5))
        return 4.0 * self.batch * side**2 * channels * out * kernel**2 / fastest


@contextmanager
def cudnn_benchmark() -> Iterator[None]:
    """Let cuDNN choose the fastest kernels, for the duration."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def contenders(model: nn.Module, images: Tensor, targets: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Return a whole attack of STEPS steps for each name; torchattacks' only where it is installed."""
    settings = {"eps": EPS, "step_size": ALPHA, "steps": STEPS}
    result: dict[str, Callable[[], Tensor]] = {"bare loop": lambda: bare_loop(model, images, targets, STEPS)}
    for name in ("PGD", "SegPGD", "CosPGD"):
        result[name] = partial(getattr(attacks, name)(**settings), model, images, targets)
    try:
        import torchattacks
    except ImportError:
        return result
    peer = torchattacks.PGD(model, eps=EPS, alpha=ALPHA, steps=STEPS)
    return result | {"torchattacks": lambda: peer(images, targets)}


def report(
    rounds: list[dict[str, float]], batch: int, flops: float, top: float, peak: int, warm: float | None = None
) -> str:
    """Write the figures of one row.

    Args:
        rounds: Seconds of each contender's attack, by name, for each round.
        batch: Images at a time.
        flops: Operations of a forward and an input gradient of the batch.
        top: Operations per second of the roofline.
        peak: Bytes of one forward and input gradient.
        warm: Seconds of the first runs, if they compiled something.
    """
    names = [name for name in rounds[0] if name != "bare loop"]
    step = statistics.median(each["PGD"] for each in rounds) / STEPS
    bare = statistics.median(each["bare loop"] for each in rounds) / STEPS
    ratios = {name: statistics.median(each[name] / each["bare loop"] for each in rounds) for name in sorted(names)}
    peer = statistics.median(each["PGD"] / each["torchattacks"] for each in rounds) if "torchattacks" in names else None
    parts = [
        f"{batch / step:.1f} img/s per step of PGD at batch {batch}",
        f"{1000 * step:.1f} ms per step",
        f"{flops / step / top:.2f} of {top / 1e12:.3g} TFLOP/s (bare loop {flops / bare / top:.2f})",
        "of the bare loop: " + ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()),
        "PGD of torchattacks': " + (f"{peer:.2f}" if peer else "it is not installed"),
        f"{peak / 2**30:.2f} GiB",
    ]
    return "; ".join(parts + ([f"first runs {warm:.0f} s"] if warm is not None else []))
