"""Adaptive attacks: literal references, closed forms, what holds for every attack, and what they do to a detector."""

from __future__ import annotations

import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustseg.attacks import (
    BIM,
    DAG,
    DS,
    FGSM,
    PGD,
    Attack,
    AttackError,
    Houdini,
    IterativeAttack,
    MLAttack,
    NoiseSource,
    PureClass,
    Square,
    Targeted,
    WorstOf,
)
from robustseg.attacks.base import AttackStep
from robustseg.attacks.losses import IGNORED
from robustseg.attacks.victim import Victim
from robustseg.detectors import DetectorError, GaussianBlur, OnPatches, SpatialConsistency, ThroughBlur
from robustseg.detectors.canvas import CanvasVictim, PatchVictim
from tests.attacks.comparison import assert_allowed
from tests.attacks.models_for_tests import HEIGHT, WIDTH, CountingNet, per_pixel_net, tiny_batch, tiny_net
from tests.attacks.table import ROWS, build

CPU = torch.device("cpu")
SIZE, K = 3, 2
STREAM = 0xADA7
WRAPS = {
    "blur": lambda attack: ThroughBlur(attack, 0.5),
    "both": lambda attack: ThroughBlur(attack, 0.5, whole=True),
    "patches": lambda attack: OnPatches(attack, SIZE, K),
    "redraw": lambda attack: OnPatches(attack, SIZE, K, redraw=True),
    "patches of both": lambda attack: OnPatches(ThroughBlur(attack, 0.5, whole=True), SIZE, K),
}
SHOWN = {"blur": 1, "both": 2, "patches": 1 + K, "redraw": 1 + K, "patches of both": 2 * (1 + K)}
"""What the model is shown where the inner attack asks once."""
NEVER = ("Targeted", "Universal")
ONE_VIEW = (*NEVER, "DS", "DS best", "DIFGSM", "TransferAttack", "MLAttack", "MLAttack clean best")
REFUSED = {
    "blur": NEVER,
    "both": ONE_VIEW,
    "patches": ONE_VIEW,
    "redraw": (*ONE_VIEW, "Houdini IoU best", "MCE-Bal by hand"),
    "patches of both": ONE_VIEW,
}
ALL = [(name, how) for how in WRAPS for name in ROWS if name not in REFUSED[how]]
every = pytest.mark.parametrize(("name", "how"), ALL)
SOME = [(name, how) for name in ("PGD restarts best", "Houdini", "DAG", "CW", "DeepFool", "Square") for how in WRAPS]
some = pytest.mark.parametrize(("name", "how"), SOME)


def noise_of(ids, seed=0):
    return NoiseSource.for_samples(seed, ids, CPU)


def corners_of(ids, k, size, draws=1, seed=0, shape=(HEIGHT, WIDTH)):
    """Top and left of each image's patches in each of several draws, by the definition."""
    source = noise_of(ids, seed).fork(STREAM)
    found = []
    for _ in range(draws):
        drawn = source.uniform(torch.empty(len(ids), k, 2, dtype=torch.float64)).tolist()
        found.append(
            [[[int(u * (n - size + 1)) for u, n in zip(place, shape, strict=True)] for place in p] for p in drawn]
        )
    return found


@every
def test_counts_ball_and_ignored_pixels(name, how):
    """What the model is asked, the budget, and that the value of the ignore index changes nothing."""
    images, targets = tiny_batch()
    ignored = targets == 255
    net = CountingNet(tiny_net())
    attack = WRAPS[how](build(name, 0.05))
    result = attack.run(net, images, targets, generator=noise_of("ab"))
    inner = build(name, 0.05).run(tiny_net(), images, targets, generator=noise_of("ab"))
    assert not torch.equal(result.images_adv, images)
    assert_allowed(result.images_adv, images, 0.05, attack.threat.norm)
    assert net.weight_gradients == 0
    if ROWS[name].cost is not None and "CW" not in name:
        assert result.forwards.tolist() == [SHOWN[how] * count for count in inner.forwards.tolist()]
        assert result.backwards.tolist() == [SHOWN[how] * count for count in inner.backwards.tolist()]
    again = WRAPS[how](build(name, 0.05, ignore_index=-1))
    moved = again(net, images, targets.masked_fill(ignored, -1), generator=noise_of("ab"))
    assert torch.equal(moved, result.images_adv)


