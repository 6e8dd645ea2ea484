"""Arguments of other types, and images within rounding."""

from collections.abc import Callable
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from torch import Tensor

from robustseg.attacks import (
    PGD,
    AttackError,
    NoiseSource,
    PureClass,
    Strip,
    Targeted,
    UniversalPerturbation,
    WorstOf,
)
from robustseg.attacks.settings import settings_of
from robustseg.detectors import DetectorError, OnPatches, ScaleConsistency, SpatialConsistency, ThroughBlur
from robustseg.evaluation import Evaluator, MemorySink
from robustseg.evaluation.attacking import predict
from robustseg.evaluation.checks import probe_model
from robustseg.evaluation.trace import Traced
from robustseg.metrics import SegmentationScores, confusion_matrix
from robustseg.training.split import AdversarialSplit
from robustseg.types import Batch
from tests.helpers.nets import CLASSES, tiny_batch, tiny_net

from .table import ATTACKS, LOOPS, ROWS, build

WRONG: dict[Any, list[Any]] = {
    int: [2.0, True, "10", [10], 0.5, float("nan")],
    bool: [1, "yes", None],
    float: ["0.5", True, [0.5], float("nan")],
    int | None: [255.0, True, "255", [255]],
}
BUILT = [name for name in ATTACKS if name not in ("worst of", "Targeted", "Universal")]


def settings_with_kinds(cls: type) -> dict[str, Any]:
    hints: dict[str, Any] = {}
    for base in reversed(cls.__mro__[:-1]):
        if "__init__" in vars(base):
            hints |= get_type_hints(vars(base)["__init__"])
    return {name: hints[name] for name in settings_of(cls) if name in hints}


@pytest.mark.parametrize("name", [name for name in BUILT if "hand" not in name])
def test_numbers_and_flags_of_another_type_are_refused_by_every_attack(name: str):
    attack = build(name)
    tried = 0
    for setting, kind in settings_with_kinds(type(attack)).items():
        for value in WRONG.get(kind, []):
            tried += 1
            # A part of the attack may call its setting by a shorter name.
            with pytest.raises(ValueError, match=rf"{setting.rpartition('_')[2]} = "):
                attack.replace(**{setting: value})
    assert tried > 5


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (lambda: PGD(steps=2.0), r"steps = 2.0: PGD takes a whole number"),
        (lambda: PGD(restarts=0.5), r"restarts = 0.5: PGD takes a whole number"),
        (lambda: PGD(seed=None), r"seed = None: PGD takes a whole number"),
        (lambda: PGD(seed=-1), r"seed = -1: a seed is a whole number from 0"),
        (lambda: WorstOf([PGD()], seed=2**70), r"seed = \d+: a seed is a whole number"),
        (lambda: PGD(ignore_index=[255]), r"ignore_index = \[255\]: PGD takes a whole number or None"),
        (lambda: PGD(stages=3), r"stages = 3: PGD takes a list"),
        (lambda: PGD(stages="ab"), r"stages = 'ab': PGD takes a list"),
        (lambda: PGD(transform=3), r"transform = 3 is no input transform"),
        (lambda: WorstOf(PGD()), r"attacks = PGD.*WorstOf takes a list"),
        (lambda: Strip(3), r"classes = 3: Strip takes a list"),
        (lambda: PureClass(1.5), r"class_id = 1.5: PureClass takes a whole number"),
        (lambda: OnPatches(PGD(), 3.5), r"patch_size = 3.5: OnPatches takes a whole number"),
        (lambda: ThroughBlur(PGD(), "1"), r"sigma = '1': ThroughBlur takes a number"),
        (lambda: SpatialConsistency(k=2.0), r"k = 2.0: SpatialConsistency takes a whole number"),
        (lambda: ScaleConsistency("3"), r"sigma = '3': ScaleConsistency takes a number"),
        (lambda: UniversalPerturbation(epochs=2.0), r"epochs = 2.0: UniversalPerturbation takes a whole number"),
        (lambda: UniversalPerturbation(tile_size=5), r"tile_size = 5: UniversalPerturbation takes a list"),
        (lambda: UniversalPerturbation(ignore_index="x"), r"ignore_index = 'x'"),
        (lambda: Evaluator({}, 4, MemorySink(), ignore_index="x"), r"ignore_index = 'x' is no label.*None"),
        (lambda: SegmentationScores(4, ignore_index=True), r"ignore_index = True is no label"),
    ],
)
def test_messages(create: Callable[[], object], message: str):
    with pytest.raises(ValueError, match=message):
        create()


def test_numbers_of_numpy_are_numbers():
    images, targets = tiny_batch()
    numbered = PGD(steps=np.int64(2), restarts=np.int32(1), seed=np.int64(3), ignore_index=np.uint8(255))
    assert torch.equal(numbered(tiny_net(), images, targets), PGD(steps=2, seed=3)(tiny_net(), images, targets))


