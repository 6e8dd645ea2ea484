"""Whole evaluations: shards, later attacks, other folders, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from robustseg.attacks import FGSM, PGD
from robustseg.evaluation import EvaluationError
from robustseg.evaluation.attack_stage import AttackStage
from robustseg.evaluation.benchmark import Shard, merge, run, run_benchmark
from robustseg.evaluation.pictures import PICTURES
from robustseg.evaluation.store import RECORDS
from tests.evaluation.benchmark.tiny import (
    ATTACKS,
    IMAGES,
    card_of,
    measure,
    measured,
    quiet_trainer,
    tiny_benchmark,
    tiny_data,
    toy_model,
    without_report,
)
from tests.helpers.cases import partly

COMPLETE = (1 + len(ATTACKS)) * IMAGES


@pytest.fixture(autouse=True)
def lean(monkeypatch):
    """Without the report, which takes most of the time and is tested elsewhere."""
    without_report(monkeypatch)


def evaluate(folder: Path, **changes):
    return measure(tiny_benchmark(**changes), folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of one process that measured everything, and probed the model."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        without_report(patch)
        evaluate(folder, check_images=1)
    return folder


def card_bytes(folder: Path) -> bytes:
    return (folder / "card.json").read_bytes()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_folder_holds_records_card_and_pictures(whole):
    assert {path.name for path in whole.iterdir()} >= {"protocol.json", RECORDS, "card.json", "card.md", PICTURES}
    assert set(measured(whole).values()) == {1}
    assert sum(measured(whole).values()) == COMPLETE
    card = card_of(whole)
    assert list(card["attacks"]) == list(ATTACKS)
    assert card["data"]["images"] == IMAGES
    assert card["checks"]["ids"] == ["test-000005"]
    assert (whole / "report.html").read_text() == "6"


def test_nothing_of_times_folders_and_machines_is_in_the_card(whole):
    text = (whole / "card.json").read_text()
    assert str(whole) not in text
    assert str(Path.home()) + "/" not in text
    assert "/tmp" not in text
    assert not re.search(r"20\d\d-\d\d|\d\d:\d\d:\d\d|seconds", text)
    keys = {"format", "model", "data", "protocol", "clean", "attacks", "worst_case", "checks", "flags", "verdict"}
    assert set(json.loads(text)) == keys | {"versions", "commit", "crc32"}


def test_another_folder_and_working_directory_give_the_same_bytes(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evaluate(Path("relative"), check_images=1)
    assert card_bytes(tmp_path / "relative") == card_bytes(whole)


def test_an_evaluation_that_is_complete_writes_the_same_again(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "copy")
    before = contents(tmp_path / "copy")
    evaluate(tmp_path / "copy", check_images=1)
    assert contents(tmp_path / "copy") == before


def test_the_probe_can_follow_later(whole, tmp_path):
    evaluate(tmp_path / "out")
    assert card_of(tmp_path / "out")["checks"] is None
    records = contents(tmp_path / "out" / RECORDS)
    evaluate(tmp_path / "out", check_images=1)
    assert contents(tmp_path / "out" / RECORDS) == records
    assert card_bytes(tmp_path / "out") == card_bytes(whole)


@pytest.mark.parametrize("size", partly([1, 4, 11], (4).__eq__))
def test_another_batch_size_gives_the_same_figures(whole, tmp_path, size):
    card = evaluate(tmp_path / "out", data=tiny_data(val_batch_size=size))
    expected = card_of(whole)
    assert card["protocol"]["batch_sizes"] == sorted({size, IMAGES % size or size})
    for name, row in {"clean": card["clean"], **card["attacks"]}.items():
        before = expected["clean"] if name == "clean" else expected["attacks"][name]
        for key in ("pixel_acc", "miou", "image_miou"):
            assert row[key] == pytest.approx(before[key], abs=2e-3)


def test_shards_in_one_folder_give_the_card_of_one_process(whole, tmp_path, capsys):
    folder, order = tmp_path / "out", (3, 1, 2)
    cards = [evaluate(folder, check_images=1, shard=Shard(number, 3)) for number in order]
    assert cards[:2] == [None, None]
    assert not (set(measured(folder).values()) - {1})
    assert card_bytes(folder) == card_bytes(whole)
    said = capsys.readouterr().out
    assert f"shard {order[0]}/3 is done" in said
    assert "not complete" in said


def test_shards_in_folders_of_their_own_are_merged(whole, tmp_path):
    folders = [tmp_path / f"s{number}" for number in (1, 2)]
    for number, folder in enumerate(folders, 1):
        assert evaluate(folder, check_images=1, shard=Shard(number, 2)) is None
    before = [contents(folder) for folder in folders]
    merge(tmp_path / "merged", folders)
    assert sum(measured(tmp_path / "merged").values()) == COMPLETE
    evaluate(tmp_path / "merged", check_images=1)
    assert card_bytes(tmp_path / "merged") == card_bytes(whole)
    assert (tmp_path / "merged" / "report.html").read_text() == "6"
    assert [contents(folder) for folder in folders] == before
    # records were copied, none was measured again
    assert all(name.startswith("merged") for name in contents(tmp_path / "merged" / RECORDS))


def test_a_sample_that_is_missing_after_a_merge_is_named_or_measured(whole, tmp_path):
    for number in (1, 2):
        evaluate(tmp_path / f"s{number}", shard=Shard(number, 3))
    merge(tmp_path / "merged", [tmp_path / "s1", tmp_path / "s2"])
    with pytest.raises(EvaluationError, match=r"not complete, of 11 images clean lacks 3 .first test-000006."):
        run.make_card(tiny_benchmark(), tmp_path / "merged", torch.device("cpu"), AttackStage({}))
    assert not (tmp_path / "merged" / "card.json").exists()
    evaluate(tmp_path / "merged", check_images=1)
    assert card_bytes(tmp_path / "merged") == card_bytes(whole)


def test_what_cannot_be_merged_is_refused_and_nothing_written(whole, tmp_path):
    evaluate(tmp_path / "s1", shard=Shard(1, 2))
    evaluate(tmp_path / "half", data=tiny_data(), shard=Shard(1, 3))
    evaluate(tmp_path / "seed", seed=1, shard=Shard(2, 2))
    evaluate(tmp_path / "steps", attacks=dict(ATTACKS) | {"pgd2": PGD(steps=3)}, shard=Shard(2, 2))
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "robustness.json").write_text("{}")
    before = contents(tmp_path)
    cases = [
        ("half", r"half and .*s1 overlap: 12 results are in both, such as sample test-0000"),
        ("s1", r"overlap"),
        ("seed", r"another evaluation than .*seed: 0 there, 1 here"),
        ("steps", r"results of pgd2 with other settings .*steps: 3 there, 2 here"),
        ("old", r"not the folder of an evaluation"),
        ("nowhere", r"not the folder of an evaluation"),
    ]
    for other, said in cases:
        with pytest.raises(EvaluationError, match=said):
            merge(tmp_path / "merged", [tmp_path / "s1", tmp_path / other])
    with pytest.raises(EvaluationError, match=r"holds records already: merge into a new folder"):
        merge(tmp_path / "half", [tmp_path / "s1"])
    assert contents(tmp_path) == before
    assert not (tmp_path / "merged").exists()


def test_a_later_attack_is_measured_alone(whole, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(whole, folder)
    before = contents(folder / RECORDS)
    card = evaluate(folder, check_images=1, attacks=dict(ATTACKS) | {"pgd1": PGD(steps=1)})
    assert list(card["attacks"]) == [*ATTACKS, "pgd1"]
    after = contents(folder / RECORDS)
    assert {name: after[name] for name in before} == before
    assert sum(measured(folder).values()) == COMPLETE + IMAGES
    old = card_of(whole)
    assert {name: card["attacks"][name] for name in ATTACKS} == old["attacks"]
    assert card["clean"] == old["clean"]
    # the first suite again: everything is there
    evaluate(folder, check_images=1)
    assert card_bytes(folder) == card_bytes(whole)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"attacks": {"pgd2": PGD(steps=2, eps="4/255")}},
            r'pgd2 with other settings .*eps: "8/255" there, "4/255" here',
        ),
        ({"checkpoint": {"path": "toy.ckpt", "sha256": "1" * 64}}, r"model\.sha256"),
        ({"checkpoint": None}, r"model\.checkpoint: .*null here"),
        ({"seed": 2}, r"seed: 0 there, 2 here"),
        ({"only": ["test-000001"]}, r"data\.ids: null there"),
        ({"data": "changed"}, r"data\.sha256"),
        ({"settings": {"channels": 3}}, r"model\.settings\.channels"),
    ],
)
def test_something_else_is_refused_and_the_results_stay(whole, tmp_path, changes, said):
    if "data" in changes:
        changes = {"data": tiny_data(seed=9)}
    shutil.copytree(whole, tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(EvaluationError, match=said) as caught:
        evaluate(tmp_path / "out", **changes)
    assert "--output" in str(caught.value)
    assert contents(tmp_path / "out") == before


def test_an_older_folder_is_left_alone(tmp_path):
    (tmp_path / "robustness.json").write_text("{}")
    with pytest.raises(EvaluationError, match="older version"):
        evaluate(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["robustness.json"]


class WithoutGradient(nn.Module):
    """A network whose answer autograd cannot follow."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network, self.num_classes = network, network.num_classes

    def forward(self, x):
        with torch.no_grad():
            return self.network(x)


