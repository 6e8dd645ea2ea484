"""Every mistake of the user meets one message that names what is wrong and what to do."""

import pytest
import torch
from torch import Tensor, nn

from robustseg.attacks import (
    BIM,
    DS,
    FGSM,
    MIFGSM,
    PGD,
    Attack,
    AttackError,
    CosPGD,
    DynamicScale,
    SegFGSM,
    SegPGD,
    SegPGDLoss,
    ThreatModel,
)
from tests.helpers.cases import partly
from tests.helpers.nets import CLASSES, tiny_batch, tiny_net

from .table import ATTACKS, LOOPS, ROWS, WITH_NORM, build

NAMED = [FGSM, SegFGSM, BIM, PGD, SegPGD, CosPGD, MIFGSM, DS]


@pytest.mark.parametrize("attack", partly(NAMED, (FGSM, PGD).__contains__))
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps": 8}, r"eps = 8 exceeds 1.*8/255"),
        ({"eps": "255/8"}, r"eps = 255/8 exceeds 1"),
        ({"eps": -0.01}, r"eps = -0.01 is negative"),
        ({"eps": "-8/255", "norm": "l2"}, r"eps = -8/255 is negative"),
        ({"eps": "abc"}, r"eps = 'abc' is not a number.*8/255"),
        ({"eps": "1/0"}, r"eps = '1/0' is not a number"),
        ({"eps": float("nan")}, r"eps = nan is not a number"),
        ({"eps": float("inf")}, r"eps = inf is not a number"),
        ({"eps": None}, r"eps = None is not a number"),
        ({"norm": "l1"}, r"norm = 'l1' is not known: use linf, l2 or rms"),
        ({"eps": 1.5, "norm": "rms"}, r"eps = 3/2 exceeds 1"),
    ],
    ids=str,
)
def test_threat(attack: type[Attack], settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        attack(**settings)


@pytest.mark.parametrize("attack", partly([BIM, PGD, SegPGD, CosPGD, MIFGSM, DS], (PGD, MIFGSM).__contains__))
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step_size": 0}, r"step_size = 0 moves nothing.*2/255"),
        ({"step_size": -0.1}, r"step_size = -0.1 moves nothing"),
        ({"step_size": "two"}, r"step_size = 'two' is not a number"),
        ({"steps": 0}, r"steps = 0: an attack takes at least one step"),
        ({"keep": "first"}, r"keep = 'first': use last or best"),
    ],
    ids=str,
)
def test_iteration(attack: type[Attack], settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        attack(**settings)


SHARED = {"steps": (0, "steps = 0: an attack"), "step_size": (0, "step_size = 0 moves nothing")}


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in ("Universal", "Targeted", "worst of")])
def test_settings_that_attacks_share(name: str):
    norm = ROWS[name].norms[0]
    wrong = [(8, r"eps = 8 exceeds 1.*8/255"), (-0.1, r"eps = -0.1 is negative"), ("abc", r"eps = 'abc' is not a numb")]
    for eps, message in wrong[norm != "linf" :]:
        with pytest.raises(ValueError, match=message):
            build(name, eps)
    with pytest.raises(ValueError, match=r"norm = 'l1'"):
        build(name, norm="l1")
    attack = build(name)
    for setting, (value, message) in SHARED.items():
        if setting in attack.describe() and name not in ("FGSM", "SegFGSM"):
            with pytest.raises(ValueError, match=message):
                attack.replace(**{setting: value})
    if "success" in attack.describe():
        for value in (0, 99):
            with pytest.raises(ValueError, match=rf"success = {value} is outside of \(0, 1\]"):
                attack.replace(success=value)


@pytest.mark.parametrize("attack", [PGD, SegPGD, CosPGD])
def test_restarts(attack: type[Attack]):
    with pytest.raises(ValueError, match="restarts = 0"):
        attack(restarts=0)
    with pytest.raises(ValueError, match="restarts = 2 without random_start would repeat"):
        attack(restarts=2, random_start=False)


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (lambda: SegPGD(schedule="cosine"), r"schedule = 'cosine': use linear, log, exp, constant or only-correct"),
        (lambda: SegPGDLoss(schedule="constant", constant=1.5), r"constant = 1.5 is outside of \[0, 1\]"),
        (lambda: SegPGDLoss(constant=float("nan")), r"constant = nan is outside of \[0, 1\]"),
        (lambda: MIFGSM(decay=-1), r"decay = -1 is negative"),
        (lambda: MIFGSM(decay=float("nan")), r"decay = nan"),
        (lambda: DS(scale_range=1), r"scale_range = 1 is outside of \[0, 1\)"),
        (lambda: DynamicScale(-0.1), r"scale_range = -0.1 is outside"),
    ],
)
def test_settings_of_single_attacks(create, message: str):
    with pytest.raises(ValueError, match=message):
        create()


def test_large_l2_radius_is_no_mistake():
    assert float(ThreatModel(3, "l2").eps) == 3


def images_targets() -> tuple[Tensor, Tensor]:
    return tiny_batch(torch.float32)


def with_label(value: int) -> tuple[Tensor, Tensor]:
    images, targets = images_targets()
    targets[1, 3, 2] = value
    return images, targets


