"""Traces of attacks against loops over pixels, and the study made of them."""

from __future__ import annotations

import pytest
import torch

from robustseg.attacks import APGD, CW, DS, MIFGSM, NIFGSM, PGD, TIFGSM, SegPGD
from robustseg.evaluation.benchmark import Shard
from robustseg.evaluation.store import read_records, streams
from robustseg.evaluation.trace import Traced
from robustseg.studies import Answering, Convergence, StudyError, run_study
from tests.evaluation.benchmark.tiny import measured, quiet_trainer, tiny_benchmark, tiny_data, toy_model
from tests.studies.reference import attacked, full_size, images_of, losses

DATA = tiny_data(test_length=4)


def iterates(model, attack, sample, image, target):
    """The images before each step, and the result."""
    seen = []
    last = attacked(model, attack, sample, image, target, on_step=lambda step: seen.append(step.images_adv.clone()))
    return [*seen, last]


def test_rows_are_losses_of_the_iterates(tmp_path):
    study = Convergence({"pgd": PGD(), "segpgd": SegPGD()}, 3)
    of = tiny_benchmark(data=DATA)
    result = run_study(quiet_trainer(tmp_path), of, study, tmp_path)
    rows = {(row["attack"], row["step"]): row for row in result.rows}
    assert list(rows) == [(name, step) for name in ("pgd", "segpgd") for step in range(4)]
    for name, attack in (("pgd", PGD(steps=3)), ("segpgd", SegPGD(steps=3))):
        answer, totals = full_size(of.model), [[0.0] * 4 for _ in range(4)]
        for sample, image, target in images_of(DATA):
            for step, images_adv in enumerate(iterates(of.model, attack, sample, image, target)):
                found = losses(answer(images_adv)[0], target[0])
                totals[step] = [total + value for total, value in zip(totals[step], found, strict=True)]
        for step, (valid, wrong, tloss, floss) in enumerate(totals):
            row = rows[name, step]
            assert row["misratio"] == wrong / valid
            assert row["tloss"] == pytest.approx(tloss / valid, rel=1e-5)
            assert row["floss"] == pytest.approx(floss / valid, rel=1e-5)
            assert row["floss_share"] == pytest.approx(floss / (tloss + floss), rel=1e-5)
    assert rows["pgd", 0]["misratio"] == rows["segpgd", 0]["misratio"] != rows["pgd", 3]["misratio"]
    assert [plot.title for plot in result.plots] == ["MisRatio", "TLoss", "FLoss", "Share of FLoss in the loss"]


def test_traces_survive_an_interruption(tmp_path):
    study, of = Convergence({"pgd": PGD()}, 2), tiny_benchmark(data=DATA)
    whole = run_study(quiet_trainer(tmp_path / "whole"), of, study, tmp_path / "whole")
    half = tiny_benchmark(data=DATA, shard=Shard(1, 2))
    assert run_study(quiet_trainer(tmp_path / "cut"), half, study, tmp_path / "cut") is None
    # a torn end is measured again
    (path,) = (tmp_path / "cut" / "records").iterdir()
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.warns(UserWarning, match="incomplete"):
        assert run_study(quiet_trainer(tmp_path / "cut"), of, study, tmp_path / "cut").rows == whole.rows
    assert set(measured(tmp_path / "whole").values()) == {1}


def test_records_hold_the_trace_and_notice_damage(tmp_path):
    of = tiny_benchmark(data=DATA)
    run_study(quiet_trainer(tmp_path), of, Convergence({"pgd": PGD()}, 2), tmp_path)
    (stream,) = streams(tmp_path)
    records = {(record.sample, record.attack): record for record in read_records(stream)}
    trace = records[of.samples[0], "pgd2 traced"].values.view(3, 4)
    assert records[of.samples[0], "clean"].values is None
    content = stream.path.read_bytes()
    place = content.index(trace[1].numpy().tobytes())
    stream.path.write_bytes(content[:place] + b"\1" + content[place + 1 :])
    with pytest.warns(UserWarning, match="checksum"):
        assert len(list(read_records(stream))) < len(records)


def test_a_trace_changes_nothing(tmp_path):
    model, targets = toy_model(), torch.randint(0, 7, (3, 8, 8))
    images = torch.rand(3, 3, 8, 8)
    targets[0] = 255
    steps = []
    result = Traced(PGD(steps=2)).run(model, images, targets, on_step=lambda step: steps.append(step.step))
    alone = PGD(steps=2).run(model, images, targets)
    assert torch.equal(result.images_adv, alone.images_adv)
    assert steps == [1, 2]
    assert result.forwards.tolist() == [count + 1 for count in alone.forwards.tolist()]
    assert result.backwards.tolist() == alone.backwards.tolist()
    # nothing to attack in the first image; the others stand in their own rows
    assert not result.trace[0].any()
    logits = full_size(model)(result.images_adv)
    for row in (1, 2):
        expected = losses(logits[row], targets[row])
        assert result.trace[row, -1].tolist() == pytest.approx(expected, rel=1e-5)
    assert Traced(PGD(steps=2)).describe() == {**PGD(steps=2).describe(), "traced": True}


def test_without_a_budget_every_iterate_is_the_image():
    images, targets = torch.rand(1, 3, 8, 8), torch.randint(0, 7, (1, 8, 8))
    trace = Traced(PGD(eps=0, steps=2)).run(toy_model(), images, targets).trace
    assert trace[:, 0].all()
    assert torch.equal(trace[:, 0], trace[:, 2])
    assert torch.equal(trace[:, 1], trace[:, 2])


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (CW(), "has no steps to trace"),
        (APGD(), "not one run to its last iterate"),
        (PGD(restarts=2), "not one run to its last iterate"),
        (DS(steps=2), "takes its gradients elsewhere"),
        (NIFGSM(), "takes its gradients elsewhere"),
    ],
)
def test_what_cannot_be_traced(attack, message):
    with pytest.raises(ValueError, match=message):
        Traced(attack)


def test_momentum_and_smoothing_can_be_traced():
    assert Traced(MIFGSM()).threat is not None
    assert Traced(TIFGSM()).threat is not None


def test_other_models_have_no_trace(tmp_path):
    other = [Answering("other", "key", toy_model(1))]
    with pytest.raises(StudyError, match="leave --models out"):
        run_study(quiet_trainer(tmp_path), tiny_benchmark(data=DATA), Convergence({"pgd": PGD()}, 1), tmp_path,
                  targets=other)  # fmt: skip
