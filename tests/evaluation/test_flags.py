"""The ten flags as a function of the card."""

from __future__ import annotations

import copy
import json

import pytest

from robustseg.attacks import (
    APGD,
    CW,
    FGSM,
    PGD,
    SEA,
    CosPGD,
    JensenShannon,
    PureClass,
    SegPGD,
    Square,
    Targeted,
    WorstOf,
)
from robustseg.evaluation.card import AttackRow
from robustseg.evaluation.checks import Flag, overall, trust_flags
from robustseg.evaluation.checks.judge_protocol import FEW, judge_sample
from robustseg.evaluation.checks.settings import losses_of, threat_of, white_box
from tests.evaluation.report.cards import attack_row as row
from tests.evaluation.report.cards import few_scores as scores
from tests.evaluation.report.cards import small_card

GRADIENTS = {
    "zero": {"min": 0, "median": 0, "max": 0},
    "non_finite": {"min": 0, "median": 0, "max": 0},
    "saturated": {"min": 0, "median": 0, "max": 0},
    "zero_matters": None,
    "slope": {
        f"{direction}_{step}": {"disagreement": 0.1, "predicted": 1.0, "measured": 0.9}
        for direction in ("rough", "smooth")
        for step in ("small", "half_level")
    },
}
CHECKS = {
    "reference_miou": 0.6,
    "answers": {
        "non_finite": 0.0,
        "lowest": -9.0,
        "highest": 9.0,
        "channel_sum": [-5.0, 5.0],
        "two_values": False,
        "constant": False,
        "tied_pixels": 0.0,
        "median_margin": 5.0,
        "repeated": {"relative": 1e-5, "pixels": 0.0},
        "alone": {"relative": 1e-5, "pixels": 0.0},
    },
    "inputs": {
        "as_is": 0.9,
        "images": 8,
        "variants": {
            "times_255": {"pixel_acc": 0.2, "better_on": 0},
            "bgr": {"pixel_acc": 0.91, "better_on": 8},
            "over_255": {"error": "refused"},
        },
    },
    "gradients": GRADIENTS,
    "white_box": {"clean": 0.9, "attacks": {"pgd": 0.3, "pgd_rescaled": 0.1}, "worst": 0.1, "errors": {}},
    "eps_curve": {
        "eps": {"0": "0", "1": "8/255", "everything": "1"},
        "pixel_acc": {"0": 0.9, "1": 0.1, "everything": 0.05},
        "chance": 0.3,
    },
    "convergence": {
        "attack": "pgd20",
        "longer": [],
        "before": {"pixel_acc": 0.3, "miou": 0.1},
        "after": {"pixel_acc": 0.296, "miou": 0.1},
    },
    "order": {"white_box": 0.1, "black_box": {"square": 0.1}},
    "one_step": {"clean": 0.9, "fgsm": {"1/4": 0.85, "1/2": 0.8, "1": 0.7}, "many_steps": 0.1},
}


def card(**changes):
    made = {
        "model": {"trained_with": SegPGD().describe()},
        "data": {"images": 100, "split_images": 100, "ids": None},
        "clean": scores(0.9, 0.6),
        "attacks": {"pgd20": row(PGD(steps=20)), "cospgd20": row(CosPGD(steps=20))},
        "checks": copy.deepcopy(CHECKS),
        "worst_case": None,
    }
    return small_card(**{**made, **changes})


def flag(number, **changes):
    return trust_flags(card(**changes))[number - 1]


def with_check(path, value):
    checks = copy.deepcopy(CHECKS)
    at = checks
    *parents, last = path.split(".")
    for part in parents:
        at = at[part]
    at[last] = value
    return checks


def test_a_good_card_has_ten_good_flags():
    flags = trust_flags(card())
    assert [flag.number for flag in flags] == list(range(1, 11))
    assert {flag.verdict for flag in flags} == {"ok"}
    assert overall(flags) == "ok"
    assert len({flag.name for flag in flags}) == 10
    for one in flags:
        assert one.line.endswith(".")
        assert "\n" not in one.line
        assert set(json.loads(json.dumps(one.as_dict()))) == {"number", "name", "verdict", "line", "evidence"}


