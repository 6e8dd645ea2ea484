"""The study through the real command line: of one model, and between two."""

from __future__ import annotations

import json

import pytest

from robustseg.cli.main import main
from tests.studies.test_commands import arguments, one_line, runs, study_file  # noqa: F401

DAG = {"class_path": "DAG", "init_args": {"step_size": "4/255", "steps": 2, "targeted": True}}
MAPS = {"pure": {"class_path": "PureClass", "init_args": {"class_id": 2}}}
SETTINGS = {
    "attacks": {"dag": DAG},
    "target_maps": MAPS,
    "patch_size": 16,
    "displacement": [2, 4],
    "k": [1, 2],
    "sigmas": [1.0],
    "curve_k": 1,
    "curve_steps": [1, 2],
    "entropy_images": 1,
    "entropy_k": 2,
}


def test_study_of_one_model(runs, tmp_path):  # noqa: F811
    path = study_file(tmp_path, "Detection", **SETTINGS)
    command = ["study", *arguments(runs / "one"), "--config", path, "--output", str(tmp_path / "out")]
    assert main(command) == 0
    record = json.loads((tmp_path / "out" / "study_detection.json").read_text())
    assert record["study"] == "Detection"
    # one detector by scale under three attacks, two by space under three
    assert [row["model"] for row in record["rows"]] == ["the attacked model"] * 9
    assert list(record["attacks"]) == [
        "dag_pure",
        "dag_pure blur1",
        "dag_pure blur1 both",
        "dag_pure k1",
        "dag_pure k2",
    ]
    assert record["transfer"] == []
    page = (tmp_path / "out" / "study_detection.html").read_text()
    for text in ("AUC, %", "What the attacks did", "spatial, K = 2", "scale, σ = 1", "self-entropy of the pixels"):
        assert text in page
    assert all((tmp_path / "out" / f"study_detection.{ending}").is_file() for ending in ("md", "svg"))


def test_transfer_between_two_models(runs, tmp_path):  # noqa: F811
    path = study_file(tmp_path, "Detection", **SETTINGS, adaptive=[], detected_on=["one"])
    models = ["--models", f"one={runs / 'one'}", f"two={runs / 'two'}"]
    command = ["transfer", *models, "--config", path, "--output", str(tmp_path / "out")]
    assert main(command) == 0
    record = json.loads((tmp_path / "out" / "study_detection.json").read_text())
    assert {row["model"] for row in record["rows"]} == {"one"}
    assert [(row["source"], row["target"]) for row in record["transfer"]] == [
        (source, target) for source in ("one", "two") for target in ("one", "two")
    ]
    assert "Transfer of dag_pure" in (tmp_path / "out" / "study_detection.html").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 64}, "patch_size = 64 is larger than the images of 32×32 pixels"),
        ({"k": [0]}, "k = 0: at least one pair"),
        ({"attacks": {"dag": {"class_path": "DAG"}}}, "attacks: dag_pure: attack = DAG is not targeted"),
        ({"detected_on": ["one"]}, "detected_on names 'one', but the models are: the attacked model"),
    ],
)
def test_bad_settings_are_one_line(runs, tmp_path, capsys, changes, message):  # noqa: F811
    path = study_file(tmp_path, "Detection", **(SETTINGS | changes))
    command = ["study", *arguments(runs / "one"), "--config", path, "--output", str(tmp_path / "out")]
    assert message in one_line(command, capsys)
    assert not list((tmp_path / "out").glob("study_*"))
    assert not list((tmp_path / "out").glob("records"))
