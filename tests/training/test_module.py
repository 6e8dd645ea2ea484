from __future__ import annotations

import copy

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from robustseg.attacks import PGD, Attack, Search, SegPGD
from robustseg.data import SyntheticScenes
from robustseg.data.lightning import SegmentationDataModule
from robustseg.models import FCN, Compile
from robustseg.training import RobustSegmentation, TrainingError
from tests.helpers.nets import ToyNetwork, toy_batch


def scenes(**changes):
    arguments = dict(image_size=(32, 32), train_length=8, val_length=5, test_length=3, batch_size=4, num_workers=0)
    return SegmentationDataModule(SyntheticScenes(**(arguments | changes)))


def trainer(tmp_path, **changes):
    arguments = dict(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
    )
    return pl.Trainer(**(arguments | changes))


def module(aux=False, seed=0, **changes):
    torch.manual_seed(seed)
    return RobustSegmentation(ToyNetwork(7, aux), **changes)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("attack", [None, SegPGD(steps=2)], ids=["standard", "segpgd2"])
def test_fit_and_stand_alone_test_run(tmp_path, attack, precision):
    net, run = module(aux=True, attack=attack), trainer(tmp_path, precision=precision)
    before = copy.deepcopy(net.model.state_dict())
    run.fit(net, datamodule=scenes())
    assert any(not torch.equal(value, before[name]) for name, value in net.model.state_dict().items())
    assert 0 <= float(run.callback_metrics["val/miou"]) <= 1
    # With Lightning's defaults this runs under inference mode.
    assert "test/miou" in trainer(tmp_path).test(net, datamodule=scenes(), verbose=False)[0]


@pytest.mark.parametrize("weights", [None, [1.0, 0.5, 3.0, 0.0, 2.0, 0.25, 1.5]], ids=["equal", "weighted"])
def test_the_update_is_that_of_algorithm_2_written_out(weights, tmp_path):
    """One SGD step through Lightning equals the same step by hand."""
    data = toy_batch(4, num_classes=7)
    attack = PGD(steps=2, random_start=False)

    def optimizer(params):
        return torch.optim.SGD(params, lr=0.1)

    net = module(
        aux=True, attack=attack, optimizer=optimizer, schedule="constant", aux_weight=0.3, class_weights=weights
    )
    hand = copy.deepcopy(net.model).train()
    loader = DataLoader([0], collate_fn=lambda _: data)
    trainer(tmp_path, max_steps=1).fit(net, loader)

    images_adv = attack(hand, data.images[2:], data.targets[2:])
    logits, aux = hand.forward_with_aux(torch.cat([data.images[:2], images_adv]))

    given = None if weights is None else torch.tensor(weights)

    def mean(values, part):
        return torch.nn.functional.cross_entropy(values[part], data.targets[part], given, ignore_index=255)

    clean, adversarial = slice(0, 2), slice(2, 4)
    loss = mean(logits, clean) + mean(logits, adversarial) + 0.3 * (mean(aux, clean) + mean(aux, adversarial))
    loss.backward()
    for (name, trained), parameter in zip(net.model.named_parameters(), hand.parameters(), strict=True):
        torch.testing.assert_close(trained, parameter - 0.1 * parameter.grad, msg=name)
    for (name, trained), buffer in zip(net.model.named_buffers(), hand.buffers(), strict=True):
        torch.testing.assert_close(trained, buffer, msg=name)


