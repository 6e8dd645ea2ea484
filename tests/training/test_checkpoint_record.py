"""The record in a checkpoint, written by real training runs."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from robustseg.attacks import Attack, SegPGD
from robustseg.data import SyntheticScenes
from robustseg.data.lightning import SegmentationDataModule
from robustseg.metrics import SegmentationScores
from robustseg.models import SegmentationModel, SlidingWindow, load_segmentation_weights, read_record
from robustseg.training import RobustSegmentation, TrainingError
from robustseg.training.record import plain, validation_record
from tests.helpers.nets import ToyNetwork


def scenes(**changes):
    arguments = dict(image_size=(32, 32), train_length=8, val_length=5, test_length=3, batch_size=4, num_workers=0)
    return SegmentationDataModule(SyntheticScenes(**(arguments | changes)))


def module(**changes):
    torch.manual_seed(0)
    return RobustSegmentation(ToyNetwork(7), **changes)


def fit(folder, net, datamodule=None, **changes):
    arguments = dict(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in changes.get("callbacks", [])),
        num_sanity_val_steps=0,
    )
    trainer = pl.Trainer(**(arguments | changes))
    trainer.fit(net, datamodule=datamodule or scenes())
    return trainer


def scored(path, datamodule, window=None):
    """The clean scores of a checkpoint's weights, by a loop of our own."""
    model = SegmentationModel(ToyNetwork(7), window=window)
    load_segmentation_weights(model, path)
    scores = SegmentationScores(7)
    for batch in datamodule.val_dataloader():
        scores.update(model.eval()(batch.images).argmax(1), batch.targets)
    return scores.compute()


@pytest.mark.parametrize("attack", [None, SegPGD(steps=2)], ids=["standard", "segpgd2"])
def test_each_checkpoint_tells_the_scores_of_its_own_weights(tmp_path, attack):
    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_last=True)
    window = SlidingWindow((16, 24))
    net, data = module(attack=attack, window=window), scenes(crop_size=(16, 16))
    fit(tmp_path, net, data, callbacks=[keep])
    records = {name: read_record(tmp_path / f"{name}.ckpt") for name in ("epoch=0", "epoch=1", "last")}
    assert records["last"] == records["epoch=1"] != records["epoch=0"]
    for name, record in records.items():
        scores = scored(tmp_path / f"{name}.ckpt", data, window)
        assert record["val"]["miou"] == pytest.approx(float(scores["miou"]), abs=1e-12)
        assert record["val"]["pixel_acc"] == pytest.approx(float(scores["pixel_acc"]), abs=1e-12)
        content = torch.load(tmp_path / f"{name}.ckpt", weights_only=True)
        assert (record["epoch"], record["global_step"]) == (content["epoch"], content["global_step"])
        assert record["trained_with"] == (None if attack is None else attack.describe())
        assert json.loads(json.dumps(record)) == record
    assert records["last"]["val"] | {"miou": 0, "pixel_acc": 0} == {
        "miou": 0,
        "pixel_acc": 0,
        "images": 5,
        "precision": "32-true",
    }
    assert records["last"]["data"] == {
        "name": "SyntheticScenes",
        "split": "val",
        "image_size": [32, 32],
        "window": {"size": [16, 24], "stride": [11, 16], "chunk": 1},
    }
    assert (records["epoch=0"]["epoch"], records["epoch=0"]["global_step"]) == (0, 2)


def test_scores_of_older_weights_are_not_told(tmp_path):
    """Validation every second epoch, a checkpoint after each: epoch 2 has no scores of its own."""
    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    fit(tmp_path, module(), callbacks=[keep], check_val_every_n_epoch=2, max_epochs=4)
    records = [read_record(tmp_path / f"epoch={epoch}.ckpt") for epoch in range(4)]
    assert [record["val"] is None for record in records] == [True, False, True, False]
    assert [record["data"] is None for record in records] == [True, False, True, False]
    assert [record["global_step"] for record in records] == [2, 4, 6, 8]


def test_scores_are_forgotten_although_no_step_was_taken(tmp_path):
    """With accumulated gradients the statistics of BatchNorm move before the next step does."""
    told = []

    class Save(pl.Callback):
        def on_validation_end(self, trainer, pl_module):
            self._save(trainer)

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self._save(trainer)

        def _save(self, trainer):
            trainer.save_checkpoint(tmp_path / "now.ckpt")
            record = read_record(tmp_path / "now.ckpt")
            told.append((record["global_step"], record["val"] is not None))

    options = dict(accumulate_grad_batches=2, val_check_interval=1, max_epochs=1)
    fit(tmp_path, module(), scenes(train_length=16), callbacks=[Save()], **options)
    steps = [(step, scored) for step in (0, 1, 1, 2) for scored in (False, True)]
    assert told == steps


