"""Radii and step sizes as they are written, in Python and in YAML."""

import re
from pathlib import Path

import pytest

from robustseg.attacks import CW, DAG, PGD, ALMAProx, Attack, ThreatModel, UniversalPerturbation
from robustseg.types import parse_fraction

from .table import ATTACKS, build


@pytest.mark.parametrize(
    ("written", "meant"),
    [("0.5/255", "1/510"), ("1e-3", "1/1000"), (" 8 / 255 ", "8/255"), (".5/255", "1/510"), ("1.5/2.5", "3/5")],
)
def test_fractions_with_decimals(written: str, meant: str):
    """Every radius and step size takes them, and what is described means the same."""
    assert str(ThreatModel(written).eps) == meant
    for name in ATTACKS:
        if (
            name not in ("worst of", "Targeted", "Universal")
            and "hand" not in name
            and "momentum" not in name
            and "translation" not in name
        ):
            attack = build(name, written)
            assert attack.describe()["eps"] == meant
            assert parse_fraction(attack.describe()["eps"]) == attack.threat.eps
    for attack in (DAG(step_size=written), UniversalPerturbation(eps=written, step_size=written)):
        assert str(attack.step_size) == meant
        assert parse_fraction(str(attack.step_size)) == attack.step_size
    assert PGD(step_size=written).describe()["step_rule"]["step_size"] == meant


@pytest.mark.parametrize("written", ["8/0", "a/b", "1/2/3", "nan", "nan/255", "8/nan", "inf/2", "/255", "8/", "", "½"])
def test_fractions_that_are_none(written: str):
    for create in (lambda: PGD(eps=written), lambda: ThreatModel(written), lambda: DAG(eps=written)):
        with pytest.raises(ValueError, match=rf"eps = '{written}' is not a number: write a fraction such as 8/255"):
            create()
    for cls in (PGD, DAG, CW, ALMAProx, UniversalPerturbation):
        with pytest.raises(ValueError, match=rf"step_size = '{written}' is not a number"):
            cls(step_size=written)


def parsed(tmp_path: Path, *arguments: str) -> Attack:
    from robustseg.config.build import RobustSegCLI

    tiny = ["--config", "tests/conf/tiny.yaml", "--trainer.default_root_dir", str(tmp_path)]
    attack = RobustSegCLI([*tiny, *arguments]).model.attack
    assert isinstance(attack, Attack)
    return attack


def test_fractions_and_none_through_the_command_line(tmp_path: Path):
    path = tmp_path / "attack.yaml"
    path.write_text(
        "model:\n  attack:\n    class_path: PGD\n"
        "    init_args: {eps: 7.5/255, step_size: 1e-3, steps: 2, ignore_index: null}\n"
    )
    attack = parsed(tmp_path, "--config", str(path))
    assert attack.describe() == PGD(eps="1/34", step_size="1/1000", steps=2).describe()
    assert attack.ignore_index is None
    overridden = parsed(tmp_path, "--config", str(path), "--model.attack.init_args.eps", " .5 / 255 ")
    assert overridden.describe()["eps"] == "1/510"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("{eps: 8/0}", r"eps = '8/0' is not a number: write a fraction"),
        ("{eps: 1/2/3}", r"eps = '1/2/3' is not a number"),
        ("{step_size: a/b}", r"step_size = 'a/b' is not a number"),
        ("{eps: .nan}", r"eps = nan is not a (finite )?number"),
        ("{seed: -1}", r"seed = -1: a seed is a whole number"),
        ("{ignore_index: [1]}", r"ignore_index"),
        ("{steps: 2.5}", r"steps"),
    ],
)
def test_wrong_settings_through_the_command_line(tmp_path: Path, settings: str, message: str, capsys):
    path = tmp_path / "attack.yaml"
    path.write_text(f"model:\n  attack:\n    class_path: PGD\n    init_args: {settings}\n")
    with pytest.raises((SystemExit, ValueError)) as caught:
        parsed(tmp_path, "--config", str(path))
    assert re.search(message, f"{caught.value} {capsys.readouterr().err}")
