"""Curves and ablations: the figures are those of the attacks run one by one."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import pytest
import torch

from robustseg.attacks import APGD, BIM, DS, FGSM, MIFGSM, PGD, TIFGSM, CosPGD, SegPGD
from robustseg.evaluation import EvaluationError
from robustseg.evaluation.benchmark import Shard, run_benchmark
from robustseg.studies import (
    Answering,
    DynamicScaleAblation,
    EpsCurve,
    ScheduleAblation,
    StepCurve,
    run_study,
)
from robustseg.studies.vary import with_eps, with_steps
from tests.evaluation.benchmark.tiny import interrupted, measured, quiet_trainer, tiny_benchmark, tiny_data, toy_model
from tests.studies.reference import attacked, full_size, scores

ONLY_FOUR = {"data": tiny_data(test_length=4)}
FIGURES = ("pixel_acc", "mean_acc", "miou", "image_miou")


def study_of(study, folder, **options):
    benchmark = tiny_benchmark(**(ONLY_FOUR | options.pop("benchmark", {})))
    return run_study(quiet_trainer(folder), benchmark, study, folder, **options), benchmark


def assert_row(row, model, attack, data, shown_to=None):
    answer = full_size(shown_to or model)
    expected = scores(
        data, lambda *sample: answer(sample[1] if attack is None else attacked(model, attack, *sample)), 7
    )
    assert {key: row[key] for key in FIGURES} == pytest.approx(expected, abs=1e-12)


def test_step_curve_is_each_attack_on_its_own(tmp_path):
    attacks = {"pgd": PGD(steps=99), "segpgd": SegPGD(steps=99)}
    result, of = study_of(StepCurve(attacks, [3, 1]), tmp_path)
    rows = result.rows
    assert [(row["attack"], row["steps"]) for row in rows] == [
        ("clean", None), ("pgd", 1), ("pgd", 3), ("segpgd", 1), ("segpgd", 3),
    ]  # fmt: skip
    assert_row(rows[0], of.model, None, of.data)
    for row, attack in zip(rows[1:], [PGD(steps=1), PGD(steps=3), SegPGD(steps=1), SegPGD(steps=3)], strict=True):
        assert_row(row, of.model, attack, of.data)
        assert row["backwards"] == row["forwards"] == row["steps"]
    assert len({row["miou"] for row in rows}) == len(rows)
    low, high = rows[1]["confidence"]["miou"]
    assert low <= high


def test_targets_answer_to_the_same_images(tmp_path):
    other = toy_model(1)
    targets = [Answering("other", "key", other)]
    result, of = study_of(StepCurve({"bim": BIM()}, [2]), tmp_path, targets=targets, attacked="own")
    rows = {(row["model"], row["attack"]): row for row in result.rows}
    assert_row(rows["own", "bim"], of.model, BIM(steps=2), of.data)
    assert_row(rows["other", "bim"], of.model, BIM(steps=2), of.data, other)
    assert_row(rows["other", "clean"], other, None, of.data)
    assert "model" in result.columns
    assert len(result.plots) == 4


def test_records_are_shared_with_evaluations_and_never_measured_twice(tmp_path):
    pgd2 = {"pgd2": PGD(steps=2)}
    run_benchmark(quiet_trainer(tmp_path), tiny_benchmark(**ONLY_FOUR, attacks=pgd2), tmp_path)
    before = measured(tmp_path)
    study_of(StepCurve({"pgd": PGD()}, [2, 3]), tmp_path)
    # the attack as it was given, within an ε curve, has its own name
    study_of(EpsCurve({"pgd2": PGD(steps=2)}, ["0", "4/255", "8/255"]), tmp_path)
    # a baseline of equal weights is PGD
    study_of(ScheduleAblation(["baseline", "linear"], [2]), tmp_path)
    after = measured(tmp_path)
    assert set(after.values()) == {1}
    assert {name for _, name in set(after) - set(before)} == {"pgd3", "pgd2 eps 4/255", "segpgd2"}


def test_interrupted_studies_go_on_and_write_the_same_bytes(tmp_path, monkeypatch):
    study = StepCurve({"pgd": PGD(), "cospgd": CosPGD()}, [1, 2])
    study_of(study, tmp_path / "whole")
    with interrupted(monkeypatch, 4):
        study_of(study, tmp_path / "cut")
    assert not (tmp_path / "cut" / "study_step_curve.json").exists()
    study_of(study, tmp_path / "cut")
    assert set(measured(tmp_path / "cut").values()) == {1}
    for ending in ("json", "md", "svg", "html"):
        name = f"study_step_curve.{ending}"
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_shards_make_one_study(tmp_path, capsys):
    study = StepCurve({"pgd": PGD()}, [1])
    data = {"data": tiny_data(test_length=5, val_batch_size=2)}
    first, _ = study_of(study, tmp_path, benchmark={**data, "shard": Shard(1, 2)})
    assert first is None
    assert "shard 1/2 is done" in capsys.readouterr().out
    second, of = study_of(study, tmp_path, benchmark={**data, "shard": Shard(2, 2)})
    assert_row(second.rows[1], of.model, PGD(steps=1), of.data)


def test_changed_attack_of_the_same_name_is_refused(tmp_path):
    study_of(StepCurve({"pgd": PGD()}, [1]), tmp_path)
    with pytest.raises(EvaluationError, match=r"pgd1 with other settings \(eps: \"8/255\" there, \"4/255\" here"):
        study_of(StepCurve({"pgd": PGD(eps="4/255")}, [1]), tmp_path)


def test_eps_curve(tmp_path):
    study = EpsCurve({"pgd2": PGD(steps=2), "fgsm": FGSM()}, ["8/255", "0", "1"])
    result, of = study_of(study, tmp_path)
    rows = {(row["attack"], row["eps"]): row for row in result.rows}
    assert list(rows)[1:4] == [("pgd2", "0"), ("pgd2", "8/255"), ("pgd2", "1")]
    assert rows["pgd2", "0"]["miou"] == rows["clean", None]["miou"]
    # α grows as ε does: 0.01 at 8/255 is 0.31875 at 1
    assert_row(rows["pgd2", "1"], of.model, PGD(eps=1, step_size=0.31875, steps=2), of.data)
    assert_row(rows["fgsm", "1"], of.model, FGSM(eps=1), of.data)
    assert_row(rows["pgd2", "8/255"], of.model, PGD(steps=2), of.data)
    constant = EpsCurve({"pgd2": PGD(steps=2), "fgsm": FGSM()}, ["1"], "constant").attacks()
    assert constant["pgd2 eps 1"].describe() == PGD(eps=1, steps=2).describe()
    assert constant["fgsm eps 1"].describe() == FGSM(eps=1).describe()


def test_schedules_are_those_of_the_paper():
    study = ScheduleAblation(["linear", "log", "exp", 0.1, "only-correct", "baseline"], [4])
    attacks = {point.line: point.attack for point in study.points()}
    for step in range(1, 5):
        p = (step - 1) / 4
        expected = {"linear": p / 2, "log": math.log2(1 + p) / 2, "exp": (2**p - 1) / 2, "λ = 0.1": 0.1,
                    "only-correct": 0.0}  # fmt: skip
        for line, weight in expected.items():
            assert attacks[line].loss.weight_of_wrong(p) == pytest.approx(weight, abs=1e-15)
    assert attacks["baseline"].describe() == PGD(steps=4).describe()
    assert len(study.attacks()) == 6


def test_dynamic_scale_ablation(tmp_path):
    result, of = study_of(DynamicScaleAblation([0.5, 0.0], [2, 1]), tmp_path)
    rows = {(row["steps"], row["scale_range"]): row for row in result.rows}
    assert_row(rows["T = 2", 0.5], of.model, DS(steps=2, scale_range=0.5), of.data)
    # without a range of sizes it is the fixed scale
    assert_row(rows["T = 1", 0.0], of.model, BIM(eps=0.03, step_size=0.01, steps=1), of.data)
    assert [plot.title for plot in result.plots] == [
        "miou", "pixel_acc", "miou against steps", "pixel_acc against steps",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("attack", "twin"),
    [
        (SegPGD(schedule="exp"), SegPGD(steps=7, schedule="exp")),
        (APGD(loss=None), APGD(steps=7)),
        (MIFGSM(decay=0.5), MIFGSM(steps=7, decay=0.5)),
        (APGD(shrinking=True), APGD(steps=7, shrinking=True)),
    ],
)
def test_other_steps_are_the_constructors(attack, twin):
    varied = with_steps("name", attack, 7)
    assert varied.describe() == twin.describe()
    images, targets = torch.rand(2, 3, 8, 8), torch.randint(0, 7, (2, 8, 8))
    assert torch.equal(varied(toy_model(), images, targets), twin(toy_model(), images, targets))


@pytest.mark.parametrize(
    ("attack", "twin"),
    [
        (PGD(norm="l2", eps=2, step_size=0.5), PGD(norm="l2", eps=3, step_size=0.75)),
        (TIFGSM(eps="2/255", step_size="1/255"), TIFGSM(eps="3/255", step_size="3/510")),
        (APGD(eps="2/255"), APGD(eps="3/255")),
    ],
)
def test_other_eps_are_the_constructors(attack, twin):
    before = attack.describe()
    assert with_eps("name", attack, twin.threat.eps, relative=True).describe() == twin.describe()
    assert attack.describe() == before


def test_an_attack_that_cannot_run_has_no_figures(tmp_path):
    class Detached(torch.nn.Module):
        num_classes = 7

        def forward(self, images):
            return toy_model()(images).detach()

    from robustseg.models import SegmentationModel

    model = SegmentationModel(Detached(), mean=[0, 0, 0], std=[1, 1, 1])
    result, _ = study_of(StepCurve({"pgd": PGD()}, [1, 2]), tmp_path, benchmark={"model": model})
    row = result.rows[1]
    assert row["miou"] is None
    assert "gradient" in row["error"]
    assert "could not run" in (tmp_path / "study_step_curve.md").read_text()
    json.loads((tmp_path / "study_step_curve.json").read_text())


def test_exact_fractions_of_eps():
    assert with_eps("pgd", PGD(), Fraction(1, 255), True).step_rule.step_size == Fraction(1, 800)
