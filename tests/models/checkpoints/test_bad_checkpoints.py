"""Files that do not fit, lie, or are none: one clear message each, nothing loaded by halves, and nothing runs."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from robustseg.cli.main import main
from robustseg.models import (
    FCN,
    DeepLabV3,
    ModelError,
    PSPNet,
    SegmentationModel,
    TorchvisionNetwork,
    load_segmentation_weights,
)
from robustseg.models.checkpoints.read import BOOKKEEPING, read_plain, read_state_dict
from robustseg.training.module import RobustSegmentation
from tests.models.checkpoints.parity import refused
from tests.models.checkpoints.reference_semseg import Reference

SMALL = {"channels": [8, 16, 32, 64]}
DEEP = {"stem_type": "deep", "stem_width": 8, "channels": [8, 16, 32, 64]}
BIAS = "network.head.2.bias"


def build(num_classes=5, **arguments):
    return SegmentationModel(FCN(num_classes, "resnet10t", 16, 8, backbone_args=SMALL, **arguments))


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(1)
    return build()


# Another architecture


def semseg(backbone="resnet50", network=PSPNet, num_classes=5, **arguments):
    options = {"align_corners": True, "first_block_dilated": True, **arguments}
    return SegmentationModel(network(num_classes, backbone, 8, 8, backbone_args={"stem_type": "deep"}, **options))


@pytest.fixture(scope="module")
def pspnet_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("semseg") / "train_epoch_100.pth"
    state = {f"module.{key}": value for key, value in Reference("pspnet", classes=5).state_dict().items()}
    torch.save({"epoch": 100, "state_dict": state, "optimizer": {"state": {}}}, path)
    return path


def test_pspnet_into_deeplab(pspnet_file):
    message = refused(SegmentationModel(DeepLabV3(5, "resnet10t", 16, 8, backbone_args=SMALL)), pspnet_file)
    for words in (
        "hszhao/semseg PSPNet",
        "the network is a DeepLabV3",
        "use PSPNet",
        "network/pspnet_r50_semseg",
    ):
        assert words in message


def test_a_network_with_other_settings(pspnet_file):
    message = refused(SegmentationModel(PSPNet(5, "resnet10t", 16, 8, backbone_args=SMALL)), pspnet_file)
    for words in ("hszhao/semseg PSPNet", "align_corners: true", "first_block_dilated: true"):
        assert words in message


def test_a_deeper_backbone(tmp_path):
    shallow = SegmentationModel(FCN(5, "resnet18", 16, 8, backbone_args=SMALL))
    deep = SegmentationModel(FCN(5, "resnet34", 16, 8, backbone_args=SMALL))
    torch.save(deep.state_dict(), tmp_path / "r34.pth")
    message = refused(shallow, tmp_path / "r34.pth")
    assert "6 blocks in network.backbone.body.layer3 where 2 are expected" in message
    assert "a ResNet-34, and the network is over a ResNet-18" in message
    assert "robustseg inspect" in message
    torch.save(shallow.state_dict(), tmp_path / "r18.pth")
    assert "a ResNet-18, and the network is over a ResNet-34" in refused(deep, tmp_path / "r18.pth")


def test_a_deeper_file_of_another_project(tmp_path):
    """ResNet-101 into ResNet-50, as names only: of each tensor one value."""
    state = Reference("pspnet", layers=(3, 4, 23, 3), classes=5, width=8).state_dict()
    torch.save({"state_dict": state}, tmp_path / "r101.pth")
    model = semseg("resnet26d", aux_head=True)
    message = refused(model, tmp_path / "r101.pth")
    assert "read as hszhao/semseg PSPNet" in message
    assert "23 blocks in network.backbone.body.layer3 where 2 are expected: a ResNet-101" in message
    assert "use --config network/pspnet_r101_semseg" in message


# Another number of classes


def test_nineteen_classes_and_the_offer_works(tmp_path):
    nineteen = build(19)
    path = tmp_path / "cityscapes.pth"
    torch.save({f"module.{key}": value for key, value in nineteen.network.state_dict().items()}, path)
    message = refused(build(21), path)
    assert "19 classes, the model has 21" in message
    offered = message.split("model.init_without: [")[1].split("]")[0].split(", ")
    network = build(21).network
    fresh = copy.deepcopy(network.state_dict())
    module = RobustSegmentation(network, init_weights=str(path), init_without=offered)
    for key, value in module.model.network.state_dict().items():
        expected = fresh if key.startswith(tuple(offered)) else nineteen.network.state_dict()
        assert torch.equal(value, expected[key]), key
    assert {key.rpartition(".")[0] for key in fresh if key.startswith(tuple(offered))} == set(offered)


def test_the_offer_for_a_library_network(tmp_path):
    arguments = {"name": "lraspp_mobilenet_v3_large", "aux_head": False}
    nineteen, network = (TorchvisionNetwork(count, **arguments) for count in (19, 21))
    torch.save({"model": nineteen.module.state_dict()}, tmp_path / "model.pth")
    message = refused(SegmentationModel(network), tmp_path / "model.pth")
    offered = message.split("model.init_without: [")[1].split("]")[0].split(", ")
    assert offered == ["module.classifier.low_classifier", "module.classifier.high_classifier"]
    RobustSegmentation(network, init_weights=str(tmp_path / "model.pth"), init_without=offered)
    torch.testing.assert_close(network.backbone.state_dict(), nineteen.backbone.state_dict())


def test_only_what_is_named_is_left_out(tmp_path):
    torch.save(build(19).state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ModelError, match=r"aux_head\.2"):
        load_segmentation_weights(build(21), tmp_path / "weights.pth", ["head.2"])
    with pytest.raises(ModelError, match="no module 'classifier'"):
        load_segmentation_weights(build(21), tmp_path / "weights.pth", ["classifier"])


# Pickles that run code


class Runs:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def with_pickle(path, pickled: bytes):
    """A torch file whose object is this pickle."""
    torch.save({"a": torch.ones(1)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, pickled if name.endswith("data.pkl") else content)


@pytest.mark.parametrize("function", [os.system, eval, exec, __import__, getattr, open], ids=lambda f: f.__name__)
def test_pickles_that_run_code(function, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    commands = {os.system: "touch it_ran", eval: "open('it_ran', 'w')", exec: "open('it_ran', 'w')"}
    arguments = {open: ("it_ran", "w"), getattr: (os, "system"), __import__: ("antigravity",)}
    bad = Runs(function, *arguments.get(function, (commands.get(function),))) if function is not getattr else None
    if bad is None:  # a module cannot be pickled: the name itself
        with_pickle(tmp_path / "bad.pth", b"\x80\x02cbuiltins\ngetattr\ncos\nsystem\nX\x04\x00\x00\x00name\x86R.")
        assert "Python object" in refused(build(), tmp_path / "bad.pth")
    else:
        for name, place in (("bad.pth", "args"), ("bad.ckpt", "hyper_parameters")):
            torch.save({"state_dict": trained.state_dict(), place: {"deep": [bad]}}, tmp_path / name)
            assert "Python object" in refused(build(), tmp_path / name)
        (tmp_path / "bad.pkl").write_bytes(pickle.dumps(bad))
        refused(build(), tmp_path / "bad.pkl")
    assert not (tmp_path / "it_ran").exists()
    if function in commands or function is open:  # an unguarded load does run it
        torch.load(tmp_path / "bad.ckpt", weights_only=False)
        assert (tmp_path / "it_ran").exists()


MARK, STOP = b"(", b"."
CALL = b"cos\nsystem\nX\x0c\x00\x00\x00touch it_ran\x85R"
TEXT = b"X\x0c\x00\x00\x00touch it_ran"


def abuses(name):
    module, _, attribute = name.rpartition(".")
    stand_in = f"c{module}\n{attribute}\n".encode()
    made = stand_in + b")\x81"
    return {
        "called with a call": stand_in + CALL + b"\x85R",
        "made of a call": stand_in + CALL + b"\x85\x81",
        "state of a call": made + b"}X\x01\x00\x00\x00a" + CALL + b"sb",
        "its class is changed": made + b"}X\x09\x00\x00\x00__class__cos\nsystem\nsb",
        "a class is built": stand_in + b"}X\x08\x00\x00\x00__init__cos\nsystem\nsb",
        "item of a call": made + b"X\x01\x00\x00\x00a" + CALL + b"s",
        "list of a call": made + MARK + CALL + b"e",
        "its result is called": stand_in + b")R" + TEXT + b"\x85R",
        "called as an attribute": stand_in + b"cos\nsystem\nX\x08\x00\x00\x00__call__\x86R" + TEXT + b"\x85R",
        "a path in the name": f"c{module}\n{attribute}.__init__.__globals__\n".encode(),
        "its globals": f"c{module}\n{attribute}\nX\x0b\x00\x00\x00__globals__\x85R".encode() + TEXT + b"\x85R",
        "persistent": made + b"Q",
        "inst": MARK + TEXT + f"i{module}\n{attribute}\n".encode(),
        "obj": MARK + stand_in + TEXT + b"o",
        "with keywords": stand_in + b")}X\x01\x00\x00\x00a" + CALL + b"s\x92",
    }


@pytest.mark.parametrize("name", BOOKKEEPING)
def test_stand_ins_cannot_be_abused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for label, pickled in abuses(name).items():
        path = tmp_path / "abuse.pth"
        with_pickle(path, b"\x80\x02" + pickled + STOP)
        try:
            content = read_plain(path)
        except ModelError:
            pass
        else:  # forgotten without a trace
            stand_in = content if isinstance(content, type) else type(content)
            assert stand_in.__name__ == "_StandIn", label
            assert stand_in.__module__ == "robustseg.models.checkpoints.read"
            assert not getattr(content, "__dict__", {}) or isinstance(content, type)
            assert set(vars(stand_in)) <= {
                *("__module__", "__doc__", "__init__", "__setstate__", "__setitem__", "append", "__dict__"),
                *("__weakref__", "__firstlineno__", "__static_attributes__", "__annotations__"),
            }
        with pytest.raises(ModelError):
            read_state_dict(path)
        assert not (tmp_path / "it_ran").exists(), label


def test_the_abuses_are_live_ones(tmp_path, monkeypatch):
    """An unguarded load of the same bytes does run the command."""
    monkeypatch.chdir(tmp_path)
    with_pickle(tmp_path / "live.pth", b"\x80\x02" + abuses("types.SimpleNamespace")["state of a call"] + STOP)
    torch.load(tmp_path / "live.pth", weights_only=False)
    assert (tmp_path / "it_ran").exists()


# Files that are none


@pytest.mark.parametrize("suffix", ["pth", "safetensors", "old.pth"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.999])
def test_half_downloaded(suffix, part, trained, tmp_path):
    path = tmp_path / f"weights.{suffix}"
    if suffix == "safetensors":
        save_file(trained.state_dict(), path)
    else:
        torch.save(trained.state_dict(), path, _use_new_zipfile_serialization=suffix == "pth")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    words = "it is truncated, or damaged at its end" if suffix == "pth" else "truncated or not a file of tensors"
    assert words in refused(build(), path)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git lfs pull"),
        (b"<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title>", "it is a web page"),
        (b"\n<html>", "it is a web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "it is a web page"),
        (b'{"error": "Repository not found"}', "truncated or not a file of tensors"),
    ],
)
def test_something_else_in_place_of_the_file(suffix, content, words, tmp_path):
    path = tmp_path / f"weights.{suffix}"
    path.write_bytes(content)
    assert words in refused(build(), path)


@pytest.mark.parametrize(
    "header",
    [
        b'{"a": {"dtype": "F32", "shape": [1000000], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}',
        b'{"a": {"dtype": "NONE", "shape": [1], "data_offsets": [0, 4]}}',
        b"not json at all",
    ],
)
@pytest.mark.parametrize("length", [None, 2**62])
def test_a_wrong_safetensors_header(header, length, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes((len(header) if length is None else length).to_bytes(8, "little") + header + bytes(4))
    assert "truncated or not a file of tensors" in refused(build(), path)


# Files without a network


def test_optimiser_state_only(trained, tmp_path):
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1, momentum=0.9)
    torch.save({"optimizer": optimizer.state_dict(), "epoch": 3}, tmp_path / "optimizer.pth")
    message = refused(build(), tmp_path / "optimizer.pth")
    assert "not a state dict" in message
    assert "'optimizer'" in message
    torch.save(optimizer.state_dict(), tmp_path / "bare.pth")
    assert "not a state dict" in refused(build(), tmp_path / "bare.pth")


# Tensors of other kinds


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite(value, trained, tmp_path):
    state = copy.deepcopy(trained.state_dict())
    state["network.backbone.body.bn1.running_var"][3] = value
    torch.save(state, tmp_path / "weights.pth")
    message = refused(build(), tmp_path / "weights.pth")
    assert "not finite (network.backbone.body.bn1.running_var)" in message
    assert "earlier checkpoint" in message


def test_large_values_are_not_taken_for_infinite_ones(trained, tmp_path):
    state = copy.deepcopy(trained.state_dict())
    state["network.head.0.0.weight"].fill_(3e38)
    torch.save(state, tmp_path / "weights.pth")
    load_segmentation_weights(build(), tmp_path / "weights.pth")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_other_precisions_are_cast_to_the_models(dtype, suffix, trained, tmp_path):
    state = {
        key: value.to(dtype) if value.is_floating_point() else value for key, value in trained.state_dict().items()
    }
    path = tmp_path / f"weights.{suffix}"
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    model = build()
    load_segmentation_weights(model, path)
    for key, value in model.state_dict().items():
        assert value.dtype == trained.state_dict()[key].dtype
        assert torch.equal(value, state[key].to(value.dtype))


# Several state dicts, several wrappings


@pytest.mark.parametrize("other", ["state_dict_ema", "model_ema", "ema_state_dict", "model"])
def test_of_two_state_dicts_the_plain_one_is_loaded_and_the_other_named(other, trained, tmp_path, caplog):
    average = {key: torch.zeros_like(value) for key, value in trained.state_dict().items()}
    torch.save({other: average, "state_dict": trained.state_dict()}, tmp_path / "both.pth")
    model = build()
    with caplog.at_level(logging.WARNING, logger="robustseg"):
        load_segmentation_weights(model, tmp_path / "both.pth")
    assert torch.equal(model.state_dict()[BIAS], trained.state_dict()[BIAS])
    assert f"loaded state_dict, and not {other}" in caplog.text


def test_one_state_dict_warns_of_nothing(trained, tmp_path, caplog):
    torch.save({"state_dict": trained.state_dict(), "optimizer": {"state": {}}, "args": {}}, tmp_path / "one.pth")
    with caplog.at_level(logging.WARNING, logger="robustseg"):
        load_segmentation_weights(build(), tmp_path / "one.pth")
    assert not caplog.text


def test_data_parallel_of_compiled_of_lightning(trained, tmp_path):
    state = {f"model.module._orig_mod.{key}": value for key, value in trained.state_dict().items()}
    content = {"state_dict": state | {"loss.weight": torch.ones(5)}}
    torch.save({"epoch": 1, **content}, tmp_path / "nested.ckpt")
    model = build()
    load_segmentation_weights(model, tmp_path / "nested.ckpt")
    assert all(torch.equal(value, trained.state_dict()[key]) for key, value in model.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a\x1b[31m.weight", "a\nrobustseg: all is well", "\u202ea.weight"])
def test_names_that_would_write_into_a_terminal(name, tmp_path, capsys):
    path = tmp_path / "x.pth"
    torch.save({"state_dict": {name: torch.zeros(2)}}, path)
    assert main(["inspect", str(path)]) == 1
    said = capsys.readouterr().err
    assert ascii(name) in said
    assert said.strip().isprintable()
    torch.save({"state_dict": {"a.weight": torch.zeros(2)}, name: 1}, path)
    assert main(["inspect", str(path)]) == 0
    assert ascii(name) in capsys.readouterr().out
