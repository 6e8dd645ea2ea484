"""Tables in LaTeX, for papers."""

from __future__ import annotations

from robustseg.evaluation.table.escape import one_line
from robustseg.evaluation.table.table import Cell, Number, Table, Verdict

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
    r"""A ``tabular`` with the rules of booktabs, to be read by ``\input``; title and notes are comments.

    Intervals follow their number in small letters; what stands below words, and reasons of verdicts, are left out.
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
    """``text`` as it stands, on one line."""
    return one_line(text).translate(_SPECIAL)


def _line(cells: list[str]) -> str:
    # A bracket after the end of a line would be taken for its argument.
    return f"{' & '.join('{' + cell + '}' if cell.startswith(('[', '*')) else cell for cell in cells)} \\\\"


def _cell(cell: Cell) -> str:
    text = escape(cell.verdict if isinstance(cell, Verdict) else cell.text)
    if cell.kind == "lowest":
        text = rf"\textbf{{{text}}}"
    if cell.name:
        text = f"{text} {escape(cell.name)}"
    return rf"{text} {{\scriptsize {escape(cell.below)}}}" if isinstance(cell, Number) and cell.below else text
