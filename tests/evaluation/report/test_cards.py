"""What is taken for a result card, and what is said about everything else."""

from __future__ import annotations

import copy
import json
import math
import os
import re

import pytest

from robustseg.evaluation import Card, ReportError, read_card
from robustseg.evaluation.card_file import parse_card, read_cards, write_card
from robustseg.evaluation.card_upgrade import upgrade_settings
from robustseg.evaluation.report import build_leaderboard, leaderboard_markdown, report_html, report_markdown
from tests.evaluation.report.cards import changed, make_card, typed
from tests.helpers.paths import ROOT

V01 = ROOT / "tests/fixtures/v01/v01/version_0/evaluation_36426449/card.json"


def write(folder, card) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "card.json").write_text(card if isinstance(card, str) else json.dumps(card), encoding="utf-8")
    return str(folder)


def without(card, key):
    copied = changed(card, key, None)
    *parents, last = key.split(".")
    place = copied
    for part in parents:
        place = place[part]
    del place[last]
    return copied


def refused(tmp_path, content, message):
    folder = write(tmp_path, content)
    with pytest.raises(ReportError, match=message) as raised:
        read_card(folder)
    assert folder in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < len(folder) + 300


def test_a_card_survives_the_file(tmp_path):
    card = make_card()
    folder = write(tmp_path / "run", card)
    found = read_card(folder)
    assert found == read_card(f"{folder}/card.json")
    assert found.as_dict() == card
    write_card(found, tmp_path / "again.json")
    assert read_card(tmp_path / "again.json") == found
    assert found.attacks["pgd20"]["pixel_acc"] == card["attacks"]["pgd20"]["pixel_acc"]
    assert found.model.trained_with.steps == 3


@pytest.mark.parametrize(
    "key",
    ["model.sha256", "data.sha256", "data.class_names", "protocol.seed", "clean", "attacks", "flags", "verdict"],
)
def test_a_missing_key_is_named_with_its_file(tmp_path, key):
    refused(tmp_path, without(make_card(), key), f"key {re.escape(key)} is missing")


DEEP = "[" * 100_000 + "]" * 100_000
LONG = "7" * 5000


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", 3, "format = 3, but this version of robustseg reads formats up to 2: update robustseg"),
        ("format", "2", "format = '2' is no version"),
        ("format", True, "format = True is no version"),
        ("model", [], "model = .* is not an object"),
        ("model.sha256", 7, "model.sha256 = 7 is not a string"),
        ("model.trained_with", [7], "model.trained_with"),
        ("data.images", True, "data.images = True is not an integer"),
        ("data.class_names", {"a": 1}, "data.class_names = .* is not a list"),
        ("versions", {"torch": 2}, "versions.torch = 2 is not a string"),
        ("verdict", "fine", "verdict = 'fine': must be one of ok, caution, unreliable"),
        ("clean.confidence", {"miou": [0.1, 1e300]}, r"clean.confidence.miou\[1\] = 1e\+300 is not a share"),
        ("clean.class_iou", {"Sky": -3.5}, "clean.class_iou.Sky = -3.5 is not a share"),
        ("clean.miou", 1.2, "clean.miou = 1.2 is not a share between 0 and 1"),
        ("clean.miou", math.inf, "clean.miou = Infinity is not a finite number"),
        ("clean.miou", "0.5", "clean.miou = '0.5' is not a share"),
        ("clean.miou", True, "clean.miou = True is not a share"),
        ("clean.confidence", [], r"clean.confidence = \[\] is not an object"),
        ("attacks", [1], r"attacks = \[1\] is not an object"),
        ("attacks.pgd20", [], r"attacks.pgd20 = \[\] is not an object"),
        ("attacks.pgd20.pixel_acc", -0.1, "attacks.pgd20.pixel_acc = -0.1 is not a share"),
        ("attacks.pgd20.linf_max", [1], r"attacks.pgd20.linf_max = \[1\] is not a number"),
        ("attacks.pgd20.class_iou", {"Sky": 0.5}, "attacks.pgd20.class_iou does not have the classes"),
        ("attacks.pgd20.settings", None, "attacks.pgd20.settings is missing"),
        ("attacks.pgd20.settings.members", [3], r"attacks.pgd20.settings.members\[0\] = 3 is not an object"),
        ("worst_case.greedy", {"miou": 0.2}, "worst_case.greedy.pixel_acc is missing"),
        ("worst_case", {"other": {}}, "worst_case.other is not one of"),
        ("flags", {}, "flags = {} is not a list"),
        ("flags.0.verdict", "good", r"flags\[0\].verdict = 'good': must be one of"),
        ("flags.3", {"number": 4}, r"flags\[3\].name is missing"),
        ("data.images", int(LONG[:4000]), "data.images = a number of 4000 characters"),
        ("checks", {"a": int(LONG[:4000])}, "checks.a = a number of 4000 characters"),
        ("flags.0.evidence", json.loads(DEEP[:60] + DEEP[-60:]), r"flags\[0\].evidence holds objects too deeply"),
    ],
)
def test_bad_values_are_named(tmp_path, key, value, message):
    refused(tmp_path, changed(make_card(), key, value), message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "no result card"),
        ('{"miou": 1}', "no result card"),
        ("", "not valid JSON"),
        (DEEP, "too deeply within one another"),
        ('{"format": ' + LONG + "}", "format = a number of 5000 characters is no version"),
        ('{"format": 1, "data": {"images": ' + LONG + "}}", "data.images = a number of 5000 characters"),
    ],
    ids=range(7),
)
def test_other_files(tmp_path, content, message):
    refused(tmp_path, content, message)


