"""The worst of several attacks, and that nothing changes when finished images leave."""

import pytest
import torch
from torch import Tensor

from robustseg.attacks import (
    APGD,
    BIM,
    DS,
    PGD,
    SEA,
    Attack,
    AttackStep,
    CosPGD,
    IterativeAttack,
    NoiseSource,
    SegPGD,
    StrongEnsemble,
    WorstOf,
)
from robustseg.attacks.best import Best
from tests.helpers.cases import partly
from tests.helpers.nets import CountingNet, tiny_batch, tiny_net

BALL = {"eps": 0.15, "step_size": 0.05}
CPU = torch.device("cpu")
PIXELS = [10, 20, 30, 5]


def members(**settings: object) -> list[Attack]:
    return [
        BIM(**BALL, steps=2, **settings),
        PGD(**BALL, steps=3, keep="best", **settings),
        SegPGD(**BALL, steps=3, seed=4, **settings),
        CosPGD(**BALL, steps=2, restarts=2, **settings),
        APGD(eps=0.15, steps=8, **settings),
    ]


def hits(model: torch.nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Valid pixels that show the target, B values."""
    with torch.no_grad():
        return ((model(images).argmax(1) == targets) & (targets != 255)).flatten(1).sum(1)


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Four images, of which one is right everywhere and one has a single valid pixel, which falls quickly."""
    model = tiny_net()
    images, targets = tiny_batch(batch=4, seed=seed)
    with torch.no_grad():
        targets[1] = model(images).argmax(1)[1]
        kept = int(model(images).argmax(1)[2, 3, 3])
    targets[2] = 255
    targets[2, 3, 3] = kept
    return images, targets


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("targeted", [False, True])
def test_result_is_each_images_worst_member(targeted: bool, per_image: bool):
    model = tiny_net()
    for seed in range(3):
        images, targets = batch(seed)

        def noise(of: int, seed: int = seed) -> NoiseSource | torch.Generator:
            if per_image:
                return NoiseSource.for_samples(seed, ["a", "b", "c", "d"], CPU).fork(of)
            return NoiseSource.from_generator(torch.Generator().manual_seed(seed), CPU).fork(of)

        parts = members(targeted=targeted)
        results = [images] + [m(model, images, targets, generator=noise(m.seed)) for m in parts]
        counts = torch.stack([hits(model, x, targets) for x in results])
        chosen = counts.argmax(0) if targeted else counts.argmin(0)
        expected = torch.stack(results)[chosen, range(4)]
        worst = WorstOf(parts)(model, images, targets, generator=noise(0))
        torch.testing.assert_close(worst, expected, rtol=0, atol=1e-9)


def test_weaker_without_a_member():
    """The members matter: the union is strictly worse than each of them on some image."""
    model = tiny_net()
    gains = torch.zeros(5)
    for seed in range(6):
        images, targets = batch(seed)
        worst = hits(model, WorstOf(members())(model, images, targets), targets)
        for i, member in enumerate(members()):
            alone = hits(model, member(model, images, targets), targets)
            if member.seed == 0:
                assert (worst <= alone).all()
            gains[i] += (alone - worst).clamp_min(0).sum()
    assert (gains > 0).all()


def forever(self: Best, rows: Tensor) -> Tensor:
    return torch.arange(len(rows))


LEAVING = {
    "PGD": lambda **kw: PGD(eps=0.3, step_size=0.1, steps=25, keep="best", **kw),
    "PGD restarts": lambda **kw: PGD(eps=0.3, step_size=0.1, steps=12, restarts=3, keep="best", **kw),
    "PGD last of restarts": lambda **kw: PGD(eps=0.3, step_size=0.1, steps=12, restarts=3, **kw),
    "PGD l2": lambda **kw: PGD(eps=3, step_size=1, steps=25, keep="best", norm="l2", **kw),
    "DS": lambda **kw: DS(eps=0.3, step_size=0.1, steps=25, random_start=True, keep="best", **kw),
    "APGD": lambda **kw: APGD(eps=0.3, steps=25, **kw),
    "APGD shrinking": lambda **kw: APGD(eps=0.15, steps=44, shrinking=True, restarts=2, **kw),
    "worst of": lambda **kw: WorstOf(
        [
            PGD(eps=0.3, step_size=0.1, steps=12, keep="best", **kw),
            APGD(eps="0.3", steps=25, **kw),
            BIM(eps=0.3, step_size=0.1, steps=2, **kw),
        ]
    ),
}


@pytest.mark.parametrize(
    ("name", "targeted", "per_image"),
    partly(
        [(name, targeted, per_image) for name in LEAVING for targeted in (False, True) for per_image in (False, True)],
        lambda name, targeted, per_image: (
            targeted != per_image and (per_image or name in ("PGD", "APGD shrinking", "worst of"))
        ),
    ),
)
def test_leaving_changes_nothing(name: str, targeted: bool, per_image: bool, monkeypatch: pytest.MonkeyPatch):
    model, saved = tiny_net(), 0
    for seed in range(3):
        images, targets = batch(seed)
        if targeted:
            # What the model says already can be reached everywhere.
            with torch.no_grad():
                targets = torch.where(targets == 255, 255, model(images).argmax(1))
        attack = LEAVING[name](targeted=targeted)

        def noise(seed: int = seed) -> NoiseSource:
            if per_image:
                return NoiseSource.for_samples(seed, ["a", "b", "c", "d"], CPU)
            return NoiseSource.from_generator(torch.Generator().manual_seed(seed), CPU)

        leaving = attack.run(model, images, targets, generator=noise())
        with monkeypatch.context() as patch:
            patch.setattr(Best, "unfinished", forever)
            staying = attack.run(model, images, targets, generator=noise())
        torch.testing.assert_close(leaving.images_adv, staying.images_adv, rtol=0, atol=1e-9)
        assert (leaving.forwards <= staying.forwards).all()
        assert len(set(staying.backwards.tolist())) == 1
        saved += int((staying.backwards - leaving.backwards).sum())
    assert saved > 0, "no image ever left: this tests nothing"


def test_nobody_leaves_before_being_finished():
    """A batch of images that cannot be broken costs what it costs."""
    model = CountingNet(tiny_net())
    images, targets = tiny_batch()
    result = PGD(eps=0.001, step_size=0.001, steps=25, keep="best").run(model, images, targets)
    assert result.forwards.tolist() == [26, 26]
    assert result.backwards.tolist() == [25, 25]
    assert model.forwards == 26


def test_steps_name_the_images_that_are_left():
    model, (images, targets) = tiny_net(), batch()
    seen: list[AttackStep] = []
    attack = PGD(eps=0.3, step_size=0.1, steps=25, keep="best")
    result = attack.run(model, images, targets, on_step=seen.append)
    assert seen[0].rows.tolist() == [0, 1, 2, 3]
    assert len(seen[-1].rows) < 4
    for step in seen:
        assert len(step.rows) == len(step.images_adv) == len(step.logits) == len(step.targets) == len(step.loss)
        assert (step.images_adv - images[step.rows]).abs().max() <= 0.3 + 1e-9
    counted = torch.zeros(4, dtype=torch.long)
    for step in seen:
        counted[step.rows] += 1
    assert torch.equal(counted, result.backwards)


def test_image_that_is_wrong_already_costs_one_forward():
    model = tiny_net()
    images, targets = tiny_batch()
    with torch.no_grad():
        targets = torch.where(targets == 255, 255, (model(images).argmax(1) + 1) % 4)
    result = WorstOf(members()).run(model, images, targets)
    assert result.forwards.tolist() == [1, 1]
    assert torch.equal(result.images_adv, images)


@pytest.mark.parametrize(("preset", "count"), [(SEA, 3), (StrongEnsemble, 7)])
def test_presets(preset: type[WorstOf], count: int):
    attack = preset(class_pixels=PIXELS, steps=300)
    assert len(attack.attacks) == count
    for member in attack.attacks:
        assert isinstance(member, IterativeAttack)
        assert [stage["steps"] for stage in member.describe()["stages"]] == [90, 90, 120]
        assert member.describe()["watched"] == {"class": "CrossEntropy"}
        assert member.keep == "best"
        assert member.random_start
    losses = [repr(member.loss).partition("(")[0] for member in attack.attacks]
    assert losses[:3] == ["BalancedMaskedCrossEntropy", "MaskedCrossEntropy", "JensenShannon"]
    assert losses[3:] == ["SegPGDLoss", "CosPGDLoss", "Tsallis", "Margin"][: count - 3]


def test_strong_is_never_weaker_than_sea_or_any_member():
    model = tiny_net()
    for seed in range(2):
        images, targets = batch(seed)
        strong = StrongEnsemble(class_pixels=PIXELS, eps=0.05, steps=10)
        worst = hits(model, strong(model, images, targets), targets)
        for attack in [SEA(class_pixels=PIXELS, eps=0.05, steps=10), *strong.attacks]:
            assert (worst <= hits(model, attack(model, images, targets), targets)).all()


@pytest.mark.parametrize(
    ("attacks", "message"),
    [
        ([], r"attacks = \[\]"),
        ([PGD(), PGD(eps="4/255")], "different threat models"),
        ([PGD(eps=0.1), PGD(eps=0.1, norm="l2")], "different threat models"),
        ([PGD(), PGD(targeted=True)], r"differ in targeted \(False, True\)"),
        ([PGD(), PGD(ignore_index=0)], r"differ in ignore_index \(255, 0\)"),
    ],
)
def test_bad_members(attacks: list[Attack], message: str):
    with pytest.raises(ValueError, match=message):
        WorstOf(attacks)


def test_description_holds_that_of_each_member():
    described = WorstOf([PGD(), CosPGD(steps=7)]).describe()
    assert described["eps"] == "8/255"
    assert [member["attack"] for member in described["members"]] == ["PGD", "CosPGD"]
    assert described["members"][1]["steps"] == 7
