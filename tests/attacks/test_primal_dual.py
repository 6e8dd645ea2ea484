"""ALMA-prox, PDGD and PDPGD: known optima, the literal reference, what counts as fooled, and defects that are found."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustseg.attacks import PDGD, PDPGD, ALMAProx, Attack, AttackStep
from robustseg.attacks.minimum_norm import alma, constraints, descent, primal_dual
from robustseg.attacks.minimum_norm.constraints import kept_constraints, margin_ratios, margins
from robustseg.attacks.minimum_norm.proximal import prox_l2, prox_linf
from tests.helpers.cases import partly
from tests.helpers.nets import tiny_batch, tiny_net

from . import reference_primal_dual as reference
from .comparison import close
from .defects import Defect, around, found_by, replaced, together
from .reference import NO_LABEL, valid_pixels
from .test_minimum_norm import fooled_share

ALL = (ALMAProx, PDGD, PDPGD)


# ---- Proximal operators ----


def linf_objective(p: Tensor, delta: Tensor, weight: float, metric: Tensor) -> Tensor:
    return (metric * (p - delta) ** 2).sum(-1) / 2 + weight * p.abs().amax(-1)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**16),
    size=st.integers(1, 12),
    weight=st.sampled_from([0.0, 1e-6, 0.01, 0.1, 0.5, 1.0, 3.0, 1e4]),
    ties=st.booleans(),
    with_metric=st.booleans(),
    with_box=st.booleans(),
)
def test_prox_linf_is_that_of_bisection(
    seed: int, size: int, weight: float, ties: bool, with_metric: bool, with_box: bool
):
    generator = torch.Generator().manual_seed(seed)
    delta = torch.randn(2, size, generator=generator, dtype=torch.float64)
    if ties:
        delta = (2 * delta).round() / 2
    metric = torch.rand(delta.shape, generator=generator, dtype=torch.float64).pow(3) + 1e-8
    box = tuple(sign * torch.rand(delta.shape, generator=generator, dtype=torch.float64) for sign in (-1, 1))
    box[1][:, 0] = 0
    weights = torch.tensor([weight, weight / 2], dtype=torch.float64)
    actual = prox_linf(delta, weights, metric if with_metric else None, box if with_box else None)
    far = torch.full_like(delta, 1e9)
    metric = metric if with_metric else torch.ones_like(metric)
    low, high = box if with_box else (-far, far)
    for b in range(2):
        expected = reference.prox_linf_by_bisection(delta[b], float(weights[b]), metric[b], low[b], high[b])
        torch.testing.assert_close(actual[b], expected, rtol=0, atol=1e-12)
        # The literal solver shares the idea of a height; brute force shares nothing.
        value = linf_objective(actual[b], delta[b], float(weights[b]), metric[b])
        for scale in (1e-3, 0.1, 1.0):
            trial = actual[b] + scale * torch.randn(200, size, generator=generator, dtype=torch.float64)
            trial = torch.minimum(torch.maximum(trial, low[b]), high[b])
            assert (linf_objective(trial, delta[b], float(weights[b]), metric[b]) >= value - 1e-12).all()


@pytest.mark.parametrize(
    ("delta", "weight", "expected"),
    [
        ([3.0, -1.0, 0.5], 1.0, [2.0, -1.0, 0.5]),
        ([3.0, -3.0, 0.5], 1.0, [2.5, -2.5, 0.5]),
        ([3.0, -2.0, 0.5], 3.0, [1.0, -1.0, 0.5]),
        ([3.0, -2.0, 0.5], 5.5, [0.0, 0.0, 0.0]),
        ([3.0, -2.0, 0.5], 100.0, [0.0, 0.0, 0.0]),
        ([3.0, -2.0, 0.5], math.inf, [0.0, 0.0, 0.0]),
        ([0.0, 0.0, 0.0], 1.0, [0.0, 0.0, 0.0]),
        ([3.0, -2.0, 0.5], 0.0, [3.0, -2.0, 0.5]),
    ],
)
def test_prox_linf_by_hand(delta: list[float], weight: float, expected: list[float]):
    actual = prox_linf(torch.tensor([delta]), torch.tensor([weight]))
    torch.testing.assert_close(actual, torch.tensor([expected]))
    assert actual.dtype == torch.float32


def test_prox_linf_pulls_with_what_the_box_cuts_off():
    """Clipping first and ignoring how far δ lay outside, or clipping last, gives 0.5 or 1: both are wrong."""
    delta, box = torch.tensor([[2.0, 1.0]]), (torch.tensor([[-1.0, -1.0]]), torch.tensor([[1.0, 1.0]]))
    actual = prox_linf(delta, torch.tensor([1.4]), box=box)
    torch.testing.assert_close(actual, torch.tensor([[0.8, 0.8]]))


def test_prox_l2_by_hand():
    delta = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    expected = torch.tensor([[2.4, 3.2], [0.0, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(prox_l2(delta, torch.ones(3)), expected)


# ---- Constraints ----


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 4, 6])
def test_constraints_are_those_of_the_reference(classes: int, targeted: bool):
    images, targets = tiny_batch(classes=classes)
    logits = tiny_net(classes=classes)(images).detach()
    inside = targets.masked_fill(targets == 255, -100)
    ratios, plain = margin_ratios(logits, inside, targeted, 0.01), margins(logits, inside, targeted)
    assert (ratios[inside == -100] == 0).all()
    for b in range(2):
        target = targets[b].masked_fill(targets[b] == 255, NO_LABEL)
        for i in valid_pixels(target):
            assert float(ratios[b][i]) == pytest.approx(
                float(reference.ratio(logits[b], target, i, targeted, 0.01)), rel=1e-9
            )
            assert float(plain[b][i]) == pytest.approx(
                float(reference.margin(logits[b], target, i, targeted)), rel=1e-9
            )


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_equal_logits_give_finite_constraints(classes: int):
    logits = torch.zeros(1, classes, 1, 2, requires_grad=True)
    ratios = margin_ratios(logits, torch.tensor([[[0, -100]]]), False)
    assert torch.isfinite(torch.autograd.grad(ratios.sum(), logits)[0]).all()


def test_largest_constraints_are_dropped():
    values = torch.tensor([[[5.0, 1.0, 3.0, 4.0, 2.0]], [[1.0, 1.0, 1.0, 1.0, 9.0]]])
    valid = torch.ones(2, 1, 5, dtype=torch.bool)
    valid[0, 0, 0] = False

    def kept(drop: str, spare: int, progress: float = 1.0) -> list:
        return kept_constraints(values, valid, torch.tensor([spare, spare]), drop, progress, 0.8).int().tolist()

    assert kept("never", 2) == [[[0, 1, 1, 1, 1]], [[1, 1, 1, 1, 1]]]
    assert kept("always", 1) == [[[0, 1, 1, 0, 1]], [[1, 1, 1, 1, 0]]]
    # Of equals at the edge none is dropped.
    assert kept("always", 2) == [[[0, 1, 0, 0, 1]], [[1, 1, 1, 1, 0]]]
    assert kept("gradually", 2, 0.0) == kept("never", 2)
    assert kept("gradually", 2, 0.5) == kept("always", 1)
    assert kept("gradually", 2, 1.0) == kept("always", 2)


def test_slope_of_the_penalty_is_its_derivative():
    c = torch.linspace(-2, 2, 41, dtype=torch.float64).requires_grad_()
    for rho in (0.01, 1.0, 30.0):
        for mu in (1e-6, 0.3, 1.0):
            rhos, mus = torch.full_like(c, rho), torch.full_like(c, mu)
            value = alma.penalty_value(c, rhos, mus)
            (slope,) = torch.autograd.grad(value.sum(), c)
            torch.testing.assert_close(slope, alma.penalty_slope(c.detach(), rhos, mus))
            assert (value.detach().diff() > 0).all()
            assert float(slope[20]) == pytest.approx(mu), "at zero the multiplier is the slope"


# ---- The literal reference ----


@dataclass(frozen=True)
class Case:
    """An attack with settings in which all its parts act within a few steps."""

    build: Callable[..., Attack]
    literal: Callable[..., reference.Trace]
    norm: str = "linf"


FAST_ALMA = dict(step_size=0.02, check_every=3, success=0.7, steps=14)
FAST_GAME = dict(step_size=0.05, dual_step=0.5, success=0.7, steps=12)

CASES = {
    "ALMAProx": Case(
        lambda **kw: ALMAProx(**FAST_ALMA, **kw), lambda *a, **kw: reference.literal_alma(*a, **FAST_ALMA, **kw)
    ),
    "ALMAProx with other settings": Case(
        lambda **kw: ALMAProx(
            **FAST_ALMA,
            step_decay=1,
            multiplier=0.2,
            penalty=3.0,
            improvement=0.5,
            penalty_growth=5,
            average=0.5,
            metric_average=0.9,
            scale_range=(0.6, 0.9),
            scale_start=0.7,
            scale_rate=0.1,
            surplus=0.02,
            drop_largest="always",
            **kw,
        ),
        lambda *a, **kw: reference.literal_alma(
            *a,
            **FAST_ALMA,
            step_decay=1,
            mu=0.2,
            rho=3.0,
            tau=0.5,
            gamma=5,
            alpha=0.5,
            alpha_rms=0.9,
            w_min=0.6,
            w_max=0.9,
            w=0.7,
            w_rate=0.1,
            surplus=0.02,
            drop="always",
            **kw,
        ),
    ),
    "PDGD": Case(
        lambda **kw: PDGD(**FAST_GAME, **kw),
        lambda *a, **kw: reference.literal_primal_dual(*a, proximal=None, norm="l2", **FAST_GAME, **kw),
        "l2",
    ),
    "PDGD gradually": Case(
        lambda **kw: PDGD(**FAST_GAME, drop_largest="gradually", dual_floor=0.1, **kw),
        lambda *a, **kw: reference.literal_primal_dual(
            *a, proximal=None, norm="l2", drop="gradually", dual_floor=0.1, **FAST_GAME, **kw
        ),
        "l2",
    ),
    "PDPGD linf": Case(
        lambda **kw: PDPGD(norm="linf", **FAST_GAME, **kw),
        lambda *a, **kw: reference.literal_primal_dual(
            *a, proximal="linf", norm="linf", dual_floor=1e-12, **FAST_GAME, **kw
        ),
    ),
    "PDPGD l2": Case(
        lambda **kw: PDPGD(
            norm="l2",
            **FAST_GAME,
            dual_ratio=0.2,
            step_decay=0.5,
            dual_decay=0.7,
            dual_average=0.4,
            proximal_steps=3,
            **kw,
        ),
        lambda *a, **kw: reference.literal_primal_dual(
            *a,
            proximal="l2",
            norm="l2",
            dual_floor=1e-12,
            **FAST_GAME,
            dual_ratio=0.2,
            step_decay=0.5,
            dual_decay=0.7,
            dual_average=0.4,
            proximal_steps=3,
            **kw,
        ),
        "l2",
    ),
}


@cache
def literal_trace(name: str, targeted: bool, b: int) -> reference.Trace:
    """Image ``b`` attacked by the reference, which no defect in the library can reach."""
    images, targets = tiny_batch()
    target = targets[b].masked_fill(targets[b] == 255, NO_LABEL)
    return CASES[name].literal(tiny_net(), images[b], target, targeted=targeted)


def check_case(name: str, targeted: bool = False) -> None:
    """Every iterate, every loss and the result agree with the literal loop."""
    case = CASES[name]
    model, (images, targets) = tiny_net(), tiny_batch()
    seen: list[AttackStep] = []
    result = case.build(targeted=targeted)(model, images, targets, on_step=seen.append)
    for b in range(len(images)):
        expected = literal_trace(name, targeted, b)
        assert len(expected.losses) == len(seen)
        for t, step in enumerate(seen):
            where = f"{name} targeted={targeted}, image {b}, step {t + 1}"
            close(step.images_adv[b], expected.images_adv[t], f"{where}: iterate", 1e-6)
            close(step.loss[b].double(), torch.tensor(expected.losses[t]).double(), f"{where}: loss", 1e-6)
        close(result[b], expected.result, f"{name} targeted={targeted}, image {b}: result", 1e-6)


@pytest.mark.parametrize(
    ("name", "targeted"),
    partly(
        [(name, targeted) for name in CASES for targeted in (False, True)],
        lambda name, targeted: not targeted or name in ("ALMAProx", "PDPGD linf"),
    ),
)
def test_reference(name: str, targeted: bool):
    check_case(name, targeted)


# ---- Known optima ----

WEIGHT = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
L2_OVER_LINF = float(WEIGHT.abs().sum() / WEIGHT.norm())


def linear(classes: int) -> Callable[[Tensor], Tensor]:
    """Class 1 wins over class 0 where w·(x − ½) > 0; the others stand below."""

    def model(x: Tensor) -> Tensor:
        rise = ((x - 0.5) * WEIGHT.to(x).view(1, 3, 1, 1)).sum(1)
        return torch.stack([0 * rise, rise, *(-1.0 - k + 0 * rise for k in range(classes - 2))], 1)

    return model


def at_distances(*distances: float) -> tuple[Tensor, Tensor]:
    """One image of one row, of which each pixel lies at its L∞ distance from class 1."""
    steps = torch.tensor(distances, dtype=torch.float64).view(1, 1, 1, -1)
    return 0.5 - steps * WEIGHT.sign().view(1, 3, 1, 1), torch.zeros(1, 1, len(distances), dtype=torch.long)


def length(images_adv: Tensor, images: Tensor, norm: str) -> float:
    delta = (images_adv - images).flatten()
    return float(delta.abs().max() if norm == "linf" else delta.norm())


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(
    ("attack", "slack"),
    [
        (ALMAProx(steps=150, step_size=0.003), 1.03),
        (PDPGD(norm="linf", steps=150), 1.05),
        (PDGD(steps=150), 1.1),
        (PDPGD(norm="l2", steps=150), 1.25),
    ],
    ids=lambda v: type(v).__name__ + v.norm if isinstance(v, Attack) else str(v),
)
def test_one_pixel_is_moved_to_the_boundary(attack: Attack, slack: float, classes: int):
    """margin / ‖w‖₁ in L∞ and margin / ‖w‖₂ in L2; the pixels around it are ignored."""
    model, (images, targets) = linear(classes), at_distances(0.3, 0.05, 0.2)
    targets[..., [0, 2]] = 255
    optimum = 0.05 * (1 if attack.norm == "linf" else L2_OVER_LINF)
    images_adv = attack(model, images, targets)
    assert fooled_share(model, images_adv, targets) == 1
    assert optimum <= length(images_adv, images, attack.norm) <= slack * optimum
    assert torch.equal(images_adv[..., [0, 2]], images[..., [0, 2]])


@pytest.mark.parametrize(
    ("build", "slack", "drop"),
    partly(
        [
            (build, slack, drop)
            for build, slack in ((partial(ALMAProx, step_size=0.003), 1.03), (PDPGD, 1.25))
            for drop in ("never", "gradually", "always")
        ],
        lambda build, slack, drop: (build is PDPGD) == (drop == "never"),
    ),
)
def test_linf_optimum_of_several_pixels_is_the_distance_of_the_last_one_needed(
    build: Callable, slack: float, drop: str
):
    distances = [0.02 + 0.004 * ((7 * k) % 20) for k in range(20)]
    model, (images, targets) = linear(3), at_distances(*distances)
    success, needed = (1.0, 20) if drop == "never" else (0.6, 12)
    images_adv = build(steps=150, success=success, drop_largest=drop)(model, images, targets)
    optimum = sorted(distances)[needed - 1]
    assert fooled_share(model, images_adv, targets) >= success
    assert optimum <= length(images_adv, images, "linf") <= slack * optimum


# ---- What counts as fooled ----


@pytest.mark.parametrize("attack", ALL)
def test_image_out_of_reach_comes_back_as_fooled_as_it_was(attack: type[Attack]):
    """The second pixel does not depend on the input: half of the image is all that there is."""
    images, targets = at_distances(0.05, 0.05)

    def model(x: Tensor) -> Tensor:
        return linear(3)(torch.cat([x[..., :1], x[..., 1:] * 0 + 0.1], 3))

    assert fooled_share(model, images, targets) == 0
    images_adv = attack(steps=80, step_size=0.02)(model, images, targets)
    assert fooled_share(model, images_adv, targets) == 0.5
    assert ((images_adv >= 0) & (images_adv <= 1)).all()


@pytest.mark.parametrize("attack", ALL)
def test_targeted_search_shows_the_target(attack: type[Attack]):
    model, (images, _) = tiny_net(), tiny_batch(batch=1)
    # Two pixels are to show their second class.
    targets = torch.full((1, *images.shape[-2:]), 255)
    second = model(images).topk(2, dim=1).indices[:, 1]
    targets[0, 1, 1], targets[0, 5, 4] = second[0, 1, 1], second[0, 5, 4]
    images_adv = attack(steps=80, step_size=0.01, targeted=True)(model, images, targets)
    assert fooled_share(model, images_adv, targets) == 0


def test_penalties_that_are_never_fulfilled_stay_finite():
    """ρ grows tenfold at each step: without its bound the squared gradients would leave float32."""
    images, targets = at_distances(0.2, 0.3)
    attack = ALMAProx(steps=60, step_size=1e-5, check_every=1, penalty_growth=10, success=1)
    assert torch.isfinite(attack(linear(3), images.float(), targets)).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("attack", [ALMAProx, PDGD])
def test_half_precision_follows_float32(attack: type[Attack], dtype: torch.dtype):
    """Weights of pixels as small as 1e-8, or above 1e5, pass the model's gradient in half precision."""
    images, targets = at_distances(*[0.05] * 3000)
    images = images.to(dtype)
    weight = {"penalty": 5000.0} if attack is ALMAProx else {"dual_ratio": 1e5}
    iterates = []
    for start in (images, images.float()):
        seen: list[Tensor] = []
        attack(steps=2, step_size=0.02, **weight)(
            linear(3), start, targets, on_step=lambda s, k=seen: k.append(s.images_adv)
        )
        iterates.append(seen[1])
    half, full = iterates
    assert half.dtype == dtype
    assert float((full - images).abs().min()) > 0.0015
    torch.testing.assert_close(half.float(), full, rtol=0, atol=float(torch.finfo(dtype).eps))


