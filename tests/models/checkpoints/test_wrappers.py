"""Wrappers of parts of a network in the names of a file's tensors: loaded, or named."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from robustseg.models import ExternalNetwork, ModelError, Network, SegmentationModel, load_segmentation_weights
from robustseg.models.checkpoints.inspect import describe_fit
from robustseg.models.checkpoints.read import read_weights
from tests.models.checkpoints.test_fitting import Tiny, build, same_network, theirs
from tests.models.checkpoints.test_fitting import one_layout as one_layout


class WithModule(Network):
    """A network that has modules called ``module``, one of them beside a tensor of the same name without it."""

    def __init__(self, num_classes=3):
        super().__init__(num_classes)
        self.module = nn.ModuleDict({"stem": nn.Conv2d(3, 4, 3, padding=1)})
        self.head = nn.ModuleDict({"module": nn.Conv2d(4, num_classes, 1)})

    def forward(self, x):
        return self.head["module"](self.module["stem"](x))


class Colliding(WithModule):
    """Names that are one and the same without ``module``."""

    def __init__(self, num_classes=3):
        super().__init__(num_classes)
        self.stem = nn.Conv2d(3, 4, 3, padding=1)


def within(place: str, wrapper: str):
    """A file in which the part called ``place`` is wrapped."""
    return lambda state: {re.sub(rf"(^|\.){place}\.", rf"\g<0>{wrapper}.", key): value for key, value in state.items()}


def under(prefix: str, *steps):
    def change(state):
        for step in steps:
            state = step(state)
        return {f"{prefix}{key}": value for key, value in state.items()}

    return change


ONE = torch.ones((), dtype=torch.long)
FILES = {
    "compiled backbone": within("backbone", "_orig_mod"),
    "compiled layer in Lightning": under("model.", within(r"backbone\.0", "_orig_mod")),
    "parallel backbone": within("backbone", "module"),
    "compiled and parallel": under("model.module.", within("backbone", r"_orig_mod.module"), within("head", "module")),
    "checkpointed": within("backbone", "_checkpoint_wrapped_module"),
    "FSDP in FSDP": under("_fsdp_wrapped_module.", within("backbone", "_fsdp_wrapped_module")),
    "older FSDP": under("_fsdp_wrapped_module._fpw_module.", within("head", "_fpw_module")),
    "Opacus, and within": under("_module.", within("backbone", "_module")),
    "DeepSpeed by Fabric": under("_forward_module.module."),
    "averaged": lambda state: under("ema.module.")(state) | {"ema.n_averaged": ONE},
    "averaged by a script": under("ema_model."),
    "averaged, compiled within": under("ema.module.", within("backbone", "_orig_mod")),
    "all of them": under("model._forward_module.", within("backbone", r"module._fsdp_wrapped_module._orig_mod")),
}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("kind", ["whole", "network", "theirs"])
def test_what_is_wrapped_within_is_loaded(file, kind, tmp_path):
    source, model = build(), build(seed=1)
    state = {"whole": source.state_dict(), "network": source.network.state_dict(), "theirs": theirs(source)}[kind]
    if kind == "theirs":
        state = {key.replace("stem.", "backbone.").replace("cls.", "head."): value for key, value in state.items()}
        state = FILES[file](state)
        state = {key.replace("backbone.", "stem.").replace("head.", "cls."): value for key, value in state.items()}
    else:
        state = FILES[file](state)
    torch.save(state, tmp_path / "file.pth")
    info = load_segmentation_weights(model, tmp_path / "file.pth")
    assert same_network(model, source)
    assert info.get("averaged", False) == file.startswith("averaged")
    assert (info.get("layout") is not None) == (kind == "theirs")
    described, fits = describe_fit(read_weights(tmp_path / "file.pth"), lambda count: Tiny(count), None)
    assert fits, described


def test_a_checkpoint_of_deepspeed(tmp_path):
    source, model = build(), build(seed=1)
    torch.save({"module": source.network.state_dict(), "optimizer": {}, "global_steps": 3}, tmp_path / "file.pth")
    load_segmentation_weights(model, tmp_path / "file.pth")
    assert same_network(model, source)


@pytest.mark.parametrize("kind", [WithModule, Colliding])
@pytest.mark.parametrize("file", ["alone", "compiled within", "parallel", "parallel within", "Lightning, compiled"])
def test_a_module_that_is_called_module_stays(kind, file, tmp_path):
    change = {
        "alone": dict,
        "compiled within": within("stem", "_orig_mod"),
        "parallel": under("module."),
        "parallel within": within(r"head\.module", "module"),
        "Lightning, compiled": under("model._orig_mod."),
    }[file]
    torch.manual_seed(0)
    source = SegmentationModel(kind())
    torch.manual_seed(1)
    model = SegmentationModel(kind())
    torch.save(change(source.network.state_dict()), tmp_path / "file.pth")
    if kind is Colliding and file == "parallel within":
        with pytest.raises(ModelError, match=r"head\.module\.module"):
            load_segmentation_weights(model, tmp_path / "file.pth")
        return
    load_segmentation_weights(model, tmp_path / "file.pth")
    assert same_network(model, source)


@pytest.mark.parametrize("wrapper", ["_orig_mod", "module", "_checkpoint_wrapped_module"])
def test_a_model_that_is_wrapped_itself_takes_a_plain_file(wrapper, tmp_path):
    source, model = build(), build(seed=1)
    inner = model.network.backbone
    model.network.backbone = nn.ModuleDict({wrapper: inner}) if wrapper != "module" else nn.DataParallel(inner)
    for state in (source.state_dict(), source.network.state_dict(), theirs(source)):
        if "stem.0.weight" in state:
            continue
        old = {key: value for key, value in state.items() if "num_batches_tracked" not in key}
        for each in (state, old):
            inner[0].weight.data.zero_()
            torch.save(each, tmp_path / "file.pth")
            load_segmentation_weights(model, tmp_path / "file.pth")
            assert torch.equal(inner[0].weight, source.network.backbone[0].weight)


def test_an_external_module_with_a_compiled_part(tmp_path):
    def external(seed):
        torch.manual_seed(seed)
        return SegmentationModel(ExternalNetwork(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1)), 5))

    source, model = external(0), external(1)
    torch.save(within(r"1", "_orig_mod")(source.state_dict()), tmp_path / "file.pth")
    load_segmentation_weights(model, tmp_path / "file.pth")
    assert same_network(model, source)


def test_a_plain_copy_beside_the_wrapped_one_is_named(tmp_path):
    """Which of the two is meant cannot be known."""
    state = build().network.state_dict()
    torch.save(state | within("backbone", "_orig_mod")(build(seed=1).network.state_dict()), tmp_path / "file.pth")
    with pytest.raises(ModelError, match="_orig_mod"):
        load_segmentation_weights(build(), tmp_path / "file.pth")


NORMS = {
    "new": parametrizations.weight_norm,
    "old": nn.utils.weight_norm,
    "new, whole": lambda module: parametrizations.weight_norm(module, dim=None),
    "new, dim 1": lambda module: parametrizations.weight_norm(module, dim=1),
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_weight_normalisation_is_multiplied_out(norm, tmp_path):
    source, model = build().double(), build(seed=1).double()
    for module in (source.network.backbone[0], source.network.head):
        NORMS[norm](module)
    with torch.no_grad():
        for key, value in source.network.state_dict().items():
            if key.endswith(("original0", "_g")):
                value.mul_(1.7)
    state = within("backbone", "_orig_mod")(source.network.state_dict())
    torch.save(state, tmp_path / "file.pth")
    load_segmentation_weights(model, tmp_path / "file.pth")
    images = torch.rand(1, 3, 8, 8).double()
    with torch.no_grad():
        torch.testing.assert_close(model(images), source(images), rtol=0, atol=1e-12)


def test_a_network_with_weight_normalisation_takes_its_own_file(tmp_path):
    source, model = build(), build(seed=1)
    for each in (source, model):
        parametrizations.weight_norm(each.network.head)
    torch.save(source.network.state_dict(), tmp_path / "file.pth")
    load_segmentation_weights(model, tmp_path / "file.pth")
    assert same_network(model, source)


@pytest.mark.parametrize("made", ["spectral", "older spectral", "pruned"])
def test_what_cannot_be_resolved_is_named(made, tmp_path):
    source = build()
    head = source.network.head
    if made == "spectral":
        parametrizations.spectral_norm(head)
    elif made == "older spectral":
        nn.utils.spectral_norm(head)
    else:
        from torch.nn.utils import prune

        prune.l1_unstructured(head, "weight", 0.5)
    torch.save(source.network.state_dict(), tmp_path / "file.pth")
    with pytest.raises(ModelError, match=r"parametrised weights \(.*head.*remove_parametrizations"):
        load_segmentation_weights(build(), tmp_path / "file.pth")
