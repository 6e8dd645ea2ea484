import hashlib

import pytest
import torch
from safetensors.torch import save_file

from robustseg.models import (
    FCN,
    RECORD_KEY,
    FCN8s,
    SegmentationModel,
    Segmenter,
    load_segmentation_weights,
)
from robustseg.training.record import checkpoint_record
from tests.models.checkpoints.parity import refused

BIAS = "network.head.2.bias"
QUANTISED = torch.quantize_per_tensor(torch.ones(5), 0.1, 0, torch.qint8)
COUNTER = "network.head.0.1.num_batches_tracked"
SMALL = {"channels": [8, 16, 32, 64]}


def build(num_classes=5, **arguments):
    return SegmentationModel(FCN(num_classes, "resnet10t", 16, 8, backbone_args=SMALL, **arguments))


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(1)
    return SegmentationModel(build().network, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)).eval()


def lightning(state, **extra):
    inner = {f"model.{key}": value for key, value in state.items()}
    return {
        "epoch": 3,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": {**inner, "loss.weight": torch.ones(5)},
        "optimizer_states": [{"state": {}, "param_groups": [{"lr": 0.1}]}],
        "callbacks": {"best": {"score": torch.tensor(0.3)}},
        "hyper_parameters": {"lr": 0.1},
        **extra,
    }


@pytest.mark.parametrize("kind", ["lightning.ckpt", "plain.pth", "plain.safetensors"])
def test_weights_and_normalisation_come_back(kind, trained, tmp_path):
    path = tmp_path / kind
    state = trained.state_dict()
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(lightning(state) if path.suffix == ".ckpt" else state, path)
    model = build().eval()
    images = torch.rand(1, 3, 33, 47)
    assert not torch.allclose(model(images), trained(images))
    info = load_segmentation_weights(model, path)
    torch.testing.assert_close(model(images), trained(images))
    assert info == {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def test_another_class_count_is_one_message(trained, tmp_path):
    torch.save(lightning(trained.state_dict()), tmp_path / "five.ckpt")
    message = refused(build(7), tmp_path / "five.ckpt")
    for word in ("5 classes", "7", "num_classes", "data", "model.init_without: [head.2, aux_head.2]"):
        assert word in message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("network.head.2.bias"), ["1 missing (network.head.2.bias)"]),
        (lambda state: state.pop("mean"), ["1 missing (mean)"]),
        (lambda state: state.update(extra=torch.ones(1)), ["1 unexpected (extra)"]),
        (lambda state: state.update({BIAS: torch.ones(5).to_sparse()}), ["head.2.bias"]),
        (lambda state: state.update({BIAS: torch.ones(5) * 1j}), ["head.2.bias", "complex64"]),
        (lambda state: state.update({BIAS: QUANTISED}), [f"of another shape or kind ({BIAS}"]),
        (lambda state: state.update({BIAS: torch.ones(5, device="meta")}), [BIAS, "without values"]),
        (lambda state: state.update({BIAS: torch.nested.nested_tensor([torch.ones(5)])}), [BIAS, "of tensors"]),
        (lambda state: state.update({BIAS: torch.ones(5).to(torch.float8_e4m3fn)}), [BIAS, "torch.float8_e4m3fn"]),
        (lambda state: state.update({BIAS: torch.ones(5).long()}), [f"of another shape or kind ({BIAS}"]),
        (lambda state: state.update({COUNTER: torch.tensor(1j)}), [COUNTER, "complex64"]),
        (lambda state: state.update({BIAS: torch.tensor(1.0)}), ["head.2.bias", "[]"]),
        (lambda state: state.update({BIAS: torch.ones(6)}), ["head.2.bias"]),
    ],
    ids=[
        "missing",
        "normalisation",
        "unexpected",
        "sparse",
        "complex",
        "quantised",
        "meta",
        "nested",
        "8-bit floats",
        "integer",
        "complex counter",
        "scalar",
        "one shape",
    ],
)
def test_anything_that_does_not_fit_leaves_the_model_alone(change, words, trained, tmp_path):
    state = dict(trained.state_dict())
    change(state)
    torch.save(state, tmp_path / "weights.pth")
    message = refused(build(), tmp_path / "weights.pth")
    assert "classes" not in message
    for word in words:
        assert word in message, message


