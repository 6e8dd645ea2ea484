"""Who stands where, and which results are refused side by side."""

import csv
import re

import pytest

from robustseg.evaluation.report import (
    ReportError,
    leaderboard_csv,
    leaderboard_html,
    leaderboard_latex,
    leaderboard_markdown,
)
from tests.evaluation.report.cards import board_of, changed, make_card
from tests.evaluation.report.pages import parse


def card(strength=1.0, name="a", **settings):
    return make_card(strength=strength, sha256=name * 64, **{"verdict": "ok", **settings})


def ranks(cards, **settings):
    (table,) = board_of(cards, **settings).tables
    return [(entry.name, entry.rank) for entry in table.entries]


def test_order_is_that_of_the_worst_case_pixel_acc():
    cards = {"weak": card(0.3, "a"), "strong": card(1.0, "b"), "middle": card(0.7, "c", clean=0.95)}
    assert ranks(cards) == [("strong", 1), ("middle", 2), ("weak", 3)]
    # The greedy miou, the clean figures and the attacks on their own do not rank.
    for key in ("worst_case.greedy.miou", "clean.pixel_acc", "attacks.fgsm.pixel_acc", "worst_case.greedy.pixel_acc"):
        cards["weak"] = changed(cards["weak"], key, 0.99)
    assert ranks(cards) == [("strong", 1), ("middle", 2), ("weak", 3)]


def test_versions_of_the_noise_are_said_where_they_differ():
    cards = {"old": card(0.3, "a"), "new": changed(card(1.0, "b"), "protocol.noise", 2)}
    (table,) = board_of(cards).tables
    assert table.below.endswith("; noise of version 1 in old and of version 2 in new, other numbers for the same seed")
    assert "noise" not in board_of({"old": cards["old"]}).tables[0].below
    assert "noise" not in board_of({"new": cards["new"]}).tables[0].below
    assert "noise of version 1 in old" in leaderboard_html(board_of(cards))


def test_equal_as_shown_is_an_equal_rank():
    key = "worst_case.per_image.pixel_acc"
    values = {"a": 0.41231, "b": 0.41229, "c": 0.41226, "d": 0.41224, "e": 0.5, "f": 0.1}
    cards = {name: changed(card(name=name), key, value) for name, value in values.items()}
    cards["b"] = changed(cards["b"], "worst_case.greedy.miou", 0.39)
    assert ranks(cards) == [("e", 1), ("b", 2), ("a", 2), ("c", 2), ("d", 5), ("f", 6)]


def test_unreliable_and_incomplete_results_have_no_rank():
    failed = changed(card(1.1, "c"), "attacks.fgsm.error", "no gradient")
    nothing = changed(card(1.1, "d"), "worst_case", None)
    cards = {"odd": card(1.2, "a", verdict="unreliable"), "fine": card(0.2, "b"), "failed": failed, "nothing": nothing}
    (table,) = board_of(cards).tables
    assert [(entry.name, entry.rank, entry.reason) for entry in table.entries] == [
        ("fine", 1, ""),
        ("odd", None, "a check failed (3 gradients)"),
        ("failed", None, "could not run: fgsm"),
        ("nothing", None, "no worst case in the card"),
    ]
    assert table.entries[2].cells["attacks"].text == "4 of 5"


def test_the_only_attack_is_the_worst_case():
    def only(name, strength):
        one = changed(card(strength, name), "worst_case", None)
        return one | {"attacks": {"pgd20": one["attacks"]["pgd20"]}}

    cards = {"a": only("a", 0.5), "b": only("b", 0.9)}
    assert ranks(cards) == [("b", 1), ("a", 2)]
    cell = board_of(cards).tables[0].entries[0].cells["worst_miou"]
    assert float(cell.text) == pytest.approx(100 * cards["b"]["attacks"]["pgd20"]["miou"], abs=0.005)


@pytest.mark.parametrize("value", [None, float("nan")])
def test_no_figure(value):
    cards = {"a": changed(card(), "worst_case.per_image.pixel_acc", value), "b": card(0.1, "b")}
    assert ranks(cards) == [("b", 1), ("a", None)]


@pytest.mark.parametrize(
    ("key", "value", "left", "right"),
    [
        ("data.sha256", "0" * 64, "c0ffee", "0" * 20),
        ("data.split", "test", "val", "test"),
        ("data.ids", ["x"], "null", '["x"]'),
        ("data.images", 100, "101", "100"),
        ("data.ignore_index", 0, "255", "0"),
        ("data.image_size", [360, 480], "[180, 240]", "[360, 480]"),
        ("protocol.norm", "l2", "linf", "l2"),
        ("protocol.eps", "4/255", "8/255", "4/255"),
        ("protocol.precision", "bfloat16", "float32", "bfloat16"),
        ("protocol.seed", 1, "0", "1"),
        ("attacks.pgd20.settings.steps", 40, "20", "40"),
        ("attacks.pgd20.settings.transform", "DI", "null", "DI"),
    ],
)
def test_results_measured_otherwise_are_refused(key, value, left, right):
    cards = {"runs/a": card(), "runs/b": changed(card(0.9, "b"), key, value)}
    with pytest.raises(ReportError) as raised:
        board_of(cards)
    lines = str(raised.value).splitlines()
    assert "not measured alike" in lines[0]
    assert len(lines) == 3, "only what differs"
    assert re.fullmatch(rf"  {re.escape(key.replace('settings.', ''))}: runs/a: (.*); runs/b: (.*)", lines[1])
    assert left in lines[1].split(";")[0]
    assert right in lines[1].split(";")[1]
    assert "group" in lines[2]
    board = board_of(cards, group=True)
    assert sorted(entry.name for table in board.tables for entry in table.entries) == ["runs/a", "runs/b"]
    assert [entry.rank for table in board.tables for entry in table.entries] == [1, 1]