def test_without_a_probe_what_needs_one_is_not_checked():
    flags = trust_flags(card(checks=None))
    assert {flag.number for flag in flags if flag.verdict == "not checked"} == {1, 2, 3, 5, 6, 7, 10}
    assert overall(flags) == "caution"


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["ok", "ok"], "ok"),
        (["ok", "not checked"], "caution"),
        (["caution", "not checked"], "caution"),
        (["caution", "unreliable", "ok"], "unreliable"),
    ],
)
def test_the_worst_flag_decides(verdicts, expected):
    assert overall([Flag(number=1, name="a", verdict=verdict, line="b.") for verdict in verdicts]) == expected


def test_no_flags_have_no_verdict():
    with pytest.raises(ValueError, match="flags = "):
        overall([])


@pytest.mark.parametrize(
    ("number", "path", "value", "verdict"),
    [
        (1, "answers", {"error": "it broke"}, "unreliable"),
        (1, "answers.non_finite", 0.1, "unreliable"),
        (1, "answers.constant", True, "unreliable"),
        (1, "answers.two_values", True, "unreliable"),
        (1, "answers.repeated", {"relative": 0.02, "pixels": 0.0}, "unreliable"),
        (1, "answers.repeated", {"relative": 1e-5, "pixels": 0.002}, "unreliable"),
        (1, "answers.repeated", {"relative": 2e-4, "pixels": 0.0}, "caution"),
        (1, "answers.alone", {"relative": 0.02, "pixels": 0.0}, "unreliable"),
        (1, "answers.alone", None, "ok"),
        (1, "answers.tied_pixels", 0.1, "caution"),
        (2, "reference_miou", 0.604, "ok"),
        (2, "reference_miou", 0.606, "unreliable"),
        (2, "reference_miou", 0.594, "unreliable"),
        (2, "reference_miou", None, "ok"),
        (2, "inputs.variants.bgr", {"pixel_acc": 0.925, "better_on": 8}, "unreliable"),
        (2, "inputs.variants.bgr", {"pixel_acc": 0.925, "better_on": 7}, "ok"),
        (2, "inputs.variants.bgr", {"pixel_acc": 0.96, "better_on": 6}, "unreliable"),
        (2, "inputs.variants.bgr", {"pixel_acc": 0.96, "better_on": 5}, "ok"),
        (2, "inputs", {"error": "it broke"}, "unreliable"),
        (3, "gradients", {"error": "none"}, "unreliable"),
        (3, "gradients.non_finite.max", 1e-6, "unreliable"),
        (3, "gradients.saturated.median", 0.06, "unreliable"),
        (3, "gradients.saturated.median", 0.04, "ok"),
        (3, "gradients.zero.median", 1.0, "ok"),
        (3, "gradients.slope.rough_small.disagreement", 0.5, "caution"),
        (3, "gradients.slope.rough_half_level.disagreement", 0.5, "ok"),
        (3, "gradients.slope.smooth_half_level.disagreement", 0.95, "unreliable"),
        (3, "white_box.attacks.pgd", 0.55, "unreliable"),
        (3, "white_box.attacks.pgd", 0.45, "ok"),
        (3, "white_box", {"error": "none"}, "ok"),
        (5, "eps_curve", {"error": "none"}, "not checked"),
        (5, "eps_curve.pixel_acc.everything", 0.33, "unreliable"),
        (5, "eps_curve.pixel_acc.1", 0.96, "unreliable"),
        (5, "eps_curve.pixel_acc.1", 0.94, "ok"),
        (5, "eps_curve.pixel_acc", {"0": 0.9, "1": 0.02, "everything": 0.31}, "unreliable"),
        (6, "convergence", {"error": "none"}, "not checked"),
        (6, "convergence.after.pixel_acc", 0.29, "caution"),
        (6, "convergence.after.miou", 0.09, "caution"),
        (6, "convergence.after.miou", 0.04, "unreliable"),
        (7, "order", {"error": "none"}, "not checked"),
        (7, "order.black_box.square", 0.0985, "ok"),
        (7, "order.black_box.square", 0.0975, "unreliable"),
        (10, "one_step", {"error": "none"}, "not checked"),
        (10, "one_step.fgsm.1", 0.83, "unreliable"),
        (10, "one_step.fgsm.1", 0.81, "ok"),
        (10, "one_step", {"clean": 0.9, "fgsm": {"1/2": 0.9, "1": 0.9}, "many_steps": 0.82}, "ok"),
        (10, "one_step", {"clean": 0.9, "fgsm": {"1/2": 0.9, "1": 0.9}, "many_steps": 0.78}, "unreliable"),
    ],
)
def test_what_the_probe_found_decides(number, path, value, verdict):
    found = flag(number, checks=with_check(path, value))
    assert found.verdict == verdict, found.line


