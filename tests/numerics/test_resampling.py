"""Pooling and resizing by matrices: torch's values and gradients, in half precision as in float32."""

import copy

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torchvision.transforms.functional import gaussian_blur as torchvision_blur

from robustseg.models.heads import PSPHead, pooled_conv
from robustseg.numerics.resampling import average_pool, gaussian_blur, resize, spread

SIZES = [(1, 1), (2, 3), (6, 6), (7, 5), (12, 16), (45, 60), (13, 100)]


def with_gradient(function, maps: Tensor, rounded: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    point = maps.detach().clone().requires_grad_()
    out = function(point)
    towards = torch.linspace(-1, 2, out.numel(), dtype=torch.float64).to(rounded).to(out.dtype).view_as(out)
    return out.detach(), torch.autograd.grad(out, point, towards)[0]


def equal(ours, theirs, maps: Tensor) -> None:
    for found, expected in zip(with_gradient(ours, maps), with_gradient(theirs, maps), strict=True):
        assert torch.allclose(found, expected, rtol=1e-6, atol=2e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("before", SIZES, ids=str)
@pytest.mark.parametrize("after", SIZES, ids=str)
def test_values_and_gradients_are_torchs(before, after):
    maps = torch.randn(2, 3, *before, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    equal(lambda x: average_pool(x, after), lambda x: F.adaptive_avg_pool2d(x, after), maps)
    for aligned in (False, True):
        how = {"mode": "bilinear", "align_corners": aligned}
        equal(lambda x: spread(x, after, aligned), lambda x: F.interpolate(x, after, **how), maps)  # noqa: B023
        equal(lambda x: resize(x, after, aligned), lambda x: F.interpolate(x, after, **how), maps)  # noqa: B023
    equal(lambda x: spread(x, after, cubic=True), lambda x: F.interpolate(x, after, mode="bicubic"), maps)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32_and_rounded_once(dtype):
    maps = torch.randn(1, 2, 45, 60).to(dtype)
    small = torch.randn(1, 2, 2, 2).to(dtype)
    for enabled in (False, True):
        with torch.autocast("cpu", dtype, enabled=enabled):
            pooled, pooled_grad = with_gradient(lambda x: average_pool(x, 1), maps)
            shown, shown_grad = with_gradient(lambda x: spread(x, (45, 60)), small)
        expected, expected_grad = with_gradient(lambda x: average_pool(x, 1), maps.float(), dtype)
        assert pooled.dtype == shown.dtype == dtype
        assert torch.equal(pooled, expected.to(dtype))
        assert torch.allclose(pooled_grad.float(), expected_grad, rtol=2**-7)
        expected, expected_grad = with_gradient(lambda x: spread(x, (45, 60)), small.float(), dtype)
        assert torch.equal(shown, expected.to(dtype))
        assert torch.allclose(shown_grad.float(), expected_grad, rtol=2**-7)


def atomic(weights: Tensor, grad: Tensor) -> Tensor:
    """The gradient of B×C×h×w cells as CUDA's bilinear backward adds it: a sum rounded at each step, in its own type.

    Args:
        weights: Share of each cell in each position, N×cells.
        grad: Gradient of the positions, N×C.
    """
    total = torch.zeros(weights.shape[1], grad.shape[1], dtype=grad.dtype)
    for share, of_position in zip(weights, grad, strict=True):
        total = total + share.unsqueeze(1).to(grad.dtype) * of_position
    return total


def projection(found: Tensor, exact: Tensor) -> float:
    """The length of a gradient along the exact one, in units of its length."""
    return float((found.double() * exact).sum() / exact.square().sum())


@pytest.mark.parametrize(("bins", "lost"), [(1, 0.8), (2, 0.95), (3, 0.995)])
def test_atomic_additions_in_bfloat16_lose_the_gradient_of_coarse_bins_and_matrices_do_not(bins, lost):
    """Gradients that point one way, as those of an image that is fooled everywhere."""
    generator = torch.Generator().manual_seed(0)
    side = (45, 60)
    small = torch.zeros(1, 4, bins, bins, dtype=torch.bfloat16, requires_grad=True)
    grad = (1 + 0.3 * torch.randn(1, 4, *side, generator=generator)).bfloat16()
    wide = small.detach().double().requires_grad_()
    (exact,) = torch.autograd.grad(F.interpolate(wide, side, mode="bilinear"), wide, grad.double())
    (found,) = torch.autograd.grad(spread(small, side), small, grad)
    assert projection(found, exact) == pytest.approx(1, abs=0.004)
    cells = torch.eye(bins * bins).view(bins * bins, 1, bins, bins)
    weights = F.interpolate(cells, side, mode="bilinear").flatten(1).t()
    old = atomic(weights, grad[0].flatten(1).t())
    assert projection(old, exact[0].flatten(1).t()) < lost


def test_no_key_of_a_checkpoint_and_copies():
    assert (
        pooled_conv(4, 2, 3).state_dict().keys()
        == torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(3), *list(pooled_conv(4, 2, 3))[1:]).state_dict().keys()
    )
    head = PSPHead(8, 3, 4).eval()
    features = torch.randn(1, 8, 9, 12)
    with torch.inference_mode():
        head(features)  # keeps matrices, which must not be inference tensors
    point = features.clone().requires_grad_()
    (grad,) = torch.autograd.grad(head(point).sum(), point)
    assert grad.abs().sum() > 0
    assert torch.equal(copy.deepcopy(head)(features), head(features))


def test_fake_tensors_and_the_meta_device_after_real_ones():
    head = PSPHead(8, 3, 4).eval()
    head(torch.randn(1, 8, 9, 12))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert head(mode.from_tensor(torch.empty(1, 8, 9, 12))).shape == (1, 3, 9, 12)
    assert head.to("meta")(torch.empty(1, 8, 9, 12, device="meta")).shape == (1, 3, 9, 12)


@pytest.mark.slow
def test_export_and_compiled_code_with_any_size():
    head = PSPHead(8, 3, 4).eval()
    small, large = torch.randn(1, 8, 9, 12), torch.randn(2, 8, 15, 10)
    compiled = torch.compile(head, backend="eager", dynamic=True, fullgraph=True)
    for features in (small, large):
        assert torch.allclose(compiled(features), head(features), atol=1e-6)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.allclose(compiled(features), head(features), atol=1e-2)
    exported = torch.export.export(head, (small,)).module()
    assert torch.allclose(exported(small), head(small), atol=1e-6)


def test_blur_is_torchvisions():
    images = torch.rand(2, 3, 17, 30, dtype=torch.float64)
    equal(lambda x: gaussian_blur(x, 1.7, 7), lambda x: torchvision_blur(x, [15, 15], [1.7, 1.7]), images)