def test_no_file_and_no_regular_file(tmp_path):
    with pytest.raises(ReportError, match=r"card\.json: no such file: name the folder of a finished evaluation"):
        read_card(tmp_path)
    os.mkfifo(tmp_path / "card.json")
    with pytest.raises(ReportError, match=r"card\.json: it is a named pipe, not a regular file: name the"):
        read_card(tmp_path)


def test_an_attack_that_could_not_run_needs_no_scores():
    card = changed(make_card(), "attacks.pgd20", {"settings": {"attack": "PGD"}, "error": "no gradient"})
    assert list(typed(card).ran) == ["fgsm", "segpgd20", "cospgd20", "pgd100"]
    with pytest.raises(ReportError, match=r"attacks.pgd20.pixel_acc is missing"):
        typed(changed(card, "attacks.pgd20.error", None))


def test_figures_that_do_not_exist_are_no_error(tmp_path):
    card = changed(make_card(), "clean.class_iou.Sky", math.nan)
    assert read_card(write(tmp_path, card)).clean.class_iou["Sky"] is None
    # A figure that this version does not know is kept, one that the card does not have is unknown.
    known = typed(changed(make_card(), "clean.new_figure", 0.25))
    assert (known.clean["new_figure"], known.attacks["pgd20"]["rms_max"]) == (0.25, None)
    assert known.as_dict()["clean"]["new_figure"] == 0.25


def test_cards_are_called_by_the_shortest_names_that_differ(tmp_path):
    paths = [write(tmp_path / name, make_card()) for name in ("a/version_0", "b/version_0", "b/version_1")]
    assert list(read_cards(paths)) == ["a/version_0", "b/version_0", "b/version_1"]
    assert list(read_cards(paths[1:])) == ["version_0", "version_1"]
    assert list(read_cards([paths[0] + "/card.json"])) == ["version_0"]


def test_the_same_folder_twice_and_none(tmp_path):
    folder = write(tmp_path / "run", make_card())
    with pytest.raises(ReportError, match="is named twice"):
        read_cards([folder, f"{folder}/card.json"])
    with pytest.raises(ReportError, match="no folder given"):
        read_cards([])