@every
def test_batch_composition_changes_nothing(name, how):
    model, (images, targets) = tiny_net(), tiny_batch(batch=4)
    targets[3] = 255
    targets[2] = model(images[2:3]).argmax(1)[0]
    attack = WRAPS[how](build(name, 0.05))

    def run(order):
        found = attack(model, images[order], targets[order], generator=noise_of([f"image {i}" for i in order]))
        return dict(zip(order, found, strict=True))

    together = run([0, 1, 2, 3])
    assert torch.equal(together[3], images[3])
    for order in ([1], [3, 2, 0]):
        for i, images_adv in run(order).items():
            torch.testing.assert_close(images_adv, together[i], rtol=0, atol=1e-9)


@some
def test_seeds_radius_zero_and_side_effects(name, how):
    model, (images, targets) = tiny_net(torch.float32).train(), tiny_batch(torch.float32)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    kept = images.clone()
    attack = WRAPS[how](build(name, 0.05))

    def run(seed):
        return attack(model, images, targets, generator=torch.Generator().manual_seed(seed))

    first, repeated, other = run(1), run(1), run(2)
    assert torch.equal(first, repeated)
    assert torch.equal(first, other) == (not ROWS[name].random and how in ("blur", "both"))
    assert torch.equal(images, kept)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    unmoved = WRAPS[how](build(name, 0)).run(model, images, targets)
    assert torch.equal(unmoved.images_adv, images)
    assert not unmoved.forwards.any()


@some
def test_observers_see_the_whole_image(name, how):
    model, (images, targets) = tiny_net(), tiny_batch(batch=3)
    targets[1] = 255
    steps = []
    WRAPS[how](build(name, 0.05))(model, images, targets, generator=noise_of("abc"), on_step=steps.append)
    blur = GaussianBlur(0.5) if how == "blur" else (lambda seen: seen)
    assert steps
    for step in steps:
        assert set(step.rows.tolist()) <= {0, 2}
        expected = targets[step.rows]
        assert torch.equal(step.targets >= 0, expected != 255)
        assert torch.equal(step.targets[step.targets >= 0], expected[expected != 255])
        torch.testing.assert_close(step.logits, model(blur(step.images_adv)).detach(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in ROWS if name not in NEVER])
def test_through_blur_is_the_attack_on_the_blurred_model(name):
    """Attacks that read layers included; what is returned is the image before the blur."""
    model, (images, targets) = tiny_net(), tiny_batch()

    class Blurred(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, seen):
            return model(GaussianBlur(0.3)(seen))

    expected = build(name, 0.05)(Blurred(), images, targets, generator=noise_of("ab"))
    found = ThroughBlur(build(name, 0.05), 0.3)(model, images, targets, generator=noise_of("ab"))
    assert torch.equal(found, expected)
    if name not in ("Square", "Square accuracy"):
        assert not torch.equal(found, build(name, 0.05)(model, images, targets, generator=noise_of("ab")))


def literal_cross_entropy(logits, targets):
    """Sum over valid pixels, and their number."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for row in range(targets.shape[0]):
        for column in range(targets.shape[1]):
            label = int(targets[row, column])
            if label != 255:
                pixel = logits[:, row, column]
                total = total + pixel.exp().sum().log() - pixel[label]
                count += 1
    return total, count


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
    attack = OnPatches(BIM(2, 0.5, 3, norm="l2", targeted=targeted), SIZE, K, redraw)
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


def test_gradient_through_the_blur_and_without_it():
    model, (images, targets) = tiny_net(), tiny_batch()
    steps = []
    attack = ThroughBlur(BIM(2, 0.5, 1, norm="l2"), 0.6, whole=True)
    found = attack(model, images, targets, on_step=steps.append)
    for row in range(2):
        point = images[row].clone().requires_grad_()
        loss = literal_cross_entropy(model(point[None])[0], targets[row])[0]
        loss = loss + literal_cross_entropy(model(GaussianBlur(0.6)(point[None]))[0], targets[row])[0]
        assert float(steps[0].loss[row]) == pytest.approx(float(loss.detach()), rel=1e-9)
        (grad,) = torch.autograd.grad(loss, point)
        torch.testing.assert_close(found[row], (images[row] + 0.5 * grad / grad.norm()).clamp(0, 1), rtol=0, atol=1e-9)


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
    found = OnPatches(FGSM("0.25", norm="l2"), 4, 5)(model, images, targets, generator=noise_of("ab"))
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

    attack = OnPatches(FGSM("8/255"), 6, 25)
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
    source = NoiseSource.for_samples((0, 0, 0x5CA1E), ["0"], CPU)
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

    OnPatches(BIM("1/1000", "1/1000", 2, keep="best"), SIZE, K, redraw=True)(
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
    model, (images, wanted) = Context(), scene(2)
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


class Context(nn.Module):
    """A class by the colour of a pixel and by the mean colour of all that it is shown."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.near = nn.Conv2d(3, 4, 5, padding=2, padding_mode="replicate")
        self.far = nn.Conv2d(3, 4, 11, padding=5)
        for parameter in self.parameters():
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)

    def forward(self, images):
        return self.near(images - 0.5) + self.far(images - 0.5)


