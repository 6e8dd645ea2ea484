"""The scores of adversarial images after rounding to 8 bit, from the records to the card and what shows it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from robustseg.attacks import FGSM, PGD, Attack, CosPGD, DeepFool, NoiseSource, WorstOf
from robustseg.evaluation import DiskSink, Evaluator, MemorySink, full_precision
from robustseg.evaluation.build_card import build_card
from robustseg.evaluation.measurements import read_measurements
from robustseg.evaluation.protocol import digest
from robustseg.evaluation.record import rounded
from robustseg.evaluation.report import report_html, report_markdown, view
from robustseg.evaluation.results import scores_table
from robustseg.evaluation.store import read_records, streams
from robustseg.evaluation.table import to_csv

FACTS = {"seed": 0}
ABOUT = {
    "model": {
        "network": "Toy", "settings": {}, "checkpoint": None, "sha256": None, "weights": "raw",
        "mean": [0.0] * 3, "std": [1.0] * 3, "window": None, "trained_with": None,
    },
    "data": {
        "name": "Toy", "split": "val", "images": 5, "split_images": 5, "sha256": "0", "class_names": ["a", "b", "c"],
        "ignore_index": 255, "image_size": None,
    },
    "protocol": {"suite": None, "precision": "float32", "seed": 0},
    "versions": {"robustseg": "0"}, "commit": None,
}  # fmt: skip


class Shift(Attack):
    """Adds a constant."""

    def __init__(self, levels: float):
        super().__init__()
        self.levels = levels

    def perturb(self, victim, images, targets, noise, on_step):
        return (images + self.levels / 255).clamp(0, 1)

    def describe(self):
        return {"attack": "Shift", "levels": self.levels}


class Above(nn.Module):
    """Says class 1 where the red value is above a level, and 0 elsewhere."""

    def __init__(self, level: float):
        super().__init__()
        self.level = level
        self.forwards = 0

    def forward(self, images):
        self.forwards += len(images)
        red = images[:, 0] * 255 - self.level
        return torch.stack([-red, red, torch.full_like(red, -1e3)], 1)


def scored(folder, model, attacks, images, targets, size=2):
    ids = [f"id{number}" for number in range(len(images))]
    evaluator = Evaluator(attacks, 3, DiskSink(folder, FACTS))
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        evaluator.update(model, ids[part], images[part], targets[part])
    evaluator.close()
    return card(folder, attacks, ids)


def card(folder, attacks, ids):
    settings = {name: attack.describe() for name, attack in attacks.items()}
    measured = read_measurements(folder, digest({"format": 1, **FACTS}), ids, settings, 3)
    return build_card(ABOUT, measured, settings, None)


@pytest.fixture
def grey():
    return torch.full((5, 3, 4, 4), 100 / 255), torch.zeros(5, 4, 4, dtype=torch.long)


@pytest.mark.parametrize(
    ("level", "shift", "as_float", "in_8bit"),
    [
        (100.3, 0.45, 0.0, 1.0),  # a saved file has level 100 again
        (100.8, 0.6, 1.0, 0.0),  # a saved file has level 101, outside of the ball
        (103.5, 8.0, 0.0, 0.0),
    ],
)
def test_rounding_undoes_an_attack_or_helps_it(tmp_path, grey, level, shift, as_float, in_8bit):
    row = scored(tmp_path, Above(level), {"shift": Shift(shift)}, *grey).attacks["shift"]
    assert (row["pixel_acc"], row["pixel_acc_8bit"]) == (as_float, in_8bit)
    assert (row["miou"], row["miou_8bit"]) == (as_float, in_8bit)


def test_figures_are_those_of_a_literal_reference(tmp_path):
    """A linear model per pixel, in numpy and float64: np.rint(255 x) / 255, argmax, confusion, IoU."""
    draw = torch.Generator().manual_seed(0)
    model = nn.Conv2d(3, 3, 1).double()
    with torch.no_grad():
        model.weight.copy_(torch.randn(3, 3, 1, 1, generator=draw) * 20)
        model.bias.copy_(-model.weight.sum((1, 2, 3)) / 2)
    images = (torch.rand(5, 3, 6, 6, generator=draw).double() * 255).round() / 255
    targets = model(images).argmax(1)
    targets[:, 0] = 255
    attacks = {"pgd": PGD(steps=3, eps="4/255"), "fgsm": FGSM(eps="1/600"), "deepfool": DeepFool(steps=5)}
    found = scored(tmp_path, model, attacks, images, targets)
    weight, bias = model.weight.detach().numpy()[:, :, 0, 0], model.bias.detach().numpy()
    differing = 0
    for name, attack in attacks.items():
        matrix = np.zeros((3, 3))
        for start in range(0, 5, 2):
            part = slice(start, start + 2)
            noise = NoiseSource.for_samples((0, 0), [f"id{n}" for n in range(5)][part], images.device)
            with full_precision():
                images_adv = attack(model, images[part], targets[part], generator=noise)
            stored = np.rint(images_adv.numpy() * 255.0) / 255.0
            said = (np.einsum("kc,bchw->bkhw", weight, stored) + bias[None, :, None, None]).argmax(1)
            for true, predicted in zip(targets[part].numpy().ravel(), said.ravel(), strict=True):
                if true != 255:
                    matrix[true, predicted] += 1
        union = matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
        row = found.attacks[name]
        assert row["pixel_acc_8bit"] == pytest.approx(matrix.trace() / matrix.sum(), abs=1e-15)
        assert row["miou_8bit"] == pytest.approx(float((matrix.diagonal() / union)[union > 0].mean()), abs=1e-15)
        differing += row["pixel_acc_8bit"] != row["pixel_acc"]
    assert differing  # it is another figure


@pytest.mark.parametrize("size", [1, 2, 5])
def test_it_costs_one_forward_of_each_image_that_is_not_8_bit_already(tmp_path, grey, size):
    """None for clean images, and none in an attack: PGD asks once a step."""
    attacks = {"levels": Shift(8), "float": Shift(0.45), "pgd": PGD(steps=3, eps="3/2550", step_size="1/2550")}
    forwards = {}
    for count in range(4):
        model = Above(100.3)
        scored(tmp_path / str(count), model, dict(list(attacks.items())[:count]), *grey, size=size)
        forwards[count] = model.forwards
    assert forwards == {0: 5, 1: 10, 2: 20, 3: 45}  # clean; scored; scored and rounded; three steps, and both


@pytest.mark.parametrize("size", [1, 2, 5])
def test_targets_from_predictions_cost_one_forward_of_each_image(grey, size):
    images, targets = grey
    forwards = []
    for kind in ("labels", "predictions"):
        model, sink = Above(100.3), MemorySink()
        evaluator = Evaluator({"shift": Shift(0.45), "more": Shift(1.5)}, 3, sink, targets=kind)
        for start in range(0, 5, size):
            part = slice(start, start + size)
            evaluator.update(model, [f"id{n}" for n in range(5)][part], images[part], targets[part])
        forwards.append(model.forwards)
    assert forwards == [15, 20]


def test_rounding_gives_the_values_of_a_saved_file():
    levels = np.arange(256, dtype=np.uint8)
    as_loaded = torch.from_numpy(levels.astype(np.float32)) / 255
    assert torch.equal(rounded(as_loaded).float(), as_loaded)
    assert torch.equal(
        rounded(torch.tensor([0.0, 0.49 / 255, 0.51 / 255, 1.0])), torch.tensor([0, 0, 1 / 255, 1], dtype=torch.float64)
    )


def test_worst_cases_have_the_figures_of_the_images_that_they_chose(tmp_path, grey):
    """The float figures prefer `weak`; saved, only the images of `coarse` fool, and they are not taken in its place."""
    images, targets = grey
    targets[3:] = 1  # the model is wrong about these already
    attacks = {"weak": Bounded(0.45), "coarse": Bounded(-3)}
    found = scored(tmp_path, Above(100.3), attacks, images, targets)
    assert found.attacks["weak"]["pixel_acc_8bit"] == pytest.approx(0.6)
    for _, row in found.worst_case.kinds():
        assert row["pixel_acc"] == 0
        assert row["pixel_acc_8bit"] == pytest.approx(0.6)


class Bounded(Shift):
    """Has a budget."""

    def describe(self):
        return {**super().describe(), "eps": "8/255", "norm": "linf"}


def test_an_ensemble_is_rounded_after_its_choice(tmp_path):
    draw = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = nn.Conv2d(3, 3, 3, padding=1)
    images = (torch.rand(4, 3, 8, 8, generator=draw) * 255).round() / 255
    with torch.no_grad():
        targets = model(images).argmax(1)
    attack = WorstOf([PGD(steps=2), CosPGD(steps=2)])
    row = scored(tmp_path, model, {"worst": attack}, images, targets).attacks["worst"]
    parts = []
    for part in (slice(0, 2), slice(2, 4)):
        noise = NoiseSource.for_samples((0, 0), [f"id{n}" for n in range(4)][part], images.device)
        parts.append(attack(model, images[part], targets[part], generator=noise))
    with torch.no_grad():
        said = model(rounded(torch.cat(parts)).float()).argmax(1)
    assert row["pixel_acc_8bit"] == pytest.approx(float((said == targets).double().mean()))


@pytest.mark.parametrize("without", [["id0", "id1", "id2", "id3", "id4"], ["id3"]], ids=["of 0.1", "begun by 0.1"])
def test_records_without_it_are_read_and_shown_blank(tmp_path, grey, without):
    attacks = {"shift": Bounded(0.45)}
    old = scored(tmp_path / "old", Above(100.3), attacks, *grey, size=1)
    ids = [f"id{number}" for number in range(5)]
    # The same folder as if an older version had written some of it.
    new = tmp_path / "new"
    sink = DiskSink(new, FACTS)
    evaluator = Evaluator(attacks, 3, sink)
    for stream in streams(tmp_path / "old"):
        for record in read_records(stream):
            if not (record.attack.endswith("8 bit") and record.sample in without):
                sink.put([record])
    evaluator.close()
    again = Evaluator(attacks, 3, DiskSink(new, FACTS))
    assert not any(again.missing(sample) for sample in ids)  # the attack does not run for it again
    found = card(new, attacks, ids)
    assert found.attacks["shift"]["pixel_acc_8bit"] is None
    assert found.attacks["shift"]["pixel_acc"] == old.attacks["shift"]["pixel_acc"]
    assert "8bit" not in json.dumps(
        {key: row for key, row in found.as_dict()["attacks"]["shift"].items() if "acc" in key}
    )
    assert "miou_8bit" not in scores_table(found).headings
    assert "miou, 8 bit" not in report_html(found)
    assert "miou, 8 bit" not in report_markdown(found)
    assert view.STORED not in report_markdown(found)
    assert "miou_8bit" in scores_table(old).headings


def test_it_is_shown_once_in_each_table(tmp_path, grey):
    found = scored(tmp_path, Above(100.3), {"a": Bounded(0.45), "b": Bounded(8)}, *grey)
    header, clean, first, *_ = to_csv(scores_table(found)).splitlines()
    place = header.split(",").index("miou_8bit (%)")
    assert (clean.split(",")[place], first.split(",")[place]) == ("", "100")
    for text in (report_markdown(found), report_html(found)):
        assert "miou, 8 bit" in text
        assert "pixel_acc, 8 bit" in text
        assert view.STORED in text.replace("\n", " ")


@pytest.mark.parametrize("name", ["pgd in 8 bit", "a seen by b in 8 bit"])
def test_an_attack_cannot_have_the_name_of_such_records(tmp_path, name):
    with pytest.raises(ValueError, match="cannot be called"):
        Evaluator({name: PGD()}, 3, DiskSink(tmp_path, FACTS))
