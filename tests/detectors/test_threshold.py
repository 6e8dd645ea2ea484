"""Thresholds on benign images, and the area under the ROC curve."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.classification import binary_auroc

from robustseg.detectors import DetectorError, ScaleConsistency, SpatialConsistency, Threshold, auc

DETECTOR = SpatialConsistency(12, 3, (2, 5))
shares = st.integers(0, 20).map(lambda value: value / 20)


def test_closed_forms():
    scores = torch.tensor([0.9, 0.5, 0.7, 0.8])
    assert Threshold.fit(DETECTOR, scores, 0.0).value == pytest.approx(0.5)  # the paper's lower bound
    assert Threshold.fit(DETECTOR, scores, 0.25).value == pytest.approx(0.7)
    assert Threshold.fit(DETECTOR, scores, 0.49).value == pytest.approx(0.7)
    assert Threshold.fit(DETECTOR, scores, 0.5).value == pytest.approx(0.8)
    fitted = Threshold.fit(DETECTOR, scores, 0.25)
    assert fitted.detects(torch.tensor([0.5, 0.7, 0.71], dtype=torch.float64)).tolist() == [True, False, False]
    assert fitted.images == 4


@given(
    st.lists(shares, min_size=2, max_size=30).filter(lambda values: len(set(values)) > 1),
    st.integers(0, 99).map(lambda value: value / 100),
)
def test_the_rate_holds_and_no_larger_threshold_would(scores, rate):
    benign = torch.tensor(scores, dtype=torch.float64)
    fitted = Threshold.fit(DETECTOR, benign, rate)
    assert fitted.detects(benign).double().mean() <= rate + 1e-9
    larger = sorted(value for value in set(scores) if value > fitted.value)
    if larger:
        assert (benign < larger[0]).double().mean() > rate - 1e-9


@pytest.mark.parametrize(
    ("scores", "rate", "words"),
    [
        ([], 0.05, "no benign images"),
        ([1.0, 1.0, 1.0], 0.05, "all 3 benign images have the score 1"),
        ([0.4, float("nan")], 0.05, "not finite"),
        ([0.4, 0.5], 1.0, "false_positive_rate = 1.0"),
        ([0.4, 0.5], -0.1, "false_positive_rate = -0.1"),
    ],
)
def test_sets_without_a_threshold(scores, rate, words):
    with pytest.raises(DetectorError, match=words):
        Threshold.fit(DETECTOR, torch.tensor(scores), rate)


def test_it_comes_back_from_its_file_and_for_its_detector_only(tmp_path):
    fitted = Threshold.fit(DETECTOR, torch.tensor([0.1, 0.3]), 0.0)
    fitted.save(tmp_path / "threshold.json")
    assert Threshold.load(tmp_path / "threshold.json", SpatialConsistency(12, 3, (2, 5))) == fitted
    for other in (SpatialConsistency(12, 4, (2, 5)), SpatialConsistency(12, 3, (2, 5), seed=1), ScaleConsistency(3)):
        with pytest.raises(DetectorError, match=r"threshold\.json was fitted for .* fit it again"):
            Threshold.load(tmp_path / "threshold.json", other)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": 1}', '{"format": 9, "value": 1}'])
def test_a_damaged_file(content, tmp_path):
    path = tmp_path / "threshold.json"
    path.write_text(content)
    with pytest.raises(DetectorError, match=r"threshold\.json .* fit (it|the threshold) again"):
        Threshold.load(path, DETECTOR)
    path.write_text(json.dumps({"format": 1, "false_positive_rate": 0.0, "images": 2, "detector": {}, "value": 0.5}))
    with pytest.raises(DetectorError, match=r"threshold\.json was fitted for"):
        Threshold.load(path, DETECTOR)
    for value in (math.nan, "0.5", None):
        path.write_text(json.dumps({**json.loads(path.read_text()), "detector": DETECTOR.describe(), "value": value}))
        with pytest.raises(DetectorError, match=r"threshold\.json holds no threshold .* fit it again"):
            Threshold.load(path, DETECTOR)
    with pytest.raises(DetectorError, match=r"nowhere\.json holds no threshold \(FileNotFoundError\)"):
        Threshold.load(tmp_path / "nowhere.json", DETECTOR)


def test_the_file_is_plain(tmp_path):
    Threshold.fit(DETECTOR, torch.tensor([0.1, 0.3]), 0.0).save(tmp_path / "threshold.json")
    content = json.loads((tmp_path / "threshold.json").read_text())
    assert set(content) == {"format", "value", "false_positive_rate", "images", "detector", "crc32"}


@given(st.lists(shares, min_size=1, max_size=12), st.lists(shares, min_size=1, max_size=12))
def test_auc_is_the_share_of_pairs_in_the_right_order(benign, adversarial):
    right = sum((low < high) + 0.5 * (low == high) for low in adversarial for high in benign)
    found = auc(torch.tensor(benign), torch.tensor(adversarial))
    assert found == pytest.approx(right / (len(benign) * len(adversarial)), abs=1e-12)
    # another way to it, in float32: the area under the curve
    scores, truth = [1 - s for s in (*benign, *adversarial)], [0] * len(benign) + [1] * len(adversarial)
    assert found == pytest.approx(float(binary_auroc(torch.tensor(scores), torch.tensor(truth))), abs=1e-5)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_auc_of_images_that_could_not_be_scored(wrong):
    for scores in ([0.5, wrong], [0.5]), ([0.5], [0.5, wrong]):
        with pytest.raises(DetectorError, match="some scores are not finite"):
            auc(*map(torch.tensor, scores))


def test_auc_of_one_class():
    with pytest.raises(DetectorError, match="0 benign and 1 adversarial"):
        auc(torch.tensor([]), torch.tensor([0.5]))
