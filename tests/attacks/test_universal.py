"""Universal perturbations: the fit against a literal one, what is kept in the file, and how it is applied."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from robustseg.attacks import (
    AttackError,
    CosPGDLoss,
    CrossEntropy,
    PureClass,
    Universal,
    UniversalDelta,
    UniversalPerturbation,
    UniversalStep,
)
from robustseg.attacks.universal import delta as universal_delta
from robustseg.attacks.universal import fit as universal
from robustseg.types import Batch
from tests.helpers.cases import partly
from tests.helpers.nets import CLASSES, HEIGHT, WIDTH, CountingNet, tiny_batch, tiny_net

from . import reference
from .defects import around, built_with, found_by, replaced, together
from .test_bad_input import MODELS
from .test_trace import assert_untouched, restless, snapshot

EPS, ALPHA, EPOCHS = 0.06, 0.025, 4
Patch = pytest.MonkeyPatch


def data(batch: int = 5, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Images of which one has no valid pixel."""
    images, targets = tiny_batch(dtype, batch=batch, seed=4)
    targets[2] = 255
    return images, targets


def split(images: Tensor, targets: Tensor, sizes: list[int]) -> list[Batch]:
    parts = zip(images.split(sizes), targets.split(sizes), strict=True)
    return [Batch(i, t, [""] * len(i)) for i, t in parts]


def literal_fit(net: nn.Module, images: Tensor, targets: Tensor, size: tuple[int, int], sign: int) -> list[Tensor]:
    """δ before and after each epoch, with one image and one entry of δ after the other."""
    height, width = size
    delta = torch.zeros(3, height, width, dtype=torch.float64)
    seen = [delta.clone()]
    for _ in range(EPOCHS):
        mean = torch.zeros_like(delta)
        used = [k for k in range(len(images)) if reference.valid_pixels(targets[k])]
        for k in used:
            point = images[k].clone()
            for c in range(3):
                for i in range(HEIGHT):
                    for j in range(WIDTH):
                        point[c, i, j] = float(images[k, c, i, j]) + float(delta[c, i % height, j % width])
            shown = point.clamp(0, 1).unsqueeze(0).requires_grad_()
            (loss,) = reference.mean_cross_entropy(net(shown), targets[k : k + 1], 1, 1, False)
            (grad,) = torch.autograd.grad(loss, shown)
            for c in range(3):
                for i in range(HEIGHT):
                    for j in range(WIDTH):
                        mean[c, i % height, j % width] += grad[0, c, i, j] / len(used)
        for entry in range(delta.numel()):
            slope = float(mean.view(-1)[entry])
            step = ALPHA * ((slope > 0) - (slope < 0))
            delta.view(-1)[entry] = max(-EPS, min(EPS, float(delta.view(-1)[entry]) + sign * step))
        seen.append(delta.clone())
    return seen


def fitter(**settings: object) -> UniversalPerturbation:
    return UniversalPerturbation(**{"eps": EPS, "step_size": ALPHA, "epochs": EPOCHS, **settings})


def check(targeted: bool = False, tile_size: tuple[int, int] | None = None) -> None:
    net, (images, targets) = tiny_net(), data()
    labels = targets.masked_fill(targets == 255, reference.NO_LABEL)
    expected = literal_fit(net, images, labels, tile_size or (HEIGHT, WIDTH), -1 if targeted else 1)
    steps: list[UniversalStep] = []
    fit = fitter(targeted=targeted, tile_size=tile_size)
    delta = fit.fit(net, split(images, targets, [2, 1, 2]), on_step=steps.append)
    # The batch in the middle has no valid pixel, and so no gradient.
    assert [(step.epoch, step.batch, step.images) for step in steps[:3]] == [(1, 1, 2), (1, 3, 4), (2, 1, 2)]
    for epoch in range(EPOCHS):
        torch.testing.assert_close(steps[2 * epoch].delta, expected[epoch], rtol=0, atol=1e-12)
    torch.testing.assert_close(delta.delta, expected[-1], rtol=0, atol=1e-12)
    assert float(delta.delta.abs().max()) <= EPS
    for step, rows in zip(steps[:2], ([0, 1], [3, 4]), strict=True):
        losses = reference.mean_cross_entropy(net(images[rows]), labels[rows], 1, 1, False)
        torch.testing.assert_close(step.loss, torch.stack(losses).detach())


@pytest.mark.parametrize(
    ("targeted", "tile_size"),
    partly(
        itertools.product((False, True), (None, (3, 4))),
        lambda targeted, tile_size: targeted == (tile_size is None),
    ),
)
def test_whole_fit(targeted: bool, tile_size: tuple[int, int] | None):
    check(targeted, tile_size)


def no_slope_where_clipped(original: Callable, self, model: object, images: Tensor, *rest: Tensor):
    loss, grad = original(self, model, images, *rest)
    moved = images + rest[1]
    return loss, grad * ((moved > 0) & (moved < 1)).all(0)


def mean_over_batches(original: Callable, self, model: object, images: Tensor, *rest: object):
    """Each batch weighs the same, however many images it has."""
    loss, grad = original(self, model, images, *rest)
    return loss, grad / len(images)


