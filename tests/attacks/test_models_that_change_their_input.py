"""A model that changes its input in place gives what the same model without that gives, to the bit, everywhere."""

import inspect
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustseg import attacks
from robustseg.attacks import (
    DAG,
    PGD,
    Attack,
    CosPGD,
    NoGradientError,
    SegPGD,
    SourceEnsemble,
    Square,
    Strip,
    Targeted,
    UniversalPerturbation,
)
from robustseg.detectors import OnPatches, ScaleConsistency, SpatialConsistency, ThroughBlur
from robustseg.detectors.entropy import self_entropy
from robustseg.evaluation import Evaluator, MemorySink
from robustseg.evaluation.attacking import predict
from robustseg.evaluation.checks import probe_model
from robustseg.evaluation.trace import Traced
from tests.helpers.cases import partly
from tests.helpers.nets import CLASSES, tiny_batch, tiny_net

from .table import ROWS, WITH_NORM, aims, build

Change = Callable[[Tensor], Tensor]


def assigned(x: Tensor) -> Tensor:
    x[:] = x * 0.5 + 0.1
    return x


def through_data(x: Tensor) -> Tensor:
    x.data.mul_(0.5)
    return x


def detached(x: Tensor) -> Tensor:
    x.detach().clamp_(0.25, 0.75)
    return x


def channel(x: Tensor) -> Tensor:
    x[:, 0].mul_(0.5).add_(0.1)
    return x


def into_out(x: Tensor) -> Tensor:
    with torch.no_grad():
        torch.mul(x, 0.5, out=x)
    return x


def asks_for_a_gradient(x: Tensor) -> Tensor:
    return x.requires_grad_().sub_(0.45) if x.requires_grad else x.sub_(0.45)


def halved_behind_autograd(x: Tensor) -> Tensor:
    return x.detach() * 0.5 + (x - x.detach())


WAYS: dict[str, tuple[Change, Change]] = {
    "sub_ and div_": (lambda x: x.sub_(0.45).div_(0.225), lambda x: x.sub(0.45).div(0.225)),
    "clamp_": (lambda x: x.clamp_(0.2, 0.8), lambda x: x.clamp(0.2, 0.8)),
    "assigned": (assigned, lambda x: x * 0.5 + 0.1),
    "first layer": (lambda x: F.hardtanh(x, 0.2, 0.8, inplace=True), lambda x: F.hardtanh(x, 0.2, 0.8)),
    "data": (through_data, halved_behind_autograd),
    "detached": (detached, lambda x: x.detach().clamp(0.25, 0.75) + (x - x.detach())),
    "view": (channel, lambda x: torch.cat([x[:, :1] * 0.5 + 0.1, x[:, 1:]], 1)),
    "out": (into_out, halved_behind_autograd),
    "gradient flag": (asks_for_a_gradient, lambda x: x - 0.45),
}
"""A change in place, and the same function without it."""


class Changing(nn.Module):
    def __init__(self, change: Change):
        super().__init__()
        self.inner = tiny_net()
        self.change = change

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inner(self.change(images))
        return logits


def pair(way: str) -> tuple[nn.Module, nn.Module]:
    changing, plain = WAYS[way]
    return Changing(changing).eval(), Changing(plain).eval()


def assert_alike(attack: Attack, way: str) -> None:
    changing, plain = pair(way)
    images, targets = tiny_batch(batch=3)
    targets[2] = 255
    before = images.clone(), targets.clone()
    result = attack.run(changing, images, targets, generator=torch.Generator().manual_seed(2))
    expected = attack.run(plain, images, targets, generator=torch.Generator().manual_seed(2))
    assert torch.equal(result.images_adv, expected.images_adv)
    assert torch.equal(result.forwards, expected.forwards)
    assert torch.equal(images, before[0])
    assert torch.equal(targets, before[1])


CASES = [(name, norm, targeted, way) for name, norm in WITH_NORM for targeted in aims(name) for way in WAYS]


@pytest.mark.parametrize(
    ("name", "norm", "targeted", "way"),
    partly(
        CASES,
        lambda name, norm, targeted, way: (
            norm == ROWS[name].norms[0]
            and not targeted
            and (way == "sub_ and div_" or (name in ("PGD", "Square", "CW") and norm != "l2"))
        ),
    ),
)
def test_every_attack(name: str, norm: str, targeted: bool, way: str):
    settings = {"targeted": True} if targeted else {}
    assert_alike(build(name, 0.05, norm, **settings), way)


def test_the_table_holds_every_exported_attack():
    exported = {
        cls for cls in map(vars(attacks).get, attacks.__all__) if inspect.isclass(cls) and issubclass(cls, Attack)
    }
    concrete = {cls for cls in exported if not inspect.isabstract(cls)}
    assert concrete - {type(build(name)) for name in ROWS} == {attacks.SEA, attacks.StrongEnsemble}


