"""Correctness of the attacks on a device: against the CPU, in lower precision, twice, and without traces."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from gpu_device import Device, Precision, deterministic, float32
from gpu_networks import IDS, pixel_acc, tiny_batch, tiny_model, trained_model
from gpu_table import Absent, Check, Wrong
from torch import Tensor, nn

from robustseg import attacks
from robustseg.attacks import Attack, NoiseSource
from robustseg.evaluation.attacking import full_precision

STEPS = 10
CLOSE = 1e-5
"""Units of [0, 1] images."""
L2 = {"eps": 1.0, "step_size": 0.25, "norm": "l2"}
ATTACKS: dict[str, Callable[[int], Attack]] = {
    "PGD": lambda steps: attacks.PGD(steps=steps),
    "SegPGD": lambda steps: attacks.SegPGD(steps=steps),
    "CosPGD": lambda steps: attacks.CosPGD(steps=steps),
    "APGD": lambda steps: attacks.APGD(steps=max(3, steps)),
    "PGD l2": lambda steps: attacks.PGD(steps=steps, **L2),
    "MIFGSM": lambda steps: attacks.MIFGSM(steps=steps),
    "DS": lambda steps: attacks.DS(steps=steps),
    "DIFGSM": lambda steps: attacks.DIFGSM(steps=steps),
    "Square": lambda steps: attacks.Square(steps=5 * steps),
    "TsallisPGD": lambda steps: attacks.TsallisPGD(steps=steps),
    "PAdamCE": lambda steps: attacks.PAdamCE(steps=steps),
    "Houdini": lambda steps: attacks.Houdini(steps=steps),
    "MLAttack": lambda steps: attacks.MLAttack(steps=steps),
    "DAG": lambda steps: attacks.DAG(steps=steps),
    "ALMAProx": lambda steps: attacks.ALMAProx(steps=steps),
    "PDPGD": lambda steps: attacks.PDPGD(steps=steps),
    "DeepFool": lambda steps: attacks.DeepFool(steps=steps),
    "CW": lambda steps: attacks.CW(steps=steps),
}
"""A representative of each loss, step rule, transform and search; the most used ones first."""
AMPLIFYING = {torch.float32: ("ALMAProx", "PDPGD", "DeepFool", "CW"), torch.float64: ("ALMAProx",)}
"""Attacks that amplify the rounding of a dtype beyond CLOSE: they are judged by the pixels that are left."""


def attack_checks(device: Device, tiny: bool) -> Iterator[Check]:
    """Yield the checks of the attacks, the most important one first."""
    yield Check("float32 is float32", partial(exact_float32, device))
    yield Check("start noise, CPU against device", partial(equal_noise, device))
    for name in ATTACKS:
        yield Check(f"{name}, CPU against device", partial(like_the_cpu, device, name))
    for precision in ("bf16", "fp16"):
        for name in ("SegPGD", "CosPGD", "APGD"):
            yield Check(f"{name} in {precision} against float32", partial(strength, device, name, precision, tiny))
    for name in ("PGD", "CosPGD", "APGD", "Square", "DS"):
        yield Check(f"{name} twice", partial(twice, device, name))
    for name in ("PGD", "CosPGD", "APGD", "DS", "MLAttack", "CW"):
        yield Check(f"{name} leaves no trace", partial(no_trace, device, name))
    # On the CPU a draw of the shared generator counts as well: DS takes one for each step.
    for name in ("PGD", "SegPGD", "CosPGD", "MIFGSM", "TsallisPGD", "APGD", *["DS"] * device.cuda):
        yield Check(f"{name}, synchronisations", partial(synchronisations, device, name))


def exact_float32(device: Device) -> str:
    """Compare products in an evaluation's float32 with those in float64, while TF32 is allowed outside."""
    allowed = _guarded(device, float32(tf32=True), nullcontext())
    errors = {}
    for name, switches in (("old", float32(tf32=True)), ("new", new_switches())):
        try:
            errors[name] = _guarded(device, switches, full_precision())
        except RuntimeError as error:
            raise Wrong(f"the guard of evaluations fails under torch's {name} switches: {error}") from error
    found = ", ".join(f"{error:.1e} under the {name} switches" for name, error in errors.items())
    found = f"largest relative error within the guard {found}; with TF32 allowed {allowed:.1e}"
    if max(errors.values()) > 5e-5:  # TF32 has 3e-4, float32 by Winograd's kernels up to 1e-5
        raise Wrong(found)
    return found


