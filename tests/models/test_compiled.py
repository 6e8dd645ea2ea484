from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from robustseg.attacks import APGD, PGD, CosPGD, MLAttack, Square
from robustseg.models import Compile, ExternalNetwork, ModelError, MultiScale, SegmentationModel, SlidingWindow
from robustseg.types import Batch
from tests.helpers.nets import ToyNetwork, toy_batch

CLASSES = 4
BATCH = toy_batch(4, num_classes=CLASSES)
EAGER = Compile(backend="eager")


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch._dynamo.reset()


def network() -> ToyNetwork:
    torch.manual_seed(0)
    net = ToyNetwork(CLASSES, aux=True)
    for _ in range(3):  # statistics of its BatchNorm that are none of these images
        net(torch.rand(4, 3, 12, 12) ** 2)
    return net


def pair(**settings: object) -> tuple[SegmentationModel, SegmentationModel, CompileCounterWithBackend]:
    """The same model as written and compiled, with the counter of its graphs."""
    counter = CompileCounterWithBackend("eager")
    settings = {"compile": Compile(backend=counter), **settings}
    return SegmentationModel(network()), SegmentationModel(network(), **settings), counter


def update(model: SegmentationModel, batch: Batch = BATCH) -> list[Tensor]:
    """Gradients and buffers of an update with the auxiliary loss."""
    model.train()
    logits, aux = model.forward_with_aux(batch.images)
    assert aux is not None
    (logits.square().mean() + 3 * aux.square().mean()).backward()
    found = [parameter.grad.clone() for parameter in model.parameters()] + [b.clone() for b in model.buffers()]
    model.zero_grad()
    return found


def validate(model: SegmentationModel, images: Tensor = BATCH.images) -> Tensor:
    model.eval()
    with torch.no_grad():
        return model(images)


def assert_equal(one: object, two: object) -> None:
    torch.testing.assert_close(one, two, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("sizes", "dynamic", "channels_last"),
    [
        ((4, 15, 1, 2), None, False),  # torch takes another convolution from 16 images on, on the CPU
        pytest.param((1, 4), True, False, marks=pytest.mark.exhaustive),
        # and in this layout for one image
        pytest.param((4, 15, 2), None, True, marks=pytest.mark.exhaustive),
    ],
)
def test_attacks_updates_and_validation_share_three_graphs_for_any_number_of_images(sizes, dynamic, channels_last):
    plain, compiled, counter = pair(channels_last=channels_last)
    compiled.compiled.settings = Compile(backend=counter, dynamic=dynamic)
    attacks = [PGD(steps=2), CosPGD(steps=12, keep="best", eps=0.3), APGD(steps=12, eps=0.3), Square(steps=12, eps=0.3)]
    for _ in range(2):
        assert_equal(update(plain), update(compiled))
        for size in sizes:
            batch = toy_batch(size, num_classes=CLASSES)
            assert_equal(validate(plain, batch.images), validate(compiled, batch.images))
            for model in (plain, compiled):
                model.train()
            for attack in attacks:
                generators = [torch.Generator().manual_seed(1) for _ in range(2)]
                before, after = (
                    attack(model, batch.images, batch.targets, generator=generator)
                    for model, generator in zip((plain, compiled), generators, strict=True)
                )
                assert_equal(before, after)
        assert all(module.training for module in compiled.modules())
        assert all(parameter.requires_grad for parameter in compiled.parameters())
    assert counter.frame_count == 3
    assert_equal(plain.state_dict(), compiled.state_dict())


def test_one_image_in_inference_mode_and_a_part_of_a_batch_come_first():
    plain, compiled, counter = pair()
    with torch.inference_mode():
        images = BATCH.images[:1].clone()
        compiled.eval()
        first = compiled(images)
    assert_equal(first.clone(), validate(plain, BATCH.images[:1]))
    assert_equal(validate(compiled, BATCH.images[1:3]), validate(plain, BATCH.images[1:3]))
    assert_equal(validate(compiled), validate(plain))
    assert counter.frame_count == 1


def test_nothing_of_it_is_in_the_state_dict_and_copies_are_compiled_for_themselves():
    plain, compiled, _ = pair()
    validate(compiled)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    compiled.compiled.settings = EAGER  # a counter cannot be pickled
    for clone in (copy.deepcopy(compiled), pickle.loads(pickle.dumps(compiled))):
        with torch.no_grad():
            for parameter in clone.parameters():
                parameter.zero_()
        assert validate(clone).abs().max() == 0
        assert validate(compiled).abs().max() > 0


@pytest.mark.slow
def test_many_models_in_one_process_stay_compiled():
    """Torch compiles one function eight times at most."""
    for _ in range(5):
        _, compiled, counter = pair()
        validate(compiled)
        update(compiled)
        assert counter.frame_count == 2


