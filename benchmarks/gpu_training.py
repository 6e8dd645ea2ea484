"""Correctness of training on a device: deterministic networks, a training resumed to the bit, fp16 without overflow."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from gpu_device import Device, deterministic
from gpu_networks import pixel_acc, shipped, tiny_network, trained_model
from gpu_table import Absent, Check, Wrong
from torch import Tensor, nn

from robustseg.attacks import PGD, NoiseSource
from robustseg.data import SyntheticScenes
from robustseg.data.lightning import SegmentationDataModule
from robustseg.models import ModelError
from robustseg.models.catalogue import catalogue
from robustseg.training import RobustSegmentation
from robustseg.training.objective import count_valid, update_loss

SIDE = 64


def training_checks(device: Device, tiny: bool) -> Iterator[Check]:
    """Yield the checks of training, the most important one first."""
    for precision in ("32-true", "bf16-mixed", *(["16-mixed"] if device.cuda else [])):
        yield Check(f"training in {precision}, resumed", partial(resumed, device, precision))
    height, width = (96, 128) if tiny else (720, 960)
    yield Check(f"PGD in fp16 at {height}×{width}", partial(no_overflow, device, (height, width)))
    names = [name for name in catalogue() if name.endswith("_small")]
    for name in names[-1:] if tiny else names:
        yield Check(f"deterministic: {name}", partial(deterministic_network, device, name))


def other_networks(device: Device) -> Iterator[Check]:
    """Yield the determinism of the shipped networks of full size, for the time that is left."""
    for name in catalogue():
        if not name.endswith("_small"):
            yield Check(f"deterministic: {name}", partial(deterministic_network, device, name), needs=5)


class _Saved(pl.Callback):
    """Saver of a checkpoint after the first epoch."""

    def __init__(self, path: Path):
        self.path = path

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save it."""
        if trainer.current_epoch == 0:
            trainer.save_checkpoint(self.path)


def resumed(device: Device, precision: str) -> str:
    """Train two epochs with an attack in the loop, and the second one again from a checkpoint: equal weights."""
    with tempfile.TemporaryDirectory() as folder, _quiet():
        checkpoint = Path(folder) / "first.ckpt"
        whole = _train(device, precision, callback=_Saved(checkpoint))
        part = _train(device, precision, checkpoint=checkpoint)
    if not all(torch.isfinite(value).all() for value in whole.values() if value.is_floating_point()):
        raise Wrong("weights are not finite")
    different = [name for name, value in whole.items() if not torch.equal(value, part[name])]
    if different:
        raise Wrong(f"{len(different)} of {len(whole)} tensors differ, {different[0]} for example")
    return f"{len(whole)} tensors equal to the bit after two epochs"


def _train(
    device: Device, precision: str, callback: pl.Callback | None = None, checkpoint: Path | None = None
) -> dict[str, Tensor]:
    pl.seed_everything(0, verbose=False)
    module = RobustSegmentation(tiny_network(aux_head=True), attack=PGD(steps=2), warmup_steps=1)
    data = SyntheticScenes(
        train_length=12, val_length=4, batch_size=4, image_size=(SIDE, SIDE), crop_size=(SIDE, SIDE), num_workers=0
    )
    with deterministic():
        trainer = pl.Trainer(
            accelerator="gpu" if device.cuda else "cpu",
            devices=[device.torch.index or 0] if device.cuda else 1,
            max_epochs=2,
            precision=precision,  # type: ignore[arg-type]
            deterministic=True,
            callbacks=[callback] if callback else [],
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(
            module, datamodule=SegmentationDataModule(data), ckpt_path=None if checkpoint is None else str(checkpoint)
        )
    return {name: value.detach().cpu().clone() for name, value in module.model.state_dict().items()}


class _quiet(warnings.catch_warnings):
    """A ``with`` block without Lightning's messages."""

    def __enter__(self) -> None:  # type: ignore[override]
        """Silence them."""
        super().__enter__()
        warnings.simplefilter("ignore")
        self._logger = logging.getLogger("pytorch_lightning")
        self._level = self._logger.level
        self._logger.setLevel(logging.ERROR)

    def __exit__(self, *error: object) -> None:
        """Set back the level."""
        self._logger.setLevel(self._level)
        super().__exit__(*error)


def no_overflow(device: Device, size: tuple[int, int]) -> str:
    """Attack one image under fp16 autocast, where gradients are sums over many pixels; float32 judges."""
    model, images, targets = trained_model(device.torch, 40)
    images = F.interpolate(images[:1], size=size, mode="bilinear", align_corners=False).clamp(0, 1)
    targets = F.interpolate(targets[:1, None].float(), size=size)[:, 0].long()
    left = {}
    for name in ("fp32", "fp16"):
        with device.precision(name):
            noise = NoiseSource.for_samples(0, ["a"], device.torch)
            images_adv = PGD(steps=10)(model, images, targets, generator=noise)
        with device.precision("fp32"):
            left[name] = pixel_acc(model, images_adv, targets)
    found = f"pixel_acc {left['fp32']:.2f} searched in float32, {left['fp16']:.2f} in fp16"
    if left["fp16"] - left["fp32"] > 1:
        raise Wrong(f"{found}: gradients are lost")
    return found


def deterministic_network(device: Device, name: str) -> str:
    """Compute weight gradients and an attack twice with ``trainer.deterministic`` on: equal to the bit."""
    try:
        model = shipped(name).to(device.torch)
    except (ImportError, ModelError) as error:
        raise Absent(str(error)) from error
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, SIDE, SIDE, generator=generator).to(device.torch)
    targets = torch.randint(0, 21, (2, SIDE, SIDE), generator=generator).to(device.torch)
    with deterministic():
        try:
            one, other = (_gradients(model, images, targets) for _ in range(2))
            twice = [PGD(steps=2)(model.eval(), images, targets) for _ in range(2)]
        except RuntimeError as error:
            if "deterministic" in str(error):
                raise Wrong(str(error).partition(". ")[0]) from error
            raise
    different = [key for key in one if not torch.equal(one[key], other[key])]
    if different or not torch.equal(*twice):
        raise Wrong(f"{len(different)} of {len(one)} gradients differ, {(different or ['the attack'])[0]} for example")
    return f"{len(one)} gradients and an attack equal to the bit"


def _gradients(model: nn.Module, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model.train().zero_grad(set_to_none=True)
    logits, aux_logits = model.forward_with_aux(images)
    valid = count_valid(targets, 1, None)
    parts = [logits] if aux_logits is None else [logits, aux_logits]
    torch.stack([update_loss(part, targets, 1, valid, "sum_of_means", None).total for part in parts]).sum().backward()
    return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
