"""CW: against its literal definition, closed forms and torchattacks; what it keeps, when it stops, what it refuses."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from robustseg.attacks import BIM, CW, AttackStep
from robustseg.attacks.minimum_norm import carlini_wagner, coordinates
from robustseg.attacks.minimum_norm.base import Nearest
from tests.helpers.cases import partly
from tests.helpers.nets import CLASSES, tiny_batch, tiny_net

from . import reference_cw_deepfool as reference
from .comparison import close
from .defects import Defect, after, around, found_by, replaced
from .reference import NO_LABEL
from .test_minimum_norm import fooled_share, right_batch

Patch = pytest.MonkeyPatch


def needed(target: Tensor, success: float) -> int:
    return math.ceil(int((target != 255).sum()) * success - 1e-6)


L2 = {"steps": 5, "step_size": 0.2, "search_steps": 5, "initial_c": 0.002}
LINF = {"steps": 7, "step_size": 0.02, "eps": 0.05, "norm": "linf"}


def check_l2(targeted: bool = False, kappa: float = 0.0) -> list[list[tuple[float, bool]]]:
    model, images, targets = right_batch()
    success = 0.3 if targeted else 0.6
    targets = (targets + (targets != 255)) % CLASSES if targeted else targets
    targets = targets.masked_fill(tiny_batch()[1] == 255, 255)
    seen: list[AttackStep] = []
    result = CW(success=success, confidence=kappa, targeted=targeted, **L2)(model, images, targets, on_step=seen.append)
    assert [(step.restart, step.step) for step in seen] == [(r, t) for r in range(5) for t in range(1, 6)]
    searches = []
    for row in range(2):
        target = targets[row].masked_fill(targets[row] == 255, NO_LABEL)
        expected, trace, searched = reference.literal_cw_l2(
            model, images[row], target, 5, 0.2, 5, 0.002, kappa, needed(targets[row], success), targeted, 0.99
        )
        for step, (image_adv, value) in zip(seen, trace, strict=True):
            close(step.images_adv[row], image_adv, f"run {step.restart}, step {step.step}")
            assert float(step.loss[row]) == pytest.approx(value, rel=1e-6, abs=1e-8)
        close(result[row], expected, "result")
        searches.append(searched)
    return searches


def check_linf(targeted: bool = False, kappa: float = 0.0) -> list[int]:
    model, images, targets = right_batch()
    success = 0.19 if targeted else 0.48
    steps = []
    targets = ((targets + 1) % CLASSES).masked_fill(targets == 255, 255) if targeted else targets
    seen: list[AttackStep] = []
    attack = CW(success=success, confidence=kappa, targeted=targeted, **LINF)
    result = attack(model, images, targets, on_step=seen.append)
    for row in range(2):
        target = targets[row].masked_fill(targets[row] == 255, NO_LABEL)
        expected, trace = reference.literal_cw_linf(
            model, images[row], target, 7, 0.02, 0.05, kappa, needed(targets[row], success), targeted
        )
        for step, (image_adv, value) in zip(seen, trace, strict=False):
            close(step.images_adv[row], image_adv, f"step {step.step}")
            assert float(step.loss[row]) == pytest.approx(value, rel=1e-6, abs=1e-8)
        for step in seen[len(trace) :]:
            close(step.images_adv[row], expected, "fooled images stay where they are")
        close(result[row], expected, "result")
        steps.append(len(trace))
    return steps


every_case = pytest.mark.parametrize(
    ("targeted", "kappa"),
    partly([(False, 0.0), (False, 0.3), (True, 0.0), (True, 0.3)], lambda targeted, kappa: targeted == bool(kappa)),
)


@every_case
def test_l2_reference(targeted: bool, kappa: float):
    searches = check_l2(targeted, kappa)
    # Otherwise only one branch of the search has been compared.
    assert {success for searched in searches for _, success in searched} == {True, False}


@every_case
def test_linf_reference(targeted: bool, kappa: float):
    steps = check_linf(targeted, kappa)
    assert min(steps) < 7, "no image is fooled before the end"
    assert max(steps) == 7, "all are"


def forget_the_distance(original: Callable, self: CW, grad: Tensor, loss: Tensor, adv: Tensor, batch, c: Tensor):
    return c.view(-1, 1, 1, 1) * grad, original(self, grad, loss, adv, batch, c)[1]


def arithmetic_means(self, succeeded: Tensor) -> None:
    self._too_small = torch.where(succeeded, self._too_small, self.c)
    self._large_enough = torch.where(succeeded, self.c, self._large_enough)
    self.c = torch.where(self._large_enough.isinf(), self.c * 10, (self._too_small + self._large_enough) / 2)


class Nobody:
    def offer_hits(self, *arguments: object) -> None: ...


def use_ignored_pixels(original: Callable, self: CW, logits: Tensor, images_adv: Tensor, batch, nearest: Nearest):
    """In the loss only, as if they had the last class."""
    everywhere = replace(batch, targets=batch.targets.masked_fill(batch.targets < 0, CLASSES - 1))
    _, enough = original(self, logits, images_adv, batch, nearest)
    return original(self, logits, images_adv, everywhere, Nobody())[0], enough


def judged_with(**values: object) -> Defect:
    def judge(original: Callable, self: CW, *arguments: object) -> tuple:
        self.__dict__.update(values)
        return original(self, *arguments)

    return around(CW, "_judge", judge)


def keep_the_last(original: Callable, self: Nearest, images_adv: Tensor, *arguments: object) -> Tensor:
    enough = original(self, images_adv, *arguments)
    self.images_adv = images_adv
    return enough


def check(norm: str, *settings: object) -> None:
    {"l2": check_l2, "linf": check_linf}[norm](*settings)


test_defect_is_found = found_by(
    check,
    {
        "flip the gradient": (
            around(coordinates.Adam, "step", lambda original, self, grad, size: original(self, -grad, size)),
            *("l2", "linf"),
        ),
        "forget the chain rule": (replaced(coordinates.TanhChart, "slope", lambda self, at: 1.0), "l2"),
        "forget the distance": (around(CW, "_objective", forget_the_distance), "l2"),
        "same c for all": (
            around(carlini_wagner._Weights, "update", lambda original, self, s: original(self, s.any().expand_as(s))),
            "l2",
        ),
        "search the wrong way": (
            around(carlini_wagner._Weights, "update", lambda original, self, s: original(self, ~s)),
            "l2",
        ),
        "arithmetic means": (replaced(carlini_wagner._Weights, "update", arithmetic_means), "l2"),
        "another second moment": (replaced(coordinates, "_BETAS", (0.9, 0.99)), "l2"),
        "count ignored pixels": (
            around(Nearest, "offer_hits", lambda original, self, adv, h, *rows: original(self, adv, h | ~h, *rows)),
            "l2",
        ),
        "use ignored pixels": (around(CW, "_judge", use_ignored_pixels), "l2", "linf"),
        "forget the projection": (
            replaced(coordinates.BallChart, "within", lambda self, at: at.clamp(0, 1)),
            "linf",
        ),
        "forget kappa": (judged_with(confidence=0.0), ("l2", False, 0.3), ("linf", True, 0.3)),
        "go on when fooled": (after(CW, "_judge", lambda judged: (judged[0], judged[1] & False)), "linf"),
        "ignore targeted": (judged_with(targeted=False), ("l2", True)),
        "keep the last": (around(Nearest, "offer_hits", keep_the_last), "l2", "linf"),
    },
)


WEIGHT = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)


def linear_model(bias: float) -> nn.Conv2d:
    """Logits (0, w·x + b): class 1 on the images below, by the margin w·x + b."""
    model = nn.Conv2d(3, 2, 1).double()
    model.weight.data.zero_()
    model.weight.data[1, :, 0, 0] = WEIGHT
    model.bias.data = torch.tensor([0.0, bias], dtype=torch.float64)
    return model


def graded_images(count: int) -> Tensor:
    """Pixels with margins (1, 2, …)/10 under the model with bias 0.35."""
    margins = torch.arange(1, count + 1, dtype=torch.float64) / 10
    base = torch.tensor([0.5, 0.5, 0.5], dtype=torch.float64).view(3, 1)
    base = base + WEIGHT.view(3, 1) * (margins - 0.1) / WEIGHT.square().sum()
    return base.view(1, 3, 1, count)


MODEL = linear_model(0.35)
FINE = {"steps": 100, "step_size": 0.01, "search_steps": 7, "initial_c": 0.1}


def test_closed_form_of_one_pixel():
    images = graded_images(2)
    targets = torch.tensor([[[255, 1]]])
    images_adv = CW(**FINE)(MODEL, images, targets)
    optimum = 0.2 / float(WEIGHT.norm())
    assert optimum < float((images_adv - images).norm()) <= 1.01 * optimum
    assert torch.equal(images_adv[..., 0], images[..., 0])


@pytest.mark.parametrize(("success", "moves"), [(1.0, [0.1, 0.2, 0.3, 0.4]), (0.5, [0.1, 0.2, 0.2, 0.2])])
def test_closed_form_of_several_pixels(success: float, moves: list[float]):
    """With one c for all, the pixels that need not fall move as far as the last one that must."""
    images, targets = graded_images(4), torch.ones(1, 1, 4, dtype=torch.long)
    images_adv = CW(success=success, **FINE)(MODEL, images, targets)
    optimum = math.sqrt(sum(move * move for move in moves)) / float(WEIGHT.norm())
    assert 0.95 * optimum < float((images_adv - images).norm()) <= 1.05 * optimum
    assert fooled_share(MODEL, images_adv, targets)[0] == success


def test_closed_form_in_the_ball():
    """Every pixel whose margin ε·‖w‖₁ covers, and no other, falls."""
    images, targets = graded_images(6), torch.ones(1, 1, 6, dtype=torch.long)
    attack = CW(eps=0.1, norm="linf", success=1, steps=30)
    images_adv = attack(MODEL, images, targets)
    assert (MODEL(images_adv).argmax(1) == 0).tolist() == [[[True, True, True, False, False, False]]]
    assert torch.equal((images_adv - images)[..., 5].flatten().sign(), -WEIGHT.sign())


def one_pixel(batch: int = 3) -> tuple[Callable, Callable, Tensor, Tensor, Tensor]:
    net, (images, targets) = tiny_net(), tiny_batch(batch=batch, ignored=False)
    # At 0 and 1 the peer's pixels are at infinity.
    images = 0.02 + 0.96 * images

    def model(x: Tensor) -> Tensor:
        # The peer takes logits below 0 for 0.
        logits: Tensor = net(x) + 50
        return logits

    labels = model(images).argmax(1)[:, 3, 2]
    only = torch.full_like(targets, 255)
    only[:, 3, 2] = labels
    return model, lambda x: model(x)[:, :, 3, 2], images, only, labels


@pytest.mark.parametrize("kappa", [0.0, 0.7])
def test_torchattacks(kappa: float, monkeypatch: Patch):
    """One run. The peer looks at ``steps`` iterates, ours at one more; its fooled are those of κ = 0."""
    torchattacks = pytest.importorskip("torchattacks")
    monkeypatch.setattr(coordinates, "REACH", 1 - 1e-13)
    monkeypatch.setattr(CW, "_judge", judge_without_kappa(CW._judge) if kappa else CW._judge)
    model, peer_model, images, targets, labels = one_pixel()
    moved: list[bool] = []
    for row in range(3):
        image, target = images[row : row + 1], targets[row : row + 1]
        peer = torchattacks.CW(PeerModel(peer_model), c=0.5, kappa=kappa, steps=9, lr=0.01)
        expected = peer(image, labels[row : row + 1])
        attack = CW(success=1, steps=8, step_size=0.01, search_steps=1, initial_c=0.5, confidence=kappa)
        actual = attack(model, image, target)
        # Without a gradient from the model, what the peer's Adam follows is the rounding of tanh and its inverse.
        point = image.clone().requires_grad_()
        (grad,) = torch.autograd.grad(peer_model(point)[0, 0], point)
        reached = grad != 0
        torch.testing.assert_close(actual[reached], expected[reached], rtol=0, atol=1e-9)
        assert torch.equal(actual[~reached], image[~reached])
        assert float((expected - image)[~reached].abs().max()) < 0.01
        moved.append(not torch.equal(actual, image))
    assert sum(moved) >= 2, "the peer gives up where its objective has risen"


def judge_without_kappa(original: Callable) -> Callable:
    """κ in the loss only."""

    def judge(self: CW, logits: Tensor, images_adv: Tensor, batch, nearest: Nearest) -> tuple:
        class NoConfidence:
            def offer_hits(self, adv: Tensor, hits: Tensor, rows: Tensor) -> Tensor:
                return nearest.offer(adv, logits.detach(), rows)

        return original(self, logits, images_adv, batch, NoConfidence())

    return judge


class PeerModel(nn.Module):
    """The peer takes its device from the parameters."""

    def __init__(self, inner: Callable):
        super().__init__()
        self.inner = inner
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inner(images)
        return logits


def test_pixels_at_the_border_can_move():
    images = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64).view(1, 3, 1, 1)
    model = linear_model(-1.4)
    images_adv = CW(**FINE)(model, images, torch.ones(1, 1, 1, dtype=torch.long))
    optimum = 0.1 / float(WEIGHT.norm())
    assert model(images_adv)[0, 1].item() < 0
    assert float((images_adv - images).norm()) <= 1.25 * optimum


def test_first_iterate_is_the_image():
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        images = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
        images[0, 0], images[1, 1] = 0, 1
        chart = coordinates.TanhChart(images)
        assert torch.equal(chart.images(chart.start).to(dtype), images)


def test_margins_in_the_ball_beat_cross_entropy():
    """What it is for: with as many gradients as BIM it fools more."""
    model, images, targets = right_batch(batch=4)
    ours = CW(eps=0.1, norm="linf", success=1, steps=20)(model, images, targets)
    theirs = BIM(eps=0.1, step_size=0.01, steps=20, keep="best")(model, images, targets)
    assert fooled_share(model, ours, targets).sum() > fooled_share(model, theirs, targets).sum()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "linf"}, r"eps = None: under linf CW searches a given ball; give eps"),
        ({"norm": "l1"}, r"norm = 'l1': CW is made for l2 and linf"),
        ({"step_size": "fast"}, r"step_size = 'fast' is not a number"),
        ({"search_steps": 0}, r"search_steps = 0: there is at least one run"),
        ({"initial_c": 0}, r"initial_c = 0: the margins need a positive weight"),
        ({"initial_c": float("nan")}, r"initial_c = nan"),
        ({"initial_c": float("inf")}, r"initial_c = inf"),
        ({"confidence": -0.1}, r"confidence = -0.1: kappa is 0 or more"),
        ({"confidence": float("nan")}, r"confidence = nan"),
    ],
    ids=str,
)
def test_settings(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        CW(**settings)
