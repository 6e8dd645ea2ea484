"""Test cases of which the default run takes a part."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def partly(cases: Iterable[Any], default: Callable[..., bool]) -> list[Any]:
    """The cases, those where ``default`` of their values is false marked ``exhaustive``."""
    found = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [pytest.param(*case, marks=() if default(*case) else pytest.mark.exhaustive) for case in found]