@pytest.mark.parametrize("name", ATTACKS)
def test_none_ignores_nothing(name: str):
    """The result is that of an ignore index that no target has; a label beyond the classes is an error then."""
    images, targets = tiny_batch(ignored=False)
    inner = {"ignore_index": None}
    found = build(name, **inner)(tiny_net(), images, targets, generator=torch.Generator().manual_seed(1))
    expected = build(name, ignore_index=255)(tiny_net(), images, targets, generator=torch.Generator().manual_seed(1))
    assert torch.equal(found, expected)
    if ROWS[name].asks:
        with pytest.raises(AttackError, match=r"class 255 but the model has 4 classes"):
            build(name, **inner)(tiny_net(), images, targets.masked_fill(targets == 0, 255))


def test_none_ignores_nothing_elsewhere():
    images, targets = tiny_batch(ignored=False)
    model = tiny_net()
    wrapped = OnPatches(ThroughBlur(PGD(steps=2, ignore_index=None), 0.5), 3, 2)
    plain = OnPatches(ThroughBlur(PGD(steps=2), 0.5), 3, 2)
    assert torch.equal(wrapped(model, images, targets), plain(model, images, targets))
    mapped = [Targeted(PGD(steps=2, targeted=True, ignore_index=index), Strip([0, 1])) for index in (None, 255)]
    assert torch.equal(mapped[0](model, images, targets), mapped[1](model, images, targets))
    assert torch.equal(predict(model, images, targets, None), predict(model, images, targets))
    predictions = predict(model, images, targets)
    assert torch.equal(confusion_matrix(predictions, targets, 4, None), confusion_matrix(predictions, targets, 4))
    with pytest.raises(ValueError, match=r"ids from 0 to 255"):
        confusion_matrix(predictions, targets.masked_fill(targets == 1, 255), 4, None)
    fits = [UniversalPerturbation(epochs=1, ignore_index=index) for index in (None, 255)]
    assert torch.equal(*(fit.fit(model, [(images, targets)]).delta for fit in fits))
    sinks = [MemorySink(), MemorySink()]
    for sink, index in zip(sinks, (None, 255), strict=True):
        Evaluator({"pgd": Traced(PGD(steps=2, ignore_index=index))}, CLASSES, sink, index).update(
            model, ["a", "b"], images, targets
        )
    assert sinks[0].compute()["pgd"]["miou"] == sinks[1].compute()["pgd"]["miou"]


IMAGES = {
    "array": (lambda i: i.numpy(), r"not a ndarray: .*torch.from_numpy"),
    "list": (lambda i: [*i], r"not a list: .*torch.stack"),
    "None": (lambda i: None, r"not a NoneType"),
    "8 bit": (lambda i: (i * 255).byte(), r"not torch.uint8 .*divide 8-bit images by 255"),
    "grey": (lambda i: i[:, :1], r"images.expand\(-1, 3, -1, -1\)"),
    "channels last": (lambda i: i.permute(0, 2, 3, 1), r"images.permute\(0, 3, 1, 2\)"),
    "one": (lambda i: i[0], r"images.unsqueeze\(0\)"),
    "one, channels last": (lambda i: i[0].permute(1, 2, 0), r"images.permute\(2, 0, 1\).unsqueeze\(0\)"),
    "empty": (lambda i: i[..., :0], r"they hold no pixel"),
    "none": (lambda i: i[:0], r"they hold no pixel"),
    "8-bit values": (lambda i: i * 255, r"in \[0, 255\] .*divide 8-bit images by 255\."),
    "16-bit values": (lambda i: i * 65535, r"in \[0, 65535\] .*divide 16-bit images by 65535"),
    "normalised": (lambda i: (i - 0.45) / 0.225, r"in \[-2, 2.444\d+\] .*put the normalisation into the model"),
    "minus a mean": (lambda i: i * 255 - 123, r"divide 8-bit images by 255 and put the normalisation"),
    "overshoot": (lambda i: i * 1.02 - 0.01, r"in \[-0.01, 1.01\] .*images.clamp\(0, 1\)"),
    "a little too much": (lambda i: i * (1 + 1e-5), r"in \[0, 1.00001\] .*images.clamp\(0, 1\)"),
    "NaN": (lambda i: i.masked_fill(i == 1, float("nan")), r"in \[nan, nan\] .*not all finite"),
    "infinite": (lambda i: i.masked_fill(i == 1, float("inf")), r"inf\] .*not all finite"),
    "sparse": (lambda i: i.to_sparse(), r"not torch.sparse_coo: give images.to_dense\(\)"),
    "nested": (lambda i: torch.nested.nested_tensor([*i]), r"not nested: give torch.stack\(images.unbind\(\)\)"),
    "device": (lambda i: i.to("meta"), r"not on meta, .*no values"),
    "8-bit floats": (lambda i: i.to(torch.float8_e4m3fn), r"not torch.float8_e4m3fn .*images.float\(\)"),
}
TARGETS = {
    "None": (lambda t: None, r"not a NoneType: .*model\(images\).argmax\(1\)"),
    "array": (lambda t: t.numpy(), r"not a ndarray: torch.from_numpy"),
    "list": (lambda t: t.tolist(), r"not a list"),
    "channel": (lambda t: t.unsqueeze(1), r"targets.squeeze\(1\)"),
    "float": (lambda t: t.float(), r"not torch.float32 .*targets.long\(\)"),
    "bool": (lambda t: t == 0, r"not torch.bool .*targets.long\(\)"),
    "other size": (lambda t: t[:, 1:], r"one label per pixel"),
    "device": (lambda t: t.to("meta"), r"targets.to\('cpu'\)"),
    "sparse": (lambda t: t.to_sparse(), r"not torch.sparse_coo: give targets.to_dense\(\)"),
    "nested": (lambda t: torch.nested.nested_tensor([*t]), r"not nested: give torch.stack\(targets.unbind\(\)\)"),
}


