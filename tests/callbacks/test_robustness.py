from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from robustseg.attacks import PGD, Search
from robustseg.callbacks import RobustnessEvaluation, ShowTraining
from robustseg.data import SyntheticScenes
from robustseg.data.lightning import SegmentationDataModule
from robustseg.detectors import ScaleConsistency
from robustseg.evaluation import Evaluator, MemorySink
from robustseg.evaluation.attack_stage import AttackStage
from robustseg.evaluation.searched import MeasuredSearch
from robustseg.terminal import Display, showing, shown
from robustseg.training import RobustSegmentation
from tests.helpers.nets import ToyNetwork

ATTACKS = {"pgd2": PGD(steps=2), "pgd1": PGD(steps=1)}


@pytest.fixture
def scenes():
    sizes = {"train_length": 8, "val_length": 7, "test_length": 3, "batch_size": 4, "val_batch_size": 3}
    return SegmentationDataModule(SyntheticScenes(image_size=(32, 32), num_workers=0, **sizes))


def fit(tmp_path, scenes, callback, epochs=4, callbacks=(), network=ToyNetwork, **changes):
    torch.manual_seed(0)
    arguments = dict(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(other, ModelCheckpoint) for other in callbacks),
        callbacks=[callback, *callbacks],
    )
    trainer = pl.Trainer(**(arguments | changes))
    net = RobustSegmentation(network(7))
    trainer.fit(net, datamodule=scenes)
    return trainer, net


class Counting(PGD):
    """Counts its calls."""

    calls = 0

    def perturb(self, *arguments):
        self.calls += 1
        return super().perturb(*arguments)


@pytest.mark.parametrize("num_images", [None, 4, 1])
def test_logged_figures_are_those_of_the_first_images(tmp_path, scenes, num_images):
    trainer, net = fit(tmp_path, scenes, RobustnessEvaluation(ATTACKS, num_images=num_images), epochs=1)
    samples = [scenes.data.dataset("val")[index] for index in range(num_images or 7)]
    sink = MemorySink()
    images, targets = (torch.stack([sample[field] for sample in samples]) for field in (0, 1))
    Evaluator(ATTACKS, 7, sink, seed=net.seed, search=Search()).update(
        net.model, [sample.id for sample in samples], images, targets
    )
    for name, scores in sink.compute().items():
        for figure in ("miou", "pixel_acc", "image_miou"):
            assert float(trainer.callback_metrics[f"val/{name}/{figure}"]) == pytest.approx(
                float(scores[figure]), abs=2e-3
            )


def test_runs_every_n_epochs_only_with_the_attacks_asked_for(tmp_path, scenes):
    asked, other = Counting(steps=1), Counting(steps=1)
    counts = []

    class Watch(pl.Callback):
        def on_validation_end(self, trainer, pl_module):
            counts.append(asked.calls)

    callback = RobustnessEvaluation({"asked": asked, "other": other}, validate_with=["asked"], every_n_epochs=2)
    trainer, _ = fit(tmp_path, scenes, callback, epochs=5, callbacks=[Watch()])
    # the sanity check and epochs 1, 3, 5 attack nothing; 2 and 4 attack the three batches
    assert counts == [0, 0, 3, 3, 6, 6]
    assert other.calls == 0
    assert "val/asked/miou" in trainer.callback_metrics
    assert "val/miou" in trainer.callback_metrics


@pytest.mark.parametrize("arguments", [{"attacks": None}, {"validate_with": []}, {"every_n_epochs": 0}])
def test_can_be_left_out_of_validation(tmp_path, scenes, arguments):
    attack = Counting(steps=1)
    trainer, _ = fit(tmp_path, scenes, RobustnessEvaluation(**({"attacks": {"pgd1": attack}} | arguments)), epochs=1)
    assert attack.calls == 0
    assert not any(name.startswith("val/") and name.count("/") > 1 for name in trainer.callback_metrics)


def test_checkpoints_can_follow_a_robust_figure(tmp_path, scenes):
    keep = ModelCheckpoint(tmp_path, "best", monitor="val/pgd2/pixel_acc", mode="max")
    fit(tmp_path, scenes, RobustnessEvaluation(ATTACKS), epochs=2, callbacks=[keep])
    assert keep.best_model_score is not None
    assert (tmp_path / "best.ckpt").is_file()


def test_the_evaluation_leaves_the_training_as_it_is(tmp_path, scenes):
    _, plain = fit(tmp_path, scenes, RobustnessEvaluation(), epochs=2)
    _, evaluated = fit(tmp_path, scenes, RobustnessEvaluation(ATTACKS), epochs=2)
    # Lightning seeds nothing here: equal weights show that no global random number was drawn by the attacks.
    for one, two in zip(plain.parameters(), evaluated.parameters(), strict=True):
        torch.testing.assert_close(one, two)