def test_aux_head_of_the_file_must_be_in_the_model(trained, tmp_path):
    torch.save(trained.state_dict(), tmp_path / "weights.pth")
    assert "unexpected (network.aux_head" in refused(build(aux_head=False), tmp_path / "weights.pth")


def test_a_missing_file(tmp_path):
    assert "does not exist" in refused(build(), tmp_path / "absent.ckpt")


def own_file(path, network):
    """What training writes: the weights, and what the network computed with them."""
    state = {f"model.{key}": value for key, value in SegmentationModel(network).state_dict().items()}
    torch.save({"state_dict": state, RECORD_KEY: checkpoint_record(None, None, {}, network)}, path)


@pytest.mark.parametrize(
    ("trained", "here", "words"),
    [
        ({"align_corners": True}, {}, "align_corners: true, and the network here has false"),
        ({}, {"align_corners": True}, "align_corners: false, and the network here has true"),
        ({"first_block_dilated": True}, {}, "first_block_dilated: true"),
    ],
    ids=str,
)
def test_what_the_shapes_do_not_show_is_in_the_checkpoint(trained, here, words, tmp_path):
    def narrow(**arguments):
        return FCN(
            5, "resnet14t", 8, 8, backbone_args={"channels": [8, 16, 32, 64], "layers": [2, 2, 2, 2]}, **arguments
        )

    own_file(tmp_path / "own.ckpt", narrow(**trained))
    message = refused(SegmentationModel(narrow(**here)), tmp_path / "own.ckpt")
    assert words in message
    assert "model.network.init_args" in message
    load_segmentation_weights(SegmentationModel(narrow(**trained)), tmp_path / "own.ckpt")


def test_the_order_of_the_channels_is_in_the_checkpoint(tmp_path):
    own_file(tmp_path / "own.ckpt", FCN8s(5, channels=8, width=4, normalisation="caffe"))
    message = refused(SegmentationModel(FCN8s(5, channels=8, width=4)), tmp_path / "own.ckpt")
    assert 'channel_order: "bgr", normalisation: "caffe"' in message


def test_another_stride_is_said_and_allowed(tmp_path, caplog):
    own_file(tmp_path / "own.ckpt", build().network)
    model = SegmentationModel(FCN(5, "resnet10t", 8, 8, backbone_args=SMALL))
    load_segmentation_weights(model, tmp_path / "own.ckpt")
    assert "was trained with output_stride: 16, and the network here has 8" in caplog.text


def test_checkpoints_without_settings_load(trained, tmp_path):
    for record in ({}, {"network": None}, {"network": {"class": "FCN"}}, {"network": {"class": "FCN", "settings": 3}}):
        complete = {"val": None, "data": None, "epoch": 0, "global_step": 0, "trained_with": None, "format": 1}
        torch.save(lightning(trained.state_dict(), **{RECORD_KEY: complete | record}), tmp_path / "own.ckpt")
        load_segmentation_weights(build(), tmp_path / "own.ckpt")


def test_classes_of_a_transformer_s_tokens(tmp_path):
    def narrow(classes):
        args = {"img_size": 32, "depth": 1, "embed_dim": 16, "num_heads": 2}
        return SegmentationModel(Segmenter(classes, "vit_tiny_patch16_224", 1, backbone_args=args))

    torch.save(narrow(7).state_dict(), tmp_path / "seven.pth")
    message = refused(narrow(5), tmp_path / "seven.pth")
    assert "7 classes, the model has 5" in message
    assert "model.init_without: [head.class_tokens, head.logit_norm]" in message
    load_segmentation_weights(narrow(5), tmp_path / "seven.pth", ["head.class_tokens", "head.logit_norm"])
