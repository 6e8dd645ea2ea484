"""Several source models as one."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robustseg.attacks import BIM, PGD, AttackError, SourceEnsemble, TransferAttack, sources
from tests.helpers.nets import CountingNet, tiny_batch, tiny_net

from . import reference_transfer as literal
from .defects import around, found_by, replaced
from .test_trace import assert_untouched, restless, snapshot

COMBINE = pytest.mark.parametrize("combine", ["logits", "probabilities"])
WEIGHTS = pytest.mark.parametrize("weights", [None, [1, 3, 0.5]], ids=["equal", "weighted"])


def three() -> list[nn.Module]:
    return [tiny_net(seed=seed) for seed in (1, 2, 3)]


def check_combination(combine: str, weights: list[float] | None) -> None:
    models, (images, _) = three(), tiny_batch()
    expected = literal.combined_logits([model(images) for model in models], weights or [1, 1, 1], combine)
    torch.testing.assert_close(SourceEnsemble(models, weights, combine)(images), expected, rtol=0, atol=1e-10)


@WEIGHTS
@COMBINE
def test_combination(combine: str, weights: list[float] | None):
    check_combination(combine, weights)


@COMBINE
def test_combination_of_one_model_with_itself(combine: str):
    model, (images, targets) = tiny_net(), tiny_batch()
    expected = PGD(steps=3)(model, images, targets)
    for models, weights in (([model], [7]), ([model, model], None), ([model, lambda x: model(x)], [1, 2])):
        ensemble = SourceEnsemble(models, weights, combine)
        torch.testing.assert_close(PGD(steps=3)(ensemble, images, targets), expected, rtol=0, atol=1e-12)


def test_probabilities_of_extreme_logits():
    """One model is certain of class 0, the other of class 1; softmax, then its logarithm, would give −∞ and NaN."""
    images = torch.zeros(1, 3, 2, 2, requires_grad=True)

    def certain(of: int, scale: float) -> Callable[[Tensor], Tensor]:
        offset = scale * nn.functional.one_hot(torch.tensor(of), 3).view(1, 3, 1, 1)
        return lambda x: x + offset

    logits = SourceEnsemble([certain(0, 1e4), certain(1, 1e4)], combine="probabilities")(images)
    expected = torch.tensor([0.5, 0.5, 0.0]).view(1, 3, 1, 1).expand(-1, -1, 2, 2)
    torch.testing.assert_close(logits.softmax(1), expected)
    assert float(logits[0, 2, 0, 0].detach()) == pytest.approx(-1e4)
    (grad,) = torch.autograd.grad(logits[:, 2].sum(), images)
    assert torch.isfinite(grad).all()
    assert grad[:, 2].abs().min() > 0


@COMBINE
def test_half_precision_is_combined_in_single_precision(combine: str):
    logits = torch.randn(1, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    ensemble = SourceEnsemble([lambda x: logits.half(), lambda x: logits.bfloat16()], combine=combine)
    assert ensemble(torch.zeros(1, 3, 3, 3)).dtype == torch.float32


@COMBINE
def test_attack_follows_the_gradient_of_the_ensemble(combine: str):
    models, (images, targets) = three(), tiny_batch()

    def ensemble(x: Tensor) -> Tensor:
        answers = [model(x) for model in models]
        if combine == "logits":
            return (answers[0] + 3 * answers[1] + 0.5 * answers[2]) / 4.5
        shares = [answer.softmax(1) for answer in answers]
        return ((shares[0] + 3 * shares[1] + 0.5 * shares[2]) / 4.5).log()

    attack = TransferAttack(eps=0.05, step_size=0.02, steps=3, kernel_size=3)
    actual = attack(SourceEnsemble(models, [1, 3, 0.5], combine), images, targets)
    torch.testing.assert_close(actual, attack(ensemble, images, targets), rtol=0, atol=1e-9)
    assert not torch.allclose(actual, attack(models[0], images, targets), atol=1e-3)


def test_cost_counts_the_ensemble_once():
    models, (images, targets) = [CountingNet(model) for model in three()], tiny_batch()
    result = BIM(steps=4).run(SourceEnsemble(models), images, targets)
    assert result.forwards.tolist() == result.backwards.tolist() == [4, 4]
    assert [(model.forwards, model.backwards, model.weight_gradients) for model in models] == [(4, 4, 0)] * 3


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("fail_at", [None, 2])
def test_no_trace_on_any_model(fail_at: int | None, mode: str):
    members = [restless(), restless(fail_at), restless()]
    members[2].eval()
    before = [snapshot(member) for member in members]
    ensemble = SourceEnsemble([*members[:2], lambda x: members[2](x)])
    assert [member.training for member in members] == [True, True, False], "building it changes no mode"
    images, targets = tiny_batch(torch.float32)
    if fail_at is None:
        PGD(steps=3)(ensemble, images, targets, mode=mode)
    else:
        with pytest.raises(AttackError, match=r"KeyError.*inside the model"):
            PGD(steps=3)(ensemble, images, targets, mode=mode)
    for member, was in zip(members, before, strict=True):
        assert member.forwards > 0
        assert_untouched(was, snapshot(member))


def test_members_are_attacked_in_the_mode_of_the_call():
    members = [restless(), restless()]
    images, targets = tiny_batch(torch.float32)
    for mode, expected in (("eval", False), ("train", True)):
        seen: list[bool] = []
        PGD(steps=1)(
            SourceEnsemble(members),
            images,
            targets,
            mode=mode,
            on_step=lambda step, kept=seen: kept.extend(member.training for member in members),
        )
        assert seen == [expected] * 2


def test_wrapper_of_distributed_training_is_taken_off(monkeypatch: pytest.MonkeyPatch):
    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module):
            super().__init__()
            self.module = module

        def forward(self, images: Tensor) -> Tensor:
            raise AssertionError("an attack must not arm the reducer")

    monkeypatch.setattr(sources, "DistributedDataParallel", Wrapper)
    model, (images, targets) = tiny_net(), tiny_batch()
    actual = BIM(steps=2)(SourceEnsemble([Wrapper(model), model]), images, targets)
    assert torch.equal(actual, BIM(steps=2)(model, images, targets))


def test_plain_functions_and_settings_are_shown():
    ensemble = SourceEnsemble([nn.Conv2d(3, 4, 1), lambda x: x], [1, 3], "probabilities")
    assert "weights=[0.25, 0.75], combine='probabilities'" in repr(ensemble)
    assert "Conv2d" in repr(ensemble)


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (lambda: SourceEnsemble([]), r"models = \[\]: an ensemble has at least one"),
        (lambda: SourceEnsemble([nn.Identity()], combine="loss"), r"combine = 'loss': use logits or probabilities"),
        (lambda: SourceEnsemble([nn.Identity()], [1, 2]), r"weights = \[1, 2\] for 1 models"),
        (lambda: SourceEnsemble([nn.Identity()] * 2, [1, 0]), r"weights = \[1, 0\] .*one positive number per model"),
        (lambda: SourceEnsemble([nn.Identity()], [float("nan")]), r"weights = \[nan\]"),
        (lambda: SourceEnsemble([nn.Identity()], [float("inf")]), r"weights = \[inf\]"),
    ],
)
def test_settings(create: Callable, message: str):
    with pytest.raises(ValueError, match=message):
        create()


def four(images: Tensor) -> Tensor:
    return torch.cat([images, images[:, :1]], 1)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (lambda x: {"out": four(x)}, r"source model 2 returned a dict, not a tensor of logits"),
        (lambda x: four(x)[:, :3], r"source model 2 returned \(2, 3, 7, 6\), .* \(2, 4, 7, 6\): .* same classes"),
        (lambda x: four(x)[:, :1], r"source model 2 returned \(2, 1, 7, 6\)"),
        (lambda x: four(x)[..., :1], r"source model 2 returned \(2, 4, 7, 1\)"),
        (lambda x: four(x).detach(), r"source model 2: .*does not depend on its input for autograd"),
        (lambda x: four(x) * float("nan"), r"not finite"),
    ],
)
def test_models_that_do_not_fit(second: Callable[[Tensor], Tensor], message: str):
    images, targets = tiny_batch(torch.float32)
    with pytest.raises(AttackError, match=message):
        PGD()(SourceEnsemble([four, second]), images, targets)


def forget_the_weights(original: Callable, self: SourceEnsemble, models, weights, combine) -> None:
    original(self, models, None, combine)


test_defect_is_found = found_by(
    lambda combine: check_combination(combine, [1, 3, 0.5]),
    {
        # Of the probabilities: the mean of the logits but for a constant.
        "geometric mean": (replaced(torch, "logaddexp", lambda first, second: first + second), "probabilities"),
        "unnormalised logits": (replaced(Tensor, "log_softmax", lambda self, dim: self), "probabilities"),
        "forget the weights": (around(SourceEnsemble, "__init__", forget_the_weights), "probabilities", "logits"),
    },
)