def test_attacks_without_a_radius_and_the_strong_ensemble():
    for attack in (
        DAG(step_size=0.02, steps=3),
        attacks.CW(step_size=0.05, steps=3, search_steps=2),
        attacks.DeepFool(steps=2),
        attacks.ALMAProx(steps=4),
        attacks.SEA(eps=0.05, steps=4).for_data(lambda: (5, 70, 0, 300)),
        attacks.StrongEnsemble(eps=0.05, steps=4).for_data(lambda: (5, 70, 0, 300)),
    ):
        assert_alike(attack, "sub_ and div_")


WRAPPED = {
    "blur": lambda attack: ThroughBlur(attack, 0.5),
    "both": lambda attack: ThroughBlur(attack, 0.5, whole=True),
    "patches": lambda attack: OnPatches(attack, 3, 2),
    "redraw": lambda attack: OnPatches(attack, 3, 2, redraw=True),
    "patches of both": lambda attack: OnPatches(ThroughBlur(attack, 0.5, whole=True), 3, 2),
    "map": lambda attack: Targeted(ThroughBlur(attack.replace(targeted=True), 0.5), Strip([0, 3, 1])),
    "trace": Traced,
}


@pytest.mark.parametrize("how", WRAPPED)
@pytest.mark.parametrize("way", ["sub_ and div_", "data"])
def test_attacks_of_detectors_and_traces(how: str, way: str):
    inner: list[Attack] = [PGD(eps=0.05, step_size=0.02, steps=3)]
    inner += [] if how == "trace" else [Square(eps=0.05, steps=4), DAG(eps=0.05, step_size=0.02, steps=3)]
    for attack in inner:
        assert_alike(WRAPPED[how](attack), way)
    if how == "trace":
        images, targets = tiny_batch()
        traces = [Traced(inner[0]).run(model, images, targets).trace for model in pair(way)]
        assert torch.equal(*traces)


@pytest.mark.parametrize("combine", ["logits", "probabilities"])
@pytest.mark.parametrize("way", ["sub_ and div_", "view"])
def test_ensembles_of_models(combine: str, way: str):
    """Each model gets the images, not what the one before it left of them."""
    (changing, plain), other = pair(way), tiny_net(seed=9)
    images, targets = tiny_batch()
    for attack in (SegPGD(eps=0.05, steps=3), Square(eps=0.05, steps=4)):
        found = [
            attack(SourceEnsemble([model, other, model], combine=combine), images, targets)
            for model in (changing, plain)
        ]
        assert torch.equal(*found)


@pytest.mark.parametrize("way", WAYS)
def test_universal_fit(way: str):
    images, targets = tiny_batch(batch=4)
    before = images.clone()
    fit = UniversalPerturbation(eps=0.05, step_size=0.02, epochs=2)
    found = [fit.fit(model, [(images[:2], targets[:2]), (images[2:], targets[2:])]).delta for model in pair(way)]
    assert torch.equal(*found)
    assert torch.equal(images, before)


@pytest.mark.parametrize("way", ["sub_ and div_", "assigned", "data", "out"])
def test_detectors(way: str):
    images = torch.rand(2, 3, 24, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    for detector in (ScaleConsistency(1.0), SpatialConsistency(12, 3, (2, 4)), SpatialConsistency(12, 3, (2, 4), 1)):
        parts = [detector.parts(model, images, ["a", "b"]) for model in pair(way)]
        assert torch.equal(*parts)
    entropies = [self_entropy(model, images, ["a", "b"], patch_size=9, k=2) for model in pair(way)]
    assert torch.equal(*entropies)
    assert torch.equal(images, before)


def test_evaluation():
    images, targets = tiny_batch(batch=4)
    before = images.clone()
    seen = []
    for model in pair("sub_ and div_"):
        sink = MemorySink()
        suite = {"pgd": PGD(eps=0.05, steps=3), "square": Square(eps=0.05, steps=4), "traced": Traced(CosPGD(steps=2))}
        Evaluator(suite, CLASSES, sink).update(model, list("abcd"), images, targets)
        predictions = predict(model, images, targets)
        scores = sink.compute()
        seen.append((scores, sink.seen, predictions))
    assert torch.equal(images, before)
    assert torch.equal(seen[0][2], seen[1][2])
    first, second = seen[0][0], seen[1][0]
    assert first.keys() == second.keys()
    for name, figures in first.items():
        for figure, value in figures.items():
            if figure != "seconds":
                torch.testing.assert_close(value, second[name][figure], rtol=0, atol=0, equal_nan=True)
    for name, attacked in seen[0][1].items():
        assert torch.equal(attacked.images_adv, seen[1][1][name].images_adv)


@pytest.mark.slow
def test_probe():
    images, targets = tiny_batch(batch=2)
    before = images.clone()
    evidence = [
        probe_model(model, ["a", "b"], images, targets, eps=0.05, num_classes=CLASSES)
        for model in pair("sub_ and div_")
    ]
    assert evidence[0] == evidence[1]
    assert torch.equal(images, before)


@pytest.mark.parametrize("cut", [lambda x: x.detach_(), lambda x: x.detach().sub_(0.4)])
def test_a_model_that_cuts_the_gradient_off_is_named(cut: Change):
    images, targets = tiny_batch()
    with pytest.raises(NoGradientError, match="does not depend on its input"):
        PGD()(Changing(cut).eval(), images, targets)
