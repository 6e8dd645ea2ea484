"""Probes of honest and of deceptive models; the figures of the former must pass, the latter must be caught."""

from __future__ import annotations

import copy
import functools
import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustseg.attacks import (
    APGD,
    PGD,
    AttackError,
    CosPGD,
    MLAttack,
    NoiseSource,
    SegPGD,
    Square,
    ThreatModel,
    WorstOf,
    attack_mode,
)
from robustseg.attacks.losses.base import IGNORED
from robustseg.data.synthetic import SceneDataset
from robustseg.evaluation.checks import convergence, overall, probe_model, strength, trust_flags
from robustseg.evaluation.checks.answers import probe_answers
from robustseg.evaluation.checks.convergence import gradients_of, probe_convergence, with_steps
from robustseg.evaluation.checks.gradients import probe_gradients, saturated_share
from robustseg.evaluation.checks.strength import WhiteBox, probe_eps_curve, probe_order
from robustseg.evaluation.checks.subject import Subject, guarded, median_margin
from robustseg.metrics import class_counts, confusion_matrix
from robustseg.models import SegmentationModel
from tests.evaluation.report.cards import attack_row, few_scores, small_card

CLASSES = 7
EPS = "16/255"
SUITE = {
    "pgd20": PGD(eps=EPS, step_size="1/100", steps=20),
    "segpgd20": SegPGD(eps=EPS, step_size="1/100", steps=20),
    "cospgd20": CosPGD(eps=EPS, step_size="1/100", steps=20),
}


def scenes(split, count):
    dataset = SceneDataset(split, count, (32, 32))
    samples = [dataset[index] for index in range(count)]
    images = torch.stack([sample.image for sample in samples])
    return [sample.id for sample in samples], images, torch.stack([sample.target for sample in samples])


def train(steps, attack=None, before=None):
    """A small network that segments the scenes; a few seconds."""
    _, images, targets = scenes("train", 48)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 16, 5, 2, 2), nn.BatchNorm2d(16), nn.ReLU()]
        for dilation in (2, 3):
            layers += [nn.Conv2d(16, 16, 3, padding=dilation, dilation=dilation), nn.BatchNorm2d(16), nn.ReLU()]
        first = [] if before is None else [before]
        model = SegmentationModel(nn.Sequential(*first, *layers, nn.Conv2d(16, CLASSES, 1)), (0.5,) * 3, (0.25,) * 3)
        optimizer = torch.optim.Adam(model.parameters())
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
        for _ in range(steps):
            rows = torch.randint(len(images), (12,))
            seen, truth = images[rows], targets[rows]
            model.train()
            if attack is not None:
                seen = attack(model, seen, truth)
            optimizer.zero_grad()
            F.cross_entropy(model(seen), truth, ignore_index=255).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@functools.cache
def standard():
    return train(100)


@functools.cache
def robust():
    return train(50, PGD(eps=EPS, step_size="8/255", steps=3))


@functools.cache
def data():
    return scenes("val", 4)


SHORT = {strength: {"CURVE_STEPS": 2, "REFERENCE_STEPS": 2, "SQUARE_QUERIES": 5}, convergence: {"GRADIENT_BUDGET": 0}}
"""For models that their answers or gradients give away, whatever attacks find."""


EVERYTHING = tuple(setting for settings in SHORT.values() for setting in settings)


def shorten(patch, keep=()):
    for module, settings in SHORT.items():
        for setting, value in settings.items():
            if setting not in keep:
                patch.setattr(module, setting, value)


@functools.cache
def probed(name, keep=EVERYTHING):
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch, keep)
        ids, images, targets = data()
        return probe_model(MODELS[name](), ids, images, targets, eps=EPS, num_classes=CLASSES, attacks=SUITE)


def card(checks=None, attacks=None, **changes):
    made = {
        "model": {"trained_with": None},
        "data": {"images": 20, "split_images": 20, "ids": None},
        "clean": few_scores(0.9, 0.6),
        "attacks": attacks
        or {name: attack_row(attack, linf_max=16 / 255, linf_max_8bit=16 / 255) for name, attack in SUITE.items()},
        "worst_case": None,
        "checks": checks,
    }
    return small_card(**{**made, **changes})


