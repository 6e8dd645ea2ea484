"""Docstrings begin with what a thing is or does; ruff's D401 looks at the verbs of functions."""

from __future__ import annotations

import ast
import re

from tests.helpers.paths import ROOT

OPENINGS = re.compile(r"(What|Which|Where|Who|How|Whether|When|Why|That|Being|From|Of|As|To|If|Likewise|The same)\b")


def test_no_docstring_begins_with_a_clause():
    found = []
    for path in sorted((ROOT / "robustseg").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            # a string that stands alone: of a module, a class, a function, or below a field
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                text = node.value.value.strip()
                if OPENINGS.match(text):
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {text.splitlines()[0]}")
    assert found == []