def _guarded(device: Device, outer: AbstractContextManager[object], guard: AbstractContextManager[object]) -> float:
    """Return the largest relative error of a convolution and a product within two contexts."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device.torch)

    pairs = [(torch.conv2d, draw(2, 256, 32, 32), draw(64, 256, 3, 3)), (torch.matmul, draw(512, 512), draw(512, 512))]
    exact = [product(one.double(), other.double()) for product, one, other in pairs]
    with outer, guard:
        found = [product(one, other) for product, one, other in pairs]
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, exact, strict=True))


class new_switches:
    """A ``with`` block in which TF32 is allowed by ``torch.backends.*.fp32_precision``, where torch has it."""

    def __enter__(self) -> None:
        """Allow it."""
        backends = torch.backends
        self._parts = [backends.cuda.matmul, backends.cudnn.conv] if hasattr(backends.cudnn, "conv") else []
        self._before = [part.fp32_precision for part in self._parts]
        for part in self._parts:
            part.fp32_precision = "tf32"

    def __exit__(self, *_: object) -> None:
        """Set back what was there."""
        for part, value in zip(self._parts, self._before, strict=True):
            part.fp32_precision = value


def equal_noise(device: Device) -> str:
    """Compare the noise of both devices bit by bit, for the whole batch and for some of its images."""
    cpu, rows = torch.device("cpu"), torch.tensor([2, 0])
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        for kind in ("uniform", "normal"):
            drawn = []
            for place in (cpu, device.torch):
                source = NoiseSource.for_samples((3, 1), IDS, place)
                like = torch.empty(len(IDS), 3, 33, 65, dtype=dtype, device=place)
                first, second = getattr(source, kind)(like), getattr(source, kind)(like)
                part = NoiseSource.for_samples((3, 1), IDS, place).select(rows.to(place), len(IDS))
                if not torch.equal(getattr(part, kind)(like[:2]), first[rows.to(place)]):
                    raise Wrong(f"{kind} {dtype}: images of a part of the batch get other noise on {place}")
                drawn.append(torch.stack([first, second]).cpu())
            different = float((drawn[0] != drawn[1]).double().mean())
            if different:
                raise Wrong(f"{kind} {dtype}: {different:.2%} of the numbers differ")
    return "uniform and normal in float32, float64 and bfloat16 equal to the bit"


def like_the_cpu(device: Device, name: str) -> str:
    """Attack on the CPU and on the device: in float64 all pixels agree, in float32 those of the first step.

    Later float32 steps follow the sign of gradients near zero, so that some pixels of some attacks end elsewhere: there
    the pixels that the model still predicts right are compared.
    """
    cpu = torch.device("cpu")
    judge, targets = tiny_model(cpu, torch.float64), tiny_batch(cpu)[1]

    def apart(dtype: torch.dtype, steps: int) -> tuple[float, float]:
        one, other = (_run(device, place, ATTACKS[name](steps), dtype) for place in ("cpu", "device"))
        share = float(((one.double() - other.double()).abs() > CLOSE).double().mean())
        left = [pixel_acc(judge, each.double(), targets) for each in (one, other)]
        return 100 * share, abs(left[0] - left[1])

    exact, _ = apart(torch.float64, STEPS)
    first, _ = apart(torch.float32, 1)
    last, difference = apart(torch.float32, STEPS)
    found = (
        f"values beyond {CLOSE:g}: {exact:.3f} % in float64; in float32 {first:.3f} % after one step and {last:.2f} % "
        f"at the end, where pixel_acc differs by {difference:.2f}"
    )
    apart_in = [
        exact > 0.1 and name not in AMPLIFYING[torch.float64],
        first > 0.1 and name not in AMPLIFYING[torch.float32],
    ]
    if any(apart_in) or difference > 2:
        raise Wrong(found)
    return found


def _run(device: Device, place: str, attack: Attack, dtype: torch.dtype) -> Tensor:
    """Attack the tiny batch on the CPU or on the device; return the result on the CPU."""
    where = torch.device("cpu") if place == "cpu" else device.torch
    model, (images, targets) = tiny_model(where, dtype), tiny_batch(where, dtype)
    noise = NoiseSource.for_samples((0, attack.seed), IDS, where)
    with float32():
        if place == "cpu":
            return attack(model, images, targets, generator=noise)
        with device.other_kernels():
            return attack(model, images, targets, generator=noise).cpu()


def strength(device: Device, name: str, precision: Precision, tiny: bool) -> str:
    """Search in lower precision and in float32; a float32 forward says what is left of a model's right pixels."""
    model, images, targets = trained_model(device.torch, 40 if tiny else 100)
    images, targets = images[: 4 if tiny else 16], targets[: 4 if tiny else 16]
    attack = ATTACKS[name](3 if tiny else STEPS)
    search = attacks.Search(precision)
    if reason := search.why_not(device.torch):
        raise Absent(reason)
    left = {}
    for each, way in (("fp32", None), (precision, search)):
        with float32():
            noise = NoiseSource.for_samples(0, [str(index) for index in range(len(images))], device.torch)
            images_adv = attack(model, images, targets, generator=noise, search=way)
        with float32():
            left[each] = pixel_acc(model, images_adv, targets)
    with float32():
        clean = pixel_acc(model, images, targets)
    found = f"pixel_acc {clean:.2f} clean, {left['fp32']:.2f} searched in float32, {left[precision]:.2f} in {precision}"
    if left[precision] - left["fp32"] > 1:
        raise Wrong(f"{found}: weaker by more than a point")
    return found


