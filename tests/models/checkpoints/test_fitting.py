"""From the names in a file to those of a model, with a layout made up for it."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from robustseg.models import ExternalNetwork, ModelError, Network, SegmentationModel, load_segmentation_weights
from robustseg.models.checkpoints.compare import by_module, compare
from robustseg.models.checkpoints.recognise import Layout
from tests.models.checkpoints import parity


class Tiny(Network):
    """Two convolutions with a BatchNorm between them."""

    def __init__(self, num_classes=3, wide=False):
        super().__init__(num_classes)
        self.wide = wide
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.head = nn.Conv2d(4, num_classes, 1)

    def forward(self, x):
        return self.head(self.backbone(x))


class Other(Tiny):
    """The same names, another network."""


THEIRS = Layout(
    name="somewhere/tiny",
    network=Tiny,
    config="tiny",
    marks=(r"stem\.", r"cls\."),
    absent=(r"extra\.",),
    renames=((r"stem\.(\d)\.", r"backbone.\1."), (r"cls\.", "head.")),
    dropped=(r"criterion\.",),
    settings={"wide": False},
    mean=(0.1, 0.2, 0.3),
    std=(0.4, 0.5, 0.6),
)


@pytest.fixture(autouse=True)
def one_layout(monkeypatch):
    monkeypatch.setattr("robustseg.models.checkpoints.recognise.LAYOUTS", (THEIRS,))


def build(seed=0, kind=Tiny, **arguments):
    torch.manual_seed(seed)
    model = SegmentationModel(kind(**arguments)).eval()
    model.network.backbone[1].running_mean.uniform_(-1, 1)
    return model


def theirs(model, **extra):
    names = {"backbone.": "stem.", "head.": "cls."}
    return {
        next(new + key.removeprefix(old) for old, new in names.items() if key.startswith(old)): value
        for key, value in model.network.state_dict().items()
    } | extra


def same_network(first, second):
    own, other = first.network.state_dict(), second.network.state_dict()
    return all(torch.equal(own[key], other[key]) for key in own)


ONE = torch.ones((), dtype=torch.long)
ENTRIES = ("params", "params_ema", "ema", "model_ema", "state_dict_ema", "teacher")
WRAPPINGS = {
    "alone": lambda state: state,
    "DataParallel": lambda state: {f"module.{key}": value for key, value in state.items()},
    "Lightning": lambda state: {
        "state_dict": {f"model.{key}": value for key, value in state.items()} | {"loss.weight": torch.ones(3)},
        "optimizer_states": [{"lr": 0.1}],
    },
    "Lightning of a compiled model": lambda state: {
        "state_dict": {f"model._orig_mod.{key}": value for key, value in state.items()}
    },
    "a script's, of DataParallel": lambda state: {
        "epoch": 3,
        "model_state_dict": {f"module.{key}": value for key, value in state.items()},
        "optimizer": {},
    },
    "twice wrapped": lambda state: {"model": {"state_dict": state}},
    "a module's net beside its loss": lambda state: {
        "state_dict": {f"net.{key}": value for key, value in state.items()} | {"criterion.weight": torch.ones(3)}
    },
    "settings under model": lambda state: {"model": {"type": "Tiny", "depth": 2}, "weights": state},
    "AveragedModel": lambda state: {f"module.{key}": value for key, value in state.items()} | {"n_averaged": ONE},
    **{name: lambda state, name=name: {name: state, "epoch": 3} for name in ENTRIES},
}
AVERAGED = {"AveragedModel", *ENTRIES} - {"params"}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("kind", ["whole", "network", "theirs"])
def test_wrappings_come_off(wrapping, kind, tmp_path):
    source, model = build(), build(seed=1)
    state = {"whole": source.state_dict(), "network": source.network.state_dict(), "theirs": theirs(source)}[kind]
    torch.save(WRAPPINGS[wrapping](state), tmp_path / "file.pth")
    info = load_segmentation_weights(model, tmp_path / "file.pth")
    assert same_network(model, source)
    assert info.get("layout") == ("somewhere/tiny" if kind == "theirs" else None)
    assert info.get("averaged", False) == (wrapping in AVERAGED)
    mean = [0.1, 0.2, 0.3] if kind == "theirs" else list(source.network.image_mean)
    assert model.mean.flatten().tolist() == pytest.approx(mean)


def test_a_normalisation_that_the_layout_does_not_know_stays(tmp_path, monkeypatch):
    monkeypatch.setattr("robustseg.models.checkpoints.recognise.LAYOUTS", (replace(THEIRS, mean=None, std=None),))
    torch.save(theirs(build()), tmp_path / "file.pth")
    model = SegmentationModel(Tiny(), (0.7, 0.8, 0.9), (0.3, 0.2, 0.1))
    load_segmentation_weights(model, tmp_path / "file.pth")
    assert model.mean.flatten().tolist() == pytest.approx([0.7, 0.8, 0.9])
    assert model.std.flatten().tolist() == pytest.approx([0.3, 0.2, 0.1])


def test_a_normalisation_that_was_asked_for_stays(tmp_path):
    torch.save(theirs(build()), tmp_path / "file.pth")
    model = SegmentationModel(Tiny(), mean=(0.7, 0.8, 0.9))
    load_segmentation_weights(model, tmp_path / "file.pth")
    assert model.mean.flatten().tolist() == pytest.approx([0.7, 0.8, 0.9])
    assert model.std.flatten().tolist() == pytest.approx(list(model.network.image_std))


@pytest.mark.parametrize(
    "given", [{"mean": (0.7, 0.8, 0.9)}, {"std": (0.3, 0.2, 0.1)}], ids=lambda given: next(iter(given))
)
def test_a_normalisation_that_contradicts_our_own_file_is_refused(given, tmp_path):
    source = build()
    torch.save(source.state_dict(), tmp_path / "file.ckpt")
    model = SegmentationModel(Tiny(), **given)
    key = next(iter(given))
    with pytest.raises(ModelError, match=rf"model\.{key} = .*, but .*file.ckpt was trained with .*leave model.mean"):
        load_segmentation_weights(model, tmp_path / "file.ckpt")
    own = {key: getattr(source, key).flatten().tolist() for key in ("mean", "std")}
    load_segmentation_weights(SegmentationModel(Tiny(), **own), tmp_path / "file.ckpt")
    load_segmentation_weights(SegmentationModel(Tiny()), tmp_path / "file.ckpt")


def test_an_external_module_takes_its_own_file(tmp_path):
    def external(seed):
        torch.manual_seed(seed)
        return SegmentationModel(ExternalNetwork(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1)), 5))

    source, model = external(0), external(1)
    torch.save(source.network.module.state_dict(), tmp_path / "file.pth")
    load_segmentation_weights(model, tmp_path / "file.pth")
    assert same_network(model, source)


def test_files_older_than_the_counters_of_batch_norm(tmp_path):
    source, model = build(), build(seed=1)
    for name, state in (("theirs", theirs(source)), ("own", source.state_dict())):
        torch.save({k: v for k, v in state.items() if "num_batches" not in k}, tmp_path / f"{name}.pth")
        load_segmentation_weights(model, tmp_path / f"{name}.pth")
        assert same_network(model, source)


def test_what_has_no_use_is_dropped_and_anything_else_is_not(tmp_path):
    source, model = build(), build(seed=1)
    torch.save(theirs(source, **{"criterion.weight": torch.ones(3)}), tmp_path / "file.pth")
    load_segmentation_weights(model, tmp_path / "file.pth")
    assert "1 unexpected (network.decoder.weight)" in refused(
        build(), theirs(source, **{"decoder.weight": torch.ones(3)}), tmp_path
    )


def test_part_of_a_project_s_wrapping_is_no_wrapping(tmp_path):
    """Names beside the prefix are left out where a Lightning module's are, and nowhere else."""
    for prefix in ("module.", "_orig_mod."):
        state = {f"{prefix}{key}": value for key, value in theirs(build()).items()} | {"stray": torch.ones(1)}
        assert "unexpected" in refused(build(), state, tmp_path)