BATCHES = {
    "8-bit": (lambda i, t: (i * 255, t), r"images have values in \[0, 255\].*divide 8-bit images by 255"),
    "normalised": (lambda i, t: (i * 2 - 1, t), r"images have values in \[-1, 1\].*normalisation into the model"),
    "slightly above 1": (lambda i, t: (i + 1e-3, t), r"images have values in"),
    "NaN": (lambda i, t: (i / i.sum(1, keepdim=True).floor() / 0, t), r"images have values in \[nan, nan\]"),
    "integer images": (lambda i, t: ((i * 255).byte(), t), r"images must be .* floating point .*not torch.uint8"),
    "one image": (lambda i, t: (i[0], t[0]), r"images must be B×3×H×W .* of shape \(3, 7, 6\)"),
    "other size": (lambda i, t: (i, t[:, 1:]), r"targets must be B×H×W integers .*not torch.int64 .*\(2, 6, 6\)"),
    "other number": (lambda i, t: (i, t[:1]), r"targets must be B×H×W integers"),
    "channel of targets": (lambda i, t: (i, t.unsqueeze(1)), r"targets must be B×H×W integers"),
    "float targets": (lambda i, t: (i, t.float()), r"targets must be B×H×W integers .*not torch.float32"),
    "label beyond classes": (lambda i, t: with_label(CLASSES), r"class 4 but the model has 4 classes.*ignore_index"),
    "negative label": (lambda i, t: with_label(-1), r"targets hold -1, .*ignore_index = 255: give the attack"),
    "other ignore index": (lambda i, t: (i, t.masked_fill(t == 255, 254)), r"class 254 .*ignore_index"),
}

BEYOND_CLASSES = ("label beyond classes", "other ignore index")


# All are looked at before any attack begins, but for labels that only the model's answer tells from others.
@pytest.mark.parametrize(
    ("kind", "attack"),
    partly(
        [(kind, name) for kind in BATCHES for name in ATTACKS if kind not in BEYOND_CLASSES or ROWS[name].asks],
        lambda kind, name: name == "PGD" or (kind == "label beyond classes" and name in LOOPS),
    ),
)
def test_batch(kind: str, attack: str):
    change, message = BATCHES[kind]
    with pytest.raises(AttackError, match=message):
        build(attack)(tiny_net(torch.float32), *change(*images_targets()))


def test_wrong_label_is_found_even_where_scaling_would_leave_it_out():
    """Shrinking drops half of the labels; the message must not depend on which."""
    for seed in range(5):
        with pytest.raises(AttackError, match="class 77 but the model has 4 classes"):
            DS(eps=0.1, step_size=0.1, steps=3)(
                tiny_net(torch.float32), *with_label(77), generator=torch.Generator().manual_seed(seed)
            )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_labels_of_any_integer_type(dtype: torch.dtype):
    images, targets = images_targets()
    model = tiny_net(torch.float32)
    expected = PGD()(model, images, targets)
    assert torch.equal(PGD()(model, images, targets.to(dtype)), expected)
    if dtype == torch.uint8:
        # −1 and 255 are equal in 8 bits: the pixels must not quietly count as ignored.
        with pytest.raises(AttackError, match="class 255"):
            PGD(ignore_index=-1)(model, images, targets.to(dtype))


class Constant(nn.Module):
    """Answers with something that the input does not influence."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(1, CLASSES, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.logits.expand(len(images), -1, *images.shape[-2:])


def without_grad(images: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([images, images[:, :1]], 1)


def four(images: Tensor) -> Tensor:
    return torch.cat([images, images[:, :1]], 1)


constant = Constant()
MODELS = {
    "dictionary": (lambda x: {"out": four(x)}, r"returned a dict, not a tensor of logits: wrap it"),
    "None": (lambda x: None, r"returned a NoneType, not a tensor"),
    "smaller": (lambda x: four(x)[..., ::2, ::2], r"returned \(2, 4, \d, \d\) for images \(2, 3, \d+, \d\).*upsamples"),
    "classification": (lambda x: four(x).mean((2, 3)), r"returned \(2, 4\) for images"),
    "one image only": (lambda x: four(x)[:1], r"returned \(1, 4, \d+, \d\) for images"),
    "one channel": (lambda x: x[:, :1], r"one output channel.*torch.cat|class \d but the model has 1 classes"),
    "no_grad": (without_grad, r"does not depend on its input for autograd \(no_grad, argmax"),
    "argmax": (
        lambda x: four(x).round().argmax(1, keepdim=True).float(),
        r"does not depend on its input|one output channel",
    ),
    "constant module": (constant, r"does not depend on its input"),
    "function of weights only": (lambda x: constant(x), r"does not depend on its input"),
    "NaN": (lambda x: four(x) * float("nan"), r"logits that are not finite.*float32"),
    "infinite slope": (lambda x: (four(x) * 0 - 1e-30).abs().sqrt() / (four(x) * 0), r"not finite"),
}


BAD_ANSWERS = ("dictionary", "None", "smaller", "classification", "one image only", "NaN")
"""They are of no use for an attack without gradients either."""


# One function checks the answer, which each loop calls; what is not finite is found by each loop as well.
@pytest.mark.parametrize(
    ("kind", "attack", "norm"),
    partly(
        [
            (kind, name, norm)
            for kind in MODELS
            for name, norm in WITH_NORM
            if not ROWS[name].layers and (ROWS[name].gradient or (ROWS[name].asks and kind in BAD_ANSWERS))
        ],
        lambda kind, name, norm: (
            (name in LOOPS and kind in ("dictionary", "no_grad", "infinite slope")) or (name, norm) == ("PGD", "linf")
        ),
    ),
)
def test_model(kind: str, attack: str, norm: str):
    model, message = MODELS[kind]
    images, targets = images_targets()
    with pytest.raises(AttackError, match=message):
        build(attack, 0.05, norm)(model, images, targets)


def test_unknown_mode():
    with pytest.raises(ValueError, match="mode = 'evaluation': use eval or train"):
        PGD()(tiny_net(torch.float32), *images_targets(), mode="evaluation")