def twice(device: Device, name: str) -> str:
    """Attack twice with ``trainer.deterministic`` on; the images are equal to the bit."""
    with deterministic():
        one, other = (_run(device, "device", ATTACKS[name](STEPS), torch.float32) for _ in range(2))
    if not torch.equal(one, other):
        raise Wrong(f"{float((one != other).double().mean()):.2%} of the values differ")
    return "equal to the bit"


def no_trace(device: Device, name: str) -> str:
    """Attack, and look for what remains: memory, random states, gradients, flags and the input itself."""
    model, (images, targets) = tiny_model(device.torch), tiny_batch(device.torch)
    kept = images.clone()
    attack = ATTACKS[name](STEPS)
    attack(model, images, targets)  # libraries allocate workspaces at their first call
    weights, states, memory = _state(model), device.random_states(), device.allocated()
    attack(model, images, targets)
    leaked = device.allocated() - memory
    faults = [f"{leaked} bytes of memory"] * bool(leaked)
    faults += ["a global random state"] * (not _equal(states, device.random_states()))
    faults += ["weights or buffers"] * (not _equal(weights, _state(model)))
    faults += ["gradients"] * any(each.grad is not None for each in model.parameters())
    faults += ["the images"] * (not torch.equal(images, kept))
    if faults:
        raise Wrong(f"changed or left behind: {', '.join(faults)}")
    return "memory, random states, weights, buffers and images as before"


def _state(model: nn.Module) -> list[Tensor]:
    return copy.deepcopy([each.detach() for each in (*model.parameters(), *model.buffers())])


def _equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def synchronisations(device: Device, name: str) -> str:
    """Count the waits of a call with few and with many steps: at most 3 for a call and none for a step.

    Attacks with images that leave early look for them at every tenth step.
    """
    model, (images, targets) = tiny_model(device.torch), tiny_batch(device.torch)
    images, targets = images[:-1], targets[:-1]  # an image without a valid pixel costs waits of its own
    counts = []
    for steps in (5, 25):
        attack = ATTACKS[name](steps)
        call = partial(attack, model, images, targets)
        call()
        counts.append(device.synchronisations(call))
    each = (counts[1] - counts[0]) / 20
    fixed, most = counts[0] - 5 * each, 0.1 if name == "APGD" else 0.0
    found = f"{fixed:.0f} per call and {each:.2f} per step"
    if fixed > 3 or each > most:
        raise Wrong(f"{found}: more than 3 or {most:g}")
    return found
