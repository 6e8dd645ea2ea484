"""Adaptive attacks: what holds for every inner attack and every way of wrapping it, settings and messages."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

from robustseg.attacks import (
    DAG,
    DS,
    PGD,
    Attack,
    AttackError,
    Houdini,
    IterativeAttack,
    MLAttack,
    PureClass,
    Square,
    Targeted,
    WorstOf,
)
from robustseg.detectors import DetectorError, GaussianBlur, OnPatches, ThroughBlur
from tests.attacks.comparison import assert_allowed
from tests.attacks.table import LOOPS, ROWS, build
from tests.detectors.nets import noise_of
from tests.helpers.cases import partly
from tests.helpers.nets import HEIGHT, WIDTH, CountingNet, tiny_batch, tiny_net

SIZE, K = 3, 2
WRAPS = {
    "blur": lambda attack: ThroughBlur(attack, 0.5),
    "both": lambda attack: ThroughBlur(attack, 0.5, whole=True),
    "patches": lambda attack: OnPatches(attack, SIZE, K),
    "redraw": lambda attack: OnPatches(attack, SIZE, K, redraw=True),
    "patches of both": lambda attack: OnPatches(ThroughBlur(attack, 0.5, whole=True), SIZE, K),
}
SHOWN = {"blur": 1, "both": 2, "patches": 1 + K, "redraw": 1 + K, "patches of both": 2 * (1 + K)}
"""What the model is shown where the inner attack asks once."""
NEVER = ("Targeted", "Universal")
ONE_VIEW = (*NEVER, "DS", "DS best", "DIFGSM", "TransferAttack", "MLAttack", "MLAttack clean best")
REFUSED = {
    "blur": NEVER,
    "both": ONE_VIEW,
    "patches": ONE_VIEW,
    "redraw": (*ONE_VIEW, "Houdini IoU best", "MCE-Bal by hand"),
    "patches of both": ONE_VIEW,
}
ALL = [(name, how) for how in WRAPS for name in ROWS if name not in REFUSED[how]]
# Each way of wrapping meets each loop, and all ways together meet every attack.
every = pytest.mark.parametrize(
    ("name", "how"), partly(ALL, lambda name, how: name in LOOPS or how == "patches of both" or name in ONE_VIEW)
)
SOME = [(name, how) for name in ("PGD restarts best", "Houdini", "DAG", "CW", "DeepFool", "Square") for how in WRAPS]
some = pytest.mark.parametrize(("name", "how"), SOME)


@every
def test_counts_ball_and_ignored_pixels(name, how):
    """What the model is asked, the budget, and that the value of the ignore index changes nothing."""
    images, targets = tiny_batch()
    ignored = targets == 255
    net = CountingNet(tiny_net())
    attack = WRAPS[how](build(name, 0.05))
    result = attack.run(net, images, targets, generator=noise_of("ac"))
    inner = build(name, 0.05).run(tiny_net(), images, targets, generator=noise_of("ac"))
    assert not torch.equal(result.images_adv, images)
    assert_allowed(result.images_adv, images, 0.05, attack.threat.norm)
    assert net.weight_gradients == 0
    if ROWS[name].cost is not None and "CW" not in name:
        assert result.forwards.tolist() == [SHOWN[how] * count for count in inner.forwards.tolist()]
        assert result.backwards.tolist() == [SHOWN[how] * count for count in inner.backwards.tolist()]
    again = WRAPS[how](build(name, 0.05, ignore_index=-1))
    moved = again(net, images, targets.masked_fill(ignored, -1), generator=noise_of("ac"))
    assert torch.equal(moved, result.images_adv)


@every
def test_batch_composition_changes_nothing(name, how):
    model, (images, targets) = tiny_net(), tiny_batch(batch=4)
    targets[3] = 255
    targets[2] = model(images[2:3]).argmax(1)[0]
    attack = WRAPS[how](build(name, 0.05))

    def run(order):
        found = attack(model, images[order], targets[order], generator=noise_of([f"image {i}" for i in order]))
        return dict(zip(order, found, strict=True))

    together = run([0, 1, 2, 3])
    assert torch.equal(together[3], images[3])
    for order in ([1], [3, 2, 0]):
        for i, images_adv in run(order).items():
            torch.testing.assert_close(images_adv, together[i], rtol=0, atol=1e-9)


@some
def test_seeds_radius_zero_and_side_effects(name, how):
    model, (images, targets) = tiny_net(torch.float32).train(), tiny_batch(torch.float32)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    kept = images.clone()
    attack = WRAPS[how](build(name, 0.05))

    def run(seed):
        return attack(model, images, targets, generator=torch.Generator().manual_seed(seed))

    first, repeated, other = run(1), run(1), run(2)
    assert torch.equal(first, repeated)
    assert torch.equal(first, other) == (not ROWS[name].random and how in ("blur", "both"))
    assert torch.equal(images, kept)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    unmoved = WRAPS[how](build(name, 0)).run(model, images, targets)
    assert torch.equal(unmoved.images_adv, images)
    assert not unmoved.forwards.any()


@some
def test_observers_see_the_whole_image(name, how):
    model, (images, targets) = tiny_net(), tiny_batch(batch=3)
    targets[1] = 255
    steps = []
    WRAPS[how](build(name, 0.05))(model, images, targets, generator=noise_of("abc"), on_step=steps.append)
    blur = GaussianBlur(0.5) if how == "blur" else (lambda seen: seen)
    assert steps
    for step in steps:
        assert set(step.rows.tolist()) <= {0, 2}
        expected = targets[step.rows]
        assert torch.equal(step.targets >= 0, expected != 255)
        assert torch.equal(step.targets[step.targets >= 0], expected[expected != 255])
        torch.testing.assert_close(step.logits, model(blur(step.images_adv)).detach(), rtol=0, atol=1e-9)


def test_settings_are_nested_and_plain():
    inner = Houdini(eps="0.06", norm="rms", targeted=True, ignore_index=7, seed=3)
    attack = OnPatches(ThroughBlur(inner, 2, whole=True), 40, 5, redraw=True)
    assert (attack.targeted, attack.ignore_index, attack.seed) == (True, 7, 3)
    assert attack.threat is inner.threat
    described = json.loads(json.dumps(attack.describe()))
    head = {"attack": "OnPatches", "eps": "3/50", "norm": "rms", "targeted": True}
    assert {key: described[key] for key in head} == head
    assert {key: described[key] for key in ("patch_size", "k", "redraw")} == {"patch_size": 40, "k": 5, "redraw": True}
    assert [described["inner"][key] for key in ("attack", "sigma", "whole")] == ["ThroughBlur", 2.0, True]
    assert described["inner"]["inner"]["steps"] == inner.steps
    assert OnPatches(DAG()).describe()["eps"] is None


def test_settings_of_the_data_reach_the_inner_attack():
    class Asking(Square):
        def for_data(self, class_pixels):
            return PGD(eps=str(class_pixels()[0]))

    attack = OnPatches(Asking(eps="1/255"), 4, 2)
    known = attack.for_data(lambda: [0.25])
    assert isinstance(attack.attack, Asking)
    assert (type(known), type(known.attack), known.k) == (OnPatches, PGD, 2)
    assert float(known.attack.threat.eps) == 0.25


def test_a_target_map_goes_outside():
    model, (images, targets) = tiny_net(), tiny_batch()
    attack = Targeted(OnPatches(PGD(targeted=True), SIZE, K), PureClass(1))
    expected = OnPatches(PGD(targeted=True), SIZE, K)(
        model, images, torch.where(targets == 255, 255, 1), generator=noise_of("ab")
    )
    assert torch.equal(attack(model, images, targets, generator=noise_of("ab")), expected)


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (lambda: OnPatches("DAG"), r"attack = 'DAG' is no attack"),
        (lambda: OnPatches(DAG(), patch_size=0), r"patch_size = 0: a side"),
        (lambda: OnPatches(DAG(), k=0), r"k = 0: at least one patch"),
        (lambda: OnPatches(DS()), r"attack = DS moves its targets"),
        (lambda: OnPatches(WorstOf([PGD(), DS(eps="8/255")])), r"attack = DS moves its targets"),
        (lambda: OnPatches(MLAttack(layers=["a"])), r"attack = MLAttack compares features"),
        (lambda: OnPatches(OnPatches(DAG())), r"attack = OnPatches cuts patches .* put it outside"),
        (lambda: ThroughBlur(OnPatches(DAG()), whole=True), r"attack = OnPatches cuts patches"),
        (lambda: OnPatches(Targeted(PGD(targeted=True), PureClass(0))), r"put it outside, Targeted\(OnPatches"),
        (lambda: ThroughBlur(Targeted(PGD(targeted=True), PureClass(0))), r"put it outside, Targeted\(ThroughBlur"),
        (lambda: ThroughBlur(build("Universal")), r"attack = Universal applies a perturbation"),
        (lambda: ThroughBlur(PGD(), sigma=0), r"sigma = 0: a positive"),
        (
            lambda: OnPatches(build("MCE-Bal by hand"), redraw=True),
            r"redraw = True with IterativeAttack .*set redraw to",
        ),
        (lambda: OnPatches(Houdini(task_loss="iou"), redraw=True), r"redraw = True with Houdini"),
    ],
)
def test_bad_settings(create, message):
    with pytest.raises(DetectorError, match=message):
        create()


@pytest.mark.parametrize(
    ("attack", "model", "message"),
    [
        (OnPatches(PGD(), 7, 2), tiny_net(), r"patch_size = 7 is larger than the images of 7×6 pixels: .* 3"),
        (ThroughBlur(PGD(), 2), tiny_net(), r"sigma = 2 reaches 8 pixels far"),
        (OnPatches(PGD(), 4, 2), lambda x: x[..., ::2, ::2], r"returned \(2, 3, 4, 3\) for images \(2, 3, 7, 6\)"),
        (
            OnPatches(PGD(), 4, 2),
            lambda x: F.interpolate(torch.cat([x, x], 1), (7, 6)),
            r"returned \(4, 6, 7, 6\) for images \(4, 3, 4, 4\)",
        ),
        (OnPatches(PGD(), 4, 2), lambda x: [x], r"returned a list, not a tensor of logits"),
        (OnPatches(PGD(), 4, 2), lambda x: x.detach(), r"does not depend on its input"),
        (OnPatches(PGD(), 4, 2), lambda x: x[:, :2], r"targets hold class 3 but the model has 2"),
        (OnPatches(PGD(), 4, 2), lambda x: x / 0, r"not finite"),
    ],
)
def test_images_and_models_that_do_not_fit(attack, model, message):
    images, targets = tiny_batch()
    with pytest.raises(AttackError, match=message):
        attack(model, images, targets)


def test_logits_of_another_size_are_refused_as_before():
    """The row of a canvas is no excuse for logits that are too wide."""
    images, targets = tiny_batch()
    with pytest.raises(AttackError, match="at the size of the images"):
        PGD()(lambda x: F.interpolate(x, scale_factor=2), images, targets)
    with pytest.raises(AttackError, match="at the size of the images"):
        DS()(lambda x: F.interpolate(x, (HEIGHT, WIDTH)), images, targets, generator=torch.Generator().manual_seed(1))


def test_selected_by_name_in_yaml(tmp_path):
    from robustseg.config.build import RobustSegCLI

    path = tmp_path / "attack.yaml"
    path.write_text(
        "model:\n  attack:\n    class_path: OnPatches\n    init_args:\n      attack:\n        class_path: ThroughBlur\n"
        "        init_args: {attack: {class_path: DAG, init_args: {eps: 0.06, norm: rms}}, sigma: 2, whole: true}\n"
        "      patch_size: 9\n      k: 4\n      redraw: true\n"
    )
    tiny = ["--config", "tests/conf/tiny.yaml", "--trainer.default_root_dir", str(tmp_path)]
    attack = RobustSegCLI([*tiny, "--config", str(path)]).model.attack
    assert isinstance(attack, Attack)
    assert not isinstance(attack, IterativeAttack)
    inner = ThroughBlur(DAG(eps="0.06", norm="rms"), 2, whole=True)
    assert attack.describe() == OnPatches(inner, 9, 4, redraw=True).describe()
