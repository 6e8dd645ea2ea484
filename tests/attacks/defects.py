"""Defects that are put into the library on purpose, and the test that a check finds each of them."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from robustseg.attacks import AttackError

Defect = Callable[[pytest.MonkeyPatch], None]


def replaced(owner: object, name: str, new: object) -> Defect:
    """Something else in the place of a function or value."""
    return lambda patch: patch.setattr(owner, name, new)


def around(owner: object, name: str, change: Callable[..., Any]) -> Defect:
    """``change`` in the place of a function; it takes the original before the arguments."""

    def defect(patch: pytest.MonkeyPatch) -> None:
        original = getattr(owner, name)
        patch.setattr(owner, name, lambda *args, **settings: change(original, *args, **settings))

    return defect


def after(owner: object, name: str, change: Callable[[Any], Any]) -> Defect:
    """A function whose result is changed."""
    return around(owner, name, lambda original, *args, **settings: change(original(*args, **settings)))


def built_with(owner: type, **values: object) -> Defect:
    """Attributes that have other values once an object is built."""

    def build(original: Callable, self: object, *args: object, **settings: object) -> None:
        original(self, *args, **settings)
        self.__dict__.update(values)

    return around(owner, "__init__", build)


def together(*defects: Defect) -> Defect:
    return lambda patch: [defect(patch) for defect in defects] and None


def found_by(
    check: Callable[..., object],
    defects: Mapping[str, tuple[Any, ...]],
    errors: type[Exception] | tuple[type[Exception], ...] = (AssertionError, AttackError),
) -> Callable[..., None]:
    """The test that ``check`` fails under each defect.

    Args:
        check: It passes without a defect, as the default tests show.
        defects: Of each name the defect, and the cases: the arguments of one call, or the only argument of it.
        errors: What ``check`` may raise; an attack that leaves its budget is found by the attack itself.
    """
    cases = [
        pytest.param(defect, case if isinstance(case, tuple) else (case,), id=f"{name}-{case}")
        for name, (defect, *calls) in defects.items()
        for case in calls or [()]
    ]

    @pytest.mark.mutation
    @pytest.mark.parametrize(("defect", "case"), cases)
    def test_defect_is_found(defect: Defect, case: tuple) -> None:
        with pytest.raises(errors), pytest.MonkeyPatch.context() as patch:
            defect(patch)
            check(*case)

    return test_defect_is_found