def flags_of(checks=None, attacks=None, **changes):
    return {flag.number: flag for flag in trust_flags(card(checks, attacks, **changes))}


# --- models that look robust, or better, without being so


def around(function, model=None):
    """A plain function around the standard model."""
    model = model or standard()
    return lambda images: function(model, images)


def blur(images):
    return F.avg_pool2d(images, 3, 1, 1)


def scaled_logits():
    return around(lambda model, images: 1e4 * model(images))


def rounded_input():
    return around(lambda model, images: model((images * 255).round() / 255))


def detached():
    return around(lambda model, images: model(blur(images).detach()))


def partly_detached():
    return around(lambda model, images: model(0.9 * blur(images).detach() + 0.1 * images))


def random_noise():
    return around(lambda model, images: model(images + 0.05 * torch.randn_like(images)))


def random_resize():
    def resized(model, images):
        side = int(torch.randint(24, 40, ()))
        logits = model(F.interpolate(images, (side, side), mode="bilinear"))
        return F.interpolate(logits, images.shape[-2:], mode="bilinear")

    return around(resized)


def dropout():
    return around(lambda model, images: model(F.dropout(images, 0.1, training=True)))


def one_hot():
    return around(lambda model, images: F.one_hot(model(images).argmax(1), CLASSES).permute(0, 3, 1, 2).float())


def without_grad():
    return around(lambda model, images: torch.no_grad()(model)(images))


def probabilities():
    return around(lambda model, images: model(images).softmax(1))


def other_range():
    """A network that was trained on images in 0..255."""
    return around(lambda model, images: model(images / 255))


def other_channels():
    return around(lambda model, images: model(images.flip(1)))


def batch_norm_left_on():
    def in_train_mode(model, images):
        model.train()
        return model(images)

    return around(in_train_mode, copy.deepcopy(standard()))


def not_a_number():
    return around(lambda model, images: model(images) * math.nan)


def wrong_shape():
    return around(lambda model, images: model(images)[:, :, ::2])


def raising():
    def refuse(images):
        raise KeyError("nothing here")

    return refuse


class Ripple(nn.Module):
    """Adds waves of the length of eps, through which a step of eps comes out where it went in."""

    def forward(self, images):
        length = 4 * 16 / 255
        return images + 2 * length * torch.sin(2 * math.pi * images / length)


def overfitted_to_one_step():
    return train(60, before=Ripple())


MODELS = {
    function.__name__: function
    for function in (
        standard,
        robust,
        scaled_logits,
        rounded_input,
        detached,
        partly_detached,
        random_noise,
        random_resize,
        dropout,
        one_hot,
        without_grad,
        probabilities,
        other_range,
        other_channels,
        batch_norm_left_on,
        not_a_number,
        wrong_shape,
        raising,
        overfitted_to_one_step,
    )
}


@pytest.mark.parametrize("name", ["standard", "robust"])
def test_an_honest_model_passes(name):
    evidence = probed(name)
    flags = flags_of(evidence)
    assert {number: flag.verdict for number, flag in flags.items() if number != 6} == dict.fromkeys(
        (1, 2, 3, 4, 5, 7, 8, 9, 10), "ok"
    )
    # A few points between 20 and 40 steps are a weak measurement, not a dishonest model.
    assert flags[6].verdict in ("ok", "caution")
    assert evidence["cost"]["backwards"] <= 304
    assert evidence["cost"]["forwards"] <= 600


