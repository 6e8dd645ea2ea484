"""The shell that makes a Lightning data module of a data set."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch

from robustseg.data import CamVid, SyntheticScenes
from robustseg.data.lightning import SegmentationDataModule, data_of
from robustseg.resume.callback import ResumeCheckpoint


class Recorder(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen = []

    def training_step(self, batch, _):
        self.seen.append((batch.ids, batch.images.sum().item()))
        return self.layer(batch.images.mean().reshape(1)).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


class SaveAt(pl.Callback):
    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def fit(tmp_path, *callbacks, **options):
    data = SyntheticScenes(image_size=(32, 32), train_length=6, batch_size=2)
    module = Recorder()
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=3, logger=False, limit_val_batches=0, default_root_dir=tmp_path,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[ResumeCheckpoint(), *callbacks],
    )  # fmt: skip
    trainer.fit(module, datamodule=SegmentationDataModule(data), **options)
    assert data_of(trainer) is data
    return module.seen


@pytest.mark.parametrize("version", ["now", "0.1"])
def test_training_goes_on_from_the_middle_of_an_epoch(tmp_path, version):
    path = tmp_path / "middle.ckpt"
    whole = fit(tmp_path / "whole", SaveAt(5, path))
    checkpoint = torch.load(path, weights_only=True)
    state = checkpoint.pop("SegmentationDataModule")
    assert state == {"SyntheticScenes": {"epoch": 1, "position": 4}}
    torch.save({**checkpoint, **(state if version == "0.1" else {"SegmentationDataModule": state})}, path)
    path.with_name("middle.ckpt.sha256").unlink(missing_ok=True)
    rest = fit(tmp_path / "rest", ckpt_path=path, weights_only=True)
    assert rest == whole[5:]
    assert len(rest) == 4


def test_the_place_in_another_data_set_is_not_taken_over():
    module, start = SegmentationDataModule(CamVid("nowhere")), {"epoch": 2, "position": 6}
    for checkpoint in ({"SyntheticScenes": start}, {"SegmentationDataModule": {"SyntheticScenes": start}}):
        assert module.state_of(checkpoint) is None
        assert SegmentationDataModule(SyntheticScenes()).state_of(checkpoint) == start


def test_a_global_batch_is_shared_when_training_starts():
    module = SegmentationDataModule(SyntheticScenes(batch_size=5, global_batch_size=24))
    assert (module.batch_size, module.global_batch_size) == (5, 24)
    module.share_batch(4, 2)
    assert module.batch_size == 3
