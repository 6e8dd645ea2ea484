import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.segmentation import deeplabv3_resnet50, fcn_resnet50

from robustseg.models import FCN, DeepLabV3, DeepLabV3Head, FCNHead, PooledBatchNorm2d, PSPHead, SegmentationModel

REFERENCES = {DeepLabV3: deeplabv3_resnet50, FCN: fcn_resnet50}


def copy_in_order(source: nn.Module, target: nn.Module) -> None:
    """Both list their layers in the same order under different names."""
    values = list(source.state_dict().values())
    keys = list(target.state_dict())
    assert len(keys) == len(values)
    target.load_state_dict(dict(zip(keys, values, strict=True)))


@pytest.fixture(scope="module", params=[DeepLabV3, FCN], ids=lambda kind: kind.__name__)
def pair(request):
    reference = REFERENCES[request.param](weights=None, weights_backbone=None, num_classes=5, aux_loss=True)
    return request.param, reference


def test_head_equals_torchvisions(pair, randomise):
    kind, reference = pair
    head = DeepLabV3Head(2048, 5) if kind is DeepLabV3 else FCNHead(2048, 5)
    randomise(reference.classifier)
    copy_in_order(reference.classifier, head)
    features = torch.randn(2, 2048, 9, 7)
    torch.testing.assert_close(head.eval()(features), reference.classifier.eval()(features), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_whole_network_equals_torchvisions_with_its_backbone_file(pair, randomise, tmp_path):
    """Weights file, dilation, features of both levels, heads and upsampling in one."""
    kind, reference = pair
    randomise(reference).eval()
    torch.save(reference.backbone.state_dict(), tmp_path / "backbone.pth")
    network = kind(5, "resnet50", 8, weights=str(tmp_path / "backbone.pth"))
    copy_in_order(reference.classifier, network.head)
    copy_in_order(reference.aux_classifier, network.aux_head)
    images = torch.rand(1, 3, 49, 67)
    model = SegmentationModel(network, (0.0,) * 3, (1.0,) * 3).eval()
    with torch.no_grad():
        expected = reference(images)
        logits, aux_logits = model.forward_with_aux(images)
    assert expected["out"].std() > 1e-4
    torch.testing.assert_close(logits, expected["out"], rtol=1e-3, atol=1e-4 * expected["out"].abs().max().item())
    torch.testing.assert_close(aux_logits, expected["aux"], rtol=1e-3, atol=1e-4 * expected["aux"].abs().max().item())


def test_pyramid_equals_its_definition(randomise):
    """Average over each grid cell, reduce, upsample, concatenate: written out with plain slices."""
    head = randomise(PSPHead(8, 5, channels=6)).eval()
    features = torch.randn(2, 8, 12, 18)
    maps = [features]
    for bins, branch in zip((1, 2, 3, 6), head.branches, strict=True):
        rows = [chunk.unflatten(3, (bins, -1)).mean(dim=(2, 4)) for chunk in features.chunk(bins, dim=2)]
        pooled = branch[1:](torch.stack(rows, dim=2))
        assert pooled.shape == (2, 2, bins, bins)
        maps.append(F.interpolate(pooled, (12, 18), mode="bilinear", align_corners=False))
    torch.testing.assert_close(head(features), head.classifier(torch.cat(maps, dim=1)), rtol=1e-4, atol=1e-5)


def test_pyramid_has_the_widths_of_the_paper():
    head = PSPHead(2048, 5)
    assert [branch[1].out_channels for branch in head.branches] == [512] * 4
    assert head.classifier[0][0].weight.shape == (512, 4096, 3, 3)


@pytest.mark.parametrize(("output_stride", "rates"), [(8, [12, 24, 36]), (16, [6, 12, 18]), (32, [3, 6, 9])])
def test_atrous_rates_follow_the_output_stride(output_stride, rates):
    head = DeepLabV3(5, "resnet10t", output_stride, 8).head
    assert [branch[0].dilation[0] for branch in head.branches] == [1, *rates]


@pytest.mark.parametrize("head", [PSPHead(8, 5, 6), DeepLabV3Head(8, 5, 6)], ids=["psp", "deeplab"])
def test_batch_of_one_trains_with_the_running_statistics_of_the_pooled_map(head):
    pooled = [module for module in head.modules() if isinstance(module, PooledBatchNorm2d)]
    before = [module.running_mean.clone() for module in pooled]
    features = torch.randn(2, 8, 12, 12)
    head.train()(features[:1]).sum().backward()
    assert pooled
    assert all(torch.equal(module.running_mean, mean) for module, mean in zip(pooled, before, strict=True))
    head(features)
    assert not any(torch.equal(module.running_mean, mean) for module, mean in zip(pooled, before, strict=True))


def test_pooled_batch_norm_is_batch_norm_otherwise(randomise):
    plain, pooled = nn.BatchNorm2d(4), PooledBatchNorm2d(4)
    randomise(plain)
    pooled.load_state_dict(plain.state_dict())
    for x in (torch.randn(2, 4, 1, 1), torch.randn(1, 4, 2, 2)):
        torch.testing.assert_close(pooled(x), plain(x))
    x = torch.randn(1, 4, 1, 1)
    torch.testing.assert_close(pooled(x), plain.eval()(x))


def test_dropout_acts_in_train_mode_only():
    features = torch.randn(2, 8, 12, 12)
    for head in (PSPHead(8, 5, 64, 0.5), DeepLabV3Head(8, 5, 64, 0.5), FCNHead(8, 5, 64, 0.5)):
        assert not torch.equal(head.train()(features), head(features))
        assert torch.equal(head.eval()(features), head(features))
