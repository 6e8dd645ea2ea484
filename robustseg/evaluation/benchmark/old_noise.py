"""Folders of evaluations whose attacks drew the numbers of another version of the noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from robustseg.attacks import NOISE_VERSION
from robustseg.evaluation.benchmark.plan import Benchmark
from robustseg.evaluation.errors import EvaluationError, IncompleteError
from robustseg.evaluation.measurements import read_measurements
from robustseg.evaluation.protocol import FIRST_NOISE, PROTOCOL, digest, is_claimed, read
from robustseg.terminal.text import write


def keep_noise(benchmark: Benchmark, folder: Path, says: bool = True) -> None:
    """Take over the noise version of a folder that has all records; no record of two versions is ever mixed.

    Args:
        benchmark: The benchmark, whose facts and card then say the folder's version.
        folder: Folder of the evaluation; one of another evaluation is left to be refused by its facts.
        says: Write a line about it.

    Raises:
        EvaluationError: Records are missing, which would have other noise.
    """
    of = benchmark
    if not is_claimed(folder / PROTOCOL):
        return
    found = read(folder)
    version = found.get("noise", FIRST_NOISE)
    if version == of.facts.get("noise", FIRST_NOISE) or type(version) is not int:
        return
    if _apart(found) != _apart(of.facts):
        return
    try:
        read_measurements(
            folder,
            digest(found),
            of.samples,
            of.attack_settings,
            of.model.num_scored,
            of.scored_on,
            of.every_view,
            of.for_itself,
        )
    except IncompleteError:
        raise EvaluationError(
            f"{folder} lacks results, and its noise is of version {version}: this robustseg draws that of version "
            f"{NOISE_VERSION}, which no evaluation may mix with it. Choose another --output, or remove the folder to "
            "start over. Nothing was changed."
        ) from None
    of.facts = {key: value for key, value in of.facts.items() if key != "noise"}
    of.facts |= {"noise": version} if "noise" in found else {}
    if says:
        write(f"{folder} is complete, with noise of version {version} (this robustseg: {NOISE_VERSION}): it is kept.")


def _apart(facts: dict[str, Any]) -> Any:
    """Return all facts but the noise and the folder's format, as they are on disk."""
    return json.loads(json.dumps({key: value for key, value in facts.items() if key not in ("noise", "format")}))
