"""Tables of figures, with a writer each for the terminal, Markdown, HTML, CSV and LaTeX."""

from robustseg.evaluation.table.csv import to_csv
from robustseg.evaluation.table.html import to_html
from robustseg.evaluation.table.latex import to_latex
from robustseg.evaluation.table.markdown import to_markdown
from robustseg.evaluation.table.table import (
    MISSING,
    Cell,
    Column,
    Failure,
    Number,
    Row,
    Section,
    Table,
    Text,
    Verdict,
    ends_text,
    figure,
    finite,
    words,
)
from robustseg.evaluation.table.terminal import to_terminal

__all__ = [
    "MISSING",
    "Cell",
    "Column",
    "Failure",
    "Number",
    "Row",
    "Section",
    "Table",
    "Text",
    "Verdict",
    "ends_text",
    "figure",
    "finite",
    "to_csv",
    "to_html",
    "to_latex",
    "to_markdown",
    "to_terminal",
    "words",
]
