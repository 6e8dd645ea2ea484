"""Software of this environment, and unmet requirements of its packages."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata

import torch
from packaging.requirements import Requirement
from torch.utils import collect_env

import robustseg
from robustseg.doctor.findings import Finding, ok, problem
from robustseg.evaluation.benchmark.facts import commit

COMPROMISED = {"lightning": ("2.6.2", "2.6.3")}
"""Releases on PyPI that carried malicious code."""


def check_versions() -> Iterator[Finding]:
    """Check versions, as torch collects them for bug reports, and the result of ``pip check``."""
    source = commit()
    yield ok("robustseg", f"{robustseg.__version__}, {f'commit {source}' if source else 'not a checkout'}")
    about = collect_env.get_env_info()  # type: ignore[no-untyped-call]
    facts = {name: value for name, value in about._asdict().items() if value is not None}
    driver = f", driver {about.nvidia_driver_version}" if torch.cuda.is_available() else ""
    python = about.python_version.split()[0]
    yield ok("environment", f"torch {about.torch_version}{driver}, Python {python}, {about.os}", **facts)
    own = _requirements()
    unmet = pip_check()
    if unmet is None:  # an environment without pip, as from uv
        unmet = [line for requirement in own if (line := _unmet(requirement))]
    yield from judge(unmet, {"robustseg", *(requirement.name for requirement in own)})
    yield from compromised()


def pip_check() -> list[str] | None:
    """Return the lines of ``pip check``, one for each unmet requirement; None without pip."""
    command = [sys.executable, "-m", "pip", "check", "--disable-pip-version-check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and not done.stdout.strip():
        return None
    return done.stdout.splitlines() if done.returncode else []


def judge(unmet: list[str], needed: set[str]) -> Iterator[Finding]:
    """Convert unmet requirements to findings.

    Args:
        unmet: Lines of ``pip check``; each begins with the package that has the requirement.
        needed: Packages that a run needs; requirements of others do not matter.
    """
    others = []
    for line in unmet:
        package = line.split(" ", 1)[0]
        if package.lower() in needed:
            yield problem(package, line, "python -m pip install what it asks for.")
        else:
            others.append(line)
    yield ok("requirements", " ".join(["those of other packages that are not met:", *others]) if others else "met")


def compromised() -> Iterator[Finding]:
    """Report packages with an installed release that is known to be malicious."""
    for name, releases in COMPROMISED.items():
        version = _installed(name)
        if version in releases:
            yield problem(
                name,
                f"{version} is installed, a compromised release: it may have run malicious code when imported.",
                f"python -m pip uninstall {name} (robustseg uses pytorch-lightning), and replace every password, key "
                "and token that was readable on this machine.",
                version=version,
            )


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _requirements() -> list[Requirement]:
    """Return the requirements of robustseg without extras; none for a checkout that is not installed."""
    try:
        everything = [Requirement(text) for text in metadata.requires("robustseg") or []]
    except metadata.PackageNotFoundError:
        return []
    return [one for one in everything if one.marker is None or one.marker.evaluate({"extra": ""})]


def _unmet(requirement: Requirement) -> str | None:
    """Return a line in the form of ``pip check``, or None if the requirement is met."""
    version = _installed(requirement.name)
    if version is None:
        return f"robustseg requires {requirement}, which is not installed."
    if not requirement.specifier.contains(version, prereleases=True):
        return f"robustseg has requirement {requirement}, but you have {requirement.name} {version}."
    return None
