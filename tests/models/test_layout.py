from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustseg.attacks import PGD, AttackError
from robustseg.models import Compile, ExternalNetwork, ModelError, PSPNet, SegFormer, SegmentationModel, SlidingWindow
from tests.helpers.nets import ToyNetwork, toy_batch

CLASSES = 4
BATCH = toy_batch(3, num_classes=CLASSES, side=64)
NETWORKS = {
    "PSPNet": lambda: PSPNet(CLASSES, "test_resnet", channels=8),
    "SegFormer": lambda: SegFormer(CLASSES, channels=8, backbone_args={"embed_dims": (8, 16, 40, 64)}),
}


def models(build) -> list[SegmentationModel]:
    found = []
    for channels_last in (False, True):
        torch.manual_seed(0)
        window = SlidingWindow((48, 48))
        found.append(SegmentationModel(build(), window=window, channels_last=channels_last).eval())
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_updates_attacks_and_windows_compute_the_same(name):
    usual, other = models(NETWORKS[name])
    seen: list[bool] = []
    for module in other.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
            module.register_forward_hook(
                lambda _, inputs, __: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
            )
    torch.testing.assert_close(usual(BATCH.images), other(BATCH.images), rtol=1e-4, atol=1e-5)
    assert seen[0]
    results = [PGD(steps=2)(model, BATCH.images, BATCH.targets, generator=_generator()) for model in (usual, other)]
    assert (results[0] - results[1]).abs().gt(1e-4).float().mean() < 0.01
    gradients = []
    for model in (usual, other):
        logits, aux = model.forward_with_aux(BATCH.images)
        (logits.square().mean() + (0 if aux is None else aux.square().mean())).backward()
        gradients.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def test_files_do_not_depend_on_it(tmp_path):
    usual, other = models(lambda: ToyNetwork(CLASSES))
    for source, target in ((usual, other), (other, usual)):
        with torch.no_grad():
            for parameter in source.parameters():
                parameter.normal_()
        torch.save(source.state_dict(), tmp_path / "file.pt")
        target.load_state_dict(torch.load(tmp_path / "file.pt", weights_only=True))
        assert list(source.state_dict()) == list(target.state_dict())
        torch.testing.assert_close(source(BATCH.images), target(BATCH.images))
    assert other.network.backbone[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert not usual.network.backbone[0].weight.is_contiguous(memory_format=torch.channels_last)


class Viewing(ToyNetwork):
    """Flattens its features by view, which the other layout does not allow."""

    def forward_with_aux(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        features = self.backbone(x)
        return self.head(features.view(len(x), -1).view(features.shape)), None


class Volume(ToyNetwork):
    """Has a weight of five dimensions, for which the layout is another."""

    def __init__(self, num_classes: int):
        super().__init__(num_classes)
        self.volume = nn.Conv3d(3, 3, 1)

    def forward_with_aux(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return super().forward_with_aux(self.volume(x.unsqueeze(2)).squeeze(2))


class Asserting(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        assert x.is_contiguous()
        return super().forward(x)


BREAKING = {
    "view": lambda: Viewing(CLASSES),
    "assert": lambda: ExternalNetwork(Asserting(3, CLASSES, 3), CLASSES),
}


@pytest.mark.parametrize("name", BREAKING)
@pytest.mark.parametrize(
    "compile", [False, pytest.param(Compile(backend="eager"), marks=pytest.mark.exhaustive)], ids=["", "compiled"]
)
def test_a_network_that_breaks_it_is_named_with_the_key(name, compile):
    model = SegmentationModel(BREAKING[name](), channels_last=True, compile=compile).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    message = r"model\.channels_last: \w+ needs another layout .*leave model\.channels_last out"
    with pytest.raises(ModelError, match=message):
        model(BATCH.images)
    with pytest.raises(ModelError, match=message):
        PGD(steps=1)(model, BATCH.images, BATCH.targets)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    with pytest.raises(ModelError, match=message):
        model.train().forward_with_aux(BATCH.images)
    usual = SegmentationModel(BREAKING[name]()).eval()
    assert usual(BATCH.images).isfinite().all()


def test_other_errors_pass_and_weights_of_five_dimensions_stay():
    model = SegmentationModel(Volume(CLASSES), channels_last=True).eval()
    assert model(BATCH.images).isfinite().all()
    model = SegmentationModel(ExternalNetwork(nn.Conv2d(4, CLASSES, 1), CLASSES), channels_last=True)
    with pytest.raises(RuntimeError, match=r"expected input.* to have 4 channels"):
        model(BATCH.images)
    with pytest.raises(AttackError, match="4 channels"):
        PGD(steps=1)(model, BATCH.images, BATCH.targets)
