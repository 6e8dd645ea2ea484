"""Tables in LaTeX, for papers."""

from __future__ import annotations

from robustseg.evaluation.table.table import Cell, Number, Table, Verdict
from robustseg.terminal.text import one_line

_SPECIAL = str.maketrans(
    {char: f"\\{char}" for char in "{}$&#_%"}
    | {
        "\\": r"\textbackslash{}",
        "^": r"\textasciicircum{}",
        "~": r"\textasciitilde{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        '"': r"\textquotedbl{}",
        "–": "--",
        "−": "$-$",
        "×": r"$\times$",
        "→": r"$\to$",
        "δ": r"$\delta$",
        "ε": r"$\varepsilon$",
        "σ": r"$\sigma$",
    }
)


def to_latex(table: Table) -> str:
    r"""Write a table as a ``tabular`` with the rules of booktabs, for ``\input``; title and notes are comments.

    Intervals follow their number in small letters; text below words and the reasons of verdicts are left out.
    """
    headings = [escape(f"{c.heading} ({c.unit})" if c.unit else c.heading) for c in table.columns]
    lines = [f"% {one_line(text)}" for text in (table.title, *table.notes) if text]
    lines += [r"% needs \usepackage{booktabs}"]
    lines += [f"\\begin{{tabular}}{{{''.join(column.align[0] for column in table.columns)}}}", r"\toprule"]
    if table.shows_headings:
        lines += [_line(headings), r"\midrule"]
    for place, section in enumerate(section for section in table.sections if section.rows):
        lines += [r"\midrule"] if place else []
        for row in section.rows:
            lines.append(_line([*map(_cell, row.cells), *[""] * (len(headings) - len(row.cells))]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def escape(text: str) -> str:
    """Escape ``text`` for LaTeX, on one line."""
    return one_line(text).translate(_SPECIAL)


def _line(cells: list[str]) -> str:
    # LaTeX takes a bracket after the end of a line for an argument of the line break.
    return f"{' & '.join('{' + cell + '}' if cell.startswith(('[', '*')) else cell for cell in cells)} \\\\"


def _cell(cell: Cell) -> str:
    text = escape(cell.verdict if isinstance(cell, Verdict) else cell.text)
    if cell.kind == "lowest":
        text = rf"\textbf{{{text}}}"
    if cell.name:
        text = f"{text} {escape(cell.name)}"
    return rf"{text} {{\scriptsize {escape(cell.below)}}}" if isinstance(cell, Number) and cell.below else text