@pytest.mark.slow
def test_windows_and_scales():
    window = SlidingWindow((8, 8), chunk=2)
    models = [SegmentationModel(network(), window=window, compile=compile) for compile in (False, EAGER)]
    for wrap in (lambda model: model, lambda model: MultiScale(model, (0.5, 1.0))):
        results = []
        for model in models:
            generator = torch.Generator().manual_seed(1)
            results.append(PGD(steps=2)(wrap(model), BATCH.images, BATCH.targets, generator=generator))
        assert_equal(*results)
        assert_equal(*(validate(wrap(model)) for model in models))


@pytest.mark.parametrize("settings", [{}, pytest.param({"fullgraph": True}, marks=pytest.mark.exhaustive)])
def test_a_network_that_the_user_compiled_keeps_its_auxiliary_head(settings):
    counter = CompileCounterWithBackend("eager")
    plain = SegmentationModel(network())
    model = SegmentationModel(torch.compile(network(), backend=counter, **settings))
    assert_equal(update(plain), update(model))
    assert_equal(validate(plain), validate(model))
    assert counter.frame_count == 2
    assert list(model.state_dict()) == list(plain.state_dict())
    assert model.num_classes == CLASSES
    assert_equal(validate(copy.deepcopy(model)), validate(plain))


def test_a_network_that_the_user_compiled_in_place_keeps_its_auxiliary_head():
    net = network()
    net.compile(backend="eager")
    assert_equal(update(SegmentationModel(net)), update(SegmentationModel(network())))


@pytest.mark.parametrize("wrap", [nn.DataParallel, nn.Sequential, lambda net: nn.ModuleDict({"net": net})])
def test_wrappers_that_hide_the_auxiliary_head_are_refused(wrap):
    model = SegmentationModel(wrap(network()))
    with pytest.raises(ModelError, match=r"around a ToyNetwork, which hides the auxiliary head: give the ToyNetwork"):
        model.forward_with_aux(BATCH.images)


class Uncompilable(ToyNetwork):
    def forward_with_aux(self, x):
        torch._dynamo.graph_break()
        return super().forward_with_aux(x)


def failing(graph, inputs):
    raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found in ['g++']")


def test_what_cannot_be_compiled_is_one_error_with_the_remedy():
    model = SegmentationModel(torch.compile(Uncompilable(CLASSES), backend="eager", fullgraph=True))
    with pytest.raises(ModelError, match=r"model\.compile: Uncompilable cannot be compiled.*leave model\.compile out"):
        validate(model)
    assert all(parameter.requires_grad for parameter in model.parameters())
    model = SegmentationModel(network(), compile=Compile(backend=failing))
    with pytest.raises(ModelError, match=r"C\+\+ compiler found.*leave model\.compile out.*install"):
        PGD(steps=1)(model, BATCH.images, BATCH.targets)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "fastest"}, r"model\.compile\.mode = 'fastest': use one of default"),
        ({"backend": "inducter"}, r"model\.compile\.backend = 'inducter' is none of .*inductor"),
        ({"mode": "max-autotune", "backend": "eager"}, r"model\.compile\.mode = max-autotune .*drop one"),
    ],
)
def test_settings_that_there_are_not(settings, message):
    with pytest.raises(ModelError, match=message):
        Compile(**settings)


def test_errors_of_the_model_pass_a_compiled_one():
    with pytest.raises(ModelError, match=r"images are .*expected"):
        SegmentationModel(network(), compile=EAGER)(torch.rand(3, 12, 12))
    model = SegmentationModel(ExternalNetwork(nn.Conv2d(3, 5, 1), CLASSES), compile=EAGER)
    with pytest.raises(ModelError, match=r"returned 5 logits per pixel"):
        model(BATCH.images)


def test_layers_of_compiled_models_are_read():
    plain, compiled, _ = pair()
    layers = ["backbone.0", "head"]
    results = []
    for model in (plain, compiled, torch.compile(copy.deepcopy(plain), backend="eager")):
        validate(model)
        generator = torch.Generator().manual_seed(1)
        results.append(MLAttack(steps=2, layers=layers)(model, BATCH.images, BATCH.targets, generator=generator))
    assert_equal(results[0], results[1])
    assert_equal(results[0], results[2])


@pytest.mark.slow
def test_inductor_computes_the_same():
    plain, compiled, _ = pair(compile=Compile())
    before, after = update(plain), update(compiled)
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(validate(plain), validate(compiled), rtol=1e-4, atol=1e-5)
    for size in (4, 1):
        generators = [torch.Generator().manual_seed(1) for _ in range(2)]
        results = [
            CosPGD(steps=3)(model, BATCH.images[:size], BATCH.targets[:size], generator=generator)
            for model, generator in zip((plain, compiled), generators, strict=True)
        ]
        assert (results[0] - results[1]).abs().gt(1e-4).float().mean() < 0.01