def test_accumulated_gradients_are_not_polluted_by_the_attack(tmp_path):
    """Two micro-batches with an attack each give the mean of their gradients, computed one by one."""
    batches = [toy_batch(4, seed=1, num_classes=7), toy_batch(4, seed=2, num_classes=7)]
    gradients = []

    class Watch(pl.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            gradients.append([p.grad.clone() for p in pl_module.model.parameters()])

    def run(data, accumulate):
        net = module(attack=PGD(steps=2, random_start=False), optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
        for part in net.model.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.momentum = 0.0  # else the second micro-batch would see the first one's statistics
        loader = DataLoader(range(len(data)), collate_fn=lambda index: data[index[0]])
        trainer(tmp_path, accumulate_grad_batches=accumulate, callbacks=[Watch()]).fit(net, loader)

    run(batches, 2)
    run(batches[:1], 1)
    run(batches[1:], 1)
    together, first, second = gradients
    for whole, one, two in zip(together, first, second, strict=True):
        torch.testing.assert_close(whole, (one + two) / 2)


def test_the_attacker_searches_in_a_precision_of_its_own(tmp_path):
    found = []

    class Record(PGD):
        def run(self, *arguments, search=None, **options):
            found.append(search)
            return super().run(*arguments, search=search, **options)

    search = Search("bf16", channels_last=True)
    net = module(attack=Record(steps=2), attack_search=search)
    trainer(tmp_path, limit_train_batches=2, limit_val_batches=0).fit(net, datamodule=scenes())
    assert found == [search] * 2
    assert all(parameter.requires_grad for parameter in net.parameters())
    batch = toy_batch(4, num_classes=7)
    low, high = net._mix(batch), module(attack=PGD(steps=2))._mix(batch)
    assert low.images.dtype == high.images.dtype
    assert torch.equal(low.images[:2], high.images[:2])


def test_an_attacker_that_cannot_search_so_is_refused_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", lambda: False, raising=False)
    net = module(attack=PGD(steps=1), attack_search=Search("fp16"))
    with pytest.raises(TrainingError, match=r"model\.attack_search\.precision = fp16: this CPU does not compute in it"):
        trainer(tmp_path).fit(net, datamodule=scenes())
    net = module(attack=PGD(steps=1), attack_search=Search())
    with pytest.raises(TrainingError, match="images and model are in bfloat16"):
        trainer(tmp_path, precision="bf16-true").fit(net, datamodule=scenes())
    standard = module(attack_search=Search("fp16"))  # without an attacker nothing searches
    trainer(tmp_path, limit_train_batches=1, limit_val_batches=0).fit(standard, datamodule=scenes())


def test_nothing_of_the_attacker_is_in_the_checkpoint(tmp_path):
    standard, adversarial = module(), module(attack=SegPGD(steps=2))
    assert standard.state_dict().keys() == adversarial.state_dict().keys()
    run = trainer(tmp_path)
    run.fit(adversarial, datamodule=scenes())
    run.save_checkpoint(tmp_path / "with.ckpt")
    saved = torch.load(tmp_path / "with.ckpt", weights_only=True)
    assert not saved.get("hyper_parameters")


def test_attack_noise_differs_from_step_to_step_and_is_reproducible(monkeypatch):
    starts = []

    class Record(Attack):
        def perturb(self, model, images, targets, noise, on_step):
            starts.append(noise.uniform(images))
            return images

        def describe(self):
            return {}

    net, batch = module(attack=Record()), toy_batch(4, num_classes=7)
    net._mix(batch)
    net._mix(batch)
    monkeypatch.setattr(RobustSegmentation, "global_step", 5)
    net._mix(batch)
    net.attack.seed = 1
    net._mix(batch)
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])
    assert not torch.equal(starts[2], starts[3])


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (None, r"loss is nan at step 2 for the samples train-\d+.*--ckpt_path last"),
        (PGD(steps=1), r"step 2, samples train-\d+"),
    ],
    ids=["standard", "pgd"],
)
def test_a_non_finite_loss_names_the_samples_and_spares_weights_and_checkpoint(tmp_path, attack, message):
    class Poisoned(RobustSegmentation):
        def training_step(self, batch, batch_idx):
            if self.global_step == 2:
                batch = batch._replace(images=batch.images.clone().fill_(float("nan")))
            return super().training_step(batch, batch_idx)

    torch.manual_seed(0)
    net = Poisoned(ToyNetwork(7), attack=attack)
    keep = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=2)
    run = trainer(tmp_path, max_epochs=5, enable_checkpointing=True, callbacks=[keep])
    with pytest.raises(TrainingError, match=message):
        run.fit(net, datamodule=scenes())
    assert all(torch.isfinite(p).all() for p in net.parameters())
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 2
    assert all(torch.isfinite(value).all() for value in saved["state_dict"].values())


def test_weights_that_are_not_finite_do_not_replace_a_checkpoint(tmp_path):
    net, run = module(), trainer(tmp_path)
    run.fit(net, datamodule=scenes())
    run.save_checkpoint(tmp_path / "good.ckpt")
    good = (tmp_path / "good.ckpt").read_bytes()
    with torch.no_grad():
        net.model.network.head.weight[0, 0] = float("inf")
    with pytest.raises(TrainingError, match=r"network\.head\.weight is not finite"):
        run.save_checkpoint(tmp_path / "good.ckpt")
    assert (tmp_path / "good.ckpt").read_bytes() == good