def calls(attack: str) -> list[Callable[[Any, Any], object]]:
    """Ways in which images and targets get to an attack."""
    fit = UniversalPerturbation(epochs=1)
    model = tiny_net()
    return [
        lambda i, t: build(attack)(model, i, t),
        lambda i, t: ThroughBlur(PGD(), 0.5)(model, i, t),
        lambda i, t: fit.fit(model, [(i, t)]),
        lambda i, t: probe_model(model, ["a", "b"], i, t, eps=0.1, num_classes=CLASSES),
    ]


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("attack", ["PGD", "Square", "CW", "Targeted"])
def test_images_that_are_none(kind: str, attack: str):
    change, message = IMAGES[kind]
    images, targets = tiny_batch()
    for call in calls(attack)[: None if attack == "PGD" else 1]:
        with pytest.raises(AttackError, match=message):
            call(change(images), targets)
    if attack == "PGD":
        with pytest.raises(DetectorError, match=message):
            ScaleConsistency(0.5).scores(tiny_net(), change(images), ["a", "b"])
        with pytest.raises(AttackError, match=message):
            Evaluator({}, CLASSES, MemorySink()).update(tiny_net(), ["a", "b"], change(images), targets)


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("attack", ["PGD", "Square", "CW", "Targeted"])
def test_targets_that_are_none(kind: str, attack: str):
    change, message = TARGETS[kind]
    images, targets = tiny_batch()
    for call in calls(attack)[: None if attack == "PGD" else 1]:
        with pytest.raises(AttackError, match=message):
            call(images, change(targets))


def test_a_generator_that_is_none():
    for wrong in (0, 7, "seed"):
        with pytest.raises(AttackError, match=r"generator = .*manual_seed"):
            PGD()(tiny_net(), *tiny_batch(), generator=wrong)


NOISE = {
    torch.float64: (-6e-8, 1.0000001),
    torch.float32: (-6e-8, 1.0000001),
    torch.float16: (-6e-8, 1.001),
    torch.bfloat16: (-1e-7, 1.0078125),
}


@pytest.mark.parametrize("dtype", NOISE, ids=str)
@pytest.mark.parametrize("attack", [name for name in LOOPS if not ROWS[name].layers])
def test_images_within_rounding_are_those_of_the_box(dtype: torch.dtype, attack: str):
    images, targets = tiny_batch(dtype)
    noisy = images.clone()
    noisy[0, 0, 0, 0], noisy[1, 2, 3, 3] = NOISE[dtype]
    clean = noisy.clamp(0, 1)
    assert not torch.equal(noisy, clean)
    before, net = noisy.clone(), tiny_net(torch.float32)

    def model(x: Tensor) -> Tensor:
        return net(x.float())

    eps = 0.05
    if attack == "Universal" and dtype in (torch.float16, torch.bfloat16):
        eps = 0.04
    found = build(attack, eps)(model, noisy, targets, generator=torch.Generator().manual_seed(0))
    expected = build(attack, eps)(model, clean, targets, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found, expected)
    assert torch.equal(noisy, before)


def test_rounding_elsewhere():
    images, targets = tiny_batch(torch.float32)
    noisy = images.clone()
    noisy[0, 0, 0, 0], noisy[1, 2, 3, 3] = NOISE[torch.float32]
    clean, model, ids = noisy.clamp(0, 1), tiny_net(torch.float32), ["a", "b"]
    assert torch.equal(ScaleConsistency(0.5).scores(model, noisy, ids), ScaleConsistency(0.5).scores(model, clean, ids))
    fits = [UniversalPerturbation(epochs=1).fit(model, [(each, targets)]).delta for each in (noisy, clean)]
    assert torch.equal(*fits)
    found = []
    for each in (noisy, clean):
        sink = MemorySink()
        Evaluator({"pgd": PGD(steps=2)}, CLASSES, sink).update(model, ids, each, targets)
        found.append(sink)
    assert torch.equal(found[0].seen["pgd"].images_adv, found[1].seen["pgd"].images_adv)
    mixed = []
    for each in (noisy, clean):
        noise = NoiseSource.for_samples(0, ids, each.device)
        mixed.append(AdversarialSplit(1.0)(model, PGD(steps=2), Batch(each, targets, ids), noise).images)
    assert torch.equal(*mixed)
    evidence = [probe_model(model, ids, each, targets, eps=0.1, num_classes=CLASSES)["ids"] for each in (noisy, clean)]
    assert evidence[0] == evidence[1]
