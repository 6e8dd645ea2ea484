"""Calls in the source of the package, with their places: lists of what opens and what writes a file come from here."""

from __future__ import annotations

import ast
from functools import cache
from typing import NamedTuple

from tests.helpers.paths import ROOT

PACKAGE = ROOT / "robustseg"


class Call(NamedTuple):
    """A call, and where it stands."""

    path: str
    within: str
    name: str
    node: ast.Call
    module: str
    """Module of the package that the function, or what holds it, is imported from; empty for others."""

    @property
    def place(self) -> str:
        return f"{self.path}:{self.within}"


@cache
def calls() -> tuple[Call, ...]:
    """All calls in the package, parsed once."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        modules: dict[str, str] = {}
        stack: list[tuple[ast.AST, str]] = [(tree, "")]
        here = []
        while stack:
            node, within = stack.pop()
            for child in ast.iter_child_nodes(node):
                inner = within
                if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                    inner = f"{within}.{child.name}".strip(".")
                elif isinstance(child, ast.ImportFrom):
                    modules |= {alias.asname or alias.name: child.module or "" for alias in child.names}
                elif isinstance(child, ast.Call):
                    here.append((within, ast.unparse(child.func), child))
                stack.append((child, inner))
        place = path.relative_to(PACKAGE).as_posix()
        for within, name, call in here:
            module = modules.get(name, modules.get(name.partition(".")[0], ""))
            found.append(Call(place, within, name, call, module if module.startswith("robustseg.") else ""))
    return tuple(found)
