"""Text for people: formats of figures, names and settings."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from robustseg.attacks.describe import CLASS, setting_text
from robustseg.evaluation.card import UNKNOWN, AttackSettings, Card, Protocol, SearchFacts
from robustseg.evaluation.table import ends_text, finite
from robustseg.types import parse_fraction

NOTHING = "–"
"""Text in place of a figure that does not exist."""
DIGITS = 2
"""Number of decimals of a percentage; ranks are those of the displayed figures."""
_SHA = 12


def percent(value: Any, digits: int = DIGITS) -> str:
    """Write a share in percent, without the percent sign."""
    share = finite(value)
    return NOTHING if share is None else f"{100 * share:.{digits}f}"


def points(value: Any) -> str:
    """Write a difference of shares in percentage points; a rounded zero has no minus sign."""
    share = finite(value)
    return NOTHING if share is None else f"{round(100 * share, DIGITS) + 0.0:.{DIGITS}f}".replace("-", "−")


def span(ends: tuple[float, float] | None) -> str:
    """Write a confidence interval in percent; an empty string for None."""
    return "" if ends is None else ends_text(100 * ends[0], 100 * ends[1])


def count(value: Any) -> str:
    """Write a number of calls with one decimal; whole numbers have none."""
    figure = finite(value)
    return NOTHING if figure is None else f"{figure:.1f}".removesuffix(".0")


def size(value: Any, norm: Any) -> str:
    """Write the size of a perturbation: linf in steps of an 8-bit image, L2 and rms in units of the [0, 1] range."""
    figure = finite(value)
    if figure is None:
        return NOTHING
    return f"{255 * figure:.2f}/255" if norm == "linf" else f"{figure:.3f}"


def fraction(value: Any) -> Fraction | None:
    """Parse the eps of an attack's settings; return None for None and for text that is no fraction."""
    try:
        return None if value is None else parse_fraction(value)
    except ValueError:
        return None


def plain(text: Any) -> str:
    """Put a name on one line, without control characters, which HTML and SVG do not allow."""
    return "".join(" " if unicodedata.category(char)[0] == "C" else char for char in str(text)).strip()


def shorten(text: str, length: int) -> str:
    """Shorten ``text`` by an ellipsis in the middle, since names such as ``segpgd_tuned_100`` differ at their ends."""
    if len(text) <= length:
        return text
    front = (length - 1) // 2
    return f"{text[:front]}…{text[-(length - 1 - front) :]}"


def sha(digest: Any) -> str:
    """Shorten a checksum to 12 digits, enough to tell files apart."""
    return plain(digest)[:_SHA]


def setting(value: Any) -> str:
    """Write a hyperparameter as JSON, but strings without quotes, and objects as constructor calls."""
    if isinstance(value, str) or (isinstance(value, Mapping) and CLASS in value):
        return plain(setting_text(value))
    return json.dumps(value, ensure_ascii=False, default=str)


def settings_of(attack: AttackSettings) -> dict[str, Any]:
    """Return all settings of an attack; those of attacks within it have the prefix ``inner.`` or their number."""
    own = {key: value for key, value in attack.as_dict().items() if key not in ("inner", "members")}
    within = {"inner": attack.inner} if attack.inner is not None else {}
    within |= {str(number): member for number, member in enumerate(attack.members, start=1)}
    return own | {f"{name}.{key}": value for name, part in within.items() for key, value in settings_of(part).items()}


def evidence(value: Any) -> str:
    """Write a flag's evidence as JSON with a line for each key; numbers keep six digits."""
    return _lines(_rounded(value), "")


def _lines(value: Any, indent: str) -> str:
    if not isinstance(value, dict) or not value:
        return json.dumps(value, ensure_ascii=False, default=str)
    inner = indent + "  "
    parts = [f"{inner}{json.dumps(key, ensure_ascii=False)}: {_lines(part, inner)}" for key, part in value.items()]
    return "{\n" + ",\n".join(parts) + f"\n{indent}}}"


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _rounded(part) for key, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_rounded(part) for part in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def model_name(card: Card) -> str:
    """Name the network and its backbone: ``PSPNet (resnet10t)``."""
    network = plain(card.model.network).rpartition(".")[2]
    backbone = card.model.settings.get("backbone")
    return f"{network} ({plain(backbone)})" if isinstance(backbone, str) else network


def training(card: Card) -> str:
    """Describe the images or the attack that the model was trained with."""
    attacker = card.model.trained_with
    if attacker is None:
        return "clean images only"
    return attack_summary(attacker) if isinstance(attacker, AttackSettings) else UNKNOWN


def attack_summary(settings: AttackSettings) -> str:
    """Describe an attack briefly: ``SegPGD, 3 steps, linf 8/255``."""
    parts = [plain(settings.attack)]
    if settings.steps is not None:
        parts.append("1 step" if settings.steps == 1 else f"{settings.steps} steps")
    if settings.eps is not None:
        parts.append(f"{plain(settings.norm or '')} {plain(settings.eps)}".strip())
    return ", ".join(parts)


def threat(protocol: Protocol) -> str:
    """Describe the threat model briefly: ``linf, eps = 8/255``."""
    if protocol.eps is None:
        return "differs between the attacks, see their settings"
    return f"{plain(protocol.norm or 'norm unknown')}, eps = {plain(protocol.eps)}"


def search_name(search: SearchFacts | None) -> str:
    """Name the precision and the layout that attacks searched in: ``bf16, channels last``."""
    if search is None:
        return "float32"
    return f"{plain(search.precision)}{', channels last' if search.channels_last else ''}"


def searched(search: SearchFacts) -> str:
    """Say what attacks searched in, and what that cost on the images that were searched in float32 as well."""
    found = f"{search_name(search)}; results judged in float32"
    lost, miou = search.most_lost(), search.most_lost("miou")
    if lost is None:
        return f"{found}; not compared with a search in float32"
    figures = f"{points(lost)} points of pixel_acc" + ("" if miou is None else f" and {points(miou)} of miou")
    return f"{found}; at most {figures} more left than by a search in float32, on {search.images} images"
