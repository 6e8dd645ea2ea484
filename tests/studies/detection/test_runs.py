"""A study that is interrupted, continued, extended or refused by a model; every file it writes."""

from __future__ import annotations

import json
import shutil
from xml.etree import ElementTree

import pytest

from robustseg.evaluation import EvaluationError
from robustseg.evaluation.benchmark import Shard
from robustseg.evaluation.table.markdown import escape
from robustseg.models import SegmentationModel
from robustseg.studies import run_transfer
from tests.evaluation.benchmark.tiny import interrupted, measured, quiet_trainer
from tests.helpers.nets import ToyNetwork
from tests.helpers.tables import texts
from tests.studies.detection.tiny import ATTACKS, CLASSES, MAPS, MODELS, benchmark, detection, study_of, transfer_of

PGD = {"pgd": ATTACKS["pgd"]}
PURE = {"pure": MAPS["pure"]}
ENDINGS = ("json", "md", "svg", "html")


def study(**changes):
    return detection(PGD, PURE, **({"adaptive": ["pgd_pure"], "both": False, "detected_on": ["a"]} | changes))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return transfer_of(folder, study()), folder


def files(folder):
    return [(folder / f"study_detection.{ending}").read_bytes() for ending in ENDINGS]


def test_an_interrupted_study_goes_on_and_writes_the_same_bytes(done, tmp_path, monkeypatch):
    with interrupted(monkeypatch, 4):
        transfer_of(tmp_path, study())
    assert measured(tmp_path / "a")
    assert not (tmp_path / "study_detection.json").exists()
    transfer_of(tmp_path, study())
    for name in "ab":
        assert measured(tmp_path / name) == measured(done[1] / name)
        assert set(measured(tmp_path / name).values()) == {1}
    assert files(tmp_path) == files(done[1])


def test_a_second_run_measures_nothing(done, monkeypatch):
    before = files(done[1]), [measured(done[1] / name) for name in "ab"]

    def asked(*_, **__):
        raise AssertionError("a model was asked")

    monkeypatch.setattr("robustseg.attacks.base.Attack.run", asked)
    monkeypatch.setattr("robustseg.detectors.detector.Detector.parts", asked)
    monkeypatch.setattr(SegmentationModel, "forward", asked)
    again = transfer_of(done[1], study())
    assert (files(done[1]), [measured(done[1] / name) for name in "ab"]) == before
    assert again.rows == done[0].rows


def test_a_model_that_is_added_for_transfer_is_all_that_is_measured(done, tmp_path):
    folder = tmp_path / "more"
    shutil.copytree(done[1], folder)
    before = {name: measured(folder / name) for name in "ab"}
    result = transfer_of(folder, study(), "abc")
    for name in "ab":
        added = measured(folder / name) - before[name]
        assert set(measured(folder / name).values()) == {1}
        # of three images the answer of c, clean and under the transferred attack, and its view
        assert {record.partition(" seen by ")[2][:6] for _, record in added} == {"", "target"}
        assert len(added) == 3 * 3
    assert result.rows == done[0].rows
    assert {(r["source"], r["target"]) for r in result.extra["transfer"]} == {(s, t) for s in "abc" for t in "abc"}
    kept = [row for row in result.extra["transfer"] if "c" not in (row["source"], row["target"])]
    assert kept == done[0].extra["transfer"]


def test_a_model_that_gets_detectors_later_keeps_the_rest(done, tmp_path):
    folder = tmp_path / "more"
    shutil.copytree(done[1], folder)
    before = measured(folder / "a")
    result = transfer_of(folder, study(detected_on=None))
    assert measured(folder / "a") == before
    assert set(measured(folder / "b").values()) == {1}
    assert [row for row in result.rows if row["model"] == "a"] == done[0].rows
    assert {row["model"] for row in result.rows} == {"a", "b"}
    titles = [plot.title for plot in result.plots]
    assert "AUC of spatial consistency under pgd_pure, a, %" in titles
    assert "self-entropy of the pixels, b" in titles
    assert len({plot.name for plot in result.plots}) == len(titles)


