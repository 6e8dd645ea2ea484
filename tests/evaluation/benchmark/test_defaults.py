"""Public classes work with the defaults that they document, from Python."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl

import robustseg.callbacks
import robustseg.data
from robustseg.attacks import PGD
from robustseg.callbacks import RobustnessEvaluation
from robustseg.data import SegmentationData, SyntheticScenes
from robustseg.data.lightning import SegmentationDataModule
from robustseg.evaluation import EvaluationError, Evaluator, MemorySink
from robustseg.evaluation.benchmark import Benchmark, run_benchmark
from robustseg.evaluation.card_file import read_card
from robustseg.resume.callback import ResumeCheckpoint
from robustseg.training import RobustSegmentation
from tests.evaluation.benchmark.tiny import ATTACKS, quiet_trainer, tiny_data, toy_model
from tests.helpers.nets import ToyNetwork

OPTIONAL = [
    name
    for name, each in inspect.signature(Benchmark).parameters.items()
    if each.default is not inspect.Parameter.empty or name not in ("model", "data", "attacks")
]


def default(name: str) -> Any:
    """The documented default of one argument of Benchmark, made if a factory makes it."""
    return getattr(Benchmark(toy_model(), tiny_data(test_length=4), {}), name)


def written(benchmark: Benchmark, folder: Path) -> None:
    card = run_benchmark(quiet_trainer(folder), benchmark, folder / "evaluation")
    assert card is not None
    there = {path.name for path in (folder / "evaluation").iterdir()}
    assert {"card.json", "card.md", "report.html", "scores.csv"} <= there
    assert read_card(folder / "evaluation" / "card.json").model.sha256 == card.model.sha256


@pytest.mark.slow
def test_a_benchmark_of_model_data_and_attacks_writes_its_report(tmp_path):
    written(Benchmark(toy_model(), tiny_data(test_length=4), {"pgd2": PGD(steps=2)}), tmp_path)


@pytest.mark.parametrize("name", [name for name in OPTIONAL if name not in ("check_images", "shard")])
def test_each_default_said_out_loud_writes_it_too(name, tmp_path):
    """Without a probe, as that takes most of the time."""
    settings = {"checkpoint": {"path": "toy.ckpt", "sha256": "0" * 64}, "check_images": 0, "suite": "tiny"}
    settings |= {name: default(name)}
    written(Benchmark(toy_model(), tiny_data(test_length=4), {"pgd1": PGD(steps=1)}, **settings), tmp_path)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"trained_with": "pgd"}, "model.trained_with = 'pgd'"),
        ({"trained_with": PGD()}, "the model: Object of type PGD is not JSON"),
        ({"suite": 3}, "protocol.suite = 3"),
        ({"seed": 0.5}, "protocol.seed = 0.5"),
        ({"settings": {"weights": Path("x")}}, "the model: Object of type PosixPath is not JSON"),
        ({"checkpoint": {"path": "x", "sha256": 7}}, "model.sha256 = 7"),
    ],
)
def test_what_no_card_can_hold_is_refused_before_anything_is_measured(settings, said):
    with pytest.raises(EvaluationError, match=f"a card cannot hold .*{re.escape(said)}"):
        Benchmark(toy_model(), tiny_data(test_length=4), {}, **settings)


def test_an_evaluation_without_attacks_or_pictures_writes_it_too(tmp_path):
    written(Benchmark(toy_model(), tiny_data(test_length=4), {}, check_images=0, num_pictures=0), tmp_path)


def test_an_evaluator_of_attacks_classes_and_sink_measures():
    sink = MemorySink()
    data = tiny_data(test_length=2)
    (batch,) = data.eval_loader("test")
    Evaluator(ATTACKS, 7, sink).update(toy_model(), batch.ids, batch.images, batch.targets)
    assert set(sink.compute()) == {"clean", *ATTACKS}


def test_a_training_of_defaults_trains(tmp_path):
    """Module, callbacks and data as constructed with what they cannot do without."""
    data = SyntheticScenes(image_size=(32, 32), train_length=8, val_length=2)
    data.num_workers = 0
    module = RobustSegmentation(ToyNetwork(7), mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path, enable_checkpointing=True, inference_mode=False,
        callbacks=[RobustnessEvaluation(), ResumeCheckpoint(), *EVERY_CALLBACK],
    )  # fmt: skip
    trainer.fit(module, datamodule=SegmentationDataModule(data))
    assert trainer.global_step == 1
    assert list(tmp_path.rglob("last.ckpt"))


EVERY_CALLBACK = [robustseg.callbacks.EMA(), robustseg.callbacks.EpochLines()]


DATA = [each for each in vars(robustseg.data).values() if inspect.isclass(each) and issubclass(each, SegmentationData)]


@pytest.mark.parametrize("cls", [each for each in DATA if not inspect.isabstract(each)], ids=lambda cls: cls.__name__)
def test_data_sets_say_what_they_need(cls):
    """A data set is made from its required arguments alone, or names the key that it needs."""
    parameters = [each for each in inspect.signature(cls).parameters.values() if each.kind != each.VAR_KEYWORD]
    given = {each.name: "nowhere" for each in parameters if each.default is inspect.Parameter.empty}
    problem = ""
    try:
        cls(**given)
    except ValueError as error:
        problem = str(error)
    assert not problem or any(key in problem for key in (*given, "crop_size")), problem
