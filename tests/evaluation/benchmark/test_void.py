"""Evaluations of models with an output for void, counted by hand."""

from typing import Any

import numpy as np
import pytest
import torch

from robustseg.attacks import FGSM, SEA
from robustseg.data import SyntheticScenes
from robustseg.data.synthetic import SceneDataset
from robustseg.evaluation import EvaluationError
from robustseg.evaluation.card_file import parse_card
from robustseg.evaluation.checks.probe import probe_model
from robustseg.evaluation.report.leaderboard import protocol_of
from robustseg.evaluation.report.view import facts, model_settings
from robustseg.models import SegmentationModel
from robustseg.studies import StudyError, TransferMatrix
from robustseg.studies.run import parts_of_transfer
from robustseg.types import IGNORE_INDEX
from tests.helpers.nets import ToyNetwork

from .tiny import card_of, measure, tiny_benchmark, tiny_data, without_report

CLASSES = 7
VOID = 3
"""An output in the middle, which the model moves to its end."""
OUTPUTS = (("void_class", VOID), ("drop_classes", [VOID]))
OPTIONS = {"image_size": (32, 32), "test_length": 5, "batch_size": 4, "val_batch_size": 3, "num_workers": 0}


class CorneredDataset(SceneDataset):
    """Scenes with a void corner, of another size in each."""

    def read(self, index):
        image, mask = super().read(index)
        mask = mask.copy()
        mask[: 9 + index, :13] = IGNORE_INDEX
        return image, mask


class Cornered(SyntheticScenes):
    """Scenes with void pixels."""

    def make_dataset(self, split):
        return CorneredDataset(split, len(super().make_dataset(split)), self.image_size)


def model(**options: Any) -> SegmentationModel:
    torch.manual_seed(0)
    network = ToyNetwork(CLASSES + 1)
    images = torch.stack([sample.image for sample in tiny_data(test_length=3).dataset("test")])
    with torch.no_grad():
        network.head.weight *= 4
        # so that every output is the answer somewhere
        network.head.bias -= SegmentationModel(network).eval()(images).mean((0, 2, 3))
    return SegmentationModel(network, **options).eval()


def by_hand(data, void: bool, drop: bool) -> dict[str, float]:
    """The figures over the classes of the data, pixel by pixel, from the network's own outputs."""
    hits, true, predicted = (np.zeros(CLASSES) for _ in range(3))
    network = model()
    order = [output for output in range(CLASSES + 1) if output != VOID]
    for index in range(len(data.dataset("test"))):
        image, target, _ = data.dataset("test")[index]
        with torch.no_grad():
            logits = network(image[None])[0]
        if drop:
            logits[VOID] = -torch.inf
        answers = logits.argmax(0).numpy()
        target = target.numpy()
        for class_id, output in enumerate(order):
            mine, said = target == class_id, answers == output
            counted = np.ones_like(mine) if void else target != IGNORE_INDEX
            hits[class_id] += (mine & said).sum()
            true[class_id] += mine.sum()
            predicted[class_id] += (said & counted).sum()
    with np.errstate(invalid="ignore"):
        iou, recall = hits / (true + predicted - hits), hits / true
    return {"pixel_acc": hits.sum() / true.sum(), "miou": np.nanmean(iou), "mean_acc": np.nanmean(recall)}


@pytest.mark.parametrize(
    ("options", "count_void"),
    [({"void_class": VOID}, False), ({"void_class": VOID}, True), ({"drop_classes": [VOID]}, False)],
    ids=["void", "counted", "dropped"],
)
def test_figures_are_those_counted_by_hand(options, count_void, tmp_path, monkeypatch):
    without_report(monkeypatch)
    data, scored = Cornered(**OPTIONS), model(**options)
    attacks = {"fgsm": FGSM()} if not count_void else {"sea": SEA(steps=4)}
    benchmark = tiny_benchmark(model=scored, data=data, attacks=attacks, count_void=count_void, check_images=2)
    card = measure(benchmark, tmp_path)
    expected = by_hand(data, count_void, "drop_classes" in options)
    for key, value in expected.items():
        assert card["clean"][key] == pytest.approx(value, abs=1e-9), key
    assert list(card["clean"]["class_iou"]) == data.class_names
    assert card["model"]["outputs"] == scored.outputs
    assert card["protocol"].get("count_void", False) == count_void
    assert not [flag for flag in card["flags"] if "shape" in flag["line"]]
    read = parse_card(card_of(tmp_path), "card.json")
    assert ("void" in facts(read)["Ignored label"]) == count_void
    assert {"drop_classes", "void_class"} <= model_settings(read).keys()
    assert protocol_of(read)["protocol.count_void"] == count_void


def test_the_ways_of_counting_differ_here():
    data = Cornered(**OPTIONS)
    ignored, counted, dropped = (by_hand(data, *how) for how in ((False, False), (True, False), (False, True)))
    assert counted["miou"] < 0.9 * ignored["miou"]
    assert counted["mean_acc"] == ignored["mean_acc"] < 0.9 * dropped["mean_acc"]


def test_the_probe_scores_the_classes_without_void():
    torch.manual_seed(0)
    images, targets = torch.rand(2, 3, 16, 16), torch.randint(0, CLASSES, (2, 16, 16))
    arguments = (model(void_class=VOID), ["a", "b"], images, targets)
    counts = torch.zeros(2, 3, CLASSES, dtype=torch.int64)
    counts[:, 1] = torch.stack([mask.flatten().bincount(minlength=CLASSES) for mask in targets])
    counts[:, 2] = counts[:, 1]
    settings = {"eps": "8/255", "num_classes": CLASSES + 1, "suite": {"fgsm": counts}, "attacks": {"fgsm": FGSM()}}
    found = probe_model(*arguments, **settings, num_scored=CLASSES)
    assert not [name for name, part in found.items() if isinstance(part, dict) and part.get("error")]
    with pytest.raises(ValueError, match=r"not \(2, 3, 8\)"):
        probe_model(*arguments, **settings)


class CountingVoid(SyntheticScenes):
    """Data that say of themselves that void is a class, as PascalVOC and ADE20K may."""

    count_void = True


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"count_void": True, "model": model(drop_classes=[VOID])}, r"count_void .*it has none: set model\.void_class"),
        ({"data": CountingVoid(**OPTIONS)}, r"void_class = 3 .*data\.count_void makes CountingVoid"),
        ({"model": model(void_class=3, drop_classes=[0])}, r"leave 6 classes, and SyntheticScenes has 7"),
        ({"count_void": True, "targets": "predictions"}, r"count_void: with targets: predictions"),
    ],
)
def test_outputs_that_do_not_fit_the_data_are_refused(changes, words):
    settings = {"model": model(void_class=VOID), "data": tiny_data(), "attacks": {}}
    with pytest.raises(EvaluationError, match=words):
        tiny_benchmark(**(settings | changes))


def test_models_of_one_study_all_have_void_or_none_has():
    of = {"data": tiny_data(), "attacks": {}}
    void, dropped = (tiny_benchmark(model=model(**{key: value}), **of) for key, value in OUTPUTS)
    study = TransferMatrix(attacks={"fgsm": FGSM()})
    assert set(parts_of_transfer({"a": dropped, "b": dropped}, study)) == {"a", "b"}
    with pytest.raises(StudyError, match=r"only one of a and b has a model\.void_class"):
        parts_of_transfer({"a": void, "b": dropped}, study)