@pytest.mark.parametrize("wrap", ["", "model.", "net.", "module."])
def test_of_a_file_of_our_own_nothing_is_made_up(wrap, tmp_path):
    own = {f"{wrap}{key}": value for key, value in build().state_dict().items()}
    assert "std" in refused(build(), {key: own[key] for key in own if key != f"{wrap}std"}, tmp_path)
    missing = {key: own[key] for key in own if not key.endswith("head.bias")}
    assert "1 missing (network.head.bias)" in refused(build(), missing, tmp_path)
    assert "stray" in refused(build(), own | {f"{wrap}stray": torch.ones(1)}, tmp_path)


@pytest.mark.parametrize("beside", [{}, {"criterion.weight": torch.ones(3)}], ids=["alone", "a loss"])
def test_a_network_without_a_normalisation_keeps_the_model_s_and_says_so(beside, tmp_path, caplog):
    source = build()
    state = {f"network.{key}": value for key, value in source.network.state_dict().items()}
    torch.save({"state_dict": state | beside}, tmp_path / "file.ckpt")
    model = SegmentationModel(Tiny(), (0.7, 0.8, 0.9), (0.3, 0.2, 0.1))
    load_segmentation_weights(model, tmp_path / "file.ckpt")
    assert same_network(model, source)
    assert model.mean.flatten().tolist() == pytest.approx([0.7, 0.8, 0.9])
    assert "file.ckpt holds a network without mean and std" in caplog.text
    assert "[0.7, 0.8, 0.9]" in caplog.text
    assert ("criterion.weight" in caplog.text) == bool(beside)