@pytest.mark.parametrize(
    ("name", "number", "word"),
    [
        ("scaled_logits", 3, "saturated"),
        ("rounded_input", 3, "exactly zero"),
        ("detached", 3, "no gradient"),
        ("partly_detached", 3, "does not change as its gradient says"),
        ("random_noise", 1, "disagrees with itself"),
        pytest.param("random_resize", 1, "disagrees with itself", marks=pytest.mark.exhaustive),
        pytest.param("dropout", 1, "disagrees with itself", marks=pytest.mark.exhaustive),
        ("one_hot", 1, "decisions"),
        ("one_hot", 3, "no gradient"),
        pytest.param("without_grad", 3, "no gradient", marks=pytest.mark.exhaustive),
        ("probabilities", 1, "probabilities"),
        ("other_range", 2, "0..255"),
        ("other_channels", 2, "red and blue"),
        ("batch_norm_left_on", 1, "alone and in its batch"),
        ("not_a_number", 1, "not finite"),
        ("wrong_shape", 1, "not logits of shape"),
        ("raising", 1, "KeyError"),
        ("overfitted_to_one_step", 10, "One step leaves"),
    ],
)
def test_a_deceptive_model_is_caught(name, number, word):
    evidence = probed(name, keep=() if number <= 3 else ("REFERENCE_STEPS",))
    flags = flags_of(evidence)
    assert flags[number].verdict == "unreliable", flags[number]
    assert word in flags[number].line
    assert overall(list(flags.values())) == "unreliable"
    json.dumps(evidence, allow_nan=False)
    json.dumps([flag.as_dict() for flag in flags.values()], allow_nan=False)


# --- the experiments by themselves


def subject(model, images, targets, eps=EPS, classes=2, batch_size=None, norm="linf"):
    ids = [f"id{index}" for index in range(len(images))]
    return Subject(model, ids, images, targets, ThreatModel(eps, norm), classes, 0, batch_size or len(images))


def brightness(gain=1.0, offset=0.5):
    """Class 1 where a pixel's mean is above ``offset``."""

    def linear(images):
        score = gain * (images.mean(1, keepdim=True) - offset)
        return torch.cat([-score, score], 1)

    return linear


def grey(count=2, size=12):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, size, size, generator=generator)
    return images, (images.mean(1) > 0.5).long()


def test_saturation_is_that_of_the_gradient_of_autograd():
    margins = torch.tensor([0.0, 5.0, 16.0, 20.0, 80.0, 86.0, 120.0, -120.0, 120.0])
    logits = torch.stack([margins, torch.zeros(9)]).view(1, 2, 1, 9).requires_grad_()
    targets = torch.tensor([[[0] * 8 + [IGNORED]]])
    loss = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
    (grad,) = torch.autograd.grad(loss, logits)
    flat = (grad == 0).all(1)[0, 0, :8]
    assert flat.tolist() == [False] * 6 + [True, False]
    assert float(saturated_share(logits.detach(), targets)) == int(flat.sum()) / 8


def test_slopes_of_a_smooth_model_are_its_gradient_and_half_of_it_where_half_is_detached():
    images, targets = grey()
    honest = probe_gradients(subject(brightness(4.0), images, targets))
    for found in honest["slope"].values():
        assert found["disagreement"] < 0.01
        assert found["measured"] == pytest.approx(found["predicted"], rel=0.01)
    assert honest["zero"] == {"min": 0, "median": 0, "max": 0}
    assert honest["zero_matters"] is None
    half = probe_gradients(subject(lambda x: brightness(4.0)((x + x.detach()) / 2), images, targets))
    for found in half["slope"].values():
        assert found["disagreement"] == pytest.approx(0.5, abs=0.01)
        assert found["measured"] == pytest.approx(2 * found["predicted"], rel=0.02)


def test_the_gradient_of_a_model_with_an_autocast_of_its_own_is_finite_as_it_is_in_attacks():
    images, _ = grey(1, 280)  # 78 400 pixels together leave float16's range
    classify = nn.Conv2d(3, 2, 1, bias=False)
    classify.weight.data = 40 * torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).repeat(1, 3, 1, 1)

    def pooled(images):
        with torch.autocast("cpu", torch.float16):
            scores = classify(images.mean((2, 3), keepdim=True) - 0.5)
        return (scores.expand(-1, -1, *images.shape[-2:]) + 0 * images[:, :1]).float()

    with attack_mode(pooled) as attacked:
        targets = attacked(images).argmin(1)
        assert probe_gradients(subject(attacked, images, targets))["non_finite"]["max"] == 0


