import pytest
import timm
import torch
from torch import nn

from robustseg.models import ModelError, SegFormer, SegmentationModel, Segmenter, UPerNet

CONVNEXT = {"dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
MIT = {"embed_dims": [8, 16, 40, 64], "depths": [1, 1, 1, 1]}
VIT = {"img_size": 64, "embed_dim": 64, "depth": 2, "num_heads": 1}
SWIN = {"img_size": [97, 131], "window_size": 4, "embed_dim": 24, "num_heads": [1, 2, 4, 8], "depths": [1, 1, 1, 1]}
RESNET = {"channels": [8, 16, 32, 64]}
BUILDS = {
    "UPerNet": lambda: UPerNet(4, "convnext_tiny", 8, backbone_args=CONVNEXT),
    "UPerNet, ConvStem": lambda: UPerNet(4, "convnext_tiny", 8, conv_stem=True, backbone_args=CONVNEXT),
    "UPerNet, ResNet": lambda: UPerNet(4, "resnet10t", 8, level_norms=False, aux_head=False, backbone_args=RESNET),
    "SegFormer": lambda: SegFormer(4, "mit_b0", 8, backbone_args=MIT),
    "SegFormer, mmseg": lambda: SegFormer(4, "mit_b0", 8, projection_bn=True, norm_eps=1e-6, backbone_args=MIT),
    "Segmenter": lambda: Segmenter(4, backbone_args=VIT),
}


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("size", [(97, 131), (33, 47)], ids=str)
@pytest.mark.parametrize("name", [name for name in BUILDS if name != "UPerNet, ResNet"])
def test_odd_sizes_with_a_batch_of_one(name, size, train):
    model = SegmentationModel(BUILDS[name]()).train(train)
    images = torch.rand(1, 3, *size, requires_grad=True)
    logits, aux_logits = model.forward_with_aux(images)
    assert logits.shape == (1, 4, *size)
    assert (aux_logits is not None) == name.startswith("UPerNet")
    assert aux_logits is None or aux_logits.shape == logits.shape
    (grad,) = torch.autograd.grad(logits.square().sum(), images)
    assert grad.abs().sum() > 0


@pytest.mark.parametrize(("backbone", "args"), [("resnet10t", RESNET), ("swin_tiny_patch4_window7_224", SWIN)])
@pytest.mark.parametrize("kind", [UPerNet, SegFormer])
def test_other_pyramids(kind, backbone, args):
    model = SegmentationModel(kind(4, backbone, 8, backbone_args=args)).eval()
    with torch.no_grad():
        assert model(torch.rand(2, 3, 97, 131)).shape == (2, 4, 97, 131)


@pytest.mark.parametrize("name", BUILDS)
def test_everything_is_trained_and_only_the_head_is_not_pretrained(name):
    network = BUILDS[name]().train()
    logits, aux_logits = SegmentationModel(network).train().forward_with_aux(torch.rand(2, 3, 64, 64))
    (logits.square().mean() + (0.0 if aux_logits is None else aux_logits.square().mean())).backward()
    without = {key for key, value in network.named_parameters() if value.grad is None}
    assert not without
    outside = {key.split(".")[0] for key, _ in network.named_parameters()}
    assert outside <= {"backbone", "head", "aux_head", "level_norms"}


@pytest.mark.parametrize(
    ("backbone", "widths", "strides"),
    [("convnext_tiny", (48, 96), (2, 2)), ("convnext_base", (64, 96, 128), (2, 2, 1))],
)
def test_conv_stems_are_the_authors(backbone, widths, strides):
    with torch.device("meta"):
        stem = UPerNet(4, backbone, 8, conv_stem=True).backbone.body["stem_0"]
    convolutions = [module for module in stem if isinstance(module, nn.Conv2d)]
    assert tuple(convolution.out_channels for convolution in convolutions) == widths
    assert tuple(convolution.stride[0] for convolution in convolutions) == strides
    assert [type(module).__name__ for module in stem] == ["Conv2d", "LayerNorm2d", "GELU"] * len(widths)


def test_robust_classifiers_start_a_conv_stem(tmp_path):
    """Names of nmndeep/revisiting-at: the stem is a Sequential called stem in a module called stem."""
    network = UPerNet(4, "convnext_tiny", 8, conv_stem=True, backbone_args=CONVNEXT)
    body = network.backbone.body.state_dict()
    state = {
        key.replace("stem_0.", "stem.stem.").replace("stages_", "stages."): torch.randn_like(value)
        for key, value in body.items()
    }
    state |= {"head.fc.weight": torch.zeros(1000, 32), "head.fc.bias": torch.zeros(1000)}
    state |= {"head.norm.weight": torch.ones(32), "head.norm.bias": torch.zeros(32)}
    torch.save({f"module.{key}": value for key, value in state.items()}, tmp_path / "robust.pt")
    weights = str(tmp_path / "robust.pt")
    loaded = UPerNet(4, "convnext_tiny", 8, conv_stem=True, backbone_args=CONVNEXT, weights=weights).backbone.body
    assert torch.equal(loaded["stem_0"][3].weight, state["stem.stem.3.weight"])
    with pytest.raises(ModelError, match=r"robust\.pt.* not hold the weights of backbone convnext.*conv_stem: true"):
        UPerNet(4, "convnext_tiny", 8, backbone_args=CONVNEXT, weights=weights)


@pytest.mark.parametrize("build", [UPerNet, Segmenter], ids=lambda kind: kind.__name__)
def test_raw_images_are_not_normalised(build):
    name, args = ("convnext_tiny", CONVNEXT) if build is UPerNet else ("vit_small_patch16_224", VIT)
    raw, usual = (build(4, name, backbone_args=args, raw_images=value) for value in (True, False))
    assert (raw.image_mean, raw.image_std) == ((0.0,) * 3, (1.0,) * 3)
    assert (usual.image_mean, usual.image_std) == (usual.backbone.mean, usual.backbone.std) != (raw.image_mean,) * 2


def test_segmenter_keeps_the_last_norm_of_its_start(tmp_path, monkeypatch):
    vit = timm.create_model("vit_small_patch16_224", **VIT)
    nn.init.uniform_(vit.norm.weight)
    nn.init.uniform_(vit.norm.bias)
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    load, reads = torch.load, []
    monkeypatch.setattr(torch, "load", lambda path, **options: reads.append(path) or load(path, **options))
    network = Segmenter(4, backbone_args=VIT, weights=str(tmp_path / "vit.pth"))
    assert len(reads) == 1
    assert torch.equal(network.backbone.norm.weight, vit.norm.weight)
    assert torch.equal(network.backbone.norm.bias, vit.norm.bias)
    assert torch.equal(network.backbone.body.model.blocks[1].mlp.fc1.weight, vit.blocks[1].mlp.fc1.weight)


def test_segmenter_starts_without_a_last_norm(tmp_path):
    vit = timm.create_model("vit_small_patch16_224", **VIT)
    state = {key: value for key, value in vit.state_dict().items() if key != "norm.bias"}
    torch.save(state | {"norm.weight": torch.full((64,), 3.0)}, tmp_path / "vit.pth")
    norm = Segmenter(4, backbone_args=VIT, weights=str(tmp_path / "vit.pth")).backbone.norm
    assert torch.equal(norm.weight, torch.ones(64))


def test_segmenters_backbone_computes_what_timms_vit_does(tmp_path):
    vit = timm.create_model("vit_small_patch16_224", **VIT).eval()
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    network = Segmenter(4, backbone_args=VIT, weights=str(tmp_path / "vit.pth"), norm_eps=1e-6).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        (features,) = network.backbone(images)
        expected = vit.forward_features(images)[:, 1:].transpose(1, 2).reshape(2, 64, 4, 4)
    torch.testing.assert_close(features, expected)


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_segmenter_interpolates_in_full_precision(precision):
    network = Segmenter(4, backbone_args=VIT).eval()
    with torch.autocast("cpu", dtype=precision), torch.no_grad():
        assert network(torch.rand(1, 3, 33, 47)).dtype == torch.float32
