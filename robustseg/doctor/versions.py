"""Which software is here, and whether it is what setup.cfg asks for."""

from __future__ import annotations

import configparser
import platform
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import robustseg
from robustseg.doctor.findings import Finding, ok, problem
from robustseg.evaluation.benchmark.facts import commit

COMPROMISED = {"lightning": ("2.6.2", "2.6.3")}
"""Releases on PyPI that carried malicious code."""


def check_versions() -> Iterator[Finding]:
    """Versions of what a run depends on."""
    source = commit()
    yield ok("robustseg", f"{robustseg.__version__}, {f'commit {source}' if source else 'not a checkout'}")
    python, requirements = declared()
    yield from _python(python, platform.python_version())
    yield _torch()
    yield from compare(requirements, installed)
    yield from compromised(installed)


def installed(package: str) -> str | None:
    """Version of an installed package, which is not imported for it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def declared() -> tuple[SpecifierSet, list[Requirement]]:
    """Bounds for Python and for each package: of the checkout that is imported, else of the installed package."""
    file = Path(robustseg.__file__).parents[1] / "setup.cfg"
    parser = configparser.ConfigParser()
    if file.is_file():
        parser.read(file, encoding="utf-8")
    if parser.get("metadata", "name", fallback=None) == "robustseg":
        options = parser["options"]
        lines = [line.strip() for line in options["install_requires"].splitlines()]
        texts = [line for line in lines if line and not line.startswith("#")]
        return SpecifierSet(options["python_requires"]), [Requirement(text) for text in texts]
    about = metadata.metadata("robustseg")
    everything = [Requirement(text) for text in metadata.requires("robustseg") or []]
    needed = [one for one in everything if one.marker is None or one.marker.evaluate({"extra": ""})]
    bounds = about["Requires-Python"] if "Requires-Python" in about else ""  # noqa: SIM401 - typed without get
    return SpecifierSet(bounds), needed


def compare(requirements: list[Requirement], version_of: Callable[[str], str | None]) -> Iterator[Finding]:
    """Packages against their bounds.

    Args:
        requirements: Bounds.
        version_of: Installed version of a package, or None.
    """
    fitting = {}
    for requirement in requirements:
        version = version_of(requirement.name)
        wanted = f"{requirement.name}{requirement.specifier}"
        remedy = f"python -m pip install '{wanted}'"
        if version is None:
            yield problem(requirement.name, f"not installed, but {wanted} is needed.", remedy)
        elif not requirement.specifier.contains(version, prereleases=True):
            yield problem(requirement.name, f"{version} is installed, but {wanted} is needed.", remedy, version=version)
        else:
            fitting[requirement.name] = version
    if fitting:
        yield ok("packages", ", ".join(f"{name} {version}" for name, version in fitting.items()), **fitting)


def compromised(version_of: Callable[[str], str | None]) -> Iterator[Finding]:
    """Packages whose installed release is known to be malicious.

    Args:
        version_of: Installed version of a package, or None.
    """
    for name, releases in COMPROMISED.items():
        version = version_of(name)
        if version in releases:
            yield problem(
                name,
                f"{version} is installed, a compromised release: it may have run malicious code when imported.",
                f"python -m pip uninstall {name} (robustseg uses pytorch-lightning), and replace every password, key "
                "and token that was readable on this machine.",
                version=version,
            )


def _python(bounds: SpecifierSet, version: str) -> Iterator[Finding]:
    where = f"{version} on {platform.platform()}"
    if bounds.contains(version, prereleases=True):
        yield ok("python", where, version=version)
    else:
        yield problem("python", f"{where}, but {bounds} is needed.", f"Make an environment with Python {bounds}.")


def _torch() -> Finding:
    built: dict[str, str] = {}
    if torch.version.cuda:
        built["CUDA"] = torch.version.cuda
    if torch.version.hip:
        built["HIP"] = torch.version.hip
    cudnn: int | None = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    if cudnn is not None:
        built["cuDNN"] = str(cudnn)
    if torch.distributed.is_available() and torch.distributed.is_nccl_available():
        built["NCCL"] = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]
    text = ", ".join(f"{name} {version}" for name, version in built.items()) or "the CPU only"
    return ok("torch", f"{torch.__version__}, built for {text}", version=torch.__version__, **built)
