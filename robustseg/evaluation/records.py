"""The records of an evaluation's folder as a whole: names, notes of refused attacks, and consistency checks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from robustseg.evaluation.attacking import CLEAN
from robustseg.evaluation.card_upgrade import upgrade_settings
from robustseg.evaluation.errors import EvaluationError
from robustseg.evaluation.protocol import differences
from robustseg.evaluation.store import ImageRecord, Stream, read_records
from robustseg.evaluation.views import is_of_views
from robustseg.opening.plain import read_json

REFUSED = "refused"
T = TypeVar("T")
_ARTICLE = {"attack": "an", "detector": "a"}


def record_name(attack: str, target: str = "") -> str:
    """Return the name of the records of an attack, or of "clean".

    It is the attack's own name, or ``<attack> on <target>`` for the answers of another model.
    """
    return f"{attack} on {target}" if target else attack


_IN_8BIT = " in 8 bit"


def rounded_name(attack: str) -> str:
    """Return the name of the records of an attack's images after rounding to 8 bit."""
    return f"{attack}{_IN_8BIT}"


def measured_with(name: str) -> str:
    """Return the name of the record that a record is measured together with; its own name for most."""
    return name.removesuffix(_IN_8BIT)


def check_names(kind: str, named: Mapping[str, T]) -> dict[str, T]:
    """Refuse names that scores cannot be reported under, and return a copy.

    Args:
        kind: ``attack`` or ``detector``, for messages.
        named: Attacks or detectors by name.

    Raises:
        ValueError: A name is no text, empty, or reserved.
    """
    for name in named:
        if not isinstance(name, str):
            raise ValueError(
                f"{_ARTICLE[kind]} {kind} is called {name!r}, which YAML reads as {type(name).__name__}: write it in "
                f'quotes, such as "{name}", or give it another name.'
            )
        if not name.strip():
            raise ValueError(f"the name of {_ARTICLE[kind]} {kind} is empty: give it one.")
        if name == CLEAN:
            raise ValueError(
                f"{_ARTICLE[kind]} {kind} cannot be called {CLEAN!r}: that is the name of the scores without attack."
            )
        if is_of_views(name):
            raise ValueError(
                f"{_ARTICLE[kind]} {kind} cannot be called {name!r}: what detectors see is kept under such names."
            )
        if name.endswith(_IN_8BIT):
            raise ValueError(
                f"{_ARTICLE[kind]} {kind} cannot be called {name!r}: the scores of rounded images are kept under it."
            )
    return dict(named)


def answers_to(attack: str, scored_on: Sequence[str], for_itself: Collection[str]) -> dict[str, str]:
    """Return the models that are scored on the images of an attack, by the name of the records.

    Args:
        attack: Name of the attack, or "clean".
        scored_on: Names of all models; the attacked one is "".
        for_itself: Attacks whose images only the attacked model is scored on.
    """
    models = [model for model in scored_on if not model or attack not in for_itself]
    return {record_name(attack, model): model for model in models}


def refusal_path(folder: Path, attack: str) -> Path:
    """Return the path of the note that an attack could not be run."""
    return folder / REFUSED / f"{hashlib.sha256(attack.encode()).hexdigest()[:24]}.json"


def refusal(folder: Path, attack: str) -> str | None:
    """Read the reason why an attack could not be run; None if there is no readable note."""
    try:
        return str(read_json(refusal_path(folder, attack))["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def refuse_others(found: Iterable[Stream], protocol: str, settings: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse records of another protocol, and of other attacks under the same names.

    Args:
        found: Streams of the folder.
        protocol: Digest of the evaluation's facts.
        settings: ``describe()`` of the attacks by name.

    Raises:
        EvaluationError: There are such records; the message names the file.
    """
    # Both sides in one form: that of JSON, as on disk, without the texts of version 0.1.
    current = {name: upgrade_settings(json.loads(json.dumps(of))) for name, of in settings.items()}
    for stream in found:
        if stream.about.get("protocol") != protocol:
            raise EvaluationError(
                f"{stream.path} belongs to another evaluation (of another checkpoint, data or model): move it out of "
                "this folder. Nothing was changed."
            )
        for name, before in stream.about["attacks"].items():
            if name in settings and (changes := differences(upgrade_settings(before), current[name])):
                raise EvaluationError(
                    f"{stream.path} holds results of {name} with other settings ({'; '.join(changes)}): give what "
                    "changed another name, or the evaluation another --output. Nothing was changed."
                )


def unique_records(found: Iterable[Stream]) -> Iterable[ImageRecord]:
    """Yield the records of all streams, each (sample, attack) once.

    Two processes that were given the same samples measure them twice: the first record counts, and the confusion
    matrices must be equal. The values of views are not compared.

    Raises:
        EvaluationError: Two records of one (sample, attack) differ.
    """
    seen: dict[tuple[str, str], tuple[int, Path]] = {}
    for stream in found:
        for record in read_records(stream):
            key, content = (record.sample, record.attack), hash(record.confusion.numpy().tobytes())
            if key not in seen:
                seen[key] = content, stream.path
                yield record
            elif seen[key][0] != content:
                raise EvaluationError(
                    f"{stream.path}: sample {record.sample} under {record.attack} was measured before, in "
                    f"{seen[key][1].name}, with another result. Something differed that is not in the protocol "
                    "(device, versions, batch size, a model that answers at random): move one of the two files out of "
                    "the folder, and what only that one holds is measured again."
                )