def test_shards_make_one_study(done, tmp_path):
    assert transfer_of(tmp_path, study(), shard=Shard(1, 2)) is None
    assert transfer_of(tmp_path, study(), shard=Shard(2, 2)).rows == done[0].rows


class Detached(ToyNetwork):
    """Answers, but has no gradient to the images."""

    def forward(self, x):
        return super().forward(x.detach())


def without_gradient():
    network = Detached(CLASSES)
    network.load_state_dict(MODELS["a"].network.state_dict())
    return SegmentationModel(network).eval()


def test_a_model_without_gradient_gives_rows_that_say_so(tmp_path):
    every = study(redrawn_k=[1], both=True, detected_on=None)
    result = study_of(tmp_path, every, benchmark(model=without_gradient()))
    assert len(result.rows) == 3 + 2 * 3
    for row in result.rows:
        assert "autograd" in row["error"]
        assert row["auc"] is row["adversarial"] is None
        assert 0 < row["benign"] < 1
    for row in result.extra["attacks_did"]:
        assert "autograd" in row["error"]
        assert row["miou"] is row["target_success"] is row["target_success_blurred"] is row["rms"] is None
    assert result.extra["curves"] == result.extra["transfer"] == []
    (table,) = (table for table in result.tables if table.title == "What the attacks did")
    assert [row[4] for row in texts(table)] == ["could not run"] * 5
    check_files(tmp_path, every, result)
    # and again, with nothing measured twice
    before = files(tmp_path)
    study_of(tmp_path, every, benchmark(model=without_gradient()))
    assert files(tmp_path) == before


def test_one_refused_source_leaves_the_others_in_the_matrix(tmp_path):
    pair = {"a": benchmark(model=without_gradient()), "b": benchmark("b")}
    chosen = study(adaptive=[], detected_on=["b"])
    result = run_transfer(quiet_trainer(tmp_path), pair, chosen, tmp_path)
    for row in result.extra["transfer"]:
        if row["source"] == "a":
            assert "autograd" in row["error"]
            assert row["target_success"] is row["target_miou"] is None
        else:
            assert row["error"] is None
            assert row["target_success"] is not None
    assert [row["error"] for row in result.rows] == [None] * 3
    check_files(tmp_path, chosen, result)


def check_files(folder, study, result):
    """All files are there and well-formed, with every table and plot."""
    page = (folder / "study_detection.html").read_text(encoding="utf-8")
    text = (folder / "study_detection.md").read_text(encoding="utf-8")
    for table in result.tables:
        assert table.title.replace("'", "&#39;") in page
        assert escape(table.title) in text
        assert all(len(row) == len(table.headings) for row in texts(table))
    assert page.count('class="plot"') == len(result.plots)
    record = json.loads((folder / "study_detection.json").read_text(encoding="utf-8"))
    assert record["rows"] == result.rows
    assert list(record["attacks"]) == list(study.attacks())
    ElementTree.parse(folder / "study_detection.svg")


def test_all_files(done):
    check_files(done[1], study(), done[0])


def test_the_least_that_can_be_asked(tmp_path):
    least = study(
        adaptive=[], sigmas=[], k=[2], curve_steps=[], entropy_images=0, transfer=[], detected_on=None, curve_k=1
    )
    result = study_of(tmp_path, least)
    assert [row["detector"] for row in result.rows] == ["spatial, K = 2"]
    assert result.plots == []
    assert result.extra["curves"] == result.extra["transfer"] == []
    assert [table.title for table in result.tables] == ["AUC, %", "What the attacks did", "What looked at the images"]
    assert {name for _, name in measured(tmp_path)} == {
        "clean", "pgd_pure", "clean seen by pairs of 12 by 2-4 x2", "pgd_pure seen by pairs of 12 by 2-4 x2"
    }  # fmt: skip


def test_another_setting_of_a_detector_is_refused_in_the_same_folder(done, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(done[1], folder)
    with pytest.raises(EvaluationError, match="patch_size"):
        transfer_of(folder, study(patch_size=10))
