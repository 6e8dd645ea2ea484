"""Folders whose attacks drew the numbers of another version: kept if complete, refused otherwise, never mixed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from robustseg.attacks import NOISE_VERSION, PGD
from robustseg.detectors import SpatialConsistency
from robustseg.evaluation import EvaluationError
from robustseg.evaluation.benchmark import Shard, merge, old_noise, plan, thresholds
from robustseg.evaluation.protocol import PROTOCOL
from tests.evaluation.benchmark.tiny import ATTACKS, card_of, measure, tiny_benchmark, without_report

OTHER = NOISE_VERSION + 5
DETECTORS = {"detectors": {"spatial": SpatialConsistency(16, 2, (2, 6))}, "threshold_images": 4}


@pytest.fixture(autouse=True)
def lean(monkeypatch):
    without_report(monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A complete folder of another version."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        without_report(patch)
        for module in (plan, thresholds):
            patch.setattr(module, "NOISE_VERSION", OTHER)
        measure(tiny_benchmark(**DETECTORS), folder)
    return folder


def copied(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "copy")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_protocol_and_card_say_the_version(whole, tmp_path):
    assert json.loads((whole / PROTOCOL).read_text())["noise"] == OTHER
    assert card_of(whole)["protocol"]["noise"] == OTHER
    measure(tiny_benchmark(attacks={"pgd2": PGD(steps=2)}), tmp_path)
    assert json.loads((tmp_path / PROTOCOL).read_text())["noise"] == NOISE_VERSION
    assert card_of(tmp_path)["protocol"]["noise"] == NOISE_VERSION


def test_a_complete_folder_is_kept_to_the_byte_and_said_once(whole, tmp_path, capsys):
    folder = copied(whole, tmp_path)
    before = contents(folder)
    measure(tiny_benchmark(**DETECTORS), folder)
    assert contents(folder) == before
    said = [line for line in capsys.readouterr().out.splitlines() if "noise" in line]
    assert len(said) == 1
    assert f"{folder} is complete, with noise of version {OTHER} (this robustseg: {NOISE_VERSION})" in said[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"attacks": {**ATTACKS, "pgd3": PGD(steps=3)}},
        {"detectors": {"another": SpatialConsistency(16, 3, (2, 6))}},
        {"attacks": {**ATTACKS, "pgd3": PGD(steps=3)}, "shard": Shard(1, 2)},
    ],
    ids=["attack", "detector", "shard"],
)
def test_what_lacks_records_is_refused_and_nothing_written(whole, tmp_path, changes):
    folder = copied(whole, tmp_path)
    before = contents(folder)
    with pytest.raises(EvaluationError, match=f"lacks results, and its noise is of version {OTHER}") as caught:
        measure(tiny_benchmark(**(DETECTORS | changes)), folder)
    assert str(folder) in str(caught.value)
    assert "--output" in str(caught.value)
    assert contents(folder) == before


def test_a_threshold_that_lacks_scores_is_refused(whole, tmp_path):
    folder = copied(whole, tmp_path)
    with pytest.raises(EvaluationError, match=rf"noise of .* is of version {OTHER}, and benign-\w+\.json lacks scores"):
        measure(tiny_benchmark(**(DETECTORS | {"threshold_images": 5})), folder)


@pytest.mark.parametrize("changes", [{"seed": 1}, {"targets": "predictions"}], ids=["seed", "targets"])
def test_another_evaluation_is_refused_by_all_of_its_facts(whole, tmp_path, changes):
    with pytest.raises(EvaluationError, match="holds an evaluation of something else") as caught:
        measure(tiny_benchmark(**(DETECTORS | changes)), copied(whole, tmp_path))
    assert f"noise: {OTHER} there, {NOISE_VERSION} here" in str(caught.value)
    assert f"{next(iter(changes))}:" in str(caught.value)


def test_shards_of_two_versions_are_not_merged(whole, tmp_path):
    mine = tmp_path / "mine"
    measure(tiny_benchmark(shard=Shard(1, 2)), mine)
    with pytest.raises(EvaluationError, match=f"noise: {OTHER} there, {NOISE_VERSION} here"):
        merge(tmp_path / "merged", [whole, mine])
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("version", ["2", None, True, 1.5])
def test_a_version_that_is_none_is_refused(whole, tmp_path, version):
    folder = copied(whole, tmp_path)
    facts = json.loads((folder / PROTOCOL).read_text()) | {"noise": version}
    (folder / PROTOCOL).write_text(json.dumps(facts))
    with pytest.raises(EvaluationError, match="noise: "):
        measure(tiny_benchmark(**DETECTORS), folder)


def test_a_folder_that_nobody_claimed_is_left_alone(tmp_path):
    of = tiny_benchmark()
    facts = dict(of.facts)
    old_noise.keep_noise(of, tmp_path / "none")
    (tmp_path / PROTOCOL).touch()
    old_noise.keep_noise(of, tmp_path)
    assert of.facts == facts