class Shift(FGSM):
    """An attack that asks for no gradient."""

    def perturb(self, victim, images, targets, noise, on_step):
        return (images + 8 / 255).clamp(0, 1)


def test_an_attack_that_cannot_run_is_said_to_in_one_process_and_in_shards(tmp_path):
    model = toy_model()
    model.network = WithoutGradient(model.network)
    changes = {"model": model, "attacks": {"pgd": PGD(steps=1), "shift": Shift()}}
    card = evaluate(tmp_path / "one", **changes)
    assert "autograd" in card["attacks"]["pgd"]["error"]
    assert card["attacks"]["shift"]["images"] == IMAGES
    assert card["verdict"] == "unreliable"
    for number in (1, 2):
        evaluate(tmp_path / f"s{number}", shard=Shard(number, 2), **changes)
    merge(tmp_path / "merged", [tmp_path / "s1", tmp_path / "s2"])
    evaluate(tmp_path / "merged", **changes)
    assert card_bytes(tmp_path / "merged") == card_bytes(tmp_path / "one")


def test_a_training_runs_limit_does_not_leave_images_out(tmp_path):
    trainer = quiet_trainer(tmp_path)
    trainer.limit_test_batches = 1
    card = run_benchmark(trainer, tiny_benchmark(), tmp_path)
    assert card.clean.images == IMAGES
    assert trainer.limit_test_batches == 1


def test_results_that_cannot_be_written_are_one_message(tmp_path, monkeypatch):
    def full(card, path, pictures, **_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run, "write_report", full)
    with pytest.raises(EvaluationError, match=r"cannot write the results .No space left on device.*make room"):
        evaluate(tmp_path)
    monkeypatch.undo()
    assert sum(measured(tmp_path).values()) == COMPLETE
