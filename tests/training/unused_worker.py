"""Trainings on two gloo ranks, in which some parameters have no part in an update; the first rank writes the outcomes.

Run as ``python -m tests.training.unused_worker FILE [CASE ...]``; Lightning starts the second rank itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn

from robustseg.attacks import PGD
from robustseg.data import SyntheticScenes
from robustseg.data.lightning import SegmentationDataModule
from robustseg.models import FCN, Compile, DeepLabV3, ExternalNetwork, PSPNet, TorchvisionNetwork, UPerNet
from robustseg.training import RobustSegmentation
from robustseg.training.strategy import named_gradients
from tests.helpers.nets import ToyNetwork

CLASSES = 7


class WithAux(nn.Module):
    """Returns a dict as torchvision's networks do; with auxiliary logits in train mode only, if told so."""

    def __init__(self, when_training: bool = False):
        super().__init__()
        self.stem, self.head, self.extra = nn.Conv2d(3, 6, 3), nn.Conv2d(6, CLASSES, 1), nn.Conv2d(6, CLASSES, 1)
        self.when_training = when_training

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.stem(x).relu()
        aux = {} if self.when_training and not self.training else {"aux": self.extra(features)}
        return {"out": self.head(features), **aux}


class Needy(WithAux):
    """Looks at values, of which there are none on the meta device."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        assert float(x.detach().abs().max()) < 1e3
        return super().forward(x)


class Spare(ToyNetwork):
    """Has a layer that it never runs."""

    def __init__(self, num_classes: int):
        super().__init__(num_classes, aux=True)
        self.spare = nn.Conv2d(6, 6, 1)


class Frozen(ToyNetwork):
    """Trains its heads only."""

    def __init__(self, num_classes: int):
        super().__init__(num_classes, aux=True)
        self.backbone.requires_grad_(False)


class Alternating(ToyNetwork):
    """Runs one of two layers, from one update to the next."""

    def __init__(self, num_classes: int):
        super().__init__(num_classes)
        self.layers = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(2))
        self.calls = 0

    def forward_with_aux(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        self.calls += self.training
        x = self.layers[self.calls % 2](x) if self.training else self.layers[0](self.layers[1](x))
        return super().forward_with_aux(x)


SMALL = {"channels": 8, "backbone": "test_resnet"}
CASES: dict[str, Callable[[], RobustSegmentation]] = {
    "PSPNet": lambda: RobustSegmentation(PSPNet(CLASSES, **SMALL), PGD(steps=1), aux_weight=0),
    "DeepLabV3": lambda: RobustSegmentation(DeepLabV3(CLASSES, **SMALL), PGD(steps=1), aux_weight=0),
    "FCN": lambda: RobustSegmentation(FCN(CLASSES, **SMALL), aux_weight=0),
    "UPerNet": lambda: RobustSegmentation(UPerNet(CLASSES, **SMALL, level_norms=False), aux_weight=0),
    "torchvision": lambda: RobustSegmentation(TorchvisionNetwork(CLASSES, "fcn_resnet50"), aux_weight=0),
    "dict": lambda: RobustSegmentation(ExternalNetwork(WithAux(), CLASSES), PGD(steps=1), aux_weight=0),
    "values": lambda: RobustSegmentation(ExternalNetwork(Needy(), CLASSES), PGD(steps=1), aux_weight=0),
    "train mode only": lambda: RobustSegmentation(ExternalNetwork(WithAux(True), CLASSES), PGD(steps=1)),
    "all adversarial": lambda: RobustSegmentation(ToyNetwork(CLASSES, True), PGD(steps=1), adversarial_fraction=1),
    "spare": lambda: RobustSegmentation(Spare(CLASSES), PGD(steps=1)),
    "frozen": lambda: RobustSegmentation(Frozen(CLASSES), PGD(steps=1), aux_weight=0),
    "compiled": lambda: RobustSegmentation(
        ToyNetwork(CLASSES, True), PGD(steps=1), compile=Compile(backend="eager"), channels_last=True
    ),
    "compiled, without weight": lambda: RobustSegmentation(
        ToyNetwork(CLASSES, True), PGD(steps=1), compile=Compile(backend="eager"), aux_weight=0
    ),
    # last: a rank that has failed is out of step
    "alternating": lambda: RobustSegmentation(Alternating(CLASSES), PGD(steps=1)),
}


def main(path: str, *names: str) -> None:
    torch.set_num_threads(1)
    outcomes: dict[str, object] = {}
    for name, build in CASES.items():
        if names and name not in names:
            continue
        pl.seed_everything(3, verbose=False)
        module = build()
        before = {key: value.clone() for key, value in module.model.named_parameters()}
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=2,
            strategy=DDPStrategy(process_group_backend="gloo"),
            use_distributed_sampler=False,
            max_steps=3,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
        )
        data = SyntheticScenes(image_size=(64, 64), train_length=12, val_length=2, test_length=2, batch_size=2)
        try:
            with named_gradients():
                trainer.fit(module, datamodule=SegmentationDataModule(data))
            outcomes[name] = [key for key, value in module.model.named_parameters() if torch.equal(value, before[key])]
        except Exception as error:
            outcomes[name] = f"{type(error).__name__}: {error}"
        if trainer.is_global_zero:
            torch.save(outcomes, path)


if __name__ == "__main__":
    main(*sys.argv[1:])