@pytest.mark.parametrize(
    ("lowest", "highest", "sums", "verdict"),
    [
        (0.0, 0.98, [0.9995, 1.0004], "unreliable"),
        # Interpolated in percent.
        (0.0, 99.0, [99.97, 100.02], "unreliable"),
        (0.0, 1.0, [0.3, 2.0], "caution"),
        # Logits centred per pixel have a constant sum as well.
        (-4.0, 9.0, [-1e-6, 1e-6], "ok"),
        # Log-probabilities are logits.
        (-20.0, 0.0, [-90.0, -30.0], "ok"),
    ],
)
def test_probabilities_are_told_from_logits(lowest, highest, sums, verdict):
    answers = {**CHECKS["answers"], "lowest": lowest, "highest": highest, "channel_sum": sums}
    assert flag(1, checks={**CHECKS, "answers": answers}).verdict == verdict


def test_zero_gradients_count_where_they_matter():
    gradients = {**GRADIENTS, "zero": {"min": 0, "median": 0.5, "max": 1}}
    for matters, verdict in ((0.0, "ok"), (0.05, "ok"), (0.5, "unreliable")):
        assert flag(3, checks={**CHECKS, "gradients": {**gradients, "zero_matters": matters}}).verdict == verdict


def test_both_steps_must_disagree_for_a_detached_part():
    slope = {**GRADIENTS["slope"], "smooth_small": {"disagreement": 0.5}, "smooth_half_level": {"disagreement": 0.3}}
    found = flag(3, checks={**CHECKS, "gradients": {**GRADIENTS, "slope": slope}})
    assert found.verdict == "unreliable"


def test_the_record_is_that_of_the_full_split():
    checks = {**CHECKS, "reference_miou": 0.7}
    part = {"images": 50, "split_images": 100, "ids": ["a"] * 50}
    found = flag(2, checks=checks, data=part)
    assert found.verdict == "ok"
    assert "full split" in found.line


def test_an_attack_that_could_not_run_is_no_robustness():
    attacks = {"pgd20": {"settings": PGD().describe(), "error": "no gradient in it"}, "cos": row(CosPGD(steps=20))}
    found = flag(3, attacks=attacks, checks=None)
    assert found.verdict == "unreliable"
    assert "pgd20 could not run on this model: no gradient in it" in found.line
    trust_flags(card(attacks=attacks))


@pytest.mark.parametrize(
    ("eps", "norm", "sizes", "verdict"),
    [
        ("8/255", "linf", {"linf_max": 8 / 255}, "ok"),
        ("8/255", "linf", {"linf_max": 8 / 255 + 1e-7}, "ok"),
        ("8/255", "linf", {"linf_max": 8 / 255 + 1e-6}, "unreliable"),
        ("8/255", "linf", {"linf_max": None}, "not checked"),
        ("0.03", "linf", {"linf_max": 0.03, "linf_max_8bit": 8 / 255}, "ok"),
        ("8/255", "linf", {"linf_max_8bit": 8.49 / 255}, "ok"),
        ("8/255", "linf", {"linf_max_8bit": 8.6 / 255}, "unreliable"),
        ("1", "l2", {"l2_max": 1.0, "linf_max": 0.9, "l2_max_8bit": 1.3}, "ok"),
        ("1", "l2", {"l2_max": 1.00001}, "unreliable"),
        ("0.06", "rms", {"rms_max": 0.06, "l2_max": 29.0, "linf_max": 0.9}, "ok"),
        ("0.06", "rms", {"rms_max": 0.060001}, "unreliable"),
    ],
)
def test_the_budget_is_compared_exactly(eps, norm, sizes, verdict):
    found = flag(4, attacks={"pgd20": row(PGD(eps=eps, norm=norm, steps=20), **sizes)})
    assert found.verdict == verdict, found.line
    assert found.evidence["pgd20"]["eps"] == {"0.03": "3/100", "0.06": "3/50"}.get(eps, eps)
    stored = sizes.get(f"{norm}_max_8bit", 0)
    assert ("8-bit images" in found.line) == (
        verdict == "ok" and stored > float(PGD(eps=eps, norm=norm).threat.eps) + 1e-6
    )


