"""An evaluation's folder that version 0.1 made: its records count for the attacks of today."""

from __future__ import annotations

import json
import shutil

import pytest

from robustseg.attacks import APGD, FGSM, PGD, Margin
from robustseg.evaluation import EvaluationError, read_card
from robustseg.evaluation.build_card import build_card
from robustseg.evaluation.measurements import read_measurements
from robustseg.evaluation.protocol import digest, read
from tests.helpers.paths import ROOT

FOLDER = ROOT / "tests/fixtures/v01/v01/version_0/evaluation_36426449"
ATTACKS = {"fgsm": FGSM(), "pgd2": PGD(steps=2), "apgd": APGD(steps=4, loss=Margin())}


def measured(attacks, folder=FOLDER):
    card = read_card(folder)
    ids = [f"test-{number:06d}" for number in range(4)]
    described = {name: attack.describe() for name, attack in attacks.items()}
    found = read_measurements(folder, digest(read(folder)), ids, described, len(card.data.class_names))
    return found, described


def test_its_records_give_its_card():
    old = read_card(FOLDER).as_dict()
    found, described = measured(ATTACKS)
    about = {key: old[key] for key in ("model", "data", "versions", "commit")}
    protocol = {key: old["protocol"][key] for key in ("suite", "precision", "seed")}
    card = build_card({**about, "protocol": protocol}, found, described, None).as_dict()
    assert json.loads(json.dumps(card)) == old


def test_other_settings_are_told_from_another_way_to_write_them(tmp_path):
    folder = shutil.copytree(FOLDER, tmp_path / "evaluation")
    with pytest.raises(EvaluationError, match=r"pgd2 with other settings .steps: 2 there, 3 here.: give what"):
        measured(ATTACKS | {"pgd2": PGD(steps=3)}, folder)
    with pytest.raises(EvaluationError, match=r'apgd with other settings .loss.class: "Margin" there'):
        measured(ATTACKS | {"apgd": APGD(steps=4)}, folder)