# ---- Mistakes of the user ----


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (lambda: ALMAProx(norm="l2"), r"norm = 'l2': ALMAProx is made for linf"),
        (lambda: PDGD(norm="linf"), r"norm = 'linf': PDGD is made for l2"),
        (lambda: PDPGD(norm="l1"), r"norm = 'l1': PDPGD is made for linf and l2"),
        (lambda: PDGD(success=1.5), r"success = 1.5 is outside"),
        (lambda: ALMAProx(step_size="two"), r"step_size = 'two' is not a number"),
        (lambda: ALMAProx(drop_largest="sometimes"), r"drop_largest = 'sometimes': use never, always or gradually"),
        (lambda: ALMAProx(step_decay=0), r"step_decay = 0: it must be in \(0, 1\]"),
        (lambda: ALMAProx(multiplier=2), r"multiplier = 2: it must be in \(0, 1\]"),
        (lambda: ALMAProx(penalty=0), r"penalty = 0: it must be positive"),
        (lambda: ALMAProx(check_every=0), r"check_every = 0: it must be 1 or more"),
        (lambda: ALMAProx(improvement=1), r"improvement = 1: it must be in \(0, 1\)"),
        (lambda: ALMAProx(penalty_growth=0.5), r"penalty_growth = 0.5: it must be 1 or more"),
        (lambda: ALMAProx(average=1), r"average = 1: it must be in \[0, 1\)"),
        (lambda: ALMAProx(metric_average=float("nan")), r"metric_average = nan: it must be"),
        (lambda: ALMAProx(scale_range=(1, 0.1)), r"scale_range = \(1, 0.1\): it must be two positive numbers"),
        (lambda: ALMAProx(scale_start=2), r"scale_start = 2: it must be within scale_range"),
        (lambda: ALMAProx(scale_rate=1), r"scale_rate = 1: it must be in \[0, 1\)"),
        (lambda: ALMAProx(surplus=-1), r"surplus = -1: it must be 0 or more"),
        (lambda: PDGD(step_decay=2), r"step_decay = 2: it must be in \(0, 1\]"),
        (lambda: PDGD(dual_ratio=0), r"dual_ratio = 0: it must be positive"),
        (lambda: PDGD(dual_step=-1), r"dual_step = -1: it must be positive"),
        (lambda: PDPGD(dual_decay=0), r"dual_decay = 0: it must be in \(0, 1\]"),
        (lambda: PDPGD(dual_average=1), r"dual_average = 1: it must be in \[0, 1\)"),
        (lambda: PDPGD(dual_floor=1), r"dual_floor = 1: it must be in \(0, 1\)"),
        (lambda: PDPGD(proximal_steps=0), r"proximal_steps = 0: without any"),
        (lambda: PDPGD(tolerance=-1), r"tolerance = -1: it must be 0 or more"),
    ],
)
def test_settings(create: Callable, message: str):
    with pytest.raises(ValueError, match=message):
        create()


