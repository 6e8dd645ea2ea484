"""ALMA-prox, PDGD and PDPGD: known optima, the literal reference, what counts as fooled, and defects that are found."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor

from robustseg.attacks import PDGD, PDPGD, ALMAProx, Attack, AttackStep
from robustseg.attacks.minimum_norm import alma, constraints, descent, primal_dual
from robustseg.attacks.minimum_norm.constraints import margins
from tests.helpers.cases import partly
from tests.helpers.nets import tiny_batch, tiny_net

from . import reference_primal_dual as reference
from .comparison import close
from .defects import Defect, around, found_by, replaced, together
from .reference import NO_LABEL
from .test_minimum_norm import fooled_share

ALL = (ALMAProx, PDGD, PDPGD)


# ---- The literal reference ----


FAST_ALMA = {"step_size": 0.02, "check_every": 3, "success": 0.7, "steps": 14}
FAST_GAME = {"step_size": 0.05, "dual_step": 0.5, "success": 0.7, "steps": 12}
CASES: dict[str, tuple[type[Attack], dict[str, Any]]] = {
    "ALMAProx": (ALMAProx, FAST_ALMA),
    "ALMAProx with other settings": (
        ALMAProx,
        {
            **FAST_ALMA,
            **{"step_decay": 1, "multiplier": 0.2, "penalty": 3.0, "improvement": 0.5, "penalty_growth": 5},
            **{"average": 0.5, "metric_average": 0.9, "scale_range": (0.6, 0.9), "scale_start": 0.7},
            **{"scale_rate": 0.1, "surplus": 0.02, "drop_largest": "always"},
        },
    ),
    "PDGD": (PDGD, FAST_GAME),
    "PDGD gradually": (PDGD, {**FAST_GAME, "drop_largest": "gradually", "dual_floor": 0.1}),
    "PDPGD linf": (PDPGD, {**FAST_GAME, "norm": "linf"}),
    "PDPGD l2": (
        PDPGD,
        {
            **FAST_GAME,
            **{"norm": "l2", "dual_ratio": 0.2, "step_decay": 0.5, "dual_decay": 0.7, "dual_average": 0.4},
            "proximal_steps": 3,
        },
    ),
}
"""Settings in which all parts of an attack act within a few steps."""
SYMBOLS = {
    **{"multiplier": "mu", "penalty": "rho", "improvement": "tau", "penalty_growth": "gamma", "average": "alpha"},
    **{"metric_average": "alpha_rms", "scale_start": "w", "scale_rate": "w_rate", "drop_largest": "drop"},
}
"""Names of the literal reference, where they differ."""


def literal(attack: type[Attack], settings: dict[str, Any], *args: object, targeted: bool) -> reference.Trace:
    known = {SYMBOLS.get(name, name): value for name, value in settings.items()}
    if attack is ALMAProx:
        w_min, w_max = known.pop("scale_range", (0.1, 1.0))
        return reference.literal_alma(*args, targeted=targeted, w_min=w_min, w_max=w_max, **known)
    if attack is PDGD:
        return reference.literal_primal_dual(*args, targeted=targeted, proximal=None, norm="l2", **known)
    return reference.literal_primal_dual(*args, targeted=targeted, proximal=known["norm"], dual_floor=1e-12, **known)


@cache
def literal_trace(name: str, targeted: bool, b: int) -> reference.Trace:
    """Image ``b`` attacked by the reference, which no defect in the library can reach."""
    images, targets = tiny_batch()
    target = targets[b].masked_fill(targets[b] == 255, NO_LABEL)
    return literal(*CASES[name], tiny_net(), images[b], target, targeted=targeted)


def check_case(name: str, targeted: bool = False) -> None:
    """Every iterate, every loss and the result agree with the literal loop."""
    attack, settings = CASES[name]
    model, (images, targets) = tiny_net(), tiny_batch()
    seen: list[AttackStep] = []
    result = attack(targeted=targeted, **settings)(model, images, targets, on_step=seen.append)
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
