"""What is taken for a result card, and what is said about everything else."""

import json
import math
import re

import pytest

from robustseg.evaluation.report import ReportError, check_card, read_card, read_cards
from tests.evaluation.report.cards import changed, make_card


def write(folder, card) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "card.json").write_text(card if isinstance(card, str) else json.dumps(card), encoding="utf-8")
    return str(folder)


def test_a_folder_and_its_file_hold_the_same_card(tmp_path):
    card = make_card()
    folder = write(tmp_path / "run", card)
    assert read_card(folder) == card == read_card(f"{folder}/card.json")


def without(card, key):
    copied = changed(card, key, None)
    *parents, last = key.split(".")
    place = copied
    for part in parents:
        place = place[part]
    del place[last]
    return copied


@pytest.mark.parametrize(
    "key",
    ["model.sha256", "data.sha256", "data.class_names", "protocol.seed", "clean", "attacks", "flags", "verdict"],
)
def test_a_missing_key_is_named_with_its_file(tmp_path, key):
    folder = write(tmp_path, without(make_card(), key))
    with pytest.raises(ReportError, match=rf"{re.escape(folder)}.*key {re.escape(key)} is missing"):
        read_card(folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", 2, "format = 2, but this version of robustseg reads format 1"),
        ("model", [], "model = .* is not an object"),
        ("model.sha256", 7, "model.sha256 = 7 is not a string"),
        ("data.images", True, "data.images = True is not an integer"),
        ("verdict", "fine", "verdict = 'fine': must be one of ok, caution, unreliable"),
        ("clean.miou", 1.2, "clean.miou = 1.2 is not a share between 0 and 1"),
        ("clean.miou", math.inf, "clean.miou = 'Infinity' is not a share"),
        ("clean.miou", "0.5", "clean.miou = '0.5' is not a share"),
        ("attacks.pgd20.pixel_acc", -0.1, "attacks.pgd20.pixel_acc = -0.1 is not a share"),
        ("attacks.pgd20.class_iou", {"Sky": 0.5}, "attacks.pgd20.class_iou does not have the classes"),
        ("attacks.pgd20.settings", None, "attacks.pgd20.settings is missing"),
        ("worst_case.greedy", {"miou": 0.2}, "worst_case.greedy.pixel_acc is missing"),
        ("worst_case", {"other": {}}, "worst_case.other is not one of"),
        ("flags.0.verdict", "good", r"flags\[0\].verdict = 'good': must be one of"),
        ("flags.3", {"number": 4}, r"flags\[3\].name is missing"),
    ],
)
def test_bad_values_are_named(tmp_path, key, value, message):
    folder = write(tmp_path, changed(make_card(), key, value))
    with pytest.raises(ReportError, match=message) as raised:
        read_card(folder)
    assert folder in str(raised.value)


def test_an_attack_that_could_not_run_needs_no_scores():
    card = changed(make_card(), "attacks.pgd20", {"settings": {"attack": "PGD"}, "error": "no gradient"})
    check_card(card)
    with pytest.raises(ReportError, match=r"attacks.pgd20.pixel_acc is missing"):
        check_card(changed(card, "attacks.pgd20.error", None))


def test_figures_that_do_not_exist_are_no_error(tmp_path):
    card = changed(make_card(), "clean.class_iou.Sky", math.nan)
    assert read_card(write(tmp_path, card))["clean"]["class_iou"]["Sky"] is None
    check_card(card)


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "is not valid JSON"), ("[]", "no result card"), ('{"miou": 1}', "no result card"), ("", "not valid JSON")],
)
def test_other_files(tmp_path, content, message):
    with pytest.raises(ReportError, match=message):
        read_card(write(tmp_path, content))


def test_no_file(tmp_path):
    with pytest.raises(ReportError, match=r"card\.json: no such file: name the folder of a finished evaluation"):
        read_card(tmp_path)


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