def test_attacks_of_any_size_have_no_budget():
    found = flag(4, attacks={"cw": row(CW(), l2_max=9.0)})
    assert (found.verdict, found.evidence) == ("ok", {})


def test_settings_tell_what_an_attack_is():
    def of(attack, **extra):
        return AttackRow.model_validate({**row(attack, **extra), "mean_acc": None, "image_miou": None})

    square, ensemble = of(Square(), backwards=0), of(WorstOf([PGD(steps=3), APGD(loss=JensenShannon())]))
    mixed = of(WorstOf([Square(), WorstOf([FGSM(), SegPGD()])]))
    assert not white_box(square)
    assert white_box(ensemble)
    assert white_box(mixed)
    assert not white_box(of(WorstOf([Square(), Square(start="horizontal")])))
    assert not white_box(of(PGD(), settings={"source": "other.ckpt"}))
    assert not white_box(of(PGD(), backwards=0))
    assert losses_of(ensemble.settings) == {"CrossEntropy", "JensenShannon"}
    assert losses_of(mixed.settings) == {"SegPGDLoss"}
    sea = {"BalancedMaskedCrossEntropy", "MaskedCrossEntropy", "JensenShannon"}
    assert losses_of(of(SEA(class_pixels=[1, 2])).settings) == sea
    assert losses_of(of(CW(eps="8/255", norm="linf")).settings) == {"CW"}
    assert losses_of(square.settings) == losses_of(of(FGSM()).settings) == set()
    assert losses_of(of(FGSM()).settings, one_step=True) == {"CrossEntropy"}
    assert threat_of(of(PGD(eps="0.5", norm="l2"))) == ("1/2", "l2")
    assert threat_of(of(CW())) is None


TRAINED = SegPGD(steps=3).describe()


@pytest.mark.parametrize(
    ("attacks", "trained_with", "verdict", "word"),
    [
        ([PGD(), CosPGD()], None, "ok", "2 losses"),
        ([PGD(), PGD(steps=100)], None, "caution", "CrossEntropy"),
        ([FGSM(), CosPGD()], None, "caution", "CosPGDLoss"),
        ([SegPGD(steps=100)], TRAINED, "caution", "trained against"),
        ([SegPGD(steps=100), PGD()], TRAINED, "ok", "2 losses"),
        ([PGD()], FGSM().describe(), "caution", "trained against"),
        ([PGD()], "unknown", "caution", "CrossEntropy"),
        ([Square()], None, "caution", "No attack"),
        ([CW()], None, "caution", "No attack"),
        ([PGD(), Targeted(CosPGD(targeted=True), PureClass(0))], None, "caution", "CrossEntropy"),
        ([WorstOf([PGD(), SegPGD()])], None, "ok", "2 losses"),
    ],
)
def test_one_loss_is_not_enough(attacks, trained_with, verdict, word):
    rows = {str(number): row(attack) for number, attack in enumerate(attacks)}
    found = flag(8, attacks=rows, model={"trained_with": trained_with})
    assert found.verdict == verdict, found.line
    assert word in found.line


@pytest.mark.parametrize(
    ("data", "width", "verdict"),
    [
        ({"images": 100, "split_images": 100, "ids": None}, 0.2, "ok"),
        ({"images": 50, "split_images": 100, "ids": ["a"] * 50}, 0.019, "ok"),
        ({"images": 50, "split_images": 100, "ids": ["a"] * 50}, 0.03, "caution"),
        ({"images": 50, "split_images": 100, "ids": None}, 0.019, "caution"),
    ],
)
def test_a_part_of_the_split_has_an_interval(data, width, verdict):
    rows = {"pgd20": {**row(PGD(steps=20)), **scores(0.3, 0.1, width)}}
    found = flag(9, data=data, attacks=rows, clean=scores(0.9, 0.6, 0.001))
    assert found.verdict == verdict
    assert found.evidence["miou_half_width"] == pytest.approx(width / 2)
    if verdict == "caution":
        assert "50 of the split's 100" in found.line


