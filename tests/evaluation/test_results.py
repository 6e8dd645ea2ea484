"""What the terminal shows of a card."""

from __future__ import annotations

from robustseg.evaluation.results import flags_table
from tests.evaluation.report.cards import make_card, typed
from tests.helpers.tables import printed


def flag(number: int, name: str, verdict: str, line: str) -> dict:
    return {"number": number, "name": name, "verdict": verdict, "line": line, "evidence": {}}


def test_flags_that_were_not_checked_share_a_line():
    flags = [
        flag(1, "answers", "not checked", "The model was not probed."),
        flag(3, "gradients", "not checked", "The model was not probed."),
        flag(4, "budget", "ok", "Within its budget."),
        flag(9, "sample", "caution", "Only a part."),
    ]
    text = printed(flags_table(typed(make_card() | {"verdict": "caution", "flags": flags})))
    assert text.count("The model was not probed.") == 1
    assert "1 answers, 3 gradients." in text
    assert all(part in text for part in ("Within its budget.", "Only a part.", "! caution"))
    everything = [flag(4, "budget", "ok", "Within its budget.")]
    assert "not checked" not in printed(flags_table(typed(make_card() | {"verdict": "ok", "flags": everything})))