def test_ignored_pixels_are_in_no_share():
    images, targets = grey()
    targets[:, :, :6] = IGNORED
    found = probe_gradients(subject(brightness(4.0), images, targets))
    # The model sees no neighbours, so that ignored pixels have no gradient.
    assert found["zero"]["max"] == 0
    found = probe_gradients(subject(lambda x: brightness(4e4)(x), images, targets))
    assert 0.9 < found["saturated"]["min"] <= 1


def test_pixels_that_the_model_drops_have_no_gradient_and_hide_nothing():
    def every_other(images):
        logits = brightness(4.0)(images[..., ::2, ::2])
        return F.interpolate(logits, images.shape[-2:], mode="nearest")

    images, targets = grey()
    found = probe_gradients(subject(every_other, images, targets))
    assert found["zero"]["median"] == 0.75
    assert found["zero_matters"] == 0
    checks = {"gradients": found, "white_box": None}
    assert flags_of(checks)[3].verdict == "ok"


def test_rescaled_logits_predict_the_same_and_have_a_median_margin_of_one():
    images, targets = grey()
    model = subject(brightness(1e4), images, targets)
    logits, rescaled = model.answer(images), model.rescaled_answer(images)
    torch.testing.assert_close(median_margin(rescaled), torch.ones(2))
    assert torch.equal(logits.argmax(1), rescaled.argmax(1))
    constant = subject(lambda x: torch.zeros(len(x), 2, 12, 12), images, targets)
    assert torch.equal(constant.rescaled_answer(images), torch.zeros(2, 2, 12, 12))


def test_what_was_shown_to_the_model_is_counted_in_images():
    images, targets = grey(3)
    model = subject(brightness(), images, targets, batch_size=2)
    model.attacked(PGD(eps=EPS, step_size="1/100", steps=4, ignore_index=IGNORED))
    assert (model.forwards, model.backwards) == (12, 12)
    model.accuracies(images)
    assert (model.forwards, model.backwards) == (15, 12)


def test_the_size_of_the_batches_changes_nothing():
    images, targets = grey(3)
    found = []
    for batch_size in (1, 3):
        model = subject(brightness(3.0, 0.45), images, targets, batch_size=batch_size)
        found.append((probe_eps_curve(model), WhiteBox(model, {}).evidence(model)))
    assert found[0] == found[1]


@pytest.mark.parametrize("gain", [1.0, 1e5])
def test_the_curve_of_a_model_of_single_pixels_is_known(gain):
    """A pixel is lost as soon as its mean is within eps of the threshold, also where the softmax is saturated."""
    images, targets = grey(2, 24)
    curve = probe_eps_curve(subject(brightness(gain), images, targets, "8/255"))
    distance = (images.mean(1) - 0.5).abs()
    for name, eps in curve["eps"].items():
        numerator, _, denominator = eps.partition("/")
        radius = int(numerator) / int(denominator or 1)
        # Not the clipped ones: a channel at the border of [0, 1] moves less.
        expected = float((distance > radius).double().mean())
        assert curve["pixel_acc"][name] == pytest.approx(expected, abs=0.02), name
    assert curve["pixel_acc"]["everything"] == 0
    share = (targets.flatten(1).double().mean(1)).mean()
    assert curve["chance"] == pytest.approx(float(max(share, 1 - share)), abs=1e-5)


def test_noise_and_square_do_not_see_gradients():
    images, targets = grey()
    blind = subject(lambda x: brightness(4.0)(x.detach()), images, targets, "64/255")
    white = WhiteBox(blind, {})
    assert set(white.errors) == {"pgd", "pgd_rescaled", "cospgd_rescaled"}
    assert torch.equal(white.worst, blind.clean)
    found = probe_order(blind, white)
    assert found["white_box"] == 1
    assert max(found["black_box"].values()) < 0.9
    flag = flags_of({"order": found})[7]
    assert flag.verdict == "unreliable"
    assert "needs no gradient" in flag.line


