"""OnPatches: literal references, closed forms, and what it gains over the plain attack."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustseg.attacks import BIM, DAG, FGSM, NoiseSource
from robustseg.attacks.base import AttackStep
from robustseg.attacks.losses.base import IGNORED
from robustseg.attacks.victim import Victim
from robustseg.detectors import OnPatches, SpatialConsistency
from robustseg.detectors.canvas import CanvasVictim, PatchVictim
from tests.attacks.comparison import assert_allowed
from tests.attacks.table import build
from tests.detectors.nets import (
    STREAM,
    NearAndFar,
    corners_of,
    literal_cross_entropy,
    noise_of,
    noisy_images_and_targets,
    scene,
    summed_cross_entropy,
)
from tests.helpers.nets import HEIGHT, WIDTH, per_pixel_net, tiny_batch, tiny_net

SIZE, K = 3, 2


def literal_loss(model, image, targets, corners, size, stand_in=False):
    """CE over the image and over each patch, predicted on its own. An ignored pixel of a patch counts nothing, or gives
    its place to a valid one of the image: the n-th place of all patches to the n-th valid one, in turn."""
    whole = model(image[None])[0]
    total, _ = literal_cross_entropy(whole, targets)
    valid = [(r, c) for r in range(HEIGHT) for c in range(WIDTH) if int(targets[r, c]) != 255]
    for number, (top, left) in enumerate(corners):
        patch = model(image[None, :, top : top + size, left : left + size])[0]
        wanted = targets[top : top + size, left : left + size]
        total = total + literal_cross_entropy(patch, wanted)[0]
        for place in range(size * size):
            if stand_in and int(wanted.flatten()[place]) == 255:
                r, c = valid[(number * size * size + place) % len(valid)]
                total = total + whole[:, r, c].exp().sum().log() - whole[int(targets[r, c]), r, c]
    return total


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("redraw", [False, True])
def test_gradient_is_that_of_the_image_and_its_patches(redraw, targeted):
    model, (images, targets) = tiny_net(), tiny_batch(batch=3)
    attack = OnPatches(BIM(eps=2, step_size=0.5, steps=3, norm="l2", targeted=targeted), SIZE, K, redraw)
    steps = []
    found = attack(model, images, targets, generator=noise_of("abc"), on_step=steps.append)
    draws = corners_of("abc", K, SIZE, 3)
    for row in range(3):
        image_adv = images[row]
        for t in range(3):
            point = image_adv.clone().requires_grad_()
            loss = literal_loss(model, point, targets[row], draws[t if redraw else 0][row], SIZE, stand_in=redraw)
            assert float(steps[t].loss[row]) == pytest.approx(float(loss.detach()), rel=1e-9)
            (grad,) = torch.autograd.grad(loss, point)
            image_adv = image_adv + (-0.5 if targeted else 0.5) * grad / grad.norm()
            delta = image_adv - images[row]
            image_adv = (images[row] + delta * min(1.0, 2 / float(delta.norm()))).clamp(0, 1)
        torch.testing.assert_close(found[row], image_adv, rtol=0, atol=1e-9)


def test_patches_of_a_per_pixel_model_change_weights_only():
    """A pixel that n patches hold has 1 + n times the gradient that it has without them."""
    model, (images, targets) = per_pixel_net(), tiny_batch()
    images = images.clamp(0.3, 0.7)
    point = images.clone().requires_grad_()
    valid = targets != 255
    loss = F.cross_entropy(model(point), targets, ignore_index=255, reduction="sum")
    (grad,) = torch.autograd.grad(loss, point)
    held = torch.ones(2, HEIGHT, WIDTH, dtype=torch.float64)
    for row, places in enumerate(corners_of("ab", 5, 4)[0]):
        for top, left in places:
            held[row, top : top + 4, left : left + 4] += 1
    assert held.max() > 2
    found = OnPatches(FGSM(eps="0.25", norm="l2"), 4, 5)(model, images, targets, generator=noise_of("ab"))
    weighted = grad * held.unsqueeze(1)
    expected = images + 0.25 * weighted / weighted.flatten(1).norm(dim=1).view(2, 1, 1, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert torch.equal((found != images).any(1), valid)


@pytest.mark.parametrize("name", ["BIM best", "PGD", "Houdini", "DAG runner-up", "CW", "DeepFool", "PDPGD", "Square"])
@pytest.mark.parametrize("redraw", [False, True])
def test_a_patch_that_is_the_image_changes_nothing(name, redraw):
    model, (images, targets) = tiny_net(), tiny_batch()
    images, targets = images[..., :WIDTH, :], targets[:, :WIDTH]
    if redraw:
        # Stand-ins of ignored pixels would count twice.
        targets = targets.where(targets != 255, 0)
    plain = build(name, 0.05)(model, images, targets, generator=noise_of("ab"))
    found = OnPatches(build(name, 0.05), WIDTH, 1, redraw)(model, images, targets, generator=noise_of("ab"))
    torch.testing.assert_close(found, plain, rtol=0, atol=2e-3 if name == "CW" else 1e-9)
    assert not torch.equal(plain, images)


def test_patches_are_uniform_and_not_the_detectors():
    images = torch.rand(40, 3, 10, 8)
    seen = []

    def model(shown):
        seen.append(shown)
        return shown * 0.5

    attack = OnPatches(FGSM(eps="8/255"), 6, 25)
    attack(model, images, torch.zeros(40, 10, 8, dtype=torch.long), generator=noise_of([f"{i}" for i in range(40)]))
    assert [tuple(shown.shape) for shown in seen] == [(40, 3, 10, 8), (1000, 3, 6, 6)]
    # The first value of each patch is where in the image?
    first = seen[1][:, 0, 0, 0].detach().view(25, 40)
    places = [(images[i, 0] == first[j, i]).nonzero()[0].tolist() for j in range(25) for i in range(40)]
    counts = torch.zeros(5, 3)
    for top, left in places:
        counts[top, left] += 1
    assert float((counts - 1000 / 15).abs().max()) < 5 * math.sqrt(1000 / 15)
    detector = SpatialConsistency(6, 25, (0, 1))
    source = NoiseSource.for_samples((0, 0, 0x5CA1E), ["0"], torch.device("cpu"))
    theirs = [pair.corners[0] for pair in detector.sampler.draw(source, images[:1])]
    assert theirs != [tuple(place) for place in places[::40]]


def test_redrawn_patches_leave_no_trace_of_the_first_draw():
    """Each forward is about patches of its own, also of those that only rank an iterate."""
    images, targets = tiny_batch()
    seen = []
    net = tiny_net()

    def model(shown):
        seen.append(shown.detach())
        return net(shown)

    OnPatches(BIM(eps="1/1000", step_size="1/1000", steps=2, keep="best"), SIZE, K, redraw=True)(
        model, images, targets, generator=noise_of("ab")
    )
    draws = corners_of("ab", K, SIZE, 3)
    assert draws[0] != draws[1] != draws[2]
    for t in range(3):
        whole, patches = seen[2 * t], seen[2 * t + 1]
        for row in range(2):
            for j, (top, left) in enumerate(draws[t][row]):
                assert torch.equal(patches[2 * j + row], whole[row, :, top : top + SIZE, left : left + SIZE])


@pytest.mark.parametrize("redraw", [False, True])
def test_dag_stops_at_the_first_iterate_whose_image_and_patches_show_the_target(redraw):
    model, (images, wanted) = NearAndFar(), scene(2)
    if not redraw:
        wanted[:, :5] = 255
    steps = []
    attack = OnPatches(DAG(step_size="1/2000", steps=40, success=0.995, targeted=True), 12, 3, redraw)
    found = attack(model, images, wanted, generator=noise_of("abcd"), on_step=steps.append)
    draws = corners_of("abcd", 3, 12, 40, shape=(24, 30))
    first = {}
    for t, step in enumerate(steps):
        for image_adv, row in zip(step.images_adv, step.rows.tolist(), strict=True):
            views = [(image_adv, wanted[row])]
            for top, left in draws[t if redraw else 0][row]:
                at = (..., slice(top, top + 12), slice(left, left + 12))
                views.append((image_adv[at], wanted[row][at]))
            hits = valid = 0
            for seen, target in views:
                hits += int((model(seen[None]).argmax(1)[0] == target).sum())
                valid += int((target != 255).sum())
            if hits >= 0.995 * valid and row not in first:
                first[row] = t
                torch.testing.assert_close(found[row], image_adv, rtol=0, atol=0)
    # Row 0 does not get there, others leave at the tenth step.
    assert sorted(first) == [1, 2, 3]
    assert max(first.values()) > 10


@pytest.mark.parametrize("redraw", [False, True])
def test_some_of_the_images_are_answered_and_counted_as_within_their_batch(redraw):
    images, targets = tiny_batch(batch=3)
    targets = targets.masked_fill(targets == 255, IGNORED)
    targets[0, :4], targets[2, :, :3] = IGNORED, IGNORED

    def victims():
        asked = Victim(tiny_net(), 3)
        return asked, PatchVictim(asked, SIZE, K, noise_of("abc").fork(STREAM), images, targets, redraw)

    _, whole = victims()
    asked, other = victims()
    rows = torch.tensor([2, 0])
    part = other.select(rows)
    torch.testing.assert_close(part(images[rows]), whole(images)[rows])
    assert torch.equal(part.canvas_of(targets[rows]), whole.canvas_of(targets)[rows])
    assert asked.forwards.tolist() == [1 + K, 0, 1 + K]


def test_observers_see_the_targets_of_the_images_that_go_on():
    targets = torch.arange(3 * 4 * 5).view(3, 4, 5)
    seen = []
    step = AttackStep(1, 1, 0, torch.zeros(2, 3, 4, 5), torch.zeros(2, 2, 1, 29), torch.zeros(2, 1, 29), None, None)
    CanvasVictim.shown_to(seen.append, targets)(step._replace(rows=torch.tensor([2, 0])))
    assert torch.equal(seen[0].targets, targets[[2, 0]])
    assert seen[0].logits.shape == (2, 2, 4, 5)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("target", [0, 1, "random"])
def test_each_attack_is_the_best_one_at_its_own_patches(seed, target):
    """The model is affine, so that the loss is convex and descent in the ball finds its minimum: nothing that is found
    for other patches, or for none, can be lower. Each image is looked at on its own."""
    model = NearAndFar().double()
    images, wanted = noisy_images_and_targets(seed, target)
    inner = BIM(eps=0.06, step_size=0.01, steps=20, norm="rms", targeted=True)
    found = {"plain": inner(model, images, wanted)}
    for draw in range(3):
        found[draw] = OnPatches(inner, 6, 2)(model, images, wanted, generator=noise_of("ab", 10 * seed + draw))
        assert_allowed(found[draw], images, 0.06, "rms")
    for draw in range(3):
        corners = corners_of("ab", 2, 6, seed=10 * seed + draw, shape=images.shape[-2:])[0]
        losses = {name: own_loss(model, images_adv, wanted, corners, 6) for name, images_adv in found.items()}
        lowest = losses.pop(draw)
        for name, other in losses.items():
            assert bool((lowest < other).all()), f"that of draw {draw} is {lowest}, and {name} has {other}"


def own_loss(model, images_adv, wanted, corners, size):
    """Cross-entropy summed over each image and its patches, each of them predicted on its own."""
    total = summed_cross_entropy(model, images_adv, wanted)
    for row, places in enumerate(corners):
        for top, left in places:
            at = (slice(row, row + 1), ..., slice(top, top + size), slice(left, left + size))
            total[row] += summed_cross_entropy(model, images_adv[at], wanted[at])[0]
    return total


class Sizes(nn.Module):
    """Notes the number of images of each forward."""

    def __init__(self):
        super().__init__()
        self.net = tiny_net()
        self.sizes = []

    def forward(self, images):
        self.sizes.append(len(images))
        return self.net(images)


@pytest.mark.parametrize("redraw", [False, True])
@pytest.mark.parametrize("inner", ["PGD", "DAG", "DeepFool", "Square"])
def test_patches_in_several_forwards_give_the_same(inner: str, redraw: bool):
    images, targets = tiny_batch()
    attack = build(inner)
    whole, parts = Sizes(), Sizes()
    expected = OnPatches(attack, SIZE, 5, redraw).run(whole, images, targets, generator=noise_of("ab"))
    for per_forward in (1, 4, 5):
        parts.sizes.clear()
        limited = OnPatches(attack, SIZE, 5, redraw, patches_per_forward=per_forward)
        result = limited.run(parts, images, targets, generator=noise_of("ab"))
        torch.testing.assert_close(result.images_adv, expected.images_adv, rtol=0, atol=1e-9)
        assert torch.equal(result.forwards, expected.forwards)
        assert torch.equal(result.backwards, expected.backwards)
        assert max(parts.sizes) == max(2, per_forward // 2 * 2)
        assert limited.describe() == OnPatches(attack, SIZE, 5, redraw).describe()
    assert max(whole.sizes) == 10


def test_patches_in_several_forwards_take_less_memory():
    """Bytes that autograd keeps for the gradient, at the time of the backward."""
    images, targets = tiny_batch()

    def kept(per_forward):
        most, now = [0], [0]

        def pack(tensor):
            now[0] += tensor.numel()
            most[0] = max(most[0], now[0])
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            OnPatches(build("FGSM"), SIZE, 20, patches_per_forward=per_forward)(tiny_net(), images, targets)
        return most[0]

    assert kept(2) < kept(None) / 2
