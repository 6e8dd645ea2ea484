"""The figures of a card against loops over pixels, and what a card says where there is no figure."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from robustseg.attacks import FGSM, PGD, CosPGD, NoiseSource
from robustseg.evaluation import DiskSink, EvaluationError, Evaluator
from robustseg.evaluation.build_card import build_card
from robustseg.evaluation.card_file import parse_card
from robustseg.evaluation.figures import SCORES, number
from robustseg.evaluation.measurements import Measurements, read_measurements
from robustseg.evaluation.protocol import claim, digest
from robustseg.evaluation.record import COLUMNS
from robustseg.evaluation.results import scores_table
from robustseg.evaluation.store import RECORDS, ImageRecord, RecordWriter
from tests.evaluation.report.cards import make_card

CLASSES = ["road", "sky", "car", "never there"]
FACTS = {"seed": 3}
IDS = [f"id{index}" for index in range(6)]
ATTACKS = {
    "pgd": PGD(eps="32/255", step_size="16/255", steps=2),
    "fgsm": FGSM(eps="32/255"),
    "cospgd": CosPGD(eps="32/255", step_size="16/255", steps=2, random_start=False),
}


def about(images: int = len(IDS)) -> dict:
    """What a card says beside its figures."""
    made = make_card(classes=CLASSES, images=images)
    made["protocol"] = {"suite": None, "precision": "float32", "seed": 3}
    return {key: made[key] for key in ("model", "data", "protocol", "versions", "commit")}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(2)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 4, 1))
    with torch.no_grad():
        net[2].weight *= 3
        net[2].bias[3] = -100
    return net.eval()


@pytest.fixture(scope="module")
def data(model):
    """Mostly what the model says; the third image has no valid pixel, and the last class is nowhere."""
    images = torch.rand(6, 3, 9, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        targets = model(images).argmax(1)
    targets[:, 3] = 1
    targets[:, 0] = 255
    targets[2] = 255
    return images, targets


def measure(path, model, images, targets, attacks=ATTACKS, size=6):
    evaluator = Evaluator(attacks, 4, DiskSink(path, FACTS), seed=3)
    for start in range(0, len(IDS), size):
        part = slice(start, start + size)
        evaluator.update(model, IDS[part], images[part], targets[part])
    evaluator.close()


@pytest.fixture(scope="module")
def folder(model, data, tmp_path_factory):
    path = tmp_path_factory.mktemp("evaluation")
    measure(path, model, *data, size=4)
    return path


def settings(attacks=ATTACKS) -> dict:
    return {name: attack.describe() for name, attack in attacks.items()}


def measurements(folder: Path, attacks=ATTACKS, ids=IDS) -> Measurements:
    return read_measurements(folder, claim(folder, FACTS), ids, settings(attacks), 4)


@pytest.fixture(scope="module")
def card(folder):
    return build_card(about(), measurements(folder), settings(), None).as_dict()


def literal_scores(predictions: torch.Tensor, targets: torch.Tensor) -> dict:
    """Pixel by pixel, in Python's own numbers."""

    def iou(samples) -> list[float]:
        values = []
        for c in range(4):
            both = either = 0
            for b in samples:
                for p, t in zip(predictions[b].flatten().tolist(), targets[b].flatten().tolist(), strict=True):
                    if t != 255:
                        both += p == c and t == c
                        either += p == c or t == c
            values.append(both / either if either else math.nan)
        return values

    def mean(values) -> float:
        there = [value for value in values if not math.isnan(value)]
        return sum(there) / len(there) if there else math.nan

    right = valid = 0
    recall = []
    for c in range(4):
        hit = of_class = 0
        for p, t in zip(predictions.flatten().tolist(), targets.flatten().tolist(), strict=True):
            if t == c:
                of_class += 1
                hit += p == c
        right, valid = right + hit, valid + of_class
        recall.append(hit / of_class if of_class else math.nan)
    everything = range(len(targets))
    return {
        "pixel_acc": right / valid,
        "mean_acc": mean(recall),
        "miou": mean(iou(everything)),
        "image_miou": mean([mean(iou([b])) for b in everything]),
        "class_iou": dict(zip(CLASSES, iou(everything), strict=True)),
    }


def adversarial(name: str, model, data) -> torch.Tensor:
    """The attack on its own, in the batches of the evaluation."""
    parts = []
    for part in (slice(0, 4), slice(4, 6)):
        noise = NoiseSource.for_samples((3, ATTACKS[name].seed), IDS[part], torch.device("cpu"))
        parts.append(ATTACKS[name](model, data[0][part], data[1][part], generator=noise))
    return torch.cat(parts)