def test_attacks_are_rebuilt_with_more_steps():
    attack = APGD(eps=EPS, steps=20, shrinking=True)
    doubled = with_steps(attack, 2, 5)
    assert doubled.describe() == {
        **attack.describe(),
        "steps": 40,
        "seed": 5,
        "stages": [{"steps": steps, "eps_factor": factor} for steps, factor in ((12, 2.0), (12, 1.5), (16, 1.0))],
    }
    assert attack.steps == 20
    pair = with_steps(WorstOf([PGD(eps=EPS, steps=3), CosPGD(eps=EPS, steps=4)]), 2, 1)
    assert [member.steps for member in pair.attacks] == [6, 8]
    assert gradients_of(pair) == 14
    assert gradients_of(PGD(eps=EPS, steps=5, restarts=3)) == 15
    # Not the plain loop: a copy of its settings would be another attack.
    assert gradients_of(MLAttack(layers=[-1])) == gradients_of(Square(eps=EPS)) == 0
    assert gradients_of(WorstOf([PGD(eps=EPS), Square(eps=EPS)])) == 0


def test_the_same_noise_as_in_the_evaluation():
    images, targets = grey()
    attack = PGD(eps=EPS, steps=1, ignore_index=IGNORED)
    model = subject(brightness(), images, targets)
    noise = NoiseSource.for_samples((0, attack.seed), model.ids, images.device)
    assert torch.equal(model.attacked(attack), attack(brightness(), images, targets, generator=noise))


def test_an_attack_of_too_few_steps_is_far_from_converged():
    _, images, targets = data()
    targets = targets.masked_fill(targets == 255, IGNORED)
    weak = {"pgd2": PGD(eps=EPS, step_size="1/255", steps=2, random_start=False)}
    found = probe_convergence(subject(standard(), images, targets, classes=CLASSES), weak, {})
    assert found["attack"] == "pgd2"
    assert found["before"]["pixel_acc"] > found["after"]["pixel_acc"]
    assert flags_of({"convergence": found})[6].verdict in ("caution", "unreliable")


def test_the_suite_counts_in_the_comparison_where_it_is_known():
    images, targets = grey()
    model = subject(brightness(), images, targets)
    nothing_left = class_counts(confusion_matrix(1 - targets, targets, 2))
    attacks = {"short": PGD(eps=EPS, steps=3), "long": PGD(eps=EPS, steps=300), "other": PGD(eps="1/255")}
    alone = probe_convergence(model, attacks, {})
    assert (alone["attack"], alone["compared_with"], alone["longer"]) == ("short", ["short"], ["long"])
    known = probe_convergence(model, attacks, {"long": nothing_left})
    assert known["compared_with"] == ["long", "short"]
    assert known["longer"] == []
    assert known["before"] == known["after"] == {"pixel_acc": 0, "miou": 0}
    only_long = probe_convergence(model, {"long": attacks["long"]}, {})
    assert (only_long["attack"], only_long["compared_with"]) == (None, ["probe"])


def test_a_model_that_seldom_draws_is_found_out():
    images, targets = grey()

    def seldom(images):
        model = brightness(4.0, 0.7 if float(torch.rand(())) < 0.5 else 0.5)
        return model(images)

    # One image at a time, so that the comparison with an image's batch is not made.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = probe_answers(subject(seldom, images, targets, batch_size=1))
    assert found["alone"] is None
    assert found["repeated"]["pixels"] > 0.1
    steady = probe_answers(subject(brightness(4.0), images, targets, batch_size=1))
    assert steady["repeated"] == {"relative": 0, "pixels": 0}


