"""docs/attacks.md names every attack and loss, and its example runs."""

import inspect
import re

import pytest

import robustseg.attacks
from robustseg.attacks import Attack, AttackLoss, TargetMap
from tests.helpers.paths import ROOT

TEXT = (ROOT / "docs" / "attacks.md").read_text(encoding="utf-8")
PUBLIC = [getattr(robustseg.attacks, name) for name in robustseg.attacks.__all__]
NAMED = [
    cls.__name__
    for cls in PUBLIC
    if inspect.isclass(cls) and issubclass(cls, Attack | AttackLoss | TargetMap) and not inspect.isabstract(cls)
]


@pytest.mark.parametrize("name", NAMED)
def test_names(name: str):
    assert re.search(rf"\b{name}\b", TEXT)


def test_every_suite_is_named():
    for path in (ROOT / "configs" / "robustness").glob("*.yaml"):
        assert f"`{path.stem}`" in TEXT


def test_example_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    scope: dict = {}
    exec(code, scope)
    assert len(scope["correct"]) == 10
    assert scope["sea"].shape == scope["images"].shape
    printed = capsys.readouterr().out.split("]")
    assert all(f" {count}" in printed[i].replace("[", " ") for i, count in enumerate((11, 10)))
