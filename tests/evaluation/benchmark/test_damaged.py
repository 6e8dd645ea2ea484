"""Evidence and scores of an evaluation's folder that were altered: measured again with a warning, never used."""

from __future__ import annotations

import json
import os

import pytest

from robustseg.evaluation import EvaluationError
from robustseg.evaluation.benchmark import probe, thresholds
from robustseg.opening.seal import sealed

ALTERATIONS = {
    "a number": lambda text: text.replace("0.5", "0.7"),
    "a key": lambda text: text.replace("gradients", "gradient"),
    "without a part": lambda text: json.dumps({key: value for key, value in json.loads(text).items() if key != "ids"}),
    "without the checksum": lambda text: json.dumps({"gradients": {}}),
    "cut off": lambda text: text[:-9],
    "empty": lambda text: "",
    "a list": lambda text: "[]",
    "deep": lambda text: "[" * 100_000,
}


@pytest.mark.parametrize("alteration", ALTERATIONS)
def test_evidence(tmp_path, alteration):
    evidence = {"ids": ["a"], "gradients": {"zero": 0.5}}
    path = tmp_path / "checks-0.json"
    path.write_text(json.dumps(sealed(evidence)))
    assert probe.kept_evidence(path) == evidence
    path.write_text(ALTERATIONS[alteration](path.read_text()))
    with pytest.warns(UserWarning, match=r"checks-0\.json is not used, and the model is probed again"):
        assert probe.kept_evidence(path) is None


@pytest.mark.parametrize("alteration", [name for name in ALTERATIONS if name != "without the checksum"])
def test_scores(tmp_path, alteration):
    about = {"ids": [1], "detector": {"gradients": 1}}
    path = tmp_path / "benign-0.json"
    path.write_text(json.dumps(sealed({**about, "scores": {"a": 0.5}})))
    assert thresholds._read(path, about) == {"a": 0.5}
    path.write_text(ALTERATIONS[alteration](path.read_text()))
    with pytest.warns(UserWarning, match=r"benign-0\.json is not used, and the images are scored again"):
        assert thresholds._read(path, about) == {}


@pytest.mark.parametrize(
    "read", [probe.kept_evidence, lambda path: thresholds._read(path, {})], ids=["evidence", "scores"]
)
def test_a_pipe_in_its_place_is_named(tmp_path, read):
    os.mkfifo(tmp_path / "x.json")
    with pytest.raises(EvaluationError, match=r"x\.json: it is a named pipe, not a regular file: remove it"):
        read(tmp_path / "x.json")