def test_figures_of_the_suite_are_white_box_figures_too():
    images, targets = grey()
    nothing_left = class_counts(confusion_matrix(1 - targets, targets, 2))
    model = subject(brightness(), images, targets)
    alone, known = WhiteBox(model, {}), WhiteBox(model, {"pgd": nothing_left})
    assert float(alone.worst.min()) > 0
    assert known.worst.tolist() == [0, 0]
    assert {name: known.evidence(model)["attacks"][name] for name in ("pgd", "suite.pgd")} == {
        "pgd": alone.evidence(model)["attacks"]["pgd"],
        "suite.pgd": 0,
    }


def test_running_out_of_memory_is_no_finding():
    def full():
        raise torch.cuda.OutOfMemoryError

    with pytest.raises(torch.cuda.OutOfMemoryError):
        guarded(full)
    assert guarded(lambda: (_ for _ in ()).throw(AttackError("no"))) == {"error": "no"}
    with pytest.raises(TypeError):
        guarded(lambda: len(3))


def test_a_probe_leaves_no_trace_and_is_repeatable():
    model = standard()
    model.train()
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    ids, images, targets = (part[:2] for part in data())
    noisy = around(lambda net, x: net(x + 0.1 * torch.randn_like(x)), model)
    try:
        with pytest.MonkeyPatch.context() as patch:
            shorten(patch)
            first = probe_model(noisy, ids, images, targets, eps=EPS, num_classes=CLASSES)
            assert torch.equal(torch.get_rng_state(), random)
            torch.rand(3)
            again = probe_model(noisy, ids, images, targets, eps=EPS, num_classes=CLASSES)
            other = probe_model(noisy, ids, images, targets, eps=EPS, num_classes=CLASSES, seed=1)
        assert model.training
        assert all(parameter.requires_grad for parameter in model.parameters())
        for name, value in model.state_dict().items():
            assert torch.equal(value, state[name]), name
        assert first == again != other
        assert first["answers"]["repeated"]["pixels"] > 0
    finally:
        model.eval()


def test_l2_is_probed_in_l2():
    images, targets = grey()
    model = subject(brightness(4.0), images, targets, eps="1", norm="l2")
    found = probe_order(model, WhiteBox(model, {}))
    assert "square" not in found["black_box"]
    assert found["white_box"] < min(found["black_box"].values())
    assert probe_eps_curve(model)["pixel_acc"]["everything"] == 0


def test_rms_is_probed_as_the_l2_that_it_is():
    images, targets = grey()
    root = images[0].numel() ** 0.5
    found = []
    for eps, norm in ((0.05, "rms"), (0.05 * root, "l2")):
        model = subject(brightness(4.0), images, targets, eps=str(eps), norm=norm)
        found.append(
            [
                probe_order(model, WhiteBox(model, {}))["black_box"],
                strength.probe_one_step(model, WhiteBox(model, {}))["fgsm"],
                probe_eps_curve(model)["pixel_acc"],
            ]
        )
    assert found[0] == found[1]
    assert found[0][2]["everything"] == 0
    assert 0 < found[0][2]["1"] < 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eps": 0}, "eps = 0"),
        ({"ids": ["one"]}, "ids = 1"),
        ({"num_classes": 1}, "num_classes = 1, but targets hold class"),
        ({"targets": torch.full((2, 12, 12), 255)}, "no valid pixel"),
        ({"suite": {"pgd": torch.zeros(2, 2, 2)}}, r"suite\['pgd'\] has the shape"),
        ({"images": torch.full((2, 3, 12, 12), 255.0)}, "divide 8-bit images by 255"),
    ],
)
def test_mistakes_of_the_caller_are_errors(change, message):
    images, targets = grey()
    given = {"ids": ["a", "b"], "images": images, "targets": targets, "eps": EPS, "num_classes": 2, **change}
    positional = [given.pop(name) for name in ("ids", "images", "targets")]
    with pytest.raises((ValueError, AttackError), match=message):
        probe_model(brightness(), *positional, **given)


def test_images_without_valid_pixels_are_left_out():
    images, targets = grey(3)
    targets[1] = 255
    found = probe_model(brightness(), ["a", "b", "c"], images, targets, eps=EPS, num_classes=2)
    assert found["ids"] == ["a", "c"]
