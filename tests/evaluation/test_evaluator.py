from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from robustseg.attacks import PGD, AttackError, CosPGD, SegPGD
from robustseg.evaluation import (
    CLEAN,
    Evaluator,
    Example,
    MemorySink,
    draw_panel,
    full_precision,
)
from robustseg.evaluation.attack_stage import AttackStage
from robustseg.metrics import confusion_matrix, miou


@pytest.fixture
def model():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)).double()
    # Random nets predict one class everywhere unless their input is centred.
    net[0].bias.data = -0.5 * net[0].weight.data.sum((1, 2, 3))
    net[3].bias.data.zero_()
    return net


@pytest.fixture
def data(model):
    """Mostly what the model predicts on the clean images, so that attacks have something to break."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(7, 3, 10, 10, dtype=torch.double, generator=generator)
    with torch.no_grad():
        targets = model.eval()(images).argmax(1)
    targets[:, :, 8] = torch.randint(0, 4, (7, 10), generator=generator)
    targets[:, 0] = 255
    return [f"id{index}" for index in range(7)], images, targets


BIG = {"eps": "64/255", "step_size": "32/255", "steps": 3}  # a random net needs a push
ATTACKS = {"pgd3": PGD(**BIG), "cospgd3": CosPGD(**BIG, random_start=False)}


def evaluate(model, data, sizes, order=None):
    ids, images, targets = data
    order = list(range(7)) if order is None else order
    sink, seen, start = MemorySink(), [], 0
    evaluator = Evaluator(ATTACKS, 4, sink, seed=5)
    for size in sizes:
        part = order[start : start + size]
        evaluator.update(model, [ids[i] for i in part], images[part], targets[part])
        seen.append(sink.seen)
        start += size
    return sink.compute(), seen


def test_scores_are_those_of_the_adversarial_examples(model, data):
    scores, seen = evaluate(model, data, [4, 3])
    assert list(scores) == [CLEAN, "pgd3", "cospgd3"]
    for name in scores:
        images = torch.cat([batch[name].images_adv for batch in seen])
        with torch.no_grad():
            predictions = model.eval()(images).argmax(1)
        expected = confusion_matrix(predictions, data[2], 4).sum(0)
        assert float(scores[name]["miou"]) == pytest.approx(float(miou(expected)))
        assert int(scores[name]["images"]) == 7
    assert float(scores["pgd3"]["pixel_acc"]) < float(scores[CLEAN]["pixel_acc"])


@pytest.mark.parametrize(("sizes", "order"), [([7], None), ([1] * 7, None), ([2, 5], [6, 3, 0, 1, 5, 2, 4])])
def test_figures_do_not_depend_on_batches_or_order(model, data, sizes, order):
    first, _ = evaluate(model, data, [4, 3])
    second, _ = evaluate(model, data, sizes, order)
    for name in first:
        for figure in ("miou", "pixel_acc", "image_miou", "class_iou"):
            torch.testing.assert_close(first[name][figure], second[name][figure], equal_nan=True)


def test_the_model_is_scored_in_eval_mode_and_left_in_its_own(model, data):
    model.train()
    before = model[1].running_mean.clone()
    scores, _ = evaluate(model, data, [7])
    assert model.training
    assert torch.equal(model[1].running_mean, before)
    model.eval()
    again, _ = evaluate(model, data, [7])
    assert float(scores["pgd3"]["miou"]) == float(again["pgd3"]["miou"])


def test_autocast_around_the_evaluation_does_not_reach_it(model, data):
    model.float()
    data = (data[0], data[1].float(), data[2])
    plain, seen = evaluate(model, data, [7])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, seen_inside = evaluate(model, data, [7])
    assert torch.equal(seen[0]["pgd3"].images_adv, seen_inside[0]["pgd3"].images_adv)
    assert float(plain["pgd3"]["miou"]) == float(inside["pgd3"]["miou"])


def test_full_precision_is_undone_after_an_exception():
    torch.set_float32_matmul_precision("medium")
    try:
        with pytest.raises(KeyError), full_precision():
            assert torch.get_float32_matmul_precision() == "highest"
            raise KeyError
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_stage_shows_every_attack_and_its_steps(model, data, monkeypatch):
    seen = []
    stage = AttackStage(ATTACKS)
    stage.plan([["clean", *ATTACKS]] * len(data[0]))
    note = stage.step
    monkeypatch.setattr(stage, "step", lambda step: [note(step), seen.append(stage.parts())])
    Evaluator(ATTACKS, 4, MemorySink()).update(model, *data, stage)
    images = f"images 0/{len(data[0])}"
    assert seen == [
        [f"attack {place}/{len(ATTACKS)} {name}", f"step {step}/3", images]
        for place, name in enumerate(ATTACKS, 1)
        for step in (1, 2, 3)
    ]
    assert stage.parts()[-1] == f"images {len(data[0])}/{len(data[0])}"


def test_nothing_watches_the_steps_without_a_stage(model, data, monkeypatch):
    """An observer keeps the logits of a step in memory."""
    observers = []
    run = PGD.run
    monkeypatch.setattr(
        PGD, "run", lambda self, *args, on_step, **given: [observers.append(on_step), run(self, *args, **given)][1]
    )
    Evaluator({"pgd": PGD(steps=1)}, 4, MemorySink()).update(model, *data)
    assert observers == [None]


def test_clean_is_not_a_name_for_an_attack():
    with pytest.raises(ValueError, match="clean"):
        Evaluator({"clean": PGD()}, 4, MemorySink())


def test_a_model_without_gradient_is_refused(data):
    with pytest.raises(AttackError, match="autograd"):
        Evaluator(ATTACKS, 4, MemorySink()).update(lambda x: x.detach().repeat(1, 2, 1, 1)[:, :4], *data)


def test_panel_shows_image_perturbation_and_predictions():
    palette = [(255, 0, 0), (0, 255, 0)]
    image, target = torch.zeros(3, 20, 30), torch.zeros(20, 30).long()
    target[:, 15:] = 1
    target[0] = 255
    image_adv = image.clone()
    image_adv[0, :10] = 8 / 255
    panel = draw_panel([Example("x", image, image_adv, target, target, 1 - target.clamp_max(1))] * 2, palette)
    assert panel.size == (6 * 30 + 5 * 4, 16 + 2 * 20 + 4)
    column = 30 + 4

    def pixel(index, x, y, row=0):
        return panel.getpixel((index * column + x, 16 + row * 24 + y))

    assert pixel(0, 5, 5) == (0, 0, 0)
    assert pixel(1, 5, 5) == (255, 128, 128)  # the perturbed channel at full amplitude, others mid-grey
    assert pixel(1, 5, 15) == (128, 128, 128)
    assert pixel(2, 5, 5) == (8, 0, 0)
    assert pixel(3, 5, 0) == (0, 0, 0)  # ignored
    assert pixel(3, 5, 5) == (255, 0, 0)
    assert pixel(4, 20, 5) == (0, 255, 0)
    assert pixel(5, 20, 5, row=1) == (255, 0, 0)


def test_panel_takes_images_of_different_sizes():
    examples = []
    for height, width in ((20, 30), (10, 40)):
        image, ids = torch.rand(3, height, width), torch.zeros(height, width).long()
        examples.append(Example("x", image, image, ids, ids, ids))
    assert draw_panel(examples, [(255, 0, 0)]).size == (6 * 40 + 5 * 4, 16 + 20 + 4 + 10)


def test_attacks_are_described_by_plain_values():
    json.dumps(SegPGD(norm="l2", eps=0.5, schedule="log").describe())
