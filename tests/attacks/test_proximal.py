"""Proximal operators, constraints and penalties of the minimum-norm attacks, against the literal ones and by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustseg.attacks.minimum_norm import alma
from robustseg.attacks.minimum_norm.constraints import kept_constraints, margin_ratios, margins
from robustseg.attacks.minimum_norm.proximal import prox_l2, prox_linf
from tests.helpers.nets import tiny_batch, tiny_net

from . import reference_primal_dual as reference
from .reference import NO_LABEL, valid_pixels


def linf_objective(p: Tensor, delta: Tensor, weight: float, metric: Tensor) -> Tensor:
    return (metric * (p - delta) ** 2).sum(-1) / 2 + weight * p.abs().amax(-1)


@settings(max_examples=15)
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