def scene(target=0):
    """Smooth images that show class 2 mostly, and a target map."""
    generator = torch.Generator().manual_seed(3)
    images = F.interpolate(torch.rand(4, 3, 5, 6, generator=generator), size=(24, 30), mode="bilinear")
    return 0.4 + 0.2 * images, torch.full((4, 24, 30), target)


def share(model, seen):
    return float((model(seen).argmax(1) == 0).float().mean())


def test_attacked_patches_show_the_target_more_than_those_of_the_plain_attack():
    model, (images, wanted) = Context(), scene()
    inner = DAG("0.06", "1/255", 60, norm="rms", targeted=True)
    shares = {}
    for name, attack in {
        "plain": inner,
        "adaptive": OnPatches(inner, 12, 8),
        "redraw": OnPatches(inner, 12, 8, redraw=True),
    }.items():
        images_adv = attack(model, images, wanted, generator=noise_of("abcd"))
        assert_allowed(images_adv.double(), images.double(), 0.06, "rms")
        # Other patches than the attacked ones.
        places = [(0, 0), (5, 9), (12, 18), (3, 11), (10, 2)]
        cuts = torch.cat([images_adv[..., top : top + 12, left : left + 12] for top, left in places])
        shares[name] = share(model, cuts)
    # As measured: 0.46, 0.61 and 0.63.
    assert shares["adaptive"] > shares["plain"] + 0.1
    assert shares["redraw"] > shares["plain"] + 0.1


def test_blurred_image_shows_the_target_more_than_that_of_the_plain_attack():
    model, (images, wanted) = Context(), scene()
    inner = DAG("0.06", "1/255", 60, norm="rms", targeted=True)
    shown = {}
    for name, attack in {
        "plain": inner,
        "through": ThroughBlur(inner, 1.5),
        "both": ThroughBlur(inner, 1.5, whole=True),
    }.items():
        images_adv = attack(model, images, wanted, generator=noise_of("abcd"))
        shown[name] = share(model, images_adv), share(model, GaussianBlur(1.5)(images_adv))
    # As measured, without and with blur: (0.96, 0.66), (0.71, 0.89) and (0.94, 0.89).
    assert shown["through"][1] > shown["plain"][1] + 0.15
    assert shown["both"][1] > shown["plain"][1] + 0.15
    assert shown["both"][0] > shown["through"][0] + 0.15


def test_settings_are_nested_and_plain():
    inner = Houdini("0.06", norm="rms", targeted=True, ignore_index=7, seed=3)
    attack = OnPatches(ThroughBlur(inner, 2, whole=True), 40, 5, redraw=True)
    assert (attack.targeted, attack.ignore_index, attack.seed) == (True, 7, 3)
    assert attack.threat is inner.threat
    described = json.loads(json.dumps(attack.describe()))
    head = {"attack": "OnPatches", "eps": "3/50", "norm": "rms", "targeted": True}
    assert {key: described[key] for key in head} == head
    assert {key: described[key] for key in ("patch_size", "k", "redraw")} == {"patch_size": 40, "k": 5, "redraw": True}
    assert (described["inner.attack"], described["inner.sigma"], described["inner.whole"]) == ("ThroughBlur", 2.0, True)
    assert described["inner.inner.steps"] == inner.steps
    assert OnPatches(DAG()).describe()["eps"] is None


def test_settings_of_the_data_reach_the_inner_attack():
    class Asking(Square):
        def for_data(self, class_pixels):
            return PGD(eps=str(class_pixels()[0]))

    attack = OnPatches(Asking("1/255"), 4, 2)
    known = attack.for_data(lambda: [0.25])
    assert isinstance(attack.attack, Asking)
    assert (type(known), type(known.attack), known.k) == (OnPatches, PGD, 2)
    assert float(known.attack.threat.eps) == 0.25


