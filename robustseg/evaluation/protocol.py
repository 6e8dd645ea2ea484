"""The protocol of an evaluation's folder: facts that all its parts share; parts with other facts are refused."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustseg.evaluation.errors import EvaluationError
from robustseg.files import create_text, not_writable
from robustseg.opening.plain import read_json

PROTOCOL = "protocol.json"
FORMAT = 1
"""Version of the folder's layout; raised when older folders can no longer be continued."""
FIRST_NOISE = 1
"""Version of the noise in protocols and cards that do not say one, see :data:`~robustseg.attacks.NOISE_VERSION`."""
_UNSAID = {"targets": "labels", "noise": FIRST_NOISE, "search": "float32"}
"""Facts that protocols leave out where they have these values."""
_OLD_RESULTS = "robustness.json"
"""File with the results of evaluations before there were result cards."""


def digest(facts: Mapping[str, Any]) -> str:
    """Return the SHA-256 of JSON-serialisable facts in hexadecimal, independent of the order of keys."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, allow_nan=False).encode()).hexdigest()


def claim(folder: Path, facts: Mapping[str, Any]) -> str:
    """Claim ``folder`` for the evaluation that ``facts`` describe, or check that it is that evaluation's.

    Args:
        folder: Created if it is not there.
        facts: Checkpoint, model, data, seed and everything else that figures depend on, except the attacks; nested and
            JSON-serialisable.

    Returns:
        The digest of ``facts``.

    Raises:
        EvaluationError: The folder belongs to an evaluation of something else, or cannot be used.
    """
    facts = json.loads(json.dumps({"format": FORMAT, **facts}, allow_nan=False))
    # A folder that is claimed already is not written to, so that it can be read on a full disk.
    if not is_claimed(folder / PROTOCOL):
        if (folder / _OLD_RESULTS).exists():
            raise EvaluationError(
                f"{folder} holds the results of an older version ({_OLD_RESULTS}), which cannot be continued: choose "
                "another --output. Nothing was changed."
            )
        try:
            _create(folder, facts)
        except OSError as error:
            raise EvaluationError(f"{not_writable(folder, error)}, or choose another --output.") from error
    found = read(folder)
    if found.get("format") != facts["format"]:
        raise EvaluationError(
            f"{folder} was written by another version of robustseg (format {found.get('format')}, this one writes "
            f"{facts['format']}): continue it with that version, or choose another --output. Nothing was changed."
        )
    if found != facts:
        changes = "; ".join(differences({**_UNSAID, **found}, {**_UNSAID, **facts}))
        raise EvaluationError(
            f"{folder} holds an evaluation of something else ({changes}): choose another --output, or remove the "
            "folder to start over. Nothing was changed."
        )
    return digest(facts)


def is_claimed(path: Path) -> bool:
    """Return whether there is a protocol; an empty file is one that is being written, or whose writer was killed."""
    try:
        return not path.is_file() or path.stat().st_size > 0 if path.exists() else False
    except OSError:
        return True


def _create(folder: Path, facts: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # If another process was first, its facts are compared with ours.
    with contextlib.suppress(FileExistsError):
        create_text(json.dumps(facts, indent=2) + "\n", folder / PROTOCOL)


def read(folder: Path) -> dict[str, Any]:
    """Read the facts of an evaluation's folder.

    Raises:
        EvaluationError: There are none, or they cannot be read.
    """
    path = folder / PROTOCOL
    try:
        found = read_json(path)
    except FileNotFoundError:
        raise EvaluationError(f"{folder} is not the folder of an evaluation: there is no {PROTOCOL}.") from None
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path}: cannot be read ({error}): choose another --output.") from error
    if not isinstance(found, dict):
        raise EvaluationError(f"{path}: not a protocol of robustseg: choose another --output.")
    return found


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """List ``key: old → new`` for each key in which two nested mappings differ."""
    lines = []
    for key in dict.fromkeys((*old, *new)):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {_short(before)} there, {_short(after)} here")
    return lines


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
