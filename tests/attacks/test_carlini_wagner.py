"""CW: against its literal definition, closed forms and torchattacks; what it keeps, when it stops, what it refuses."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from robustseg.attacks import BIM, CW, AttackStep
from robustseg.attacks.minimum_norm import carlini_wagner, coordinates
from robustseg.attacks.minimum_norm.base import Nearest
from tests.helpers.nets import CLASSES, tiny_batch, tiny_net

from . import reference_cw_deepfool as reference
from .comparison import assert_allowed

Patch = pytest.MonkeyPatch


def right_batch(batch: int = 2, seed: int = 0, share: float = 0.9) -> tuple[nn.Module, Tensor, Tensor]:
    """A model, images and the labels that it predicts, but for some, and for some that are ignored."""
    model, (images, targets) = tiny_net(), tiny_batch(batch=batch, seed=seed)
    with torch.no_grad():
        predicted = model(images).argmax(1)
    generator = torch.Generator().manual_seed(seed)
    right = torch.rand(targets.shape, generator=generator) < share
    return model, images, torch.where(right & (targets != 255), predicted, targets)


def needed(target: Tensor, success: float) -> int:
    return math.ceil(int((target != 255).sum()) * success - 1e-6)


def fooled_share(model: nn.Module, images: Tensor, targets: Tensor) -> list[float]:
    with torch.no_grad():
        wrong = (model(images).argmax(1) != targets) & (targets != 255)
    return (wrong.flatten(1).sum(1) / (targets != 255).flatten(1).sum(1)).tolist()


def close(actual: Tensor, expected: Tensor, what: str) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-7, atol=1e-8, msg=lambda text: f"{what}: {text}")


L2 = {"steps": 5, "step_size": 0.2, "search_steps": 5, "initial_c": 0.002}
LINF = {"steps": 7, "step_size": 0.02, "eps": 0.05, "norm": "linf"}


def check_l2(targeted: bool = False, kappa: float = 0.0) -> list[list[tuple[float, bool]]]:
    model, images, targets = right_batch()
    success = 0.3 if targeted else 0.6
    targets = (targets + (targets != 255)) % CLASSES if targeted else targets
    targets = targets.masked_fill(tiny_batch()[1] == 255, 255)
    seen: list[AttackStep] = []
    result = CW(success=success, confidence=kappa, targeted=targeted, **L2)(model, images, targets, on_step=seen.append)
    assert [(step.restart, step.step) for step in seen] == [(r, t) for r in range(5) for t in range(1, 6)]
    searches = []
    for row in range(2):
        target = targets[row].masked_fill(targets[row] == 255, reference.NO_LABEL)
        expected, trace, searched = reference.literal_cw_l2(
            model, images[row], target, 5, 0.2, 5, 0.002, kappa, needed(targets[row], success), targeted, 0.99
        )
        for step, (image_adv, value) in zip(seen, trace, strict=True):
            close(step.images_adv[row], image_adv, f"run {step.restart}, step {step.step}")
            assert float(step.loss[row]) == pytest.approx(value, rel=1e-6, abs=1e-8)
        close(result[row], expected, "result")
        searches.append(searched)
    return searches


def check_linf(targeted: bool = False, kappa: float = 0.0) -> list[int]:
    model, images, targets = right_batch()
    success = 0.19 if targeted else 0.48
    steps = []
    targets = ((targets + 1) % CLASSES).masked_fill(targets == 255, 255) if targeted else targets
    seen: list[AttackStep] = []
    attack = CW(success=success, confidence=kappa, targeted=targeted, **LINF)
    result = attack(model, images, targets, on_step=seen.append)
    for row in range(2):
        target = targets[row].masked_fill(targets[row] == 255, reference.NO_LABEL)
        expected, trace = reference.literal_cw_linf(
            model, images[row], target, 7, 0.02, 0.05, kappa, needed(targets[row], success), targeted
        )
        for step, (image_adv, value) in zip(seen, trace, strict=False):
            close(step.images_adv[row], image_adv, f"step {step.step}")
            assert float(step.loss[row]) == pytest.approx(value, rel=1e-6, abs=1e-8)
        for step in seen[len(trace) :]:
            close(step.images_adv[row], expected, "fooled images stay where they are")
        close(result[row], expected, "result")
        steps.append(len(trace))
    return steps


@pytest.mark.parametrize("kappa", [0.0, 0.3])
@pytest.mark.parametrize("targeted", [False, True])
def test_l2_reference(targeted: bool, kappa: float):
    searches = check_l2(targeted, kappa)
    # Otherwise only one branch of the search has been compared.
    assert {success for searched in searches for _, success in searched} == {True, False}


@pytest.mark.parametrize("kappa", [0.0, 0.3])
@pytest.mark.parametrize("targeted", [False, True])
def test_linf_reference(targeted: bool, kappa: float):
    steps = check_linf(targeted, kappa)
    assert min(steps) < 7, "no image is fooled before the end"
    assert max(steps) == 7, "all are"


def flip_the_gradient(patch: Patch) -> None:
    original = coordinates.Adam.step
    patch.setattr(coordinates.Adam, "step", lambda self, grad, size: original(self, -grad, size))


def forget_the_chain_rule(patch: Patch) -> None:
    patch.setattr(coordinates.TanhChart, "slope", lambda self, at: 1.0)


def forget_the_distance(patch: Patch) -> None:
    original = CW._objective

    def objective(self: CW, grad: Tensor, loss: Tensor, images_adv: Tensor, batch, c: Tensor) -> tuple:
        _, value = original(self, grad, loss, images_adv, batch, c)
        return c.view(-1, 1, 1, 1) * grad, value

    patch.setattr(CW, "_objective", objective)


def same_c_for_all(patch: Patch) -> None:
    original = carlini_wagner._Weights.update

    def update(self, succeeded: Tensor) -> None:
        original(self, succeeded.any().expand_as(succeeded))

    patch.setattr(carlini_wagner._Weights, "update", update)


def search_the_wrong_way(patch: Patch) -> None:
    original = carlini_wagner._Weights.update
    patch.setattr(carlini_wagner._Weights, "update", lambda self, succeeded: original(self, ~succeeded))


def arithmetic_means(patch: Patch) -> None:
    def update(self, succeeded: Tensor) -> None:
        self._too_small = torch.where(succeeded, self._too_small, self.c)
        self._large_enough = torch.where(succeeded, self.c, self._large_enough)
        middle = (self._too_small + self._large_enough) / 2
        self.c = torch.where(self._large_enough.isinf(), self.c * 10, middle)

    patch.setattr(carlini_wagner._Weights, "update", update)


def forget_the_second_moment(patch: Patch) -> None:
    patch.setattr(coordinates, "_BETAS", (0.9, 0.99))


def count_ignored_pixels(patch: Patch) -> None:
    original = Nearest.offer_hits
    patch.setattr(Nearest, "offer_hits", lambda self, adv, hits, rows=None: original(self, adv, hits | ~hits, rows))


def use_ignored_pixels(patch: Patch) -> None:
    """In the loss only, as if they had the last class."""
    original = CW._judge

    class Nobody:
        def offer_hits(self, *arguments: object) -> None: ...

    def judge(self: CW, logits: Tensor, images_adv: Tensor, batch, nearest: Nearest) -> tuple:
        _, enough = original(self, logits, images_adv, batch, nearest)
        everywhere = replace(batch, targets=batch.targets.masked_fill(batch.targets < 0, CLASSES - 1))
        return original(self, logits, images_adv, everywhere, Nobody())[0], enough

    patch.setattr(CW, "_judge", judge)


def forget_the_projection(patch: Patch) -> None:
    patch.setattr(coordinates.BallChart, "within", lambda self, at: at.clamp(0, 1))


def forget_kappa(patch: Patch) -> None:
    original = CW._judge

    def judge(self: CW, *arguments: object) -> tuple:
        self.confidence = 0.0
        return original(self, *arguments)

    patch.setattr(CW, "_judge", judge)


def go_on_when_fooled(patch: Patch) -> None:
    original = CW._judge

    def judge(self: CW, *arguments: object) -> tuple:
        loss, enough = original(self, *arguments)
        return loss, enough & False

    patch.setattr(CW, "_judge", judge)


def ignore_targeted(patch: Patch) -> None:
    original = CW._judge

    def judge(self: CW, *arguments: object) -> tuple:
        self.targeted = False
        return original(self, *arguments)

    patch.setattr(CW, "_judge", judge)


def keep_the_last(patch: Patch) -> None:
    original = Nearest.offer_hits

    def offer_hits(self: Nearest, images_adv: Tensor, hits: Tensor, rows: Tensor | None = None) -> Tensor:
        enough = original(self, images_adv, hits, rows)
        self.images_adv = images_adv
        return enough

    patch.setattr(Nearest, "offer_hits", offer_hits)


MUTATIONS: list[tuple[Callable[[Patch], None], Callable, dict]] = [
    (flip_the_gradient, check_l2, {}),
    (flip_the_gradient, check_linf, {}),
    (forget_the_chain_rule, check_l2, {}),
    (forget_the_distance, check_l2, {}),
    (same_c_for_all, check_l2, {}),
    (search_the_wrong_way, check_l2, {}),
    (arithmetic_means, check_l2, {}),
    (forget_the_second_moment, check_l2, {}),
    (count_ignored_pixels, check_l2, {}),
    (use_ignored_pixels, check_l2, {}),
    (use_ignored_pixels, check_linf, {}),
    (forget_the_projection, check_linf, {}),
    (forget_kappa, check_l2, {"kappa": 0.3}),
    (forget_kappa, check_linf, {"kappa": 0.3, "targeted": True}),
    (go_on_when_fooled, check_linf, {}),
    (ignore_targeted, check_l2, {"targeted": True}),
    (keep_the_last, check_l2, {}),
    (keep_the_last, check_linf, {}),
]


@pytest.mark.mutation
@pytest.mark.parametrize(("mutate", "check", "settings"), MUTATIONS, ids=lambda v: getattr(v, "__name__", None))
def test_defect_is_found(mutate: Callable, check: Callable, settings: dict, monkeypatch: Patch):
    with monkeypatch.context() as patch:
        mutate(patch)
        with pytest.raises(AssertionError):
            check(**settings)


WEIGHT = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)


def linear_model(bias: float) -> nn.Conv2d:
    """Logits (0, w·x + b): class 1 on the images below, by the margin w·x + b."""
    model = nn.Conv2d(3, 2, 1).double()
    model.weight.data.zero_()
    model.weight.data[1, :, 0, 0] = WEIGHT
    model.bias.data = torch.tensor([0.0, bias], dtype=torch.float64)
    return model


def graded_images(count: int) -> Tensor:
    """Pixels with margins (1, 2, …)/10 under the model with bias 0.35."""
    margins = torch.arange(1, count + 1, dtype=torch.float64) / 10
    base = torch.tensor([0.5, 0.5, 0.5], dtype=torch.float64).view(3, 1)
    base = base + WEIGHT.view(3, 1) * (margins - 0.1) / WEIGHT.square().sum()
    return base.view(1, 3, 1, count)


MODEL = linear_model(0.35)
FINE = {"steps": 100, "step_size": 0.01, "search_steps": 7, "initial_c": 0.1}


def test_closed_form_of_one_pixel():
    images = graded_images(2)
    targets = torch.tensor([[[255, 1]]])
    images_adv = CW(**FINE)(MODEL, images, targets)
    optimum = 0.2 / float(WEIGHT.norm())
    assert optimum < float((images_adv - images).norm()) <= 1.01 * optimum
    assert torch.equal(images_adv[..., 0], images[..., 0])


@pytest.mark.parametrize(("success", "moves"), [(1.0, [0.1, 0.2, 0.3, 0.4]), (0.5, [0.1, 0.2, 0.2, 0.2])])
def test_closed_form_of_several_pixels(success: float, moves: list[float]):
    """With one c for all, the pixels that need not fall move as far as the last one that must."""
    images, targets = graded_images(4), torch.ones(1, 1, 4, dtype=torch.long)
    images_adv = CW(success=success, **FINE)(MODEL, images, targets)
    optimum = math.sqrt(sum(move * move for move in moves)) / float(WEIGHT.norm())
    assert 0.95 * optimum < float((images_adv - images).norm()) <= 1.05 * optimum
    assert fooled_share(MODEL, images_adv, targets)[0] == success


def test_closed_form_in_the_ball():
    """Every pixel whose margin ε·‖w‖₁ covers, and no other, falls."""
    images, targets = graded_images(6), torch.ones(1, 1, 6, dtype=torch.long)
    attack = CW(eps=0.1, norm="linf", success=1, steps=30)
    images_adv = attack(MODEL, images, targets)
    assert (MODEL(images_adv).argmax(1) == 0).tolist() == [[[True, True, True, False, False, False]]]
    assert torch.equal((images_adv - images)[..., 5].flatten().sign(), -WEIGHT.sign())


def one_pixel(batch: int = 3) -> tuple[Callable, Callable, Tensor, Tensor, Tensor]:
    net, (images, targets) = tiny_net(), tiny_batch(batch=batch, ignored=False)
    # At 0 and 1 the peer's pixels are at infinity.
    images = 0.02 + 0.96 * images

    def model(x: Tensor) -> Tensor:
        # The peer takes logits below 0 for 0.
        logits: Tensor = net(x) + 50
        return logits

    labels = model(images).argmax(1)[:, 3, 2]
    only = torch.full_like(targets, 255)
    only[:, 3, 2] = labels
    return model, lambda x: model(x)[:, :, 3, 2], images, only, labels


@pytest.mark.parametrize("kappa", [0.0, 0.7])
def test_torchattacks(kappa: float, monkeypatch: Patch):
    """One run. The peer looks at ``steps`` iterates, ours at one more; its fooled are those of κ = 0."""
    torchattacks = pytest.importorskip("torchattacks")
    monkeypatch.setattr(coordinates, "REACH", 1 - 1e-13)
    monkeypatch.setattr(CW, "_judge", judge_without_kappa(CW._judge) if kappa else CW._judge)
    model, peer_model, images, targets, labels = one_pixel()
    moved: list[bool] = []
    for row in range(3):
        image, target = images[row : row + 1], targets[row : row + 1]
        peer = torchattacks.CW(PeerModel(peer_model), c=0.5, kappa=kappa, steps=9, lr=0.01)
        expected = peer(image, labels[row : row + 1])
        attack = CW(success=1, steps=8, step_size=0.01, search_steps=1, initial_c=0.5, confidence=kappa)
        actual = attack(model, image, target)
        # Without a gradient from the model, what the peer's Adam follows is the rounding of tanh and its inverse.
        point = image.clone().requires_grad_()
        (grad,) = torch.autograd.grad(peer_model(point)[0, 0], point)
        reached = grad != 0
        torch.testing.assert_close(actual[reached], expected[reached], rtol=0, atol=1e-9)
        assert torch.equal(actual[~reached], image[~reached])
        assert float((expected - image)[~reached].abs().max()) < 0.01
        moved.append(not torch.equal(actual, image))
    assert sum(moved) >= 2, "the peer gives up where its objective has risen"


def judge_without_kappa(original: Callable) -> Callable:
    """κ in the loss only."""

    def judge(self: CW, logits: Tensor, images_adv: Tensor, batch, nearest: Nearest) -> tuple:
        class NoConfidence:
            def offer_hits(self, adv: Tensor, hits: Tensor, rows: Tensor) -> Tensor:
                return nearest.offer(adv, logits.detach(), rows)

        return original(self, logits, images_adv, batch, NoConfidence())

    return judge


class PeerModel(nn.Module):
    """The peer takes its device from the parameters."""

    def __init__(self, inner: Callable):
        super().__init__()
        self.inner = inner
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inner(images)
        return logits


@pytest.mark.parametrize("success", [0.3, 0.55, 0.8])
@pytest.mark.parametrize("settings", [{"search_steps": 4}, {"norm": "linf", "eps": 0.5}], ids=["l2", "linf"])
def test_share_is_honoured(settings: dict, success: float):
    model, images, targets = right_batch(batch=3)
    images_adv = CW(success=success, steps=40, step_size=0.03, initial_c=0.1, **settings)(model, images, targets)
    shares = fooled_share(model, images_adv, targets)
    assert all(share >= success - 1e-9 for share in shares)
    # The nearest iterate is not one that fools far more than was asked for.
    assert min(shares) < success + 0.15


@pytest.mark.parametrize("settings", [{}, {"norm": "linf", "eps": 0.1}], ids=["l2", "linf"])
def test_fooled_images_come_back_unchanged(settings: dict):
    model, images, targets = right_batch(batch=3)
    wrong = (model(images[1:2]).argmax(1) + 1) % CLASSES
    targets[1] = torch.where(targets[1] == 255, targets[1], wrong[0])
    result = CW(steps=4, success=0.95, search_steps=2, **settings).run(model, images, targets)
    assert torch.equal(result.images_adv[1], images[1])
    assert result.backwards.tolist() == ([4, 1, 4] if settings else [8, 1, 8])
    assert not torch.equal(result.images_adv[0], images[0])
    # All of them: the rest of the run is not done.
    alone = CW(steps=4, success=0.95, search_steps=2, **settings).run(model, images[1:2], targets[1:2])
    assert alone.forwards.tolist() == [1]
    assert torch.equal(alone.images_adv, images[1:2])


@pytest.mark.parametrize("settings", [{"search_steps": 3}, {"norm": "linf", "eps": 0.2}], ids=["l2", "linf"])
def test_unreachable_share_gives_the_most_fooled_iterate(settings: dict):
    inner, images, targets = right_batch()
    fixed = torch.zeros_like(targets, dtype=torch.bool)
    fixed[:, :3] = True
    certain = 50.0 * nn.functional.one_hot(inner(images).argmax(1), CLASSES).permute(0, 3, 1, 2)

    def model(x: Tensor) -> Tensor:
        return torch.where(fixed.unsqueeze(1), certain + 0 * inner(x), inner(x))

    seen: list[AttackStep] = []
    attack = CW(steps=20, step_size=0.05, initial_c=0.1, **settings)
    images_adv = attack(model, images, targets, on_step=seen.append)
    best = fooled_share(model, images_adv, targets)
    for step in seen:
        assert all(b >= s for b, s in zip(best, fooled_share(model, step.images_adv, targets), strict=True))
    assert all(b > s for b, s in zip(best, fooled_share(model, images, targets), strict=True))
    assert max(best) < 0.99


def test_l2_with_a_radius_is_the_projected_result():
    model, images, targets = right_batch()
    settings = {"success": 0.8, "steps": 30, "step_size": 0.05, "search_steps": 2, "initial_c": 0.1}
    free = CW(**settings)(model, images, targets)
    delta = free - images
    lengths = delta.flatten(1).norm(dim=1)
    assert float(lengths.min()) > 0.3
    expected = images + delta * (0.3 / lengths).view(-1, 1, 1, 1)
    bounded = CW(eps=0.3, **settings)(model, images, targets)
    torch.testing.assert_close(bounded, expected, rtol=0, atol=1e-12)
    assert_allowed(bounded, images, 0.3, "l2")


@pytest.mark.parametrize("every", [1, 3, 1000])
def test_when_images_leave_changes_nothing(every: int, monkeypatch: Patch):
    model, images, targets = right_batch(batch=4, seed=3)
    attack = CW(eps=0.15, norm="linf", success=0.5, steps=25)
    expected = attack.run(model, images, targets)
    monkeypatch.setattr(carlini_wagner, "LEAVE_EVERY", every)
    actual = attack.run(model, images, targets)
    torch.testing.assert_close(actual.images_adv, expected.images_adv, rtol=0, atol=1e-9)
    if every == 1:
        assert (actual.backwards <= expected.backwards).all()
        assert int(actual.backwards.max()) > int(actual.backwards.min()), "images leave at different steps"
    elif every == 1000:
        assert actual.backwards.tolist() == [25] * 4


def test_pixels_at_the_border_can_move():
    images = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64).view(1, 3, 1, 1)
    model = linear_model(-1.4)
    images_adv = CW(**FINE)(model, images, torch.ones(1, 1, 1, dtype=torch.long))
    optimum = 0.1 / float(WEIGHT.norm())
    assert model(images_adv)[0, 1].item() < 0
    assert float((images_adv - images).norm()) <= 1.25 * optimum


def test_first_iterate_is_the_image():
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        images = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
        images[0, 0], images[1, 1] = 0, 1
        chart = coordinates.TanhChart(images)
        assert torch.equal(chart.images(chart.start).to(dtype), images)


def test_margins_in_the_ball_beat_cross_entropy():
    """What it is for: with as many gradients as BIM it fools more."""
    model, images, targets = right_batch(batch=4)
    ours = CW(eps=0.1, norm="linf", success=1, steps=20)(model, images, targets)
    theirs = BIM(eps=0.1, step_size=0.01, steps=20, keep="best")(model, images, targets)
    assert sum(fooled_share(model, ours, targets)) > sum(fooled_share(model, theirs, targets))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "linf"}, r"eps = None: under linf CW searches a given ball; give eps"),
        ({"norm": "l1"}, r"norm = 'l1': CW is made for l2 and linf"),
        ({"eps": 8, "norm": "linf"}, r"eps = 8 exceeds 1.*8/255"),
        ({"eps": -1}, r"eps = -1 is negative"),
        ({"success": 0}, r"success = 0 is outside of \(0, 1\]"),
        ({"success": 99}, r"success = 99 is outside of \(0, 1\]: 0.99"),
        ({"steps": 0}, r"steps = 0: an attack takes at least one step"),
        ({"step_size": 0}, r"step_size = 0 moves nothing"),
        ({"step_size": "fast"}, r"step_size = 'fast' is not a number"),
        ({"search_steps": 0}, r"search_steps = 0: there is at least one run"),
        ({"initial_c": 0}, r"initial_c = 0: the margins need a positive weight"),
        ({"initial_c": float("nan")}, r"initial_c = nan"),
        ({"initial_c": float("inf")}, r"initial_c = inf"),
        ({"confidence": -0.1}, r"confidence = -0.1: kappa is 0 or more"),
        ({"confidence": float("nan")}, r"confidence = nan"),
    ],
    ids=str,
)
def test_settings(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        CW(**settings)


def test_description_holds_every_setting():
    described = CW(eps="4/255", step_size="1/50", steps=7, search_steps=2, initial_c=3, confidence=0.5).describe()
    assert described == {
        "attack": "CW",
        "eps": "4/255",
        "norm": "l2",
        "success": 0.99,
        "targeted": False,
        "seed": 0,
        "steps": 7,
        "step_size": "1/50",
        "search_steps": 2,
        "initial_c": 3,
        "confidence": 0.5,
    }