def test_a_batch_too_small_to_split_is_refused_before_training(tmp_path):
    net = module(attack=PGD(steps=1))
    with pytest.raises(TrainingError, match=r"data\.batch_size"):
        trainer(tmp_path).fit(net, datamodule=scenes(batch_size=1))
    with pytest.raises(TrainingError, match=r"data\.global_batch_size = 1, so raise that"):
        trainer(tmp_path).fit(net, datamodule=scenes(batch_size=4, global_batch_size=1))
    assert net.global_step == 0


@pytest.mark.parametrize("change", [{"aux_weight": -1.0}, {"head_lr_factor": 0.0}, {"warmup_steps": -1}])
def test_values_out_of_range_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        module(**change)


def test_heads_learn_at_their_own_rate_and_poly_reaches_zero(tmp_path):
    net = module(head_lr_factor=10.0)
    run = trainer(tmp_path, max_epochs=2)
    run.fit(net, datamodule=scenes())
    groups = run.optimizers[0].param_groups
    assert [group["initial_lr"] for group in groups] == pytest.approx([0.01, 0.1])
    assert [group["lr"] for group in groups] == pytest.approx([0, 0])
    assert {id(p) for p in groups[0]["params"]} == {id(p) for p in net.model.network.backbone.parameters()}


def test_initial_weights_come_from_a_checkpoint(tmp_path):
    first = module(seed=1)
    run = trainer(tmp_path)
    run.fit(first, datamodule=scenes())
    run.save_checkpoint(tmp_path / "first.ckpt")
    second = module(seed=2, attack=PGD(steps=1), init_weights=str(tmp_path / "first.ckpt"))
    for name, value in second.model.state_dict().items():
        assert torch.equal(value, first.model.state_dict()[name]), name


def test_an_auxiliary_head_without_weight_does_not_run(tmp_path):
    net = RobustSegmentation(FCN(7, "test_resnet", channels=8), aux_weight=0, attack=PGD(steps=1))
    net.model.network.aux_head.register_forward_hook(lambda *_: pytest.fail("it ran"))
    before = copy.deepcopy(net.model.state_dict())
    trainer(tmp_path).fit(net, datamodule=scenes())
    changed = {name for name, value in net.model.state_dict().items() if not torch.equal(value, before[name])}
    assert "network.head.2.weight" in changed
    assert not any(name.startswith("network.aux_head.") for name in changed)


def test_an_optimiser_has_the_same_parameters_on_several_ranks(monkeypatch, tmp_path):
    """A run of an earlier version without weight of its auxiliary head goes on: its optimiser has that head's too."""

    def shapes(ranks):
        net = module(aux=True, aux_weight=0)
        net.trainer = trainer(tmp_path, max_steps=3)
        monkeypatch.setattr(type(net.trainer), "world_size", ranks)
        net.setup("fit")
        frozen = [name for name, parameter in net.model.named_parameters() if not parameter.requires_grad]
        groups = net.configure_optimizers()["optimizer"].param_groups
        return frozen, [[parameter.shape for parameter in group["params"]] for group in groups]

    (frozen, one), (frozen_of_two, two) = shapes(1), shapes(2)
    assert one == two
    assert (frozen, frozen_of_two) == ([], ["network.aux.weight", "network.aux.bias"])


def test_a_compiled_module_with_the_channels_last_trains_to_the_same_weights(tmp_path):
    """With the attack in the loop, accumulation, validation and a stand-alone test."""
    found = []
    for settings in ({}, {"compile": Compile(backend="eager"), "channels_last": True}):
        torch._dynamo.reset()
        pl.seed_everything(0, verbose=False)
        net, run = module(aux=True, attack=SegPGD(steps=2), **settings), trainer(tmp_path, accumulate_grad_batches=2)
        run.fit(net, datamodule=scenes())
        assert "test/miou" in trainer(tmp_path).test(net, datamodule=scenes(), verbose=False)[0]
        found.append(net.state_dict())
    assert list(found[0]) == list(found[1])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)