def without_mask(self: CrossEntropy, logits: Tensor, targets: Tensor, *rest: object) -> Tensor:
    return nn.functional.cross_entropy(logits, targets.clamp_min(0), reduction="none").sum((1, 2))


test_defect_is_found = found_by(
    check,
    {
        # Images with more valid pixels weigh more.
        "sum over pixels": (
            around(
                CrossEntropy,
                "__call__",
                lambda original, self, u, y, *rest: original(self, u, y, *rest) * (y >= 0).sum((1, 2)),
            ),
            (),
        ),
        "drop the ignore mask": (replaced(CrossEntropy, "__call__", without_mask), ()),
        "never project": (
            together(
                replaced(universal, "ball", lambda *_: type("", (), {"project": staticmethod(lambda x: x)})),
                replaced(UniversalDelta, "__post_init__", lambda self: None),
            ),
            (True,),
        ),
        "centre the tile": (
            replaced(universal, "tiled", lambda delta, h, w: universal_delta.tiled(delta, h + 1, w + 1)[:, 1:, 1:]),
            (False, (3, 4)),
        ),
        "always ascend": (built_with(UniversalPerturbation, targeted=False), (True,)),
        "no slope where clipped": (around(UniversalPerturbation, "_gradient", no_slope_where_clipped), ()),
        "show unclipped images": (replaced(universal, "_perturbed", lambda images, delta: images + delta), ()),
    },
)
# The batches of the check above all hold two images, which hides this one.
test_defect_of_batches_is_found = found_by(
    lambda: check_batches(),
    {"mean over batches": (around(UniversalPerturbation, "_gradient", mean_over_batches),)},
)


def check_batches() -> None:
    net, (images, targets) = tiny_net(), data(9)
    first = fitter().fit(net, split(images, targets, [9]))
    for sizes in ([1] * 9, [1, 8], [6, 3]):
        torch.testing.assert_close(fitter().fit(net, split(images, targets, sizes)).delta, first.delta)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(fitter().fit(net, split(images[order], targets[order], [4, 5])).delta, first.delta)


def test_neither_batch_size_nor_order_matters():
    check_batches()


def test_closed_form():
    """A linear pixel-wise model whose classes differ by w·x: δ is ε·sign(w) against class 0, everywhere."""
    model = nn.Conv2d(3, 2, 1).double()
    weight = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    model.weight.data.zero_()
    model.weight.data[1, :, 0, 0] = weight
    images, targets = torch.full((4, 3, 2, 3), 0.5).double(), torch.zeros(4, 2, 3).long()
    fit = UniversalPerturbation(0.125, 0.1, epochs=2).fit(model, split(images, targets, [3, 1]))
    assert torch.equal(fit.delta, (0.125 * weight.sign()).view(3, 1, 1).expand(3, 2, 3))
    down = UniversalPerturbation(0.125, 0.1, epochs=2, targeted=True, target_map=PureClass(1))
    assert torch.equal(down.fit(model, split(images, targets, [3, 1])).delta, fit.delta)


def test_it_fools_more_than_noise_of_its_size(tmp_path: Path):
    net, (images, _) = tiny_net(), tiny_batch(batch=8, ignored=False)
    targets = net(images).argmax(1)
    fit = UniversalPerturbation(0.2, 0.05, 12).fit(net, split(images, targets, [4, 4]))
    fit.save(tmp_path / "u.safetensors")
    images_adv = Universal(tmp_path / "u.safetensors")(net, images, targets)
    noise = (images + 0.2 * torch.randn(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)).sign()).clamp(
        0, 1
    )
    right = [(net(x).argmax(1) == targets).double().mean() for x in (images_adv, noise)]
    assert right[0] < right[1] - 0.1


def test_two_fits_are_one_of_twice_the_length_also_through_a_file(tmp_path: Path):
    net, batches = tiny_net(), split(*data(), [3, 2])
    half = fitter(epochs=2).fit(net, batches)
    half.save(tmp_path / "half.safetensors")
    whole = fitter(epochs=2).fit(net, batches, start=UniversalDelta.load(tmp_path / "half.safetensors"))
    assert torch.equal(whole.delta, fitter(epochs=4).fit(net, batches).delta)
    assert whole.epochs == 4
    assert not torch.equal(whole.delta, half.delta)


def test_start_must_fit():
    net, batches = tiny_net(), split(*data(), [5])
    start = fitter(epochs=1).fit(net, batches)
    with pytest.raises(ValueError, match=r"start reaches 0.025, beyond eps = 1/100: continue with its own eps"):
        fitter(eps=0.01).fit(net, batches, start=start)
    with pytest.raises(ValueError, match=r"tile_size = \(3, 3\), but start has \(7, 6\)"):
        fitter(tile_size=(3, 3)).fit(net, batches, start=start)


def test_random_start_depends_on_the_seed_only():
    net, batches = tiny_net(), split(*data(), [5])

    def fit(**settings: object) -> Tensor:
        return fitter(epochs=1, step_size=1e-9, **settings).fit(net, batches).delta

    assert torch.equal(fit(random_start=True, seed=1), fit(random_start=True, seed=1))
    assert not torch.equal(fit(random_start=True, seed=1), fit(random_start=True, seed=2))
    assert torch.equal(fit(seed=1), fit(seed=2))
    assert 0.5 * EPS < float(fit(random_start=True).abs().max()) <= EPS