def test_another_attack_is_another_protocol():
    other = card(0.9, "b")
    other["attacks"] = {name: row for name, row in other["attacks"].items() if name != "pgd100"}
    with pytest.raises(ReportError, match=r"attacks.pgd100.steps: a: 100; b: not in the card"):
        board_of({"a": card(), "b": other})


def test_what_does_not_change_a_figure_is_no_difference():
    other = card(0.9, "b")
    for key, value in {
        "protocol.batch_sizes": [1],
        "protocol.suite": "mine",
        "model.network": "FCN",
        "commit": None,
        "versions": {"torch": "3.0"},
        "data.image_size": (180, 240),
    }.items():
        other = changed(other, key, value)
    assert ranks({"a": card(), "b": other}) == [("a", 1), ("b", 2)]


def test_many_differences_are_cut():
    other = card(0.9, "b")
    other["attacks"] = {f"new {name}": row for name, row in other["attacks"].items()}
    with pytest.raises(ReportError, match=r"… and \d+ more keys"):
        board_of({"a": card(), "b": other})


def test_the_same_checkpoint_twice():
    with pytest.raises(ReportError, match=r"a and b are results of the same checkpoint \(sha256 aaaaaaaaaaaa…\)"):
        board_of({"a": card(), "b": card(0.9)})
    others = {
        "a": card(),
        "b": changed(card(0.9), "model.weights", "ema"),
        "c": changed(card(), "model.window", {"size": 9}),
    }
    assert len(ranks(others)) == 3
    # On other data it is another result.
    both = {"a": card(), "b": changed(card(), "data.split", "test")}
    assert len(board_of(both, group=True).tables) == 2


def test_no_cards():
    with pytest.raises(ReportError, match="no result card given"):
        board_of({})


@pytest.fixture
def board():
    evil = changed(card(0.9, "b"), "model.network", "<script>|x")
    return board_of({"best": card(), "<b>|": evil, "odd": card(1.2, "c", verdict="unreliable")})


def test_page(board):
    text = leaderboard_html(board)
    assert "<script" not in text
    page = parse(text)
    headings, *rows = page.all("table")[0].table()
    assert headings == [
        "rank", "model", "worst-case pixel_acc", "worst-case miou", "clean pixel_acc", "clean miou", "attacks",
        "verdict",
    ]  # fmt: skip
    assert [row[0] for row in rows] == ["1", "2", "Not ranked", "–"]
    assert rows[0][2] == "39.60 37.5–41.5"
    assert rows[0][1].startswith(
        "PSPNet (resnet10t) best trained with SegPGD, 3 steps, linf 8/255; last.ckpt aaaaaaaaaaaa…"
    )
    assert rows[1][1].startswith("<script>|x (resnet10t) <b>|")
    assert rows[3][-1] == "✕ unreliable a check failed (3 gradients)"
    assert "Ranked by worst-case pixel_acc" in page.text
    assert "CamVid val, linf, eps = 8/255" in page.text
    assert "fgsm, pgd20, segpgd20, cospgd20, pgd100; seed 0, float32" in page.text


def test_markdown(board):
    text = leaderboard_markdown(board)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in lines] == [9] * 5
    assert [line.split("|")[1].strip() for line in lines] == ["rank", "---", "1", "2", "–"]
    assert "<script" not in text
    assert "✕ unreliable: a check failed (3 gradients)" in text


def test_csv(board):
    headings, *rows = csv.reader(leaderboard_csv(board).splitlines())
    assert headings == [
        "protocol", "protocol note", "rank", "model", "model name", "model note", "worst-case pixel_acc (%)",
        "worst-case pixel_acc low (%)", "worst-case pixel_acc high (%)", "worst-case miou (%)", "clean pixel_acc (%)",
        "clean pixel_acc low (%)", "clean pixel_acc high (%)", "clean miou (%)", "clean miou low (%)",
        "clean miou high (%)", "attacks", "verdict", "verdict note",
    ]  # fmt: skip
    assert [row[2] for row in rows] == ["1", "2", ""]
    assert [row[3:5] for row in rows][:2] == [["PSPNet (resnet10t)", "best"], ["<script>|x (resnet10t)", "<b>|"]]
    assert rows[0][0] == "CamVid val, linf, eps = 8/255"
    assert [float(figure) for figure in rows[0][6:9]] == pytest.approx([39.6, 37.5, 41.5], abs=0.05)
    assert rows[2][-2:] == ["unreliable", "a check failed (3 gradients)"]


def test_latex(board):
    text = leaderboard_latex(board)
    assert r"rank & model & worst-case pixel\_acc (\%) & worst-case miou (\%)" in text
    assert r"1 & PSPNet (resnet10t) best & 39.60 {\scriptsize 37.5--41.5} &" in text
    assert r"-- & PSPNet (resnet10t) odd &" in text
    assert text.count(r"\midrule") == 2


def test_same_cards_same_bytes():
    # Whatever the order of the folders.
    cards = {"a": card(), "b": card(0.9, "b"), "c": changed(card(0.5, "c"), "data.split", "test")}
    backwards = dict(reversed(cards.items()))
    assert board_of(cards, group=True) == board_of(backwards, group=True)
