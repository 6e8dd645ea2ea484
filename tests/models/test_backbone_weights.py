import logging

import numpy
import pytest
import timm
import torch
from safetensors.torch import save_file

from robustseg.models import Backbone, ModelError

SMALL = {"channels": [8, 16, 32, 64]}


def small_classifier(num_classes=10):
    return timm.create_model("resnet10t", num_classes=num_classes, **SMALL)


def load(path):
    return Backbone("resnet10t", 16, weights=str(path), args=SMALL)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("resnet18", {}),
        ("mobilenetv3_small_050", {}),
        ("convnext_atto", {}),
        ("vit_tiny_patch16_224", {"img_size": [64, 64], "depth": 3}),
        (
            "swin_tiny_patch4_window7_224",
            {"img_size": [64, 64], "embed_dim": 24, "num_heads": [1, 2, 4, 8], "depths": [1, 1, 2, 1]},
        ),
    ],
)
def test_features_are_those_of_the_whole_network(name, args, randomise, tmp_path):
    """timm renames what it extracts; the reference is the classification network's own intermediate output."""
    reference = randomise(timm.create_model(name, **args)).eval()
    torch.save(reference.state_dict(), tmp_path / "weights.pth")
    backbone = Backbone(name, None, weights=str(tmp_path / "weights.pth"), args=args).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = reference.forward_intermediates(images, indices=2, intermediates_only=True)
        for found, wanted in zip(backbone(images), expected, strict=True):
            torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
@pytest.mark.parametrize("nesting", [None, "state_dict", "model"])
def test_formats(suffix, nesting, tmp_path):
    state = small_classifier().state_dict()
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state if nesting is None else {nesting: state, "epoch": 3}, path)
    loaded = load(path).body.state_dict()
    assert loaded
    assert all(torch.equal(value, state[key]) for key, value in loaded.items())


def test_dropped_classifier_is_named(tmp_path, caplog):
    torch.save(small_classifier().state_dict(), tmp_path / "weights.pth")
    with caplog.at_level(logging.INFO, logger="robustseg"):
        load(tmp_path / "weights.pth")
    assert "fc.bias, fc.weight" in caplog.text


def test_prefix_of_data_parallel_and_missing_counters_are_accepted(tmp_path):
    state = small_classifier().state_dict()
    path = tmp_path / "weights.pth"
    torch.save({f"module.{key}": value for key, value in state.items() if "num_batches" not in key}, path)
    assert torch.equal(load(path).body.state_dict()["bn1.weight"], state["bn1.weight"])


def save_without(path, *prefixes):
    state = small_classifier().state_dict()
    torch.save({key: value for key, value in state.items() if not key.startswith(prefixes)}, path)


def save_with(path, **extra):
    torch.save({**small_classifier().state_dict(), **extra}, path)


def save_in(folder, *names):
    folder.mkdir()
    for name in names:
        (folder / name).touch()


def holds_itself():
    content = {}
    content["model"] = content
    return content


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: None, ["does not exist: check model.network.init_args.weights"]),
        (lambda path: path.mkdir(), ["is a folder: set model.network.init_args.weights to a file in it."]),
        (lambda path: save_in(path, "model.safetensors", "x.bin"), ["the file in it", "weights.pth/model.safetensors"]),
        (lambda path: save_in(path, "only.pt", "notes.txt"), ["the file in it", "weights.pth/only.pt"]),
        (lambda path: save_in(path, "a.pt", "b.pt"), ["to a file in it, one of a.pt, b.pt"]),
        (lambda path: torch.save({"w": numpy.ones(2)}, path), ["'w' is no tensor", "torch.from_numpy"]),
        (lambda path: torch.save({3: torch.ones(2)}, path), ["entry 3 has a int for a name"]),
        (lambda path: torch.save(small_classifier(), path), ["Python object timm", "save model.state_dict()"]),
        (lambda path: torch.save(holds_itself(), path), ["cannot be loaded", "an object holds itself"]),
        (lambda path: path.write_bytes(b""), ["cannot be loaded", "it is empty"]),
        (lambda path: path.write_bytes(b"nonsense" * 99), ["cannot be loaded"]),
        (lambda path: torch.save([1, 2], path), ["not a state dict", "list"]),
        (lambda path: torch.save({}, path), ["not a state dict", "empty"]),
        (lambda path: torch.save({"epoch": 3}, path), ["not a state dict", "'epoch'", "int"]),
        (lambda path: save_without(path, "layer4"), ["resnet10t", "15 missing", "in layer4.0"]),
        (lambda path: save_with(path, **{"decoder.weight": torch.ones(2)}), ["1 unexpected (decoder.weight)"]),
        (lambda path: save_with(path, **{"bn1.weight": torch.ones(2)}), ["another shape", "bn1.weight", "[2]", "[64]"]),
        (lambda path: save_with(path, **{"bn1.weight": torch.ones(64).long()}), ["bn1.weight", "int64", "float32"]),
        (
            lambda path: torch.save(timm.create_model("resnet18").state_dict(), path),
            ["resnet10t", "missing", "unexpected", "shape"],
        ),
    ],
    ids=[
        "absent",
        "folder",
        "folder of a library",
        "folder of one file",
        "folder of two files",
        "numpy",
        "integer names",
        "whole module",
        "holds itself",
        "empty",
        "garbage",
        "list",
        "empty dict",
        "number",
        "missing",
        "extra",
        "shape",
        "kind",
        "18",
    ],
)
def test_bad_files(write, words, tmp_path):
    path = tmp_path / "weights.pth"
    write(path)
    with pytest.raises(ModelError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    for word in (str(path), *words):
        assert word in message, message
