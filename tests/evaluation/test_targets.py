"""Evaluations against the model's own clean predictions: what is measured, and that everything says so."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from robustseg.attacks import (
    FGSM,
    PGD,
    DeepFool,
    NoiseSource,
    PureClass,
    Targeted,
    ThreatModel,
    Universal,
    UniversalDelta,
)
from robustseg.callbacks import RobustnessEvaluation
from robustseg.detectors import ScaleConsistency
from robustseg.evaluation import EvaluationError, Evaluator, MemorySink, full_precision, read_card
from robustseg.evaluation.report import (
    ReportError,
    build_leaderboard,
    leaderboard_csv,
    leaderboard_html,
    leaderboard_latex,
    leaderboard_markdown,
    report_html,
    report_markdown,
)
from robustseg.evaluation.results import scores_table, tables_of
from robustseg.evaluation.table import to_csv, to_latex
from robustseg.metrics import confusion_matrix, miou, pixel_acc
from robustseg.types import IGNORE_INDEX
from tests.evaluation.benchmark.tiny import ATTACKS, card_of, measure, tiny_benchmark, tiny_data, toy_model

MARK = "own clean predictions"


class NoMasks(type(tiny_data())):
    """Scenes whose masks nobody has drawn."""

    labelled = False

    def make_dataset(self, split):
        dataset = super().make_dataset(split)
        read = dataset.read
        dataset.read = lambda index: (read(index)[0], read(index)[1] * 0 + IGNORE_INDEX)
        return dataset


def unlabelled(**changes):
    return NoMasks(**{"image_size": (32, 32), "test_length": 5, "val_batch_size": 3, "num_workers": 0} | changes)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own") / "out"
    benchmark = tiny_benchmark(targets="predictions", check_images=2)
    measure(benchmark, folder)
    return folder


def test_figures_are_those_of_attacks_on_the_clean_answer(evaluated):
    """By hand: predict, attack the prediction, compare with it; every pixel counts."""
    model, data = toy_model(), tiny_data()
    dataset = data.dataset("test")
    found = read_card(evaluated)
    for name, attack in ATTACKS.items():
        total = torch.zeros(7, 7, dtype=torch.long)
        for start in range(0, len(dataset), 3):
            samples = [dataset[index] for index in range(start, min(start + 3, len(dataset)))]
            images = torch.stack([sample.image for sample in samples])
            noise = NoiseSource.for_samples((0, attack.seed), [sample.id for sample in samples], images.device)
            with full_precision(), torch.no_grad():
                own = model(images).argmax(1)
                after = model(attack(model, images, own, generator=noise)).argmax(1)
            total += confusion_matrix(after, own, 7).sum(0)
        row = found.attacks[name]
        assert row["pixel_acc"] == pytest.approx(float(pixel_acc(total)), abs=1e-12)
        assert row["miou"] == pytest.approx(float(miou(total)), abs=1e-12)
        assert int(total.sum()) == len(dataset) * 32 * 32
    for key in ("pixel_acc", "miou", "mean_acc", "image_miou"):
        assert found.clean[key] == 1


def test_labels_take_no_part(evaluated, tmp_path):
    """The card of data without masks is the same but for the digest of the data, and so are the checks of the model."""
    measure(tiny_benchmark(targets="predictions", check_images=2, data=unlabelled(test_length=11)), tmp_path)
    with_labels, without = card_of(evaluated), card_of(tmp_path)
    for card in (with_labels, without):
        del card["data"]["sha256"]
        card["data"]["name"] = ""
    assert without == with_labels


def test_everything_says_so(evaluated):
    card = read_card(evaluated)
    assert card_of(evaluated)["protocol"]["targets"] == "predictions"
    assert json.loads((evaluated / "protocol.json").read_text())["targets"] == "predictions"
    assert MARK in scores_table(card).title
    assert "by construction" in " ".join(scores_table(card).notes)
    for line in to_csv(scores_table(card)).splitlines()[1:]:
        assert ",predictions," in line
    assert MARK in to_latex(scores_table(card))
    for text in (report_html(card), report_markdown(card), (evaluated / "card.md").read_text()):
        assert text.count(MARK) >= 2
        assert "by construction" in text.replace("\n", " ")
        assert "ground truth" not in text
    assert "own answer" in (evaluated / "report.html").read_text()
    flag = next(flag for flag in card.flags if flag.number == 2)
    assert (flag.verdict, "own predictions" in flag.line) == ("not checked", True)


def test_a_model_that_always_says_the_same_is_not_called_robust(tmp_path):
    model = toy_model()
    with torch.no_grad():
        model.network.head.bias[3] += 1e3
    measure(tiny_benchmark(model=model, targets="predictions", attacks={"fgsm": FGSM()}, check_images=2), tmp_path)
    card = read_card(tmp_path)
    assert card.attacks["fgsm"]["miou"] == 1
    assert card.verdict == "unreliable"
    assert f"clean answer is {tiny_data().class_names[3]} everywhere" in card.flags[1].line


def test_labels_are_not_marked(tmp_path):
    measure(tiny_benchmark(attacks={"fgsm": FGSM()}), tmp_path)
    card = read_card(tmp_path)
    assert card.protocol.targets == "labels"
    assert "targets" not in json.loads((tmp_path / "protocol.json").read_text())  # the digest is that of before
    for table in tables_of(card):
        assert MARK not in table.title
    assert "targets" not in scores_table(card).headings
    assert MARK not in report_html(card) + report_markdown(card)


@pytest.fixture(scope="module")
def both(evaluated, tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels") / "out"
    measure(tiny_benchmark(model=toy_model(1), checkpoint={"path": "b.ckpt", "sha256": "1" * 64}), folder)
    return {"own": read_card(evaluated), "labels": read_card(folder)}


def test_a_leaderboard_never_ranks_the_two_together(both):
    with pytest.raises(ReportError, match=r"protocol\.targets: own: predictions; labels: labels"):
        build_leaderboard(both)
    board = build_leaderboard(both, group=True)
    assert [len(table.entries) for table in board.tables] == [1, 1]
    for text in (
        leaderboard_html(board),
        leaderboard_markdown(board),
        leaderboard_csv(board),
        leaderboard_latex(board),
    ):
        assert text.count(MARK) >= 1
        assert text.count("against own predictions") == 1


@pytest.mark.parametrize("first", ["labels", "predictions"])
def test_a_folder_of_the_other_kind_is_refused(tmp_path, first):
    second = {"labels": "predictions", "predictions": "labels"}[first]
    measure(tiny_benchmark(targets=first, attacks={"fgsm": FGSM()}), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(EvaluationError, match=rf'targets: "{first}" there, "{second}" here'):
        measure(tiny_benchmark(targets=second, attacks={"fgsm": FGSM()}), tmp_path)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert tiny_benchmark(targets=first).name != tiny_benchmark(targets=second).name


def test_an_interrupted_one_goes_on(evaluated, tmp_path):
    folder = shutil.copytree(evaluated, tmp_path / "out")
    stream = next((folder / "records").iterdir())
    stream.write_bytes(stream.read_bytes()[: stream.stat().st_size // 2])
    with pytest.warns(UserWarning, match="incomplete"):
        measure(tiny_benchmark(targets="predictions", check_images=2), folder)
    assert card_of(folder) == card_of(evaluated)


@pytest.mark.parametrize("asked", [["labels", "predictions"], "both", None, "Predictions"], ids=str)
def test_one_of_the_two_is_chosen(asked):
    with pytest.raises(ValueError, match=r"robustness.targets = .*choose one of labels and predictions") as caught:
        RobustnessEvaluation(targets=asked)
    with pytest.raises(EvaluationError, match=r"choose one of labels and predictions"):
        tiny_benchmark(targets=asked)
    assert "\n" not in str(caught.value)


def test_data_without_masks_have_no_labels_to_measure_against():
    with pytest.raises(EvaluationError, match=r"have no masks.*robustness\.targets to predictions"):
        tiny_benchmark(data=unlabelled())


def test_an_ignored_label_that_is_a_class_is_refused():
    with pytest.raises(EvaluationError, match="every pixel, but ignore_index = 3 is one of the 7 classes"):
        tiny_benchmark(targets="predictions", attacks={"pgd": PGD(ignore_index=3)})
    with pytest.raises(ValueError, match="ignore_index = 0 is one of"):
        Evaluator({"fgsm": FGSM()}, 7, MemorySink(), ignore_index=0, targets="predictions")


def test_targeted_universal_and_minimum_norm_attacks_and_detectors_work(tmp_path):
    threat = ThreatModel("8/255")
    UniversalDelta(torch.full((3, 32, 32), 4 / 255), threat, "1/255", 1, "CE", False, None, 0).save(tmp_path / "delta")
    attacks = {
        "targeted": Targeted(PGD(steps=2, targeted=True), PureClass(2)),
        "universal": Universal(tmp_path / "delta"),
        "minimum": DeepFool(steps=2),
    }
    benchmark = tiny_benchmark(
        targets="predictions",
        attacks=attacks,
        data=unlabelled(train_length=4),
        detectors={"scale": ScaleConsistency(1.0)},
        threshold_images=3,
    )
    measure(benchmark, tmp_path / "out")
    card = read_card(tmp_path / "out")
    assert not any(row.error for row in card.attacks.values())
    assert card.attacks["targeted"]["target_success"] is not None
    assert card.detectors["scale"].attacks["targeted"].auc is not None


def test_the_answer_does_not_depend_on_the_mode_of_the_model():
    model = toy_model()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    results = []
    for training in (False, True):
        sink = MemorySink()
        evaluator = Evaluator({"fgsm": FGSM()}, 7, sink, targets="predictions")
        evaluator.update(model.train(training), ["a", "b"], images, torch.zeros(2, 32, 32).long())
        assert model.training == training
        results.append({key: float(value) for key, value in sink.compute()["fgsm"].items() if key.endswith("acc")})
    assert results[0] == results[1]
    assert float(sink.compute()["clean"]["pixel_acc"]) == 1


@pytest.mark.parametrize("attack", [PGD(ignore_index=0), Targeted(PGD(targeted=True, ignore_index=3), PureClass(1))])
def test_an_attack_that_ignores_other_labels_than_the_data_is_refused(attack):
    """It would spare a class that is scored, and look weak."""
    with pytest.raises(EvaluationError, match=r"robustness\.attacks\.mine: ignore_index = \d, but the data ignore 255"):
        tiny_benchmark(attacks={"mine": attack})