@pytest.mark.parametrize("surrounding", [torch.no_grad, torch.inference_mode])
def test_fit_leaves_no_trace(surrounding: Callable):
    model, batches = restless(), split(*data(dtype=torch.float32), [5])
    loader = DataLoader(batches, batch_size=None)
    before = snapshot(model)
    with surrounding():
        fitter().fit(model, loader)
    assert_untouched(before, snapshot(model))
    model = restless(fail_at=3)
    before = snapshot(model)
    with pytest.raises(AttackError, match=r"KeyError.*inside the model"):
        fitter().fit(model, batches)
    assert_untouched(before, snapshot(model))


def test_cost_of_the_fit():
    model = CountingNet(tiny_net())
    fitter().fit(model, split(*data(), [2, 1, 2]))
    assert (model.forwards, model.backwards, model.weight_gradients) == (2 * EPOCHS, 2 * EPOCHS, 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_dtypes(dtype: torch.dtype, tmp_path: Path):
    net, (images, targets) = tiny_net(torch.float32), data()
    batches = split(images.to(dtype), targets, [3, 2])
    shown: list[torch.dtype] = []

    def model(x: Tensor) -> Tensor:
        shown.append(x.dtype)
        return net(x.float())

    fit = fitter(eps="8/255").fit(model, batches)
    assert {*shown} == {dtype}
    assert fit.delta.dtype == torch.promote_types(dtype, torch.float32)
    assert float(fit.delta.double().abs().max()) <= 8 / 255
    fit.save(tmp_path / "u.safetensors")
    images_adv = Universal(tmp_path / "u.safetensors")(model, images.to(dtype), targets)
    assert images_adv.dtype == dtype
    assert not torch.equal(images_adv[0], images[0].to(dtype))


def test_loss_and_target_map_are_used_and_recorded():
    net, batches = tiny_net(), split(*data(), [5])
    plain = fitter().fit(net, batches)
    other = fitter(loss=CosPGDLoss()).fit(net, batches)
    aimed = fitter(targeted=True, target_map=PureClass(2)).fit(net, batches)
    same = [Batch(b.images, b.targets.masked_fill(b.targets != 255, 2), b.ids) for b in batches]
    assert torch.equal(aimed.delta, fitter(targeted=True).fit(net, same).delta)
    assert not torch.equal(other.delta, plain.delta)
    assert (other.loss, aimed.targeted) == ("CosPGDLoss()", True)
    assert aimed.target_map == "PureClass(keep_ignored=True, class_id=2)"


def test_images_of_several_sizes_share_a_tile():
    net, (images, targets) = tiny_net(), data()
    batches = [(images[:2], targets[:2]), (images[3:, :, :5, :4], targets[3:, :5, :4])]
    assert fitter(tile_size=(4, 4)).fit(net, batches).delta.shape == (3, 4, 4)
    with pytest.raises(AttackError, match=r"perturbation is 3x7x6 but the images are 3x5x4 .*tile: true"):
        fitter().fit(net, batches)


def test_batches_that_are_used_up():
    net, batches = tiny_net(), split(*data(), [5])

    def once() -> Iterator[Batch]:
        yield from batches

    with pytest.raises(AttackError, match=r"no image with a valid pixel in epoch 2: .*iterated once per epoch"):
        fitter().fit(net, once())
    assert fitter(epochs=1).fit(net, once()).epochs == 1
    with pytest.raises(AttackError, match=r"no image with a valid pixel in epoch 1"):
        fitter().fit(net, [])
    images, targets = data()
    with pytest.raises(AttackError, match=r"no image with a valid pixel in epoch 1"):
        fitter().fit(net, [(images, torch.full_like(targets, 255))])


@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind != "infinite slope"])
def test_models_that_cannot_be_fitted(kind: str):
    model, message = MODELS[kind]
    with pytest.raises(AttackError, match=message):
        fitter().fit(model, [tiny_batch(torch.float32)])


def test_batches_that_do_not_fit():
    images, targets = tiny_batch(torch.float32)
    net = tiny_net(torch.float32)
    with pytest.raises(AttackError, match="divide 8-bit images by 255"):
        fitter().fit(net, [(images * 255, targets)])
    later = targets.clone()
    later[0, 0, 0] = CLASSES
    with pytest.raises(AttackError, match="class 4 but the model has 4 classes"):
        fitter().fit(net, [(images, targets), (images, later)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps": 8}, r"eps = 8 exceeds 1"),
        ({"step_size": 0}, r"step_size = 0 moves nothing"),
        ({"epochs": 0}, r"epochs = 0: a fit takes at least one pass"),
        ({"tile_size": (0, 4)}, r"tile_size = \(0, 4\): give height and width"),
        ({"target_map": PureClass(1)}, r"targeted = False with a target map"),
    ],
    ids=str,
)
def test_settings(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        UniversalPerturbation(**settings)
