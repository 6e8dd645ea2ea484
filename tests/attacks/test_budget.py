"""The result of an attack is within its threat model, or the attack is refused; the images are those of the caller."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustseg.attacks import FGSM, PGD, Attack, AttackError, IterativeAttack, PureClass, Targeted, ThreatModel
from robustseg.attacks.losses.pixelwise import CrossEntropy
from robustseg.attacks.steps.sign import SignStep
from robustseg.detectors import OnPatches, ThroughBlur
from tests.helpers.cases import partly
from tests.helpers.nets import tiny_batch, tiny_net

from .comparison import assert_allowed
from .table import ROWS, WITH_NORM, build, first_or_own_norm

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


class Strangers(Attack):
    """An attack from elsewhere, which returns what a function of the images gives."""

    def __init__(self, function: Callable[[Tensor], Any], threat: ThreatModel | None):
        super().__init__()
        self.function = function
        self.threat = threat

    def perturb(self, victim, images, targets, noise, on_step):
        victim(images)
        return self.function(images)

    def describe(self):
        return {"attack": "Strangers"}


def model(images: Tensor) -> Tensor:
    return torch.cat([images, images[:, :1]], 1)


def grey(dtype: torch.dtype, ignored: bool = False) -> tuple[Tensor, Tensor]:
    images, targets = torch.full((2, 3, 4, 4), 0.25, dtype=dtype), torch.zeros(2, 4, 4, dtype=torch.long)
    if ignored:
        targets[1] = 255
    return images, targets


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("norm", ["linf", "l2", "rms"])
@pytest.mark.parametrize("ignored", [False, True])
def test_an_attack_that_leaves_its_ball_is_named(norm: str, dtype: torch.dtype, ignored: bool):
    images, targets = grey(dtype, ignored)
    # Half precision has no number so near to the ball.
    length = 0.125 + (1e-6 if dtype in (torch.float32, torch.float64) else 0.01)
    if norm == "l2":
        length /= images[0].numel() ** 0.5
    attack = Strangers(lambda x: (x.double() + length).to(dtype), ThreatModel("1/8", norm))
    with pytest.raises(AttackError, match=r"Strangers returned images that leave .*1/8.* error of the attack"):
        attack(model, images, targets)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("norm", ["linf", "l2", "rms"])
def test_rounding_is_projected(norm: str, dtype: torch.dtype):
    """The naive sum of an image and ε is an image that the ball does not hold exactly."""
    images, targets = tiny_batch(dtype)
    eps = 8 / 255 / (images[0].numel() ** 0.5 if norm == "l2" else 1)
    threat = ThreatModel("8/255", norm)
    images_adv = Strangers(lambda x: (x + eps).clamp(0, 1), threat)(
        lambda x: torch.cat([x, x[:, :1]], 1), images, targets
    )
    assert float(threat.around(images).excess(images_adv)) <= 0


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (0.2, 0.8), (-1.0, 1.0)])
@pytest.mark.parametrize("eps", ["8/255", "1/3", "1e-9", 0, 1])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_ends_of_the_allowed_set_are_allowed_and_their_neighbours_are_not(
    dtype: torch.dtype, eps: float | str, bounds: tuple[float, float]
):
    lower, upper = bounds
    drawn = torch.rand(40, 3, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    drawn[0], drawn[1] = 0, 1
    images = (lower + (upper - lower) * drawn).to(dtype).clamp(lower, upper)
    before, far = images.clone(), torch.full_like(images, 9)
    allowed = ThreatModel(eps, bounds=bounds).around(images)
    low, high = allowed.project(-far), allowed.project(far)
    assert float(allowed.excess(low)) <= 0
    assert float(allowed.excess(high)) <= 0
    tiny = torch.finfo(dtype).tiny  # the neighbours of 0 are denormal numbers, which a processor may flush
    for row in range(len(images)):
        one = allowed.select(torch.tensor([row]))
        for end, side in ((low, -far), (high, far)):
            outside = torch.where(end == 0, tiny * side.sign(), torch.nextafter(end, side))
            assert float(one.excess(outside[row : row + 1])) > 0
    assert torch.equal(images, before)


WRONG = {
    "NaN": (lambda x: x * float("nan"), "leave .* by nan"),
    "one NaN": (lambda x: x.index_fill(3, torch.tensor(1), float("nan")), "by nan"),
    "infinite": (lambda x: x / 0, "by inf"),
    "below 0": (lambda x: x - 0.25 - 1e-6, r"by 1e-06|by 9\.\d+e-07|by 1\.\d+e-06"),
    "above 1": (lambda x: x + 0.75 + 1e-6, "leave"),
    "dtype": (lambda x: x.half(), r"returned torch.float16 \(2, 3, 4, 4\) on cpu for images of torch.float32"),
    "wider dtype": (lambda x: x.double(), "returned torch.float64"),
    "integers": (lambda x: (x * 255).byte(), "returned torch.uint8"),
    "smaller": (lambda x: x[..., 1:], r"returned torch.float32 \(2, 3, 4, 3\)"),
    "fewer": (lambda x: x[:1], r"returned torch.float32 \(1, 3, 4, 4\)"),
    "device": (lambda x: x.to("meta"), "on meta"),
    "list": (lambda x: [x], "returned a list"),
    "None": (lambda x: None, "returned a NoneType"),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("bounded", [False, True])
def test_results_that_are_no_images(kind: str, bounded: bool):
    function, message = WRONG[kind]
    with pytest.raises(AttackError, match=message):
        Strangers(function, ThreatModel(1, "linf") if bounded else None)(model, *grey(torch.float32))
    if kind != "fewer":
        # With an image without valid pixels only the other one is attacked.
        with pytest.raises(AttackError, match="Strangers returned"):
            Strangers(function, ThreatModel(1, "linf") if bounded else None)(model, *grey(torch.float32, True))


@pytest.mark.parametrize("ignored", [False, True])
def test_an_attack_that_changes_the_images_it_was_given_is_measured_by_the_callers(ignored: bool):
    images, targets = grey(torch.float32, ignored)
    before = images.clone()
    with pytest.raises(AttackError, match="leave"):
        Strangers(lambda x: x.add_(0.5), ThreatModel("1/8"))(model, images, targets)
    assert torch.equal(images, before)
    result = Strangers(lambda x: x.add_(0.0625), ThreatModel("1/8"))(model, images, targets)
    assert torch.equal(images, before)
    assert torch.equal(result[1], before[1]) == ignored


class Broken(FGSM):
    def perturb(self, victim, images, targets, noise, on_step):
        return super().perturb(victim, images, targets, noise, on_step) + 0.01


@pytest.mark.parametrize(
    "attack",
    [
        Broken(eps=0.02),
        ThroughBlur(Broken(eps=0.02), 0.5),
        OnPatches(Broken(eps=0.02), 3, 2),
        Targeted(Broken(eps=0.02, targeted=True), PureClass(1)),
    ],
    ids=lambda attack: type(attack).__name__,
)
def test_attacks_within_attacks_are_measured(attack: Attack):
    with pytest.raises(AttackError, match=rf"{type(attack).__name__} returned images that leave .* by 0.01"):
        attack(tiny_net(), *tiny_batch())


@pytest.mark.parametrize(("name", "norm"), partly(WITH_NORM, first_or_own_norm))
@given(
    eps=st.sampled_from(["1/510", "0.3/255", "7.3/255", 0.1, "1/3", 1e-4]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=3)
def test_no_right_attack_is_refused(name: str, norm: str, eps: float | str, dtype: torch.dtype, seed: int):
    images, targets = tiny_batch(torch.float64, seed=seed)
    attack = build(name, eps, norm)
    images = images.to(dtype)
    if dtype in (torch.float16, torch.bfloat16) and (ROWS[name].layers or not ROWS[name].asks):
        return
    net = tiny_net(torch.float32)

    def asked(x: Tensor) -> Tensor:
        return net(x.float())

    victim = net.to(dtype) if ROWS[name].layers else asked
    images_adv = attack(victim, images, targets, generator=torch.Generator().manual_seed(seed))
    assert float(attack.threat.around(images).excess(images_adv)) <= 0
    assert float(images_adv.min()) >= 0
    assert float(images_adv.max()) <= 1


@pytest.mark.parametrize(
    "bounds",
    [(1, 0), (0.5, 0.5), (float("nan"), 1), (0, float("inf")), ("0", "1"), (0,), 1, None, (0, 255), (False, True)],
)
def test_bounds_that_are_none(bounds: Any):
    with pytest.raises(ValueError, match=r"bounds = .*two numbers in order"):
        ThreatModel("8/255", bounds=bounds)


def loop(bounds: tuple[float, float], norm: str = "linf") -> IterativeAttack:
    return IterativeAttack(ThreatModel("8/255", norm, bounds), CrossEntropy(), SignStep(0.01), steps=3)


@pytest.mark.parametrize("norm", ["linf", "l2", "rms"])
def test_bounds_hold_for_images_within_and_refuse_others(norm: str):
    images, targets = tiny_batch()
    with pytest.raises(AttackError, match=r"images have values in \[0, 1\] .*the bounds \[0.2, 0.8\] of the threat"):
        loop((0.2, 0.8), norm)(tiny_net(), images, targets)
    within = images.clamp(0.2, 0.8)
    images_adv = loop((0.2, 0.8), norm)(tiny_net(), within, targets)
    assert 0.2 <= float(images_adv.min()) <= float(images_adv.max()) <= 0.8
    assert_allowed(images_adv, within, 8 / 255, norm)
    signed = loop((-1, 1), norm)(tiny_net(), images * 2 - 1, targets)
    assert float(signed.min()) < 0
    with pytest.raises(AttackError, match=r"images have values in \[-1, 1\]"):
        PGD()(tiny_net(), images * 2 - 1, targets)


def test_a_targeted_map_and_a_detectors_attack_keep_the_bounds():
    images, targets = tiny_batch()
    for attack in (
        Targeted(loop((0.2, 0.8)).replace(targeted=True), PureClass(1)),
        ThroughBlur(loop((0.2, 0.8)), 0.5),
        OnPatches(loop((0.2, 0.8)), 3, 2),
    ):
        with pytest.raises(AttackError, match=r"bounds \[0.2, 0.8\]"):
            attack(tiny_net(), images, targets)
