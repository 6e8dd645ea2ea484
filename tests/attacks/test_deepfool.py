"""DeepFool: against its literal definition, closed forms and torchattacks; what it keeps, when it stops."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robustseg.attacks import AttackStep, DeepFool
from robustseg.attacks.minimum_norm import deepfool
from robustseg.attacks.minimum_norm.base import Nearest
from tests.helpers.nets import CLASSES, tiny_batch, tiny_net

from . import reference_cw_deepfool as reference
from .comparison import assert_allowed, close
from .defects import Defect, after, around, found_by, replaced
from .reference import NO_LABEL
from .test_carlini_wagner import needed
from .test_minimum_norm import right_batch

Patch = pytest.MonkeyPatch


def check(norm: str = "l2", candidates: int = 10, eps: float | None = None, success: float = 0.7) -> list[int]:
    """Every iterate, every reported margin and the result; returns how many steps each image took."""
    model, images, targets = right_batch()
    seen: list[AttackStep] = []
    attack = DeepFool(eps=eps, norm=norm, success=success, steps=6, candidates=candidates, overshoot=0.05)
    result = attack(model, images, targets, on_step=seen.append)
    steps = []
    for row in range(2):
        target = targets[row].masked_fill(targets[row] == 255, NO_LABEL)
        expected, trace = reference.literal_deepfool(
            model, images[row], target, 6, candidates, 0.05, needed(targets[row], success), norm, eps
        )
        mine = [(step, step.rows.tolist().index(row)) for step in seen if row in step.rows.tolist()]
        assert len(mine) >= len(trace)
        for (step, position), (image_adv, margin) in zip(mine, trace, strict=False):
            close(step.images_adv[position], image_adv, f"step {step.step}")
            assert float(step.loss[position]) == pytest.approx(margin, rel=1e-7)
        close(result[row], expected, "result")
        steps.append(len(trace))
    return steps


CASES = {
    "l2": {"norm": "l2"},
    "linf": {"norm": "linf"},
    "l2 runners-up": {"norm": "l2", "candidates": 1},
    "linf two candidates": {"norm": "linf", "candidates": 2},
    "l2 in a ball": {"norm": "l2", "eps": 1.0},
    "linf in a ball": {"norm": "linf", "eps": 0.1},
    "everything": {"norm": "l2", "success": 1.0},
}


@pytest.mark.parametrize("case", CASES)
def test_reference(case: str):
    steps = check(**CASES[case])
    assert min(steps) >= 2, "one step is not enough to compare"


def test_some_images_are_fooled_on_the_way():
    assert min(check("l2", success=0.6)) < 6


def change_the_step(change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Defect:
    return after(DeepFool, "_to_boundary", lambda step: change(*step))


def normalise_once(self: DeepFool, size: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """|f|/‖w‖₂ · w instead of |f|/‖w‖₂² · w."""
    length = size / grad.flatten(1).norm(dim=1)
    return length.view(-1, 1, 1, 1) * grad, length


def exchange_the_norms(original: Callable, self: DeepFool, *arguments: Tensor) -> tuple[Tensor, Tensor]:
    return original(DeepFool(norm="linf" if self.norm == "l2" else "l2"), *arguments)


def searching_with(name: str, value: object) -> Defect:
    """On the way; with what comes after the search as it was."""

    def search(original: Callable, self: DeepFool, *arguments: object) -> None:
        kept = getattr(self, name)
        setattr(self, name, value)
        original(self, *arguments)
        setattr(self, name, kept)

    return around(DeepFool, "search", search)


test_defect_is_found = found_by(
    lambda case: check(**CASES[case]),
    {
        "flip the step": (change_the_step(lambda step, length: (-step, length)), "l2", "linf"),
        "take the longest": (
            change_the_step(lambda step, length: (step, 1 / length)),
            *("l2", "linf two candidates"),
        ),
        "normalise once": (replaced(DeepFool, "_to_boundary", normalise_once), "l2 runners-up"),
        "exchange the norms": (around(DeepFool, "_to_boundary", exchange_the_norms), "l2", "linf"),
        "all pixels instead of correct ones": (replaced(deepfool, "correct_pixels", lambda u, y: y >= 0), "l2"),
        "ignored pixels as well": (
            around(deepfool, "correct_pixels", lambda original, u, y: original(u, y) | (y < 0)),
            *("l2", "linf"),
        ),
        "forget the overshoot": (searching_with("overshoot", 0), "l2"),
        "forget the ball": (searching_with("threat", None), "l2 in a ball", "linf in a ball"),
        "keep the first": (
            replaced(Nearest, "offer", lambda self, adv, logits, rows: torch.zeros(len(adv), dtype=torch.bool)),
            "linf",
        ),
        "forget the last iterate": (
            replaced(deepfool, "logits_only", lambda model, x: torch.zeros(len(x), CLASSES, 7, 6).double()),
            "linf in a ball",
        ),
    },
)


def linear_model(seed: int = 0, classes: int = 5) -> nn.Conv2d:
    """So flat that no step leaves the box."""
    model = nn.Conv2d(3, classes, 1).double()
    generator = torch.Generator().manual_seed(seed)
    model.weight.data = torch.randn(model.weight.shape, generator=generator, dtype=torch.float64)
    model.bias.data = 0.02 * torch.randn(classes, generator=generator, dtype=torch.float64)
    model.bias.data -= model.weight.data.sum((1, 2, 3)) / 2
    return model


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_closed_form_of_one_pixel(norm: str):
    """The distance to the nearest boundary of a linear model, once 1.02, in one step."""
    for seed in range(5):
        model = linear_model(seed)
        images = 0.5 + 0.02 * torch.rand(1, 3, 1, 2, generator=torch.Generator().manual_seed(seed)).double()
        label = int(model(images).argmax(1)[0, 0, 1])
        logits, weight = model(images)[0, :, 0, 1].tolist(), model.weight[:, :, 0, 0]
        boundaries = [
            (logits[label] - logits[k]) / (weight[k] - weight[label]).norm(p=2 if norm == "l2" else 1).item()
            for k in range(5)
            if k != label
        ]
        result = DeepFool(norm=norm).run(model, images, torch.tensor([[[255, label]]]))
        delta = (result.images_adv - images).flatten()
        distance = float(delta.norm() if norm == "l2" else delta.abs().max())
        assert distance == pytest.approx(1.02 * min(boundaries), rel=1e-9)
        # The second forward shows it fooled; it is looked at after ten gradients at most.
        assert result.forwards.tolist() == [3]


TWO = nn.Conv2d(3, 2, 1).double()
TWO.weight.data = torch.tensor([[0.0, 0.0, 0.0], [1.0, -2.0, 0.5]]).double().view(2, 3, 1, 1)
TWO.bias.data = torch.tensor([0.0, 0.35], dtype=torch.float64)
WEIGHT = TWO.weight.data[1].view(1, 3, 1, 1)


def graded_images(margins: list[float]) -> Tensor:
    along = (torch.tensor(margins, dtype=torch.float64) - 0.1) / WEIGHT.square().sum()
    return 0.5 + WEIGHT * along.view(1, 1, 1, -1)


def test_closed_form_of_equal_pixels():
    images = graded_images([0.2] * 4)
    images_adv = DeepFool(success=1)(TWO, images, torch.ones(1, 1, 4, dtype=torch.long))
    optimum = 2 * 0.2 / float(WEIGHT.norm())
    assert float((images_adv - images).norm()) == pytest.approx(1.02 * optimum, rel=1e-9)


def test_closed_form_of_the_mean():
    """Each pixel moves by the mean margin of those still correct: (0.1 + 0.3)/2, and then 0.1 for the second one."""
    seen: list[AttackStep] = []
    images = graded_images([0.1, 0.3])
    images_adv = DeepFool(success=1, overshoot=0)(
        TWO, images, torch.ones(1, 1, 2, dtype=torch.long), on_step=seen.append
    )
    gone = [(TWO(step.images_adv)[0, 1, 0]).tolist() for step in seen]
    assert gone[:2] == [pytest.approx([0.1, 0.3]), pytest.approx([-0.1, 0.1])]
    assert seen[0].loss.tolist() == pytest.approx([0.2])
    # Without overshoot the last pixel comes to lie on the boundary, where rounding decides; a tie is stepped across.
    assert (TWO(images_adv)[0, 1, 0] < 0).all()
    assert TWO(images_adv)[0, 1, 0, 1].item() == pytest.approx(0, abs=2e-4)


@pytest.mark.parametrize("candidates", [10, CLASSES - 1])
def test_torchattacks(candidates: int, monkeypatch: Patch):
    torchattacks = pytest.importorskip("torchattacks")
    model, (images, targets) = tiny_net(), tiny_batch(batch=4, ignored=False)
    images = 0.1 + 0.8 * images
    labels = model(images).argmax(1)[:, 3, 2]
    labels[3] = (labels[3] + 1) % CLASSES
    only = torch.full_like(targets, 255)
    only[:, 3, 2] = labels

    class Pixel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x)[:, :, 3, 2]

    # Away from the box: where that cuts its steps off, the peer comes ever closer to a boundary without crossing it.
    monkeypatch.setattr(deepfool, "_LEAST", 0.0)
    seen: list[AttackStep] = []
    actual = DeepFool(success=1, steps=8, candidates=candidates)(model, images, only, on_step=seen.append)
    for step in seen:
        expected = torchattacks.DeepFool(Pixel(), steps=step.step - 1, overshoot=0.02)(images, labels)
        torch.testing.assert_close(step.images_adv, expected[step.rows], rtol=0, atol=1e-9)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9)
    assert [not torch.equal(a, i) for a, i in zip(actual, images, strict=True)] == [True, True, True, False]


def test_iterates_stay_in_the_ball():
    model, images, targets = right_batch()
    for norm, eps in (("linf", 0.05), ("l2", 0.4)):
        DeepFool(eps=eps, norm=norm, steps=4)(
            model, images, targets, on_step=lambda s, e=eps, n=norm: assert_allowed(s.images_adv, images, e, n)
        )


def test_cost_of_a_step():
    """One forward, and a gradient per candidate."""
    model, images, targets = right_batch()
    for candidates, gradients in ((1, 1), (2, 2), (3, 3), (10, 3)):
        result = DeepFool(steps=2, candidates=candidates).run(model, images, targets)
        assert result.forwards.tolist() == [3, 3]
        assert result.backwards.tolist() == [2 * gradients] * 2


def test_flat_model_returns_the_image():
    """No slope anywhere: no step, no division by zero."""
    images, targets = torch.full((1, 3, 2, 2), 0.5), torch.zeros(1, 2, 2, dtype=torch.long)
    result = DeepFool(steps=3)(lambda x: torch.cat([1 + 0 * x[:, :1], 0 * x[:, :1]], 1), images, targets)
    assert torch.equal(result, images)


def test_steps_cut_off_by_the_box_still_cross():
    """Each step does a part of what is left, until the least step is enough."""
    images = torch.tensor([0.5, 1.0, 0.5], dtype=torch.float64).view(1, 3, 1, 1)
    model = nn.Conv2d(3, 2, 1).double()
    model.weight.data, model.bias.data = TWO.weight.data, torch.tensor([0.0, 1.4], dtype=torch.float64)
    images_adv = DeepFool(success=1)(model, images, torch.ones(1, 1, 1, dtype=torch.long))
    assert model(images_adv)[0, 1].item() < 0
    assert float(images_adv.max()) <= 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "l1"}, r"norm = 'l1': DeepFool is made for l2 and linf"),
        ({"candidates": 0}, r"candidates = 0: a step looks at one wrong class"),
        ({"overshoot": -0.02}, r"overshoot = -0.02: a step ends at the boundary"),
        ({"overshoot": math.nan}, r"overshoot = nan"),
    ],
    ids=str,
)
def test_settings(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        DeepFool(**settings)
