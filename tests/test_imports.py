"""Imports point one way, and what is usable without Lightning does not import it."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

PACKAGE = ROOT / "robustseg"
LAYERS = [
    {"terminal", "writing"},
    {"types", "files", "opening", "devices", "numerics"},
    {"shipped"},
    {"attacks", "models", "data", "metrics"},
    {"detectors", "evaluation"},
    {"training"},
    {"resume"},
    {"callbacks", "evaluation.benchmark"},
    {"studies"},
    {"planning"},
    {"config"},
    {"api"},
    {"doctor"},
    {"cli"},
    {"__main__"},
]
WITHOUT_LIGHTNING = set().union(*LAYERS[:5])
SHELL = PACKAGE / "data" / "lightning.py"
"""Makes data modules of data sets."""


def package_of(parts: tuple[str, ...]) -> str:
    """The first folder, or evaluation.benchmark, which is a package of its own."""
    return ".".join(parts[:2]) if parts[:2] == ("evaluation", "benchmark") else parts[0].removesuffix(".py")


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
    own = package_of(path.relative_to(PACKAGE).parts)
    for name in imported(path):
        parts = tuple(name.split("."))
        if parts[0] == "robustseg" and len(parts) > 1 and package_of(parts[1:]) != own:
            assert level(package_of(parts[1:])) < level(own), f"{path} imports {name}"
        if own in WITHOUT_LIGHTNING and path != SHELL:
            lightning = {"pytorch_lightning", "lightning", "lightning_fabric"}
            assert parts[0] not in lightning, f"{path} imports {name}"
            assert name != "robustseg.data.lightning", f"{path} imports it"


def test_no_lightning_is_loaded_by_what_is_usable_without_it():
    names = ", ".join(f"robustseg.{name}" for name in ("attacks", "data", "models", "metrics", "evaluation"))
    code = f"import sys, {names}; sys.exit(bool({{'pytorch_lightning', 'lightning_fabric'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_albumentations_is_used_in_one_file():
    users = [path.name for path in PACKAGE.rglob("*.py") if any(n.startswith("albumentations") for n in imported(path))]
    assert users == ["transforms.py"]


def test_the_top_of_the_package_is_folders():
    assert {path.name for path in PACKAGE.glob("*.py")} == {
        "__init__.py",
        "__main__.py",
        "devices.py",
        "files.py",
        "types.py",
    }


def module_graph(folder: Path) -> dict[str, set[str]]:
    """Modules of a package that each of its modules imports, wherever in it the import stands."""
    parts = {path: path.relative_to(folder.parent).with_suffix("").parts for path in folder.rglob("*.py")}
    names = {".".join(name[:-1] if name[-1] == "__init__" else name): path for path, name in parts.items()}
    if not (folder / "__init__.py").exists():  # scripts, which import one another by their bare names
        names = {name.rpartition(".")[2]: path for name, path in names.items()}
    graph = {}
    for name, path in names.items():
        found = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module in names:
                modules = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= modules & names.keys()
                if modules - names.keys():
                    found.add(node.module)
        graph[name] = found - {name}
    return graph


@pytest.mark.parametrize("folder", [PACKAGE, PACKAGE.parent / "benchmarks"], ids=lambda path: path.name)
def test_no_module_imports_itself_through_others(folder):
    TopologicalSorter(module_graph(folder)).prepare()  # raises CycleError with the cycle
