"""What the minimum-norm attacks promise alike: what counts as fooled, what is kept, what a radius does, who leaves.

Their definitions, closed forms and peers are in a file for each; what holds for every attack, in test_properties.py.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustseg.attacks import CW, DAG, PDGD, PDPGD, ALMAProx, Attack, AttackStep, DeepFool
from robustseg.attacks.minimum_norm import carlini_wagner, deepfool
from tests.helpers.nets import CLASSES, tiny_batch, tiny_net

from .comparison import assert_allowed

GAME = {"steps": 60, "step_size": 0.05}
ATTACKS: dict[str, tuple[type[Attack], dict[str, Any]]] = {
    "CW l2": (CW, {"steps": 40, "step_size": 0.03, "search_steps": 4, "initial_c": 0.1}),
    "CW linf": (CW, {"steps": 40, "step_size": 0.03, "norm": "linf", "eps": 0.5}),
    "DeepFool l2": (DeepFool, {"norm": "l2"}),
    "DeepFool linf": (DeepFool, {"norm": "linf"}),
    "DeepFool linf in a ball": (DeepFool, {"norm": "linf", "eps": 0.2, "steps": 8}),
    "DAG": (DAG, {"step_size": 0.03, "steps": 60, "aim": "runner-up"}),
    "ALMAProx": (ALMAProx, GAME),
    "PDGD": (PDGD, GAME),
    "PDPGD linf": (PDPGD, GAME),
    "PDPGD l2": (PDPGD, {**GAME, "norm": "l2"}),
}
every_attack = pytest.mark.parametrize("name", ATTACKS)
LOOK_FIRST = ("CW l2", "CW linf", "DeepFool l2", "DeepFool linf", "DeepFool linf in a ball")
"""They ask once about an image that is fooled already; the others go on to the next look, or to the end."""


def build(name: str, **settings: object) -> Attack:
    attack, known = ATTACKS[name]
    return attack(**{**known, **settings})


def right_batch(batch: int = 2, seed: int = 0, share: float = 0.9) -> tuple[nn.Module, Tensor, Tensor]:
    """A model, images and the labels that it predicts, but for some, and for some that are ignored."""
    model, (images, targets) = tiny_net(), tiny_batch(batch=batch, seed=seed)
    with torch.no_grad():
        predicted = model(images).argmax(1)
    generator = torch.Generator().manual_seed(seed)
    right = torch.rand(targets.shape, generator=generator) < share
    return model, images, torch.where(right & (targets != 255), predicted, targets)


def fooled_share(model: Callable[[Tensor], Tensor], images: Tensor, targets: Tensor) -> Tensor:
    """Of the valid pixels, B values."""
    with torch.no_grad():
        wrong = (model(images).argmax(1) != targets) & (targets != 255)
    return wrong.flatten(1).sum(1).double() / (targets != 255).flatten(1).sum(1)


@every_attack
def test_share_is_honoured_and_a_smaller_one_costs_less(name: str):
    model, images, targets = right_batch(batch=3)
    sizes = []
    for success in (0.3, 0.6):
        attack = build(name, success=success)
        images_adv = attack(model, images, targets)
        shares = fooled_share(model, images_adv, targets)
        assert (shares >= success - 1e-9).all()
        if name.startswith("CW"):
            # The nearest iterate is not one that fools far more than was asked for.
            assert shares.min() < success + 0.15
        delta = (images_adv - images).flatten(1)
        sizes.append(delta.abs().amax(1) if attack.norm == "linf" else delta.norm(dim=1))
    assert sizes[0].sum() < 0.9 * sizes[1].sum()


@every_attack
def test_image_that_is_fooled_already_comes_back_unchanged(name: str):
    model, images, targets = right_batch(batch=3)
    wrong = (model(images[1:2]).argmax(1) + 1) % CLASSES
    targets[1] = torch.where(targets[1] == 255, targets[1], wrong[0])
    attack = build(name, success=0.95, **({"steps": 4} if name in LOOK_FIRST else {}))
    result = attack.run(model, images, targets)
    assert torch.equal(result.images_adv[1], images[1])
    assert not torch.equal(result.images_adv[0], images[0])
    alone = attack.run(model, images[1:2], targets[1:2])
    assert torch.equal(alone.images_adv, images[1:2])
    if name.startswith("CW"):
        runs = 4 if name == "CW l2" else 1
        assert result.backwards.tolist() == [4 * runs, 1, 4 * runs]
    if name in LOOK_FIRST:
        assert alone.forwards.tolist() == [1]


@every_attack
def test_unreachable_share_gives_the_most_fooled_iterate(name: str):
    """The first three rows of pixels stay as they are."""
    inner, images, targets = right_batch()
    fixed = torch.zeros_like(targets, dtype=torch.bool)
    fixed[:, :3] = True
    certain = 50.0 * nn.functional.one_hot(inner(images).argmax(1), CLASSES).permute(0, 3, 1, 2)

    def model(x: Tensor) -> Tensor:
        return torch.where(fixed.unsqueeze(1), certain + 0 * inner(x), inner(x))

    seen: list[AttackStep] = []
    attack = build(name, **({"steps": 20} if name in LOOK_FIRST else {}))
    images_adv = attack(model, images, targets, on_step=seen.append)
    best = fooled_share(model, images_adv, targets)
    for step in seen:
        assert (best >= fooled_share(model, step.images_adv, targets)).all()
    assert (best > fooled_share(model, images, targets)).all()
    assert best.max() < 0.99
    if attack.threat is not None:
        assert_allowed(images_adv, images, float(attack.threat.eps), attack.norm)


@pytest.mark.parametrize("name", ["CW l2", "ALMAProx", "PDGD", "PDPGD linf", "PDPGD l2"])
def test_bounded_result_is_the_projection_of_the_unbounded_one(name: str):
    """Of those that do not stay in the ball on the way."""
    model, images, targets = right_batch()
    eps = 0.01 if name in ("ALMAProx", "PDPGD linf") else 0.2
    free, bounded = (build(name, steps=30, success=0.8, **radius) for radius in ({}, {"eps": eps}))
    assert free.threat is None
    assert free.describe()["eps"] is None
    unbounded = free(model, images, targets)
    expected = bounded.threat.around(images).project(unbounded)
    assert not torch.equal(expected, unbounded)
    atol = 1e-12 if name.startswith("CW") else 1e-9
    torch.testing.assert_close(bounded(model, images, targets), expected, rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("attack", "module"),
    [
        (CW(eps=0.15, norm="linf", success=0.5, steps=25), carlini_wagner),
        (DeepFool(success=0.9, steps=20), deepfool),
    ],
    ids=["CW", "DeepFool"],
)
def test_when_images_leave_changes_nothing(attack: Attack, module: ModuleType, monkeypatch: pytest.MonkeyPatch):
    model, images, targets = right_batch(batch=4, seed=3)
    expected = attack.run(model, images, targets)
    for every in (1, 3, 1000):
        monkeypatch.setattr(module, "LEAVE_EVERY", every)
        actual = attack.run(model, images, targets)
        torch.testing.assert_close(actual.images_adv, expected.images_adv, rtol=0, atol=1e-9)
        steps = {*actual.backwards.tolist()}
        if every == 1:
            assert (actual.backwards <= expected.backwards).all()
            assert len(steps) > 1, "images leave at different steps"
    assert len(steps) == 1
    assert actual.forwards.tolist() == [attack.steps + 1] * 4