def test_defaults_are_the_published_ones():
    described = ALMAProx().describe()
    assert (described["steps"], described["step_size"], described["success"]) == (500, "1/1000", 0.99)
    assert described["drop_largest"] == "gradually"
    for attack, floor in ((PDGD(), 1e-6), (PDPGD(), 1e-12)):
        described = attack.describe()
        assert (described["steps"], described["step_size"], described["dual_floor"]) == (500, "1/100", floor)
        assert described["drop_largest"] == "never"


# ---- Defects that have to be found ----


def public_derivative(original: Callable, c: Tensor, r: Tensor, m: Tensor) -> Tensor:
    """The misprint of the public code: μc in the place of μ."""
    return torch.where(c >= 0, original(c, r, m) - m + m * c, original(c, r, m))


def move_another_way(game: type) -> Defect:
    return around(game, "move", lambda original, self, delta, grad, step: original(self, delta, -grad, step))


test_defect_is_found = found_by(
    check_case,
    {
        "drop the ignore mask": (
            together(*(replaced(module, "IGNORED", -7) for module in (constraints, primal_dual, descent))),
            *("ALMAProx", "PDGD", ("PDPGD linf", True)),
        ),
        "public derivative": (around(alma, "penalty_slope", public_derivative), "ALMAProx"),
        "drop one less": (
            around(
                descent,
                "kept_constraints",
                lambda original, c, v, spare, *rest: original(c, v, (spare - 1).clamp_min(0), *rest),
            ),
            *("ALMAProx", "PDGD gradually"),
        ),
        "drop nothing": (
            replaced(descent, "kept_constraints", lambda c, valid, *rest: valid),
            "ALMAProx with other settings",
        ),
        "forget the metric": (
            around(alma, "prox_linf", lambda original, delta, w, metric, box: original(delta, w, None, box)),
            "ALMAProx",
        ),
        "forget the box": (
            around(alma, "prox_linf", lambda original, delta, w, metric, box: original(delta, w, metric).clamp(*box)),
            "ALMAProx",
        ),
        "forget the proximal step": (
            together(
                replaced(alma, "prox_linf", lambda delta, weight, metric, box: delta.clamp(*box)),
                replaced(primal_dual, "prox_linf", lambda delta, weight: delta),
                replaced(primal_dual, "prox_l2", lambda delta, weight: delta),
            ),
            *(("ALMAProx", True), "PDPGD linf", "PDPGD l2"),
        ),
        "half of the weight": (
            together(
                around(alma, "prox_linf", lambda original, delta, weight, *rest: original(delta, weight / 2, *rest)),
                around(primal_dual, "prox_l2", lambda original, delta, weight: original(delta, weight / 2)),
            ),
            *("ALMAProx", "PDPGD l2"),
        ),
        "plain margin": (
            replaced(alma, "margin_ratios", lambda u, y, aim, surplus: margins(u, y, aim) + surplus),
            "ALMAProx",
        ),
        # As in public code, if targeted.
        "surplus of the wrong sign": (
            around(alma, "margin_ratios", lambda original, u, y, aim, s: original(u, y, aim, -s if aim else s)),
            ("ALMAProx", True),
        ),
        "never raise the penalty": (replaced(alma, "_STEEPEST", 0.01), "ALMAProx"),
        # The gradient is not multiplied by what the loss was divided by.
        "gain in the gradient": (
            replaced(descent, "per_image", lambda values, like: torch.ones_like(like)),
            *("ALMAProx", "PDGD"),
        ),
        "flip the step of ALMA": (move_another_way(alma._ALMASearch), "ALMAProx"),
        "flip the step of the game": (move_another_way(primal_dual._Game), "PDGD"),
        "forget the norm": (
            replaced(primal_dual._Game, "move", lambda self, delta, grad, step: self._adam(delta, grad, step)[0]),
            "PDGD",
        ),
        "weights over the batch": (
            around(
                primal_dual,
                "_weights",
                lambda original, logits, kept: original(logits, kept).mean(0, keepdim=True) + 0 * logits,
            ),
            "PDGD",
        ),
        "constant dual step": (replaced(primal_dual, "_linear", lambda last, step, steps: 1.0), "PDPGD linf"),
    },
)
