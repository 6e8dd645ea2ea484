"""What an attack did to each image, against figures worked out by hand."""

import math

import pytest
import torch

from robustseg.attacks import DAG, PGD, AttackResult, PureClass, Targeted
from robustseg.evaluation import AttackRecord, Card, Evaluator, MemorySink
from robustseg.evaluation.record import image_figures
from robustseg.evaluation.results import distances_table, scores_table
from tests.evaluation.report.cards import small_card
from tests.helpers.tables import texts


def result(images: torch.Tensor, sizes: list[float], forwards: list[int]) -> AttackResult:
    """Image b is changed by sizes[b] in two of its numbers."""
    images_adv = images.clone()
    for b, size in enumerate(sizes):
        images_adv[b, 0, 0, 0] += size
        images_adv[b, 2, 1, 1] -= size
    counts = torch.tensor(forwards)
    return AttackResult(images_adv, counts, counts - 1, torch.ones(len(images), dtype=torch.bool))


@pytest.fixture
def record() -> AttackRecord:
    """Five images of 20×10 pixels in two batches: fooled to 100 %, 99 %, 98.5 %; without valid pixels; 99 % of the
    valid ones."""
    images = torch.full((5, 3, 20, 10), 0.5, dtype=torch.float64)
    targets = torch.zeros(5, 20, 10, dtype=torch.long)
    predictions = torch.ones_like(targets)
    predictions[1].view(-1)[:2] = 0
    predictions[2].view(-1)[:3] = 0
    targets[3] = 255
    targets[4, 10:] = 255
    predictions[4].view(-1)[:1] = 0
    sizes, forwards = [0.1, 0.3, 0.01, 0.0, 0.2], [11, 21, 31, 1, 5]
    filled = AttackRecord()
    for part in (slice(0, 3), slice(3, 5)):
        of = result(images[part], sizes[part], forwards[part])
        filled.update(image_figures(of, images[part], predictions[part], targets[part], 6.0))
    return filled


def test_figures(record: AttackRecord):
    figures = record.compute()
    assert float(figures["forwards"]) == pytest.approx((11 + 21 + 31 + 1 + 5) / 5)
    assert float(figures["backwards"]) == pytest.approx((10 + 20 + 30 + 0 + 4) / 5)
    assert float(figures["seconds"]) == pytest.approx(12 / 5)
    assert int(figures["without_valid_pixels"]) == 1
    assert float(figures["fooled_share"]) == pytest.approx(3 / 4)
    assert float(figures["fooled_linf"]) == pytest.approx(0.2)
    assert float(figures["fooled_l2"]) == pytest.approx(0.2 * math.sqrt(2))
    assert float(figures["rms_max"]) == pytest.approx(float(figures["l2_max"]) / math.sqrt(3 * 20 * 10))


def test_median_of_an_even_number_and_of_none():
    images = torch.full((2, 3, 4, 4), 0.5)
    targets = torch.zeros(2, 4, 4, dtype=torch.long)
    record = AttackRecord()
    record.update(image_figures(result(images, [0.1, 0.2], [2, 2]), images, targets + 1, targets, 1.0))
    assert float(record.compute()["fooled_linf"]) == pytest.approx(0.15)
    record = AttackRecord()
    record.update(image_figures(result(images, [0.1, 0.2], [2, 2]), images, targets, targets, 1.0))
    assert math.isnan(record.compute()["fooled_linf"])
    assert float(record.compute()["fooled_share"]) == 0


def test_threshold_is_the_attacks_own():
    torch.manual_seed(0)
    model = torch.nn.Conv2d(3, 4, 1)
    images = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        targets = model(images).argmax(1)
    sink = MemorySink()
    attacks = {"half": DAG(success=0.5, steps=200), "all": DAG(steps=1)}
    Evaluator(attacks, 4, sink).update(model, ["a", "b"], images, targets)
    scores = sink.compute()
    assert float(scores["half"]["fooled_share"]) == 1
    assert 0.4 < float(scores["half"]["pixel_acc"]) <= 0.5
    assert float(scores["all"]["fooled_share"]) == 0


def test_success_of_a_target_map():
    torch.manual_seed(0)
    model = torch.nn.Conv2d(3, 4, 1)
    images = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        targets = model(images).argmax(1)
    targets[:, 0] = 255
    aimed = Targeted(PGD(eps=1, step_size="1/8", steps=30, targeted=True), PureClass(2))
    sink = MemorySink()
    Evaluator({"aimed": aimed, "pgd": PGD(steps=1)}, 4, sink).update(model, ["a", "b"], images, targets)
    seen = sink.seen["aimed"]
    counted = (targets != 255) & (targets != 2)
    expected = [float((seen.predictions[b] == 2)[counted[b]].double().mean()) for b in range(2)]
    scores = sink.compute()
    assert float(scores["aimed"]["target_success"]) == pytest.approx(sum(expected) / 2)
    assert sum(expected) > 0
    assert math.isnan(float(scores["pgd"]["target_success"]))
    assert "target_success" in headers(scores)
    del scores["aimed"]
    assert "target_success" not in headers(scores)


def test_evaluator_reports_costs_and_distances():
    torch.manual_seed(0)
    model = torch.nn.Conv2d(3, 4, 1)
    images = torch.rand(3, 3, 8, 8)
    with torch.no_grad():
        targets = model(images).argmax(1)
    targets[2] = 255
    attacks = {"pgd": PGD(steps=4), "dag": DAG(steps=3)}
    sink = MemorySink()
    Evaluator(attacks, 4, sink).update(model, ["a", "b", "c"], images, targets)
    scores = sink.compute()
    # The third image is not attacked.
    assert float(scores["pgd"]["forwards"]) == pytest.approx(8 / 3)
    assert int(scores["pgd"]["without_valid_pixels"]) == 1
    assert float(scores["pgd"]["seconds"]) > 0
    assert "forwards" not in scores["clean"]
    card = card_of(scores, attacks)
    assert len(scores_table(card).rows) == 3
    # how far an attack went is a figure of attacks without a bound
    assert len(distances_table(card).rows) == 1
    assert distances_table(card_of(scores, {"pgd": attacks["pgd"]})) is None


def test_tables_show_attacks_that_could_not_run_and_figures_that_are_not_there():
    row = {"pixel_acc": None, "miou": 0.25, "image_miou": 0.5, "mean_acc": 0.125, "forwards": 3.0, "backwards": 2.0}
    attacks = {"pgd": row | {"settings": {"eps": "8/255"}, "error": None}, "cw": {"settings": {}, "error": "why"}}
    card = small_card(clean=row, attacks=attacks, worst_case=None)
    rows = [row[:3] for row in texts(scores_table(card))]
    assert rows == [["clean", "–", "25.00"], ["pgd", "–", "25.00"], ["cw", "could not run: why"]]
    assert distances_table(card) is None


def card_of(scores, attacks) -> Card:
    rows = {
        name: {key: None if value.isnan() else float(value) for key, value in row.items() if value.numel() == 1}
        for name, row in scores.items()
    }
    for row in rows.values():
        del row["images"]
    described = {name: {"settings": attack.describe(), "error": None} for name, attack in attacks.items()}
    found = {name: rows[name] | about for name, about in described.items()}
    return small_card(clean=rows["clean"], attacks=found, worst_case=None)


def headers(scores) -> list[str]:
    card = card_of(scores, {name: PGD() for name in scores if name != "clean"})
    return scores_table(card).headings