def test_a_whole_model_under_network_has_its_normalisation(tmp_path, caplog):
    source = SegmentationModel(Tiny(), (0.7, 0.8, 0.9), (0.3, 0.2, 0.1))
    torch.save({f"network.{key}": value for key, value in source.state_dict().items()}, tmp_path / "file.ckpt")
    model = build()
    load_segmentation_weights(model, tmp_path / "file.ckpt")
    assert model.mean.flatten().tolist() == pytest.approx([0.7, 0.8, 0.9])
    assert not caplog.text


def test_student_and_teacher_are_named(tmp_path):
    own = build().network.state_dict()
    state = {f"{who}.model.{key}": value for who in ("student", "teacher") for key, value in own.items()}
    message = refused(build(), state, tmp_path)
    assert "it holds 2 networks under student. and teacher.: save the tensors of one alone" in message
    assert "key.removeprefix('student.')" in message


def refused(model, state, tmp_path):
    torch.save(state, tmp_path / "refused.pth")
    return parity.refused(model, tmp_path / "refused.pth")


def test_a_setting_that_no_shape_shows(tmp_path):
    message = refused(build(wide=True), theirs(build()), tmp_path)
    for word in ("somewhere/tiny", "wide: false", "model.network.init_args", "network/tiny"):
        assert word in message


def test_another_network(tmp_path, monkeypatch):
    monkeypatch.setattr("robustseg.models.checkpoints.recognise.LAYOUTS", (replace(THEIRS, network=Other),))
    message = refused(build(), theirs(build()), tmp_path)
    for word in ("somewhere/tiny", "the network is a Tiny", "use Other", "network/tiny"):
        assert word in message


def test_another_class_count_and_all_but_the_classifier(tmp_path):
    source, model = build(num_classes=5), build(seed=1)
    message = refused(model, theirs(source), tmp_path)
    for word in ("5 classes", "the model has 3", "model.init_without: [head]"):
        assert word in message
    head = copy.deepcopy(model.network.head.state_dict())
    load_segmentation_weights(model, tmp_path / "refused.pth", without=["head"])
    assert torch.equal(model.network.backbone[0].weight, source.network.backbone[0].weight)
    assert all(torch.equal(value, head[key]) for key, value in model.network.head.state_dict().items())


def test_a_module_to_leave_out_that_is_not_there(tmp_path):
    torch.save(theirs(build()), tmp_path / "file.pth")
    with pytest.raises(ModelError, match=r"init_without: the network has no module 'hea'; .* backbone, head"):
        load_segmentation_weights(build(), tmp_path / "file.pth", without=["hea"])


def test_a_mark_must_match_and_an_absent_one_must_not():
    keys = list(theirs(build()))
    assert THEIRS.recognises(keys)
    assert not THEIRS.recognises([*keys, "extra.weight"])
    assert not THEIRS.recognises([key for key in keys if not key.startswith("cls")])
    assert not THEIRS.recognises([f"x{key}" for key in keys])


def test_names_are_changed_at_their_beginning_only():
    state = {"stem.0.weight": torch.ones(1), "neck.stem.0.weight": torch.ones(2)}
    assert set(THEIRS.convert(state, Tiny())) == {"backbone.0.weight", "neck.stem.0.weight"}


def test_report_groups_by_module():
    expected = {f"a.b.{number}.weight": torch.ones(1) for number in range(9)} | {"c.weight": torch.ones(2)}
    found = {"c.weight": torch.ones(3)}
    mismatch = compare(expected, found)
    assert str(mismatch) == (
        "9 missing (9 in a.b), 1 of another shape or kind (c.weight; c.weight is float32 [3] in the file, "
        "float32 [2] in the network)"
    )
    report = mismatch.report().splitlines()
    assert report[0] == "9 missing in the file: 9 in a.b"
    assert report[1] == "  a.b.0.weight"
    assert len(report) == 12


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (["a.b", "c"], "a.b, c"),
        ([f"{name}.weight" for name in "abcdef"], "a, b, c, d and 2 more"),
        ([f"{name}.{number}.weight" for name in "ab" for number in range(4)], "4 in a, 4 in b"),
        ([f"n.{name}.{number}.w" for name in "abcdef" for number in range(2)], "12 in n"),
        (["x", *(f"a.{number}.w" for number in range(5))], "x, 5 in a"),
    ],
)
def test_by_module(keys, text):
    assert by_module(keys) == text