def test_the_sanity_check_and_a_run_without_validation_tell_nothing(tmp_path):
    net = module()
    trainer = fit(tmp_path, net, limit_val_batches=0)
    trainer.save_checkpoint(tmp_path / "unvalidated.ckpt")
    assert read_record(tmp_path / "unvalidated.ckpt")["val"] is None

    class SaveAtStart(pl.Callback):
        def on_train_start(self, trainer, pl_module):
            trainer.save_checkpoint(tmp_path / "start.ckpt")

    fit(tmp_path, module(), num_sanity_val_steps=1, callbacks=[SaveAtStart()])
    assert read_record(tmp_path / "start.ckpt")["val"] is None


def test_a_part_of_the_split_is_told_by_its_number_of_images(tmp_path):
    trainer = fit(tmp_path, module(), limit_val_batches=1, precision="bf16-mixed")
    trainer.save_checkpoint(tmp_path / "part.ckpt")
    validated = read_record(tmp_path / "part.ckpt")["val"]
    assert (validated["images"], validated["precision"]) == (4, "bf16-mixed")


def test_a_split_without_a_valid_pixel_has_no_figures():
    scores = SegmentationScores(7)
    scores.update(torch.zeros(2, 4, 4, dtype=torch.long), torch.full((2, 4, 4), 255))
    record = validation_record(scores.compute(), module().model, None, "32-true")
    assert record["val"] == {"miou": None, "pixel_acc": None, "images": 2, "precision": "32-true"}
    assert record["data"]["name"] is None


def test_an_attacker_that_attacks_nothing_is_not_told(tmp_path):
    trainer = fit(tmp_path, module(attack=SegPGD(steps=2), adversarial_fraction=0.0))
    trainer.save_checkpoint(tmp_path / "none.ckpt")
    assert read_record(tmp_path / "none.ckpt")["trained_with"] is None


def test_a_resumed_run_tells_its_own(tmp_path):
    net = module(attack=SegPGD(steps=2))
    trainer = fit(tmp_path, net)
    trainer.save_checkpoint(tmp_path / "first.ckpt")
    resumed = pl.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", max_epochs=3, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    resumed.fit(module(), datamodule=scenes(), ckpt_path=tmp_path / "first.ckpt")
    resumed.save_checkpoint(tmp_path / "second.ckpt")
    first, second = (read_record(tmp_path / f"{name}.ckpt") for name in ("first", "second"))
    assert (first["global_step"], second["global_step"]) == (4, 6)
    assert first["trained_with"]["attack"] == "SegPGD"
    assert second["trained_with"] is None


def test_whatever_an_attack_describes_becomes_plain():
    described = {
        "eps": Fraction(8, 255),
        "p": np.float64(0.5),
        3: (1, None),
        "deep": [{"x": torch.Size([2])}],
        "t": True,
    }
    assert plain(described) == {"eps": "8/255", "p": "0.5", "3": [1, None], "deep": [{"x": [2]}], "t": True}

    class Strange(Attack):
        def perturb(self, victim, images, targets, noise, on_step):
            return images

        def describe(self):
            return {"attack": "Strange", "numbers": np.arange(2)}

    checkpoint = {"epoch": 0, "global_step": 0}
    module(attack=Strange()).on_save_checkpoint(checkpoint)
    assert checkpoint["robustseg"]["trained_with"] == {"attack": "Strange", "numbers": "[0 1]"}


def test_validation_goes_through_windows_and_training_crops_do_not(tmp_path):
    shapes = {"train": set(), "val": set()}

    class Watched(ToyNetwork):
        def forward_with_aux(self, x):
            shapes["train" if self.training else "val"].add(tuple(x.shape[-2:]))
            return super().forward_with_aux(x)

    torch.manual_seed(0)
    net = RobustSegmentation(Watched(7), SegPGD(steps=2), window=SlidingWindow((16, 24)))
    fit(tmp_path, net, scenes(crop_size=(16, 16)), max_epochs=1)
    assert shapes == {"train": {(16, 16)}, "val": {(16, 16), (16, 24)}}, "the attacker sees the crop, too"


@pytest.mark.parametrize("attack", [None, SegPGD(steps=1)], ids=["standard", "segpgd"])
def test_crops_larger_than_the_window_are_refused(tmp_path, attack):
    with pytest.raises(TrainingError, match=r"32×32 pixels.*model\.window\.size = \[16, 40\].*data\.crop_size"):
        fit(tmp_path, module(attack=attack, window=SlidingWindow((16, 40))))
