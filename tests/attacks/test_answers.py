"""Models whose answers are no logits, or others from forward to forward."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors

from robustseg.attacks import APGD, DAG, PGD, AttackError, Square, Victim
from robustseg.detectors import DetectorError, OnPatches, ScaleConsistency, SpatialConsistency, ThroughBlur
from robustseg.evaluation.trace import Traced
from tests.helpers.nets import Around, tiny_batch, tiny_net

from .table import LOOPS, build


class Changing:
    """A model that answers differently from the n-th forward on."""

    def __init__(self, change: Callable[[Tensor], Any], after: int = 1):
        self.net = tiny_net()
        self.change, self.left = change, after

    def __call__(self, images: Tensor) -> Any:
        logits = self.net(images)
        self.left -= 1
        return logits if self.left >= 0 else self.change(logits)


LATER: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "size": (lambda u: u[..., 1:], r"returned \(\d+, 4, \d+, \d+\) for images"),
    "batch": (lambda u: u[1:], r"returned \(\d+, 4, \d+, \d+\) for images"),
    "fewer classes": (lambda u: u[:, :3], r"returned 3 classes in torch.float64 after 4 classes"),
    "more classes": (lambda u: torch.cat([u, u[:, :1]], 1), r"returned 5 classes in torch.float64 after 4 classes"),
    "dtype": (lambda u: u.float(), r"returned 4 classes in torch.float32 after 4 classes in torch.float64"),
    "NaN": (lambda u: u * float("nan"), r"not finite"),
    "one NaN": (lambda u: u.index_fill(3, torch.tensor(0), float("nan")), r"not finite"),
    "dictionary": (lambda u: {"out": u, "aux": u}, r"returned a dict, .*lambda images: model\(images\)\['out'\]"),
    "tuple": (lambda u: (u, u), r"returned a tuple, .*lambda images: model\(images\)\[0\]"),
    "None": (lambda u: None, r"returned a NoneType"),
    "classes": (lambda u: u.argmax(1, keepdim=True).expand_as(u), r"torch.int64, not floating point logits"),
}


@pytest.mark.parametrize("kind", LATER)
@pytest.mark.parametrize("attack", ["PGD", "SegPGD best", "DS", "Square", "DAG", "CW", "DeepFool", "ALMAProx", "APGD"])
def test_a_model_that_answers_otherwise_later(kind: str, attack: str):
    change, message = LATER[kind]
    with pytest.raises(AttackError, match=message):
        build(attack)(Changing(change), *tiny_batch())


@pytest.mark.parametrize("kind", LATER)
def test_a_model_that_answers_otherwise_later_within_attacks_of_detectors_and_detectors(kind: str):
    change, message = LATER[kind]
    images, targets = tiny_batch()
    for attack in (ThroughBlur(PGD(steps=3), 0.5, whole=True), OnPatches(Square(steps=4), 3, 2), Traced(PGD(steps=2))):
        with pytest.raises(AttackError, match=message):
            attack(Changing(change), images, targets)
    for detector in (ScaleConsistency(0.5), SpatialConsistency(4, 2, (1, 2), 1)):
        with pytest.raises(DetectorError, match=message):
            detector.scores(Changing(change), images, ["a", "b"])


def test_a_gradient_that_is_missing_later():
    for attack in (PGD(steps=3), DAG(steps=3), APGD(steps=3)):
        with pytest.raises(AttackError, match="does not depend on its input"):
            attack(Changing(lambda u: u.detach()), *tiny_batch())


class Output(dict):
    @property
    def logits(self) -> Any:
        return self["logits"]


@pytest.mark.parametrize(
    ("wrap", "remedy"),
    [
        (lambda u: Output(logits=u), r"lambda images: model\(images\).logits"),
        (lambda u: {"out": u, "aux": u}, r"model\(images\)\['out'\]"),
        (lambda u: {"seg": u}, r"model\(images\)\['seg'\]"),
        (lambda u: [u], r"model\(images\)\[0\]"),
    ],
)
def test_outputs_that_hold_the_logits(wrap: Callable[[Tensor], Any], remedy: str):
    net = tiny_net()
    for attack in (PGD(steps=1), Square(steps=2)):
        with pytest.raises(AttackError, match=remedy):
            attack(lambda x: wrap(net(x)), *tiny_batch())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda u: u.to("meta"), r"logits on meta for images on cpu: .*logits.to\(images.device\)"),
        (lambda u: u.to_sparse(), r"torch.sparse_coo logits: return logits.to_dense\(\)"),
        (lambda u: u.detach().to_sparse_csr(), r"torch.sparse_csr logits: return logits.to_dense\(\)"),
        (
            lambda u: torch.nested.nested_tensor([*u.detach()]),
            r"nested logits: return torch.stack\(logits.unbind\(\)\)",
        ),
    ],
)
def test_logits_elsewhere_and_in_other_layouts(change: Callable[[Tensor], Tensor], message: str):
    net, (images, targets) = tiny_net(), tiny_batch()
    for attack in (PGD(steps=1), Square(steps=2), build("DeepFool")):
        with pytest.raises(AttackError, match=message):
            attack(lambda x: change(net(x)), images, targets)
    with pytest.raises(DetectorError, match=message):
        ScaleConsistency(0.5).scores(lambda x: change(net(x)), images, ["a", "b"])


class Own(Tensor):
    """A class that torch's functions keep."""


@pytest.mark.parametrize("name", LOOPS)
def test_tensors_of_a_class_of_their_own(name: str):
    """Neither their logits nor their images reach the result, also with no budget."""
    net, (images, targets) = tiny_net(), tiny_batch()
    for eps in (0.05, 0):
        expected = build(name, eps)(net, images, targets)
        for form in (Own, tv_tensors.Image):
            model = Around(net, lambda x, form=form: net(x).as_subclass(form))
            found = build(name, eps)(model, images.as_subclass(form), targets.as_subclass(form))
            assert type(found) is Tensor
            assert torch.equal(found, expected)


def test_no_graph_is_kept_where_autograd_is_off():
    """A model may enable it, or compute in a thread of its own; chains of such logits would fill the memory."""
    net, factor = tiny_net(), torch.ones((), dtype=torch.float64, requires_grad=True)

    def model(images: Tensor) -> Tensor:
        with torch.enable_grad():
            return net(images) * factor

    images, targets = tiny_batch()
    with torch.no_grad():
        assert not Victim(model, len(images))(images).requires_grad
    assert not ScaleConsistency(0.5).scores(model, images, ["a", "b"]).requires_grad
    assert torch.equal(Square(steps=4)(model, images, targets), Square(steps=4)(net, images, targets))


@pytest.mark.parametrize("name", LOOPS)
def test_logits_whose_memory_the_model_uses_again(name: str):
    """A buffer for the logits that each forward overwrites, and logits that it spoils later."""
    net, (images, targets) = tiny_net(), tiny_batch()
    kept: dict[object, Tensor] = {}

    def overwritten(x: Tensor) -> Tensor:
        logits = net(x)
        out = kept.setdefault(logits.shape, torch.empty_like(logits).detach())
        return out.detach_().copy_(logits)

    def spoilt(x: Tensor) -> Tensor:
        for logits in kept.values():
            logits.data.fill_(7)
        kept[0] = net(x)
        return kept[0]

    expected = build(name)(net, images, targets)
    for change in (overwritten, spoilt):
        kept.clear()
        assert torch.equal(build(name)(Around(net, change), images, targets), expected)