def predictions_of(name: str, model, data) -> torch.Tensor:
    with torch.no_grad():
        return model(data[0] if name == "clean" else adversarial(name, model, data)).argmax(1)


@pytest.mark.parametrize("name", ["clean", *ATTACKS])
def test_scores_are_those_of_loops_over_pixels(card, model, data, name):
    row = card["clean"] if name == "clean" else card["attacks"][name]
    expected = literal_scores(predictions_of(name, model, data), data[1])
    for key in ("pixel_acc", "mean_acc", "miou", "image_miou"):
        assert row[key] == pytest.approx(expected[key], abs=1e-12), key
    for key, value in expected["class_iou"].items():
        assert row["class_iou"][key] == (None if math.isnan(value) else pytest.approx(value, abs=1e-12))
    assert row["class_iou"]["never there"] is None
    assert row["images"] == 6
    assert set(row["confidence"]) == set(SCORES)
    for key, (low, high) in row["confidence"].items():
        assert low <= row[key] <= high


def test_what_an_attack_did_to_the_images(card, model, data):
    images, targets = data
    for name in ATTACKS:
        row, images_adv = card["attacks"][name], adversarial(name, model, data)
        delta = (images_adv.double() - images.double()).flatten(1)
        rounded = ((images_adv.double() * 255).round() / 255 - images.double()).flatten(1)
        assert row["linf_max"] == pytest.approx(float(delta.abs().max()))
        assert row["l2_max"] == pytest.approx(max(math.sqrt(sum(v * v for v in each)) for each in delta.tolist()))
        assert row["linf_max_8bit"] == pytest.approx(float(rounded.abs().max()))
        assert row["l2_max_8bit"] == pytest.approx(float(rounded.norm(dim=1).max()))
        assert row["without_valid_pixels"] == 1
        wrong = [
            float((predictions != target)[target != 255].double().mean())
            for predictions, target in zip(predictions_of(name, model, data), targets, strict=True)
            if (target != 255).any()
        ]
        assert row["fooled_share"] == pytest.approx(sum(value >= 0.99 for value in wrong) / 5)
        for key in ("pixel_acc", "miou", "image_miou"):
            assert row["gap"][key] == pytest.approx(card["clean"][key] - row[key])
        assert row["target_success"] is None
        assert row["settings"] == ATTACKS[name].describe()
        assert "seconds" not in row
    # the image without a valid pixel costs nothing
    assert card["attacks"]["pgd"]["backwards"] == pytest.approx(2 * 5 / 6)
    assert card["attacks"]["fgsm"]["backwards"] == pytest.approx(5 / 6)


def test_the_worst_case_is_the_worst_attack_of_each_image(card, model, data):
    valid = data[1] != 255
    predictions = {name: predictions_of(name, model, data) for name in ATTACKS}
    chosen, worst = dict.fromkeys(ATTACKS, 0), predictions["pgd"].clone()
    for b in range(6):
        accs = {
            name: int((predictions[name][b] == data[1][b])[valid[b]].sum()) / max(int(valid[b].sum()), 1)
            for name in ATTACKS
        }
        best = min(accs, key=accs.__getitem__)
        chosen[best] += 1
        worst[b] = predictions[best][b]
    expected = literal_scores(worst, data[1])
    for key in ("pixel_acc", "mean_acc", "miou", "image_miou"):
        assert card["worst_case"]["per_image"][key] == pytest.approx(expected[key], abs=1e-12)
    assert card["worst_case"]["per_image"]["chosen"] == chosen
    assert sum(value > 0 for value in chosen.values()) > 1
    greedy = card["worst_case"]["greedy"]
    assert greedy["miou"] <= min(row["miou"] for row in card["attacks"].values())
    assert sum(greedy["chosen"].values()) == 6


def test_the_card_is_plain_json_with_the_facts(card):
    assert json.loads(json.dumps(card, allow_nan=False)) == card
    assert card["format"] == 2
    assert card["protocol"] == {
        "suite": None,
        "precision": "float32",
        "seed": 3,
        "norm": "linf",
        "eps": "32/255",
        "batch_sizes": [2, 4],
    }
    assert [flag["number"] for flag in card["flags"]] == list(range(1, 11))
    assert card["verdict"] in ("ok", "caution", "unreliable")
    assert len(scores_table(parse_card(card)).rows) == 6


