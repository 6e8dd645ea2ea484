"""Copies of attacks with other settings, and the settings that a preset passes on."""

import copy
import pickle
from inspect import isabstract, isclass

import pytest
import torch
from jsonargparse import ArgumentParser

from robustseg import attacks
from robustseg.attacks import (
    APGD,
    BIM,
    CW,
    DAG,
    FGSM,
    PGD,
    SEA,
    Attack,
    BalancedMaskedCrossEntropy,
    DeepFool,
    SegPGD,
    Square,
    Targeted,
    WorstOf,
)
from robustseg.attacks.presets.base import SignAttack
from tests.helpers.nets import tiny_batch, tiny_net

from .table import ATTACKS, build


@pytest.mark.parametrize("name", ATTACKS)
def test_a_copy_without_changes_is_the_same_attack(name: str):
    attack = build(name)
    same = attack.replace()
    assert same is not attack
    assert type(same) is type(attack)
    assert same.describe() == attack.describe()


@pytest.mark.parametrize(
    ("attack", "settings"),
    [
        (CW, {"norm": "l2", "success": 0.9, "targeted": True, "steps": 7, "step_size": "1/50", "search_steps": 2}),
        (CW, {"norm": "linf", "success": 0.99, "targeted": False, "initial_c": 3, "confidence": 0.5}),
        (DeepFool, {"norm": "linf", "success": 0.9, "steps": 7, "candidates": 3, "overshoot": 0.1}),
        (DAG, {"norm": "l2", "step_size": "1/255", "steps": 50, "success": 0.9, "aim": "runner-up", "targeted": True}),
        (Square, {"steps": 500, "p_init": 0.3, "start": "horizontal", "objective": "accuracy", "targeted": True}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_description_holds_every_setting(attack: type[Attack], settings: dict):
    common = {"eps": "4/255", "seed": 7}
    described = attack(ignore_index=0, **common, **settings).describe()
    expected = {"attack": attack.__name__, **common, **settings}
    assert described == {**attack(eps="4/255").describe(), **expected}


def test_changes_go_through_the_constructor():
    attack = SegPGD(steps=3, seed=4)
    other = attack.replace(steps=20, eps="4/255", random_start=False)
    expected = SegPGD(steps=20, eps="4/255", random_start=False, seed=4)
    assert other.describe() == expected.describe()
    assert attack.describe() == SegPGD(steps=3, seed=4).describe()
    with pytest.raises(ValueError, match="restarts = 2 without random_start"):
        other.replace(restarts=2)
    with pytest.raises(ValueError, match="eps = 8 exceeds 1"):
        other.replace(eps=8)


@pytest.mark.parametrize(
    ("attack", "change", "message"),
    [
        (SegPGD(), {"stpes": 3}, r"SegPGD has no setting stpes: did you mean steps\?"),
        (FGSM(), {"nonsense": 3}, r"FGSM has no setting nonsense; it has .*eps"),
        (APGD(), {"keep": "last"}, r"APGD has no setting keep of its own"),
        (BIM(), {"random_start": True}, r"BIM has no setting random_start of its own"),
    ],
)
def test_unknown_settings(attack: Attack, change: dict, message: str):
    with pytest.raises(TypeError, match=message):
        attack.replace(**change)


def test_positional_parts_are_replaced_by_name():
    one, other = PGD(steps=1, targeted=True), PGD(steps=2, targeted=True)
    attack = WorstOf([one], 3).replace(attacks=[one, other])
    assert (len(attack.attacks), attack.seed) == (2, 3)
    aimed = build("Targeted")
    assert isinstance(aimed, Targeted)
    assert aimed.replace(attack=other).target_map is aimed.target_map


@pytest.mark.parametrize("through", [copy.copy, copy.deepcopy, lambda attack: pickle.loads(pickle.dumps(attack))])
def test_copies_can_be_changed_as_well(through):
    assert through(PGD(steps=3, seed=2)).replace(steps=5).describe() == PGD(steps=5, seed=2).describe()


def test_a_preset_of_five_lines_learns_of_its_data():
    class Balanced(SignAttack):
        def __init__(self, **options):
            super().__init__(BalancedMaskedCrossEntropy(), **options)

    fitted = Balanced(steps=2).for_data(lambda: [1, 2, 3, 4])
    assert isinstance(fitted, Balanced)
    assert fitted(tiny_net(), *tiny_batch()).shape == tiny_batch()[0].shape
    with pytest.raises(TypeError, match="this Balanced was changed after its construction"):
        fitted.replace(steps=3)
    assert fitted.with_loop(steps=3).loss is fitted.loss


def test_an_ensemble_that_learned_of_its_data_keeps_it():
    attack = SEA(steps=4, eps=0.1).for_data(lambda: [1, 2, 3, 4]).replace(steps=5)
    assert attack.describe() == SEA(class_pixels=[1, 2, 3, 4], steps=5, eps=0.1).describe()
    assert attack.for_data(lambda: [9, 9, 9, 9]) is attack
    assert torch.isfinite(attack(tiny_net(torch.float32), *tiny_batch(torch.float32))).all()


def options_of(attack: type[Attack]) -> dict[str, tuple[type, object]]:
    """What the command line takes for an attack, with types and defaults."""
    parser = ArgumentParser()
    parser.add_class_arguments(attack, "attack")
    return {
        action.dest: (str(getattr(action, "_typehint", None)), action.default)
        for action in parser._actions
        if action.dest != "help"
    }


CLASSES = [thing for name in attacks.__all__ if isclass(thing := getattr(attacks, name)) and issubclass(thing, Attack)]


@pytest.mark.parametrize(
    "attack", [thing for thing in CLASSES if not isabstract(thing)], ids=lambda thing: thing.__name__
)
def test_a_subclass_without_a_constructor_takes_the_same_options(attack):
    assert options_of(type("Thing", (attack,), {"__module__": attack.__module__})) == options_of(attack)
