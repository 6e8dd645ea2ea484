"""Imports point one way, and what is usable without Lightning does not import it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "robustseg"
LAYERS = [
    {"types"},
    {"attacks", "models", "data", "metrics"},
    {"detectors", "evaluation"},
    {"training"},
    {"callbacks"},
    {"benchmark"},
    {"runs", "commands"},
    {"studies"},
    {"safety"},
    {"measured"},
    {"parser"},
    {"configured"},
    {"doctor"},
    {"checkpoint_report"},
    {"model_commands"},
    {"cli"},
]
WITHOUT_LIGHTNING = {"types", "attacks", "models", "metrics", "detectors", "evaluation"}


def level(name: str) -> int:
    return next(index for index, layer in enumerate(LAYERS) if name in layer)


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
    return found


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "robustseg" and len(parts) > 1 and parts[1] != own:
            assert level(parts[1]) < level(own), f"{path} imports {name}"
        if own in WITHOUT_LIGHTNING:
            assert parts[0] not in {"pytorch_lightning", "lightning"}, f"{path} imports {name}"


def test_no_lightning_is_loaded_by_what_is_usable_without_it():
    names = ", ".join(f"robustseg.{name}" for name in ("attacks", "models", "metrics", "evaluation"))
    code = f"import sys, {names}; sys.exit('pytorch_lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_albumentations_is_used_in_one_file():
    users = [path.name for path in PACKAGE.rglob("*.py") if any(n.startswith("albumentations") for n in imported(path))]
    assert users == ["transforms.py"]
