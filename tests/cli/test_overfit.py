"""``trainer.overfit_batches``: the same few samples in every epoch, to see that a model can learn them."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from robustseg.cli.main import main
from robustseg.data import DataError, SampleOrder, SyntheticScenes
from robustseg.data.lightning import SegmentationDataModule
from robustseg.models import RECORD_KEY
from robustseg.resume.checkpoint_files import checkpoint_name
from robustseg.training import RobustSegmentation
from tests.helpers.paths import CONF
from tests.resume.runs import unlike

TINY = ["--config", str(CONF / "tiny.yaml"), "--robustness.attacks", "{}", "--data.batch_size", "2"]


def train(root: Path, *options: str) -> int:
    return main(["train", *TINY, "--trainer.default_root_dir", str(root), *options])


@pytest.fixture
def seen(monkeypatch):
    """Ids, sums of pixels and clean images of each training batch, and ids of each validation batch."""
    found: dict[str, list] = {"train": [], "val": []}
    step, validate = RobustSegmentation.training_step, RobustSegmentation.validation_step

    def training_step(self, batch, batch_idx):
        clean = len(batch.ids) if self.attack is None else self.split.sizes(len(batch.ids))[0]
        found["train"].append((tuple(batch.ids), float(batch.images.double().sum()), clean))
        return step(self, batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        if not self.trainer.sanity_checking:
            found["val"].append(tuple(batch.ids))
        return validate(self, batch, batch_idx)

    monkeypatch.setattr(RobustSegmentation, "training_step", training_step)
    monkeypatch.setattr(RobustSegmentation, "validation_step", validation_step)
    return found


@pytest.mark.parametrize(("wanted", "batches"), [("1", 1), ("2", 2), ("0.5", 2)])
def test_every_epoch_takes_the_same_samples_and_validates_them(wanted, batches, tmp_path, seen):
    assert train(tmp_path, "--trainer.overfit_batches", wanted, "--trainer.limit_train_batches", "null") == 0
    first, second = seen["train"][:batches], seen["train"][batches:]
    assert first == second, "the same samples, with the same crops, in the same order"
    assert all(clean == 1 for _, _, clean in first), "half of each batch is attacked, as always"
    trained = [sample for ids, _, _ in first for sample in ids]
    assert len(set(trained)) == 2 * batches
    half = len(seen["val"]) // 2
    assert [sample for ids in seen["val"][:half] for sample in ids] == trained
    assert seen["val"][:half] == seen["val"][half:]


@pytest.mark.slow
def test_two_images_are_learned(tmp_path, capsys):
    """The loss of two images falls to nearly nothing, as it would not for others in each epoch."""
    options = ["--trainer.overfit_batches", "1", "--trainer.max_epochs", "150", "--model.attack", "null"]
    quick = [
        "--trainer.check_val_every_n_epoch",
        "150",
        "--data.augment",
        "false",
        "--save.every_n_epochs",
        "0",
        "--model.schedule",
        "constant",
    ]
    network = ["--allow_import", "tests", "--model.network", "tests.helpers.nets.SharpNetwork"]
    optimiser = ["--model.optimizer", "Adam", "--model.optimizer.lr", "0.01"]
    assert train(tmp_path, *options, *quick, *network, *optimiser) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    first, last = (float(line.partition("train/loss ")[2].split()[0]) for line in (lines[0], lines[-1]))
    assert first > 1.5
    assert last < 0.05
    assert "val/miou 0.9" in lines[-1] or "val/miou 1.0" in lines[-1], "the same samples are validated"


def test_it_is_continued_to_the_bit(tmp_path, capsys):
    options = ["--trainer.overfit_batches", "2", "--save.every_n_steps", "1", "--save.keep", "9"]
    assert train(tmp_path / "whole", *options) == 0
    kept = tmp_path / "whole" / "tiny" / "version_0" / "checkpoints"
    assert train(tmp_path / "part", *options, "--ckpt_path", str(kept / checkpoint_name(1))) == 0
    states = [torch.load(next((tmp_path / name).rglob("last.ckpt")), weights_only=True) for name in ("whole", "part")]
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "loops", "SegmentationDataModule"):
        assert not unlike(states[0][key], states[1][key]), key
    assert states[0][RECORD_KEY]["val"] is None, "figures of the training split are no validation"
    part = ["--ckpt_path", str(kept / checkpoint_name(1))]
    assert train(tmp_path / "other", "--trainer.overfit_batches", "1", *part) == 1
    assert "overfit_batches" in capsys.readouterr().err


@pytest.mark.parametrize("ranks", [1, 2])
def test_ranks_share_the_first_samples(ranks):
    data = SyntheticScenes(image_size=(32, 32), train_length=12, batch_size=2)
    orders = [
        SampleOrder(data.dataset("train"), 2, num_replicas=ranks, rank=rank, overfit_batches=2) for rank in range(ranks)
    ]
    for order in orders:
        order.set_epoch(3)
    assert sorted(fetch.sample for order in orders for fetch in order) == list(range(4 * ranks))
    (begun,) = orders[:1]
    everything = list(begun)
    begun.start_at(3, 2 * ranks)
    assert list(begun) == everything[2:]


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--trainer.overfit_batches", "9"], ["trainer.overfit_batches = 9", "4 batches"]),
        (["--trainer.overfit_batches", "0.1"], ["trainer.overfit_batches = 0.1", "0 of"]),
        (["--trainer.overfit_batches", "-1"], ["trainer.overfit_batches = -1"]),
        (
            ["--trainer.overfit_batches", "3", "--trainer.accumulate_grad_batches", "2"],
            ["trainer.accumulate_grad_batches = 2", "multiple"],
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_is_refused_before_training(options, parts, tmp_path, capsys):
    assert train(tmp_path / "runs", *options) == 1
    err = capsys.readouterr().err
    assert all(part in err for part in parts), err
    assert not (tmp_path / "runs").exists()


def test_lightnings_own_argument_is_refused_in_python(tmp_path):
    data = SyntheticScenes(image_size=(32, 32), train_length=4, val_length=2, batch_size=2, num_workers=0)
    trainer = pl.Trainer(overfit_batches=1, logger=False, default_root_dir=tmp_path, accelerator="cpu")
    module = SegmentationDataModule(data)
    module.trainer = trainer
    with pytest.raises(DataError, match="give overfit_batches to SegmentationDataModule"):
        module.setup("fit")