def test_longer_attacks_of_the_suite_keep_a_short_one_from_condemning_it():
    far = with_check("convergence.after.pixel_acc", 0.1)
    assert flag(6, checks=far).verdict == "unreliable"
    far["convergence"]["longer"] = ["pgd300"]
    assert flag(6, checks=far).verdict == "caution"


@pytest.mark.parametrize(("longer", "verdict"), [(0.296, "ok"), (0.29, "caution")])
def test_the_same_attack_with_twice_the_steps_is_found_in_the_card(longer, verdict):
    attacks = {
        "pgd10": row(PGD(steps=10), 0.5),
        "pgd50": row(PGD(steps=50), 0.3),
        "pgd100": row(PGD(steps=100), longer),
        "seg100": row(SegPGD(steps=100), 0.01),
    }
    for checks in (CHECKS, None):
        found = flag(6, attacks=attacks, checks=checks)
        assert found.verdict == verdict
        assert found.evidence["suite"]["more"] == "pgd100"
        assert found.evidence["suite"]["fewer"] == "pgd50"


@pytest.mark.parametrize(
    ("pixel_acc", "miou", "settings", "verdict"),
    [
        (0.2, 0.05, {}, "ok"),
        (0.097, 0.05, {}, "unreliable"),
        (0.2, 0.007, {}, "unreliable"),
        # Another budget is no comparison.
        (0.05, 0.005, {"eps": "16/255"}, "ok"),
    ],
)
def test_black_box_attacks_of_the_suite_are_compared(pixel_acc, miou, settings, verdict):
    attacks = {
        "weak": row(PGD(), 0.5, 0.4),
        "pgd20": row(PGD(steps=20), 0.1, 0.01),
        "other": row(PGD(steps=20), pixel_acc, miou, settings={"source": "fcn", **settings}),
    }
    found = flag(7, attacks=attacks)
    assert found.verdict == verdict, found.line
    assert ("other" in found.evidence["suite"]) == (not settings)


@pytest.mark.parametrize(("fgsm", "verdict"), [(0.8, "ok"), (0.85, "unreliable"), (0.95, "unreliable")])
def test_the_single_step_of_the_suite_counts_without_a_probe(fgsm, verdict):
    attacks = {"fgsm": row(FGSM(), fgsm), "pgd20": row(PGD(steps=20), 0.1), "weak": row(PGD(steps=3), 0.6)}
    assert flag(10, attacks=attacks, checks=None).verdict == verdict


@pytest.mark.parametrize(
    ("quarter", "half", "whole", "verdict"),
    [
        (0.9, 0.6, 0.8, "unreliable"),
        (0.6, 0.9, 0.8, "unreliable"),
        (0.9, 0.6, 0.7, "ok"),
        (0.89, 0.86, 0.89, "ok"),
    ],
)
def test_a_distorted_loss_is_harmed_on_the_way(quarter, half, whole, verdict):
    found = {"clean": 0.9, "fgsm": {"1/4": quarter, "1/2": half, "1": whole}, "many_steps": 0.85}
    flag_10 = flag(10, checks=with_check("one_step", found))
    assert flag_10.verdict == verdict
    assert ("distorted" in flag_10.line) == (verdict == "unreliable")


def test_scores_without_a_valid_pixel_decide_nothing():
    attacks = {name: row(attack) for name, attack in (("square", Square()), ("pgd20", PGD(steps=20)), ("fgsm", FGSM()))}
    for one in attacks.values():
        one.update(pixel_acc=None, miou=None, confidence={"miou": [None, None]})
    empty = {"pixel_acc": None, "miou": None, "confidence": {}}
    flags = trust_flags(card(attacks=attacks, clean=empty))
    assert len(flags) == 10
    assert flags[6].evidence["suite"] == {}


def test_a_handful_of_images_is_never_enough_however_narrow_the_interval():
    def verdict(images, **figures):
        data = {"images": images, "split_images": 64, "ids": ["a"] * images}
        return judge_sample(card(data=data, clean={**scores(0.9, 0.5, 0.001), **figures}, attacks={}))

    assert verdict(FEW - 1).verdict == "caution"
    assert verdict(FEW).verdict == "ok"
    one = verdict(1, confidence={}, no_confidence="1 image with valid pixels: resampling takes 4 at least")
    assert one.verdict == "caution"
    assert "no interval (1 image with valid pixels" in one.line
    assert "±" not in one.line
