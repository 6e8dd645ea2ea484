"""Networks of other libraries: built without a download, loaded by the one loader, and equal to the library's own."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from torch.nn import functional as F

import robustseg
from robustseg.models import (
    ModelError,
    SegmentationModel,
    SMPNetwork,
    TorchvisionNetwork,
    TransformersNetwork,
    load_segmentation_weights,
)
from robustseg.models.adapters.library import import_library
from robustseg.models.adapters.smp import from_preprocessing
from robustseg.models.adapters.transformers import MODEL_TYPES, from_preprocessor
from tests.models.checkpoints.parity import assert_same, normalised, parameters, randomise_, resized

smp = pytest.importorskip("segmentation_models_pytorch", reason="segmentation_models_pytorch is in the dev extra")
transformers = pytest.importorskip("transformers", reason="transformers is in the dev extra")

CLASSES = 4
TINY = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "decoder_hidden_size": 16}
TINY |= {"num_attention_heads": [1, 2, 2, 4], "hidden_dropout_prob": 0.0, "classifier_dropout_prob": 0.0}
CONVNEXT = {"model_type": "convnext", "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
CONVNEXT |= {"out_features": ["stage1", "stage2", "stage3", "stage4"]}
UPERNET = {"backbone_config": CONVNEXT, "hidden_size": 16, "auxiliary_channels": 8, "auxiliary_in_channels": 24}


def test_the_libraries_are_not_imported_before_they_are_needed():
    for path in Path(robustseg.__file__).parent.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if "segmentation_models_pytorch" not in text and "transformers" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not {name.partition(".")[0] for name in names} & {"segmentation_models_pytorch", "transformers"}


@pytest.mark.parametrize(
    ("network", "module", "package"),
    [
        (SMPNetwork, "segmentation_models_pytorch", "segmentation-models-pytorch"),
        (TransformersNetwork, "transformers", "transformers"),
    ],
)
def test_an_absent_library_is_named_with_its_remedy(network, module, package, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModelError, match=f"{network.__name__} needs {module}.*pip install {package}"):
        network(CLASSES)
    with pytest.raises(ModelError, match="pip install nothing"):
        import_library("absent_library", "nothing", "Some")


def loaded(network, path):
    model = SegmentationModel(network)
    before = model.state_dict()["network.module." + next(iter(network.module.state_dict()))].clone()
    info = load_segmentation_weights(model, path)
    assert "layout" not in info
    assert not torch.equal(before, next(iter(network.module.state_dict().values())))
    return model.eval()


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"])
def test_torchvision(name, tmp_path):
    aux = {} if name.startswith("lraspp") else {"aux_loss": True}
    build = getattr(torchvision.models.segmentation, name)
    reference = randomise_(build(weights=None, weights_backbone=None, num_classes=CLASSES, **aux))
    with torch.no_grad():  # its features of random weights are nearly the same everywhere
        for parameter in reference.classifier.parameters():
            parameter.mul_(50 if aux and len(parameter) == CLASSES else 1)
    state = {f"module.{key}": value for key, value in reference.state_dict().items()}
    # as references/segmentation/train.py writes it
    torch.save({"model": state, "optimizer": {"lr": 1}, "epoch": 3, "args": None}, tmp_path / "model_3.pth")
    model = loaded(TorchvisionNetwork(CLASSES, name, bool(aux)), tmp_path / "model_3.pth")
    assert parameters(model) == parameters(reference)
    reference = reference.double()
    assert_same(model, lambda images: reference(normalised(images))["out"], 97, 131)
    images = torch.rand(1, 3, 33, 47, dtype=torch.float64)
    logits, aux_logits = model.forward_with_aux(images)
    if aux:
        torch.testing.assert_close(aux_logits, reference(normalised(images))["aux"])
    else:
        assert aux_logits is None
    with torch.no_grad():
        assert model.train()(images).shape == logits.shape  # batch of one


@pytest.mark.parametrize(
    ("kind", "arch", "encoder", "size"),
    [
        ("pth", "Unet", "resnet18", (97, 131)),
        ("pth", "FPN", "tu-mobilenetv3_small_100", (64, 96)),
        ("save_pretrained", "DeepLabV3Plus", "tu-resnet10t", (64, 96)),
    ],
)
def test_smp(arch, encoder, size, kind, tmp_path):
    torch.manual_seed(0)
    reference = randomise_(smp.create_model(arch, encoder, encoder_weights=None, classes=CLASSES))
    if kind == "pth":
        torch.save({"state_dict": {f"model.{k}": v for k, v in reference.state_dict().items()}}, tmp_path / "last.pth")
    else:
        reference.save_pretrained(tmp_path)
    path = tmp_path / ("last.pth" if kind == "pth" else "model.safetensors")
    model = loaded(SMPNetwork(CLASSES, arch, encoder), path)
    assert parameters(model) == parameters(reference)
    assert parameters(model.network.backbone) == parameters(reference.encoder)
    reference = reference.double()
    mean, std = model.mean.double(), model.std.double()
    assert_same(model, lambda images: reference((images - mean) / std), *size)
    model.float()
    for training in (True, False):
        assert model.train(training)(torch.rand(1, 3, 33, 47)).shape == (1, CLASSES, 33, 47)


def test_smp_pads_with_the_mean_colour_and_crops():
    model = SegmentationModel(SMPNetwork(CLASSES, "FPN", "tu-mobilenetv3_small_100")).eval()
    images = torch.rand(1, 3, 97, 131, requires_grad=True)
    padded = model.mean.expand(1, 3, 128, 160).clone()
    padded[..., :97, :131] = images
    logits = model(images)
    torch.testing.assert_close(logits, model(padded)[..., :97, :131])
    assert torch.autograd.grad(logits.sum(), images)[0].abs().amin(dim=(0, 1)).count_nonzero() > 97 * 131 // 2


def test_smp_preprocessing_is_that_of_the_library():
    images = torch.rand(2, 8, 3, dtype=torch.float64)
    for params in (
        {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25], "input_space": "RGB", "input_range": [0, 1]},
        {"mean": [104.0, 117.0, 124.0], "std": [1.0, 2.0, 3.0], "input_space": "BGR", "input_range": [0, 255]},
        {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25], "input_space": "BGR", "input_range": [0, 1]},
    ):
        expected = smp.encoders.preprocess_input((255 * images).numpy(), **params)
        mean, std, order = from_preprocessing(params)
        found = (images - torch.tensor(mean)) / torch.tensor(std)
        found = found.flip(-1) if order == "bgr" else found
        torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("encoder", "mean"),
    [("resnet34", 0.485), ("xception", 0.5), ("dpn68", 124 / 255), ("tu-mobilenetv3_small_100", 0.485)],
)
def test_smp_normalisation_of_encoders(encoder, mean):
    with torch.device("meta"):
        assert SMPNetwork(CLASSES, "FPN", encoder).image_mean[0] == pytest.approx(mean)


def save_transformers(reference, folder, kind, **processor):
    reference.config.save_pretrained(folder)
    transformers.SegformerImageProcessor(**processor).save_pretrained(folder)
    if kind == "model.safetensors":
        reference.save_pretrained(folder)
    else:
        torch.save(reference.state_dict(), folder / kind)
    return folder / kind


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
def test_segformer(kind, tmp_path):
    config = transformers.SegformerConfig(num_labels=CLASSES, **TINY)
    reference = randomise_(transformers.SegformerForSemanticSegmentation(config))
    path = save_transformers(reference, tmp_path, kind)
    model = loaded(TransformersNetwork(CLASSES, str(tmp_path)), path)
    assert parameters(model) == parameters(reference)
    reference = reference.double()
    processor = transformers.SegformerImageProcessor()

    def library(images):
        logits = reference(normalised(images)).logits
        assert logits.shape[-2:] == (25, 33)
        output = type("Output", (), {"logits": logits})
        (classes,) = processor.post_process_semantic_segmentation(output, [(97, 131)])
        found = resized(logits, images, align_corners=False)
        assert torch.equal(found.argmax(1)[0], classes)
        return found

    assert_same(model, library, 97, 131)


def test_the_file_beside_a_json_and_the_changes_of_args(tmp_path):
    config = transformers.SegformerConfig(num_labels=19, torch_dtype="float16", **TINY)
    config.save_pretrained(tmp_path)
    network = TransformersNetwork(CLASSES, str(tmp_path / "config.json"), args={"depths": [2, 1, 1, 1]})
    assert len(network.backbone.stages[0].blocks) == 2
    assert network.module.config.num_labels == CLASSES
    assert network.module.config.hidden_sizes == TINY["hidden_sizes"]
    assert next(network.parameters()).dtype == torch.float32


def test_upernet_and_its_auxiliary_head(tmp_path):
    config = transformers.UperNetConfig(**UPERNET, num_labels=CLASSES)
    reference = randomise_(transformers.UperNetForSemanticSegmentation(config))
    torch.save(reference.state_dict(), tmp_path / "pytorch_model.bin")
    model = loaded(TransformersNetwork(CLASSES, "upernet", args=UPERNET), tmp_path / "pytorch_model.bin")
    assert parameters(model.network.backbone) == parameters(reference.backbone)
    images = torch.rand(1, 3, 97, 131)
    logits, aux_logits = model.forward_with_aux(images)
    with torch.no_grad():
        torch.testing.assert_close(logits, reference(normalised(images)).logits, atol=1e-4, rtol=1e-4)
        features = reference.backbone(normalised(images)).feature_maps
        expected = F.interpolate(reference.auxiliary_head(features), (97, 131), mode="bilinear")
        torch.testing.assert_close(aux_logits, expected, atol=1e-4, rtol=1e-4)
    assert not model.network.module.auxiliary_head._forward_hooks
    for training in (True, False):
        assert model.train(training)(torch.rand(1, 3, 33, 47)).shape == (1, CLASSES, 33, 47)


@pytest.mark.parametrize("name", MODEL_TYPES)
def test_every_type_builds_and_has_a_backbone(name):
    args = {"out_indices": [3, 5, 7, 11]} if name == "beit" else {}
    with torch.device("meta"):
        network = TransformersNetwork(CLASSES, name, args=args)
    assert 0 < parameters(network.backbone) < parameters(network)


@pytest.mark.parametrize("settings", [{}, {"do_rescale": False}, {"do_normalize": False}, {"rescale_factor": 1 / 128}])
def test_the_image_processors_normalisation(settings, tmp_path):
    processor = transformers.SegformerImageProcessor(do_resize=False, **settings)
    processor.save_pretrained(tmp_path)
    transformers.SegformerConfig(**TINY).save_pretrained(tmp_path)
    network = TransformersNetwork(CLASSES, str(tmp_path))
    images = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8)
    expected = processor(images, return_tensors="pt")["pixel_values"]
    model = SegmentationModel(network)
    torch.testing.assert_close((images / 255 - model.mean) / model.std, expected.float(), rtol=1e-4, atol=1e-4)


BEIT = {"hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 64}
BEIT |= {"out_indices": [1, 2, 3, 4], "use_relative_position_bias": True}
DPT = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 64}
DPT |= {"backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [8, 16, 16, 16], "fusion_hidden_size": 16}
VIT = {"encoder_depth": 4, "decoder_intermediate_channels": (8, 8, 8, 8), "decoder_fusion_channels": 8}
PARTLY_USED = {
    "mobilenet_v2": (lambda: TransformersNetwork(CLASSES, "mobilenet_v2", args={"depth_multiplier": 0.35}), "conv_1x1"),
    "beit": (lambda: TransformersNetwork(CLASSES, "beit", args=BEIT), "layers.5."),
    "dpt": (lambda: TransformersNetwork(CLASSES, "dpt", args=DPT), "layernorm"),
    "PSPNet": (lambda: SMPNetwork(CLASSES, "PSPNet", "resnet18"), "layer4"),
    "Linknet": (lambda: SMPNetwork(CLASSES, "Linknet", "efficientnet-b0"), "_conv_head"),
    "DPT": (lambda: SMPNetwork(CLASSES, "DPT", "tu-vit_tiny_patch16_224", args=VIT), "model.norm"),
    "segformer": (lambda: TransformersNetwork(CLASSES, args=TINY), None),
    "upernet": (lambda: TransformersNetwork(CLASSES, "upernet", args=UPERNET), None),
    "lraspp": (lambda: TorchvisionNetwork(CLASSES, "lraspp_mobilenet_v3_large", aux_head=False), None),
}


@pytest.fixture
def process_group(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("name", PARTLY_USED)
@pytest.mark.usefixtures("process_group")
def test_what_no_logit_depends_on_is_not_trained(name):
    build, unused = PARTLY_USED[name]
    network = build()
    frozen = [key for key, parameter in network.named_parameters() if not parameter.requires_grad]
    assert any(unused in key for key in frozen) if unused else not frozen, frozen
    assert all(module.training for module in network.modules())
    assert {key for key, _ in network.named_parameters()} <= network.state_dict().keys()
    parallel = torch.nn.parallel.DistributedDataParallel(WithAux(network))
    side = 224 if name == "DPT" else 64
    for _ in range(2):  # it is the second step that is refused where the first has left out a parameter
        sum(output.square().mean() for output in parallel(torch.rand(2, 3, side, side))).backward()
    for key, parameter in network.named_parameters():
        assert (parameter.grad is None) == (key in frozen), key


class WithAux(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return [output for output in self.network.forward_with_aux(x) if output is not None]


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("config.json", {"model_type": ["segformer"]}, "model_type = ['segformer'], a list, is none of"),
        ("config.json", {"model_type": {"a": 1}}, "a dict, is none of"),
        ("config.json", {"model_type": 3}, "model_type = 3"),
        ("config.json", {}, "model_type = None"),
        ("config.json", {"model_type": "segformer", "depths": 3}, "could not build"),
        ("config.json", {"model_type": "upernet", "backbone_config": {"model_type": ["x"]}}, "could not build"),
        ("preprocessor_config.json", {"image_mean": "abc"}, "'image_mean': 'abc'"),
        ("preprocessor_config.json", {"image_mean": [None, 1, 2]}, "three numbers each"),
        ("preprocessor_config.json", {"image_std": [0, 1, 1]}, "positive deviations"),
        ("preprocessor_config.json", {"image_std": [0.5, 0.5]}, "three numbers each"),
        ("preprocessor_config.json", {"rescale_factor": "x"}, "positive factor"),
    ],
)
def test_values_of_other_types(file, content, words, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "segformer", **TINY}))
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(ModelError) as caught:
        TransformersNetwork(CLASSES, str(tmp_path))
    assert words in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_type_among_the_arguments():
    with pytest.raises(ModelError, match="model_type = 'bert' is none of"):
        TransformersNetwork(CLASSES, args={"model_type": "bert"})


def test_mobilevit_wants_blue_first():
    assert from_preprocessor(MODEL_TYPES["mobilevit"]) == ((0.0,) * 3, (1.0,) * 3, "bgr")
    assert from_preprocessor({"do_flip_channel_order": True, "image_mean": [1, 2, 3]}).mean == (1, 2, 3)


def test_pretrained_takes_the_encoder_of_a_classifier(tmp_path):
    config = transformers.SegformerConfig(num_labels=10, **TINY)
    classifier = transformers.SegformerForImageClassification(config)
    classifier.save_pretrained(tmp_path)
    network = TransformersNetwork(CLASSES, str(tmp_path), pretrained=True)
    for key, value in classifier.segformer.state_dict().items():
        assert torch.equal(network.backbone.state_dict()[key], value)
    content = json.loads((tmp_path / "config.json").read_text()) | {"hidden_sizes": [8, 16, 24, 64]}
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"model.safetensors does not hold the encoder .*another shape"):
        TransformersNetwork(CLASSES, str(tmp_path), pretrained=True)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="holds neither"):
        TransformersNetwork(CLASSES, str(tmp_path), pretrained=True)
    with pytest.raises(ModelError, match="is no folder with weights"):
        TransformersNetwork(CLASSES, "segformer", pretrained=True, args=TINY)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: TorchvisionNetwork(2, "deeplabv3_resnet5"), ["name = 'deeplabv3_resnet5'", "deeplabv3_resnet50"]),
        (lambda: TorchvisionNetwork(2, "resnet50"), ["unknown to torchvision.models.segmentation", "fcn_resnet50"]),
        (lambda: TorchvisionNetwork(2, "lraspp_mobilenet_v3_large"), ["aux_head: false"]),
        (lambda: SMPNetwork(2, "UNet"), ["arch = 'UNet'", "did you mean Unet"]),
        (lambda: SMPNetwork(2, "Unet", "resnet35"), ["encoder_name = 'resnet35'", "resnet34"]),
        (lambda: SMPNetwork(2, "Unet", "tu-hf-hub:someone/model"), ["encoder_name", "unknown to timm"]),
        (lambda: SMPNetwork(2, "Unet", "tu-someone/resnet18"), ["encoder_name", "unknown to timm"]),
        (lambda: SMPNetwork(2, "Unet", "hf-hub:someone/model"), ["encoder_name"]),
        (lambda: SMPNetwork(2, args={"activation": "softmax"}), ["args may not hold activation", "logits"]),
        (lambda: SMPNetwork(2, args={"aux_params": {"classes": 2}}), ["args may not hold aux_params"]),
        (lambda: SMPNetwork(2, args={"checkpoint_path": "/tmp/x.pkl"}), ["args may not hold checkpoint_path"]),
        (lambda: SMPNetwork(2, args={"pretrained_cfg": "x"}), ["args may not hold pretrained_cfg"]),
        (lambda: SMPNetwork(2, args={"encoder_weights": "imagenet"}), ["pretrained: true"]),
        (lambda: SMPNetwork(2, args={"nonsense": 1}), ["nonsense", "unknown to Unet", "decoder_channels"]),
        (lambda: TransformersNetwork(2, "nvidia/mit-b0"), ["nvidia/mit-b0", "nothing is downloaded", "local folder"]),
        (lambda: TransformersNetwork(2, "segfomer"), ["config = 'segfomer'", "segformer"]),
        (lambda: TransformersNetwork(2, "./absent/config.json"), ["./absent/config.json", "not on this machine"]),
        (lambda: TransformersNetwork(2, args={"depths": "many"}), ["transformers could not build", "segformer"]),
    ],
)
def test_refused_arguments(build, words):
    with pytest.raises(ModelError) as caught:
        build()
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value), caught.value


@pytest.fixture
def no_network(monkeypatch):
    """Any attempt to connect fails the test, whatever the library makes of it."""
    tried = []

    def connect(*args, **kwargs):
        tried.append(args)
        raise OSError("offline")

    monkeypatch.setattr("socket.socket.connect", connect)
    monkeypatch.setattr("socket.getaddrinfo", connect)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return tried


@pytest.mark.parametrize(
    "changes",
    [
        {"auto_map": {"AutoModelForSemanticSegmentation": "someone/model--modeling.Net"}},
        {"_attn_implementation": "someone/kernel"},
        {"_attn_implementation_internal": "someone/kernel"},
        {"attn_implementation": "kernels-community/flash-attn"},
        {"quantization_config": {"quant_method": "custom"}},
        {"model_type": "upernet", "backbone": "microsoft/resnet-50"},
        {"model_type": "upernet", "backbone_config": CONVNEXT | {"_attn_implementation": "someone/kernel"}},
        {"model_type": "upernet", "backbone_config": {"model_type": "timm_backbone", "backbone": "hf-hub:some/one"}},
        {"model_type": "someones_own"},
        {"model_type": None},
    ],
)
def test_a_configuration_cannot_fetch_or_run_anything(changes, no_network, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "segformer", **changes}))
    (tmp_path / "modeling.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(ModelError) as caught:
        TransformersNetwork(CLASSES, str(tmp_path))
    key = next(key for key in reversed(changes) if key in str(caught.value) or key == "backbone_config")
    assert key
    assert str(tmp_path) in str(caught.value)
    args = {key: value for key, value in changes.items() if key != "model_type"}
    if args and "model_type" not in changes:
        with pytest.raises(ModelError, match=next(iter(args))):
            TransformersNetwork(CLASSES, "segformer", args=args)
    assert not no_network


@pytest.mark.slow
def test_nothing_is_downloaded_unless_asked_for(no_network, monkeypatch):
    TorchvisionNetwork(CLASSES, "lraspp_mobilenet_v3_large", aux_head=False)
    SMPNetwork(CLASSES, "FPN", "resnet18")
    TransformersNetwork(CLASSES, "segformer", args=TINY)
    assert not no_network
    with pytest.raises(ModelError, match=r"pretrained: false, or model.init_weights"):
        TorchvisionNetwork(CLASSES, "fcn_resnet50", pretrained=True)
    assert no_network
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # it would try again for 20 seconds
    with pytest.raises(ModelError, match=r"pretrained: false, or model.init_weights"):
        SMPNetwork(CLASSES, "FPN", "resnet18", pretrained=True)


@pytest.mark.parametrize(
    ("file", "content", "word"),
    [("config.json", "{", "is no JSON"), ("config.json", "[1]", "holds a list"), ("readme", "", "no config.json")],
)
def test_folders_without_a_configuration(file, content, word, tmp_path):
    (tmp_path / file).write_text(content)
    with pytest.raises(ModelError, match=word):
        TransformersNetwork(CLASSES, str(tmp_path))