def test_attacks_of_different_eps_have_no_worst_case(folder, model, data, tmp_path):
    other = {"pgd": PGD(steps=1), "weak": PGD(steps=1, eps="1/255")}
    measure(tmp_path, model, *data, other)
    card = build_card(about(), measurements(tmp_path, other), settings(other), None).as_dict()
    assert card["worst_case"] is None
    assert (card["protocol"]["eps"], card["protocol"]["norm"]) == (None, None)


def test_no_attack_is_a_card_as_well(folder):
    card = build_card(about(), measurements(folder, {}), {}, None).as_dict()
    assert card["attacks"] == {}
    assert card["worst_case"] is None
    assert json.dumps(card, allow_nan=False)


def test_no_valid_pixel_at_all_is_null_everywhere(tmp_path, model, data):
    measure(tmp_path, model, data[0], torch.full_like(data[1], 255))
    card = build_card(about(), measurements(tmp_path), settings(), None).as_dict()
    for row in (card["clean"], *card["attacks"].values()):
        assert [row[key] for key in ("pixel_acc", "mean_acc", "miou", "image_miou")] == [None] * 4
    assert card["attacks"]["pgd"]["gap"]["miou"] is None
    assert card["attacks"]["pgd"]["without_valid_pixels"] == 6
    assert json.dumps(card, allow_nan=False)


def test_a_part_of_the_samples_is_read_without_the_others(folder, model, data):
    some = [IDS[4], IDS[1]]
    measured = measurements(folder, ATTACKS, some)
    assert measured.samples == some
    card = build_card(about(2), measured, settings(), None).as_dict()
    rows = [4, 1]
    expected = literal_scores(predictions_of("pgd", model, data)[rows], data[1][rows])
    assert card["attacks"]["pgd"]["miou"] == pytest.approx(expected["miou"])


def test_what_is_missing_is_named(folder):
    with pytest.raises(EvaluationError, match=r"of 7 images clean lacks 1 .first new., pgd lacks 1") as caught:
        measurements(folder, ATTACKS, [*IDS, "new"])
    assert "what is there is kept" in str(caught.value)
    with pytest.raises(EvaluationError, match=r"of 6 images later lacks 6 .first id0."):
        measurements(folder, ATTACKS | {"later": PGD(steps=7)})


def test_an_attack_that_could_not_run_is_in_the_card_without_scores(tmp_path, model, data):
    class Flat(nn.Module):
        def forward(self, images):
            return model(images.detach())

    class Shift(FGSM):
        def perturb(self, victim, images, targets, noise, on_step):
            return (images + 8 / 255).clamp(0, 1)

    chosen = {"pgd": PGD(steps=1), "shift": Shift()}
    measure(tmp_path, Flat(), *data, chosen)
    measured = measurements(tmp_path, chosen)
    assert set(measured.counts) == {"clean", "shift"}
    card = build_card(about(), measured, settings(chosen), None).as_dict()
    assert set(card["attacks"]["pgd"]) == {"settings", "error"}
    assert "autograd" in card["attacks"]["pgd"]["error"]
    assert card["attacks"]["shift"]["error"] is None
    assert card["worst_case"]["per_image"]["chosen"] == {"shift": 6}
    assert card["verdict"] != "ok"
    assert len(scores_table(parse_card(card)).rows) == 5


def test_versions_are_those_of_all_writers(tmp_path):
    protocol = claim(tmp_path, FACTS)
    assert protocol == digest({"format": 1, **FACTS})
    for number_, torch_version in enumerate(("2.1", "2.2", "2.1")):
        facts = {"protocol": protocol, "attacks": {}, "versions": {"torch": torch_version}}
        with RecordWriter(tmp_path, "records", facts, 4) as writer:
            matrix = torch.eye(4, dtype=torch.int64)
            writer.append([ImageRecord(f"id{number_}", "clean", matrix, torch.zeros(len(COLUMNS)).double(), 1)])
    assert len(list((tmp_path / RECORDS).iterdir())) == 3
    measured = read_measurements(tmp_path, protocol, IDS[:3], {}, 4)
    assert [each["versions"]["torch"] for each in measured.about] == ["2.1", "2.2"]


def test_numbers_are_as_json_has_them():
    assert number(torch.tensor(0.25, dtype=torch.float64)) == 0.25
    assert number(float("nan")) is None