def test_a_test_is_not_attacked_by_the_callback(tmp_path, scenes):
    """Tests are the work of robustseg.evaluation.benchmark."""
    attack = Counting(steps=1)
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        callbacks=[RobustnessEvaluation({"pgd1": attack})],
        default_root_dir=tmp_path,
    )
    trainer.test(RobustSegmentation(ToyNetwork(7)), datamodule=scenes, verbose=False)
    assert attack.calls == 0
    # a validation on its own is, under inference mode as well
    trainer.validate(RobustSegmentation(ToyNetwork(7)), datamodule=scenes, verbose=False)
    assert attack.calls == 3
    assert "val/pgd1/miou" in trainer.callback_metrics


def test_the_display_shows_epoch_attack_step_and_images(tmp_path, scenes, monkeypatch):
    seen = []

    def record(self, step):
        note_step(self, step)
        seen.append(shown().state().parts)

    note_step = AttackStage.step
    monkeypatch.setattr(AttackStage, "step", record)
    with showing(Display(bar=False)):
        fit(tmp_path, scenes, RobustnessEvaluation(ATTACKS), epochs=1, callbacks=[ShowTraining()])
        assert shown().state() is None
    assert [parts[2:4] for parts in seen[:3]] == [
        ["attack 1/2 pgd2", "step 1/2"],
        ["attack 1/2 pgd2", "step 2/2"],
        ["attack 2/2 pgd1", "step 1/1"],
    ]
    assert {tuple(parts[:2]) for parts in seen} == {("epoch 1/1", "validation")}
    assert len(seen) == 3 * 3  # three batches
    images = [int(parts[4].removeprefix("images ").partition("/")[0]) for parts in seen]
    assert images == sorted(images)
    assert images[-1] < int(seen[-1][4].partition("/")[2]) <= 12


def test_unknown_names_and_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"pgd9.*pgd2, pgd1"):
        RobustnessEvaluation(ATTACKS, validate_with=["pgd9"])
    with pytest.raises(ValueError, match="every_n_epochs"):
        RobustnessEvaluation(ATTACKS, every_n_epochs=-1)
    for name in ("num_images", "test_num_images", "threshold_images"):
        with pytest.raises(ValueError, match=rf"^{name} = 0: use at least one image, or null"):
            RobustnessEvaluation(ATTACKS, **{name: 0})
    for rate in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match=rf"^false_positive_rate = {rate}: use a share"):
            RobustnessEvaluation(ATTACKS, false_positive_rate=rate)
    assert RobustnessEvaluation(ATTACKS, false_positive_rate=0.0, threshold_images=None).threshold_images is None
    with pytest.raises(ValueError, match="a detector cannot be called 'clean'"):
        RobustnessEvaluation(ATTACKS, detectors={"clean": ScaleConsistency()})


def test_needs_a_module_whose_model_it_knows(tmp_path, scenes):
    class Other(pl.LightningModule):
        def validation_step(self, batch, batch_idx):
            pass

    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[RobustnessEvaluation(ATTACKS)]
    )
    with pytest.raises(TypeError, match="RobustSegmentation"):
        trainer.validate(Other(), datamodule=scenes, verbose=False)


class Searches(PGD):
    """Notes the precision of its searches."""

    noted: tuple = ()

    def run(self, *arguments, search=None, **options):
        self.noted = (*self.noted, search)
        return super().run(*arguments, search=search, **options)


@pytest.mark.parametrize("given", [{}, {"validation_search": None}, {"search": MeasuredSearch("float32")}])
def test_validation_searches_in_bf16(tmp_path, scenes, given):
    attack = Searches(steps=1)
    fit(tmp_path, scenes, RobustnessEvaluation({"pgd": attack}, **given), epochs=1)
    assert set(attack.noted) == {given.get("validation_search", Search("bf16", channels_last=True))}


def test_validation_searches_in_float32_where_bf16_is_not_supported(tmp_path, scenes, monkeypatch, capsys):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False, raising=False)
    attack = Searches(steps=1)
    fit(tmp_path, scenes, RobustnessEvaluation({"pgd": attack}), epochs=2)
    assert set(attack.noted) == {None}
    said = "validation searches in float32 instead of bf16: this CPU does not compute in it."
    assert capsys.readouterr().out.count(said) == 1


class Views(ToyNetwork):
    """Needs contiguous images."""

    def forward(self, images):
        return super().forward(images.view(len(images), -1).view_as(images))


class Puts(ToyNetwork):
    """Puts its logits into a tensor of the images' dtype, which autocast does not convert."""

    def forward(self, images):
        found = super().forward(images)
        logits = images.new_zeros(found.shape)
        logits[found.isfinite()] = found[found.isfinite()]
        return logits


@pytest.mark.parametrize("network", [Views, Puts])
def test_validation_searches_in_float32_where_the_model_cannot(tmp_path, scenes, capsys, network):
    attack = Searches(steps=1)
    fit(tmp_path, scenes, RobustnessEvaluation({"pgd": attack}), epochs=2, network=network)
    assert set(attack.noted) == {None}
    said = "validation searches in float32 instead of bf16: the model raised RuntimeError"
    assert capsys.readouterr().out.count(said) == 1