def test_a_card_of_version_01_is_read_and_shown():
    card = read_card(V01)
    assert (card.format, card.verdict) == (2, "caution")
    assert card.clean["miou"] == 0.11065611912517449
    described = card.attacks["apgd"].settings
    assert described.others["loss"] == {"class": "Margin"}
    assert described.others["step_rule"] == {"class": "AdaptiveStep", "momentum": 0.75, "rise": 0.75}
    assert card.model.trained_with.others["loss"] == {"class": "SegPGDLoss", "schedule": "linear", "constant": 0.25}
    assert parse_card(card.as_dict()) == card
    text = report_markdown(card)
    assert "Trained with: SegPGD, 2 steps, linf 8/255" in text
    assert "loss: SegPGDLoss(schedule='linear', constant=0.25)".replace("_", "\\_") in text or "CrossEntropy()" in text
    assert "step\\_rule: SignStep(step\\_size='1/100')" in text
    assert "<svg" in report_html(card)
    board = leaderboard_markdown(build_leaderboard({"old": card, "new": again(card)}))
    assert [line.split("|")[1].strip() for line in board.splitlines() if line.startswith("|")][2:] == ["1", "1"]


def again(card: Card) -> Card:
    """The same evaluation of another checkpoint, as it would be written today."""
    return parse_card(changed(card.as_dict(), "model.sha256", "0" * 64))


def test_weights_that_came_from_no_file_are_shown_as_such():
    card = changed(changed(make_card(), "model.checkpoint", None), "model.sha256", None)
    card = typed(changed(changed(card, "model.trained_with", "unknown"), "versions", [{"torch": "2"}, {"torch": "3"}]))
    text = report_markdown(card)
    assert "Checkpoint: none\n- Trained with: unknown" in text
    assert "Versions: torch 2 / torch 3" in text
    assert "trained with unknown; no checkpoint" in leaderboard_markdown(build_leaderboard({"a": card}))


def test_one_image_of_an_older_card_has_no_interval():
    old = json.loads(V01.read_text())
    old["clean"]["images"] = 1
    one = parse_card(old).clean
    assert one.interval("miou") is None
    assert one.no_confidence == "1 image with valid pixels: resampling takes 4 at least"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            {"attack": "PGD", "loss": "CrossEntropy()", "steps": 3, "stages": "3 at 2 eps, 5 at 1.5 eps"},
            {
                "attack": "PGD", "loss": {"class": "CrossEntropy"}, "steps": 3,
                "stages": [{"steps": 3, "eps_factor": 2.0}, {"steps": 5, "eps_factor": 1.5}],
            },
        ),
        (
            {"attack": "WorstOf", "1.attack": "FGSM", "2.attack": "WorstOf", "2.1.attack": "PGD", "2.1.steps": 2},
            {
                "attack": "WorstOf",
                "members": [
                    {"attack": "FGSM"}, {"attack": "WorstOf", "members": [{"attack": "PGD", "steps": 2}]},
                ],
            },
        ),
        (
            {"attack": "Targeted", "target_map": "Remap(keep_ignored=True, mapping={0: 1})", "inner.attack": "PGD"},
            {
                "attack": "Targeted", "inner": {"attack": "PGD"},
                "target_map": {"class": "Remap", "keep_ignored": True, "mapping": {"0": 1}},
            },
        ),
        (
            {"transform": "Chain([DynamicScale(scale_range=0.5)])", "layers": "aux, -1", "weights": "1.0, 0.5"},
            {
                "transform": {"class": "Chain", "transforms": [{"class": "DynamicScale", "scale_range": 0.5}]},
                "layers": ["aux", -1], "weights": [1.0, 0.5],
            },
        ),
        # What cannot be read stays a text.
        ({"loss": "<my.Loss object at 0x7f>", "transform": "f(1, 2)"}, None),
        ({"loss": "Loss(" + "(" * 900 + ")" * 900 + ")"}, None),
        ({"inner." * 5000 + "attack": "PGD"}, ...),
    ],
    ids=range(7),
)  # fmt: skip
def test_descriptions_of_version_01_become_nested_data(old, new):
    found = upgrade_settings(copy.deepcopy(old))
    assert new is ... or found == (new or old)
    assert upgrade_settings(found) == found