def test_a_target_map_goes_outside():
    model, (images, targets) = tiny_net(), tiny_batch()
    attack = Targeted(OnPatches(PGD(targeted=True), SIZE, K), PureClass(1))
    expected = OnPatches(PGD(targeted=True), SIZE, K)(
        model, images, torch.where(targets == 255, 255, 1), generator=noise_of("ab")
    )
    assert torch.equal(attack(model, images, targets, generator=noise_of("ab")), expected)


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (lambda: OnPatches("DAG"), r"attack = 'DAG' is no attack"),
        (lambda: OnPatches(DAG(), patch_size=0), r"patch_size = 0: a side"),
        (lambda: OnPatches(DAG(), k=0), r"k = 0: at least one patch"),
        (lambda: OnPatches(DS()), r"attack = DS moves its targets"),
        (lambda: OnPatches(WorstOf([PGD(), DS(eps="8/255")])), r"attack = DS moves its targets"),
        (lambda: OnPatches(MLAttack(["a"])), r"attack = MLAttack compares features"),
        (lambda: OnPatches(OnPatches(DAG())), r"attack = OnPatches cuts patches .* put it outside"),
        (lambda: ThroughBlur(OnPatches(DAG()), whole=True), r"attack = OnPatches cuts patches"),
        (lambda: OnPatches(Targeted(PGD(targeted=True), PureClass(0))), r"put it outside, Targeted\(OnPatches"),
        (lambda: ThroughBlur(Targeted(PGD(targeted=True), PureClass(0))), r"put it outside, Targeted\(ThroughBlur"),
        (lambda: ThroughBlur(build("Universal")), r"attack = Universal applies a perturbation"),
        (lambda: ThroughBlur(PGD(), sigma=0), r"sigma = 0: a positive"),
        (
            lambda: OnPatches(build("MCE-Bal by hand"), redraw=True),
            r"redraw = True with IterativeAttack .*set redraw to",
        ),
        (lambda: OnPatches(Houdini(task_loss="iou"), redraw=True), r"redraw = True with Houdini"),
    ],
)
def test_bad_settings(create, message):
    with pytest.raises(DetectorError, match=message):
        create()


@pytest.mark.parametrize(
    ("attack", "model", "message"),
    [
        (OnPatches(PGD(), 7, 2), tiny_net(), r"patch_size = 7 is larger than the images of 7×6 pixels: .* 3"),
        (ThroughBlur(PGD(), 2), tiny_net(), r"sigma = 2 reaches 8 pixels far"),
        (OnPatches(PGD(), 4, 2), lambda x: x[..., ::2, ::2], r"returned \(2, 3, 4, 3\) for images \(2, 3, 7, 6\)"),
        (
            OnPatches(PGD(), 4, 2),
            lambda x: F.interpolate(x, (7, 6)),
            r"returned \(4, 3, 7, 6\) for images \(4, 3, 4, 4\)",
        ),
        (OnPatches(PGD(), 4, 2), lambda x: [x], r"returned list for images"),
        (OnPatches(PGD(), 4, 2), lambda x: x.detach(), r"does not depend on its input"),
        (OnPatches(PGD(), 4, 2), lambda x: x[:, :2], r"targets hold class 3 but the model has 2"),
        (OnPatches(PGD(), 4, 2), lambda x: x / 0, r"not finite"),
    ],
)
def test_images_and_models_that_do_not_fit(attack, model, message):
    images, targets = tiny_batch()
    with pytest.raises(AttackError, match=message):
        attack(model, images, targets)


def test_logits_of_another_size_are_refused_as_before():
    """The row of a canvas is no excuse for logits that are too wide."""
    images, targets = tiny_batch()
    with pytest.raises(AttackError, match="at the size of the images"):
        PGD()(lambda x: F.interpolate(x, scale_factor=2), images, targets)
    with pytest.raises(AttackError, match="at the size of the images"):
        DS()(lambda x: F.interpolate(x, (HEIGHT, WIDTH)), images, targets, generator=torch.Generator().manual_seed(1))


def test_selected_by_name_in_yaml(tmp_path):
    from robustseg.cli import RobustSegCLI

    path = tmp_path / "attack.yaml"
    path.write_text(
        "model:\n  attack:\n    class_path: OnPatches\n    init_args:\n      attack:\n        class_path: ThroughBlur\n"
        "        init_args: {attack: {class_path: DAG, init_args: {eps: 0.06, norm: rms}}, sigma: 2, whole: true}\n"
        "      patch_size: 9\n      k: 4\n      redraw: true\n"
    )
    tiny = ["--config", "tests/conf/tiny.yaml", "--trainer.default_root_dir", str(tmp_path)]
    attack = RobustSegCLI([*tiny, "--config", str(path)]).model.attack
    assert isinstance(attack, Attack)
    assert not isinstance(attack, IterativeAttack)
    inner = ThroughBlur(DAG("0.06", norm="rms"), 2, whole=True)
    assert attack.describe() == OnPatches(inner, 9, 4, redraw=True).describe()


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
