"""Records on disk are held against the settings that are asked for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from robustseg.evaluation import EvaluationError
from robustseg.evaluation.records import refuse_others

OWN = [{"loss": "Dice(smooth=1)"}, {"layers": "layer4"}, {"weights": "0.5"}, {"inner.k": 1}, {"sizes": (1, 2)}]


@pytest.mark.parametrize("own", OWN, ids=lambda own: next(iter(own)))
def test_settings_of_an_attack_of_one_s_own_are_what_they_were(own):
    """They may look like what version 0.1 wrote, or be what JSON has no form for."""
    described = {"attack": "Mine", **own}
    written = {key: list(value) if isinstance(value, tuple) else value for key, value in described.items()}
    stream = SimpleNamespace(path=Path("a"), about={"protocol": "p", "attacks": {"mine": written}})
    refuse_others([stream], "p", {"mine": described})
    with pytest.raises(EvaluationError, match="other settings"):
        refuse_others([stream], "p", {"mine": {**described, "more": 1}})
