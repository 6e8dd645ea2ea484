"""Tables in five formats, and text of strangers in them."""

from __future__ import annotations

import csv
import html
import re
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from robustseg.evaluation.table import (
    MISSING,
    Column,
    Failure,
    Number,
    Row,
    Section,
    Table,
    Text,
    Verdict,
    figure,
    to_csv,
    to_html,
    to_latex,
    to_markdown,
    to_terminal,
    words,
)
from tests.evaluation.report.pages import parse
from tests.helpers.tables import printed

TABLE = Table(
    [words("attack"), Column("pixel_acc", "%"), Column("rms"), Column("check")],
    [
        Section([Row([Text("clean", "no attack"), figure(0.51234567, 2, 100, [0.5, 0.525]), Number(3, 0)], "clean")]),
        Section(
            [
                Row(
                    [
                        Text("pgd", name="mine"),
                        replace(figure(0.25, 1, 100), kind="lowest"),
                        MISSING,
                        Verdict("!", "caution"),
                    ]
                ),
                Row([Text("cw"), Failure("no gradient")]),
            ],
            "Attacks",
        ),
    ],
    "Scores",
    notes=["a note"],
)


def test_markdown():
    assert to_markdown(TABLE).splitlines() == [
        "| attack | pixel_acc, % | rms | check |",
        "| --- | ---: | ---: | ---: |",
        "| clean (no attack) | 51.23 (50.0–52.5) | 3 |  |",
        "| mine: pgd | **25.0** | – | ! caution |",
        "| cw | could not run: no gradient |  |  |",
    ]


def test_csv():
    assert list(csv.reader(to_csv(TABLE).splitlines())) == [
        ["attack", "attack name", "attack note", "pixel_acc (%)", "pixel_acc low (%)", "pixel_acc high (%)", "rms",
         "check"],
        ["clean", "", "no attack", "51.234567", "50", "52.5", "3", ""],
        ["pgd", "mine", "", "25", "", "", "", "caution"],
        ["cw", "", "", "could not run: no gradient", "", "", "", ""],
    ]  # fmt: skip


def test_latex():
    assert to_latex(TABLE).splitlines() == [
        "% Scores",
        "% a note",
        r"% needs \usepackage{booktabs}",
        r"\begin{tabular}{lrrr}",
        r"\toprule",
        r"attack & pixel\_acc (\%) & rms & check \\",
        r"\midrule",
        r"clean & 51.23 {\scriptsize 50.0--52.5} & 3 &  \\",
        r"\midrule",
        r"pgd mine & \textbf{25.0} & -- & caution \\",
        r"cw & could not run: no gradient &  &  \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_html():
    page = parse(str(to_html(TABLE, "cards")))
    assert page.all("table", "cards")[0].table() == [
        ["attack", "pixel_acc, %", "rms", "check"],
        ["clean no attack", "51.23 50.0–52.5", "3", ""],
        ["Attacks"],
        ["pgd mine", "25.0", "–", "! caution"],
        ["cw", "Could not run: no gradient"],
    ]
    assert [cell.attributes.get("data-label") for cell in page.all("td")][:2] == ["pixel_acc, %", "rms"]
    assert page.all("td", "lowest")[0].text == "25.0"
    assert page.all("td", "error")[0].attributes["colspan"] == "3"
    assert page.all("td", "caution")
    assert [row.attributes.get("class") for row in page.all("tr")] == [None, "clean", "apart", None, None]


def test_terminal():
    lines = [re.split(" *[│┃] *", line)[1:-1] for line in printed(TABLE).splitlines() if line[0] in "│┃"]
    assert lines == [
        ["attack", "pixel_acc, %", "rms", "check"],
        ["clean", "51.23", "3", ""],
        ["pgd", "25.0", "–", "! caution"],
        ["cw", "could not run", "", ""],
    ]
    assert "Scores" in printed(TABLE)
    assert "a note" in printed(TABLE)
    assert printed(TABLE).count("├") == 1


HOSTILE = [
    "a[/b]",
    "pgd[l2]",
    "[red]x",
    ":smile:",
    "<script>alert(1)</script>",
    "a | b",
    "# *b* _c_ `d` \\",
    "50 % & $x$ {y}",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_text_everywhere(name):
    table = Table.of(name, ["attack", name], [[name, Text("1", name)], [Text("x", name, name), Failure(name)]])
    assert printed(table).count(name) == 3
    page = str(to_html(table))
    assert html.unescape(page).count(name) == 6
    assert len(re.findall("<script", page)) == 0
    assert parse(page).all("th", "text")[0].text == "attack"
    rows = list(csv.reader(to_csv(table).splitlines()))
    assert (rows[0][3], rows[1][0], rows[2][1]) == (name, name, name)
    for line in to_markdown(table).splitlines():
        assert len(re.findall(r"(?<!\\)\|", line)) == 3
        assert not re.search(r"(?<!\\)[*_`\[\]#]|<", line)
    lines = to_latex(table).splitlines()
    for line in (lines[4], *lines[6:8]):
        assert len(re.findall(r"(?<!\\)&", line)) == 1
        assert not re.search(r"(?<!\\)[%#_]", line)
        plain = re.sub(r"\\[{}]", "", line)
        assert plain.count("{") == plain.count("}")


@pytest.mark.parametrize("name", ["\x1b[31mred", "a\u202eb", "bell\x07", "half \udc80", "two\u2028lines", "a\nb\rc"])
def test_what_could_steer_a_terminal_is_made_visible(name):
    table = Table.of(name, ["attack", name], [[name, Text("1", name)], [Text("x", name, name), Failure(name)]])
    for write in (printed, to_markdown, to_html, to_csv, to_latex):
        text = str(write(table))
        assert not set(text) & set("\x1b\u202e\x07\udc80\u2028\r"), write
        assert text.encode()
    assert "\\x1b" in to_csv(table) or "\x1b" not in name


@pytest.mark.parametrize("name", ["=1+1", "+x", "-x", "@x"])
def test_a_name_is_no_formula_of_a_spreadsheet(name):
    assert to_csv(Table.of("", ["attack", "drop"], [[name, Number(-1.5)]])) == f"attack,drop\n'{name},-1.5\n"


def test_what_is_no_number_is_missing():
    for value in (None, float("nan"), float("inf"), True, "1", [1]):
        assert figure(value) == MISSING
    assert figure(0.1, interval=[None, 1]) == Number(0.1)
    assert figure(0.1, 2, 100, (0.05, 0.2)) == Number(10.0, 2, (5.0, 20.0))


@pytest.mark.parametrize("width", [30, 60, 80])
@pytest.mark.parametrize("name", ["a very long name of an attack that does not end, 日本語の名前", "x" * 90, "pgd"])
def test_a_long_name_takes_no_figure_its_place(name, width):
    table = Table.of("", ["attack", "miou", "pixel_acc"], [[name, figure(12.34), figure(56.78)]])
    table = replace(table, columns=[words("attack", wrap=False), *table.columns[1:]])
    with (console := Console(width=width)).capture() as capture:
        console.print(to_terminal(table))
    assert {"12.34", "56.78"} <= set(capture.get().split())
    assert all(cell_len(line) <= width for line in capture.get().splitlines())
