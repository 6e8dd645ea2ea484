"""Description of a weights file and of its differences from a network, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from robustseg.models import ModelError, Network, SegmentationModel
from robustseg.models.catalogue import catalogue, config_name, find_variant
from robustseg.models.checkpoints.classifiers import LAYOUTS as CLASSIFIERS
from robustseg.models.checkpoints.classifiers import classifier_weights
from robustseg.models.checkpoints.compare import not_finite, shorten
from robustseg.models.checkpoints.read import PREFIXES
from robustseg.models.checkpoints.reading import Reading
from robustseg.models.checkpoints.recognise import LAYOUTS, ForeignError, Layout, explain, fit_names, recognise

_CLASSES = (3, 5)
"""Two class counts: networks with these differ in the classifier only."""
_LABEL = 13
_KEYS = 12
"""Number of listed keys among those that are missing, unexpected or of another shape."""


def describe_file(reading: Reading) -> str:
    """Describe a file from its own content."""
    lines = [str(reading.path)]
    rows = [
        ("size", f"{reading.path.stat().st_size / 1e6:.1f} MB"),
        ("SHA-256", reading.sha256),
        ("wrappings", " > ".join([*reading.wrappings, *_prefixes(reading.tensors)]) or "none"),
        ("beside", shorten(reading.beside) if reading.beside else "nothing"),
        ("tensors", _count(reading.tensors)),
    ]
    if broken := not_finite({key: value for key, value in reading.tensors.items() if value.layout == torch.strided}):
        rows.append(("not finite", f"{shorten(broken)}: it is refused"))
    rows += _belongs_to(reading)
    if reading.record is not None:
        rows += _of_record(reading.record)
    lines += [f"  {label:<{_LABEL}}{text}" for label, text in rows]
    return "\n".join(lines)


def _prefixes(state: Mapping[str, Tensor]) -> list[str]:
    """Return the prefixes that all names have, outermost first."""
    found: list[str] = []
    keys = list(state)
    while prefix := next((prefix for prefix in PREFIXES if all(key.startswith(prefix) for key in keys)), None):
        found.append(prefix)
        keys = [key.removeprefix(prefix) for key in keys]
    return found


def _count(state: Mapping[str, Tensor]) -> str:
    kinds = Counter(str(value.dtype).removeprefix("torch.") for value in state.values())
    values = sum(value.numel() for value in state.values())
    return f"{len(state)} ({', '.join(f'{count} {kind}' for kind, count in kinds.most_common())}), {values:,} values"


def _belongs_to(reading: Reading) -> list[tuple[str, str]]:
    """Return rows with the project of the names, the configuration that loads them, and the class count."""
    known = recognise(reading.tensors, LAYOUTS)
    if known is not None:
        layout, inner = known
        config = layout.config_of(inner.state)
        return [("layout", layout.name), ("loads into", f"network/{config}"), *_classes(reading, layout)]
    fitting = [(name, count) for name in catalogue() if (count := _count_if_it_fits(reading, name)) is not None]
    if fitting:
        names = shorten([f"network/{name}" for name, _ in fitting])
        return [("layout", "robustseg, or a library that is adapted"), ("loads into", names), _class_row(fitting[0][1])]
    try:
        classifier = classifier_weights(reading.tensors)
    except ModelError as error:
        return [("layout", str(error))]
    named = any(layout.name == classifier.layout for layout in CLASSIFIERS)
    rows = [("layout", f"{classifier.layout}, a classifier" if named else "not known; maybe of a classifier")]
    rows += [("loads into", "init_args.weights of a network with its backbone")] if named else []
    rows += [("images", f"mean {list(classifier.mean)}, std {list(classifier.std or ())}")] if classifier.mean else []
    return rows


def _classes(reading: Reading, layout: Layout) -> list[tuple[str, str]]:
    try:
        count = _class_count(reading, find_variant(config_name(layout)).build)
    except ModelError:
        return []
    return [_class_row(count)] if count else []


def _class_row(count: int) -> tuple[str, str]:
    return ("classes", str(count))


def _count_if_it_fits(reading: Reading, name: str) -> int | None:
    """Return the class count if the tensors fit the network of this name; otherwise None."""
    try:
        build = find_variant(name).build
        count = _class_count(reading, build)
        return count if count and not _fitted(reading, build(count))[1].mismatch else None
    except ModelError:
        return None


def _class_count(reading: Reading, build: Callable[[int], Network]) -> int | None:
    """Return the class count of a file's tensors if they fit a network; otherwise None."""
    one, other = (SegmentationModel(build(count)).to("meta") for count in _CLASSES)
    found = fit_names(one, reading).named
    shapes = other.state_dict()
    counts = {
        found[key].shape[axis]
        for key, value in one.state_dict().items()
        if key in found and found[key].dim() == value.dim()
        for axis, (first, second) in enumerate(zip(value.shape, shapes[key].shape, strict=True))
        # not a size that only grows with it, such as that of classes beside features
        if (first, second) == _CLASSES
    }
    return counts.pop() if len(counts) == 1 else None


def _fitted(reading: Reading, network: Network) -> tuple[SegmentationModel, Reading]:
    model = SegmentationModel(network).to("meta")
    return model, fit_names(model, reading)


def describe_fit(reading: Reading, build: Callable[[int], Network], num_classes: int | None) -> tuple[str, bool]:
    """Report how a file's tensors differ from those of a network, by module.

    Args:
        reading: The file.
        build: Function that builds the network for a number of classes.
        num_classes: Number of classes; None for the file's.

    Returns:
        The report, and whether nothing differs.
    """
    try:
        count = num_classes or _class_count(reading, build) or _CLASSES[0]
        network = build(count)
        model, fitted = _fitted(reading, network)
        reason = explain(model, fitted)
    except ForeignError as error:
        return f"  {'does not fit':<{_LABEL}}{error}", False
    name = f"{type(network).__name__} of {count} classes"
    if not fitted.mismatch:
        return f"  {'fits':<{_LABEL}}{name}: every tensor", True
    if reason:
        name += f": {reason}"
    differences = "\n".join(f"    {line}" for line in _shown(fitted.mismatch.report()))
    return f"  {'does not fit':<{_LABEL}}{name}\n{differences}", False


def _shown(report: str) -> list[str]:
    """Shorten each part of a report to its first keys; the counts by module cover the others."""
    lines: list[str] = []
    start = more = 0
    for line in [*report.splitlines(), ""]:
        if line.startswith("  ") and lines and len(lines) - start > _KEYS:
            more += 1
            continue
        if not line.startswith("  "):
            lines += [f"  and {more} more"] if more else []
            start, more = len(lines), 0
        lines.append(line)
    return lines[:-1]


def _of_record(record: Mapping[str, object]) -> list[tuple[str, str]]:
    """Return rows on the training of a robustseg checkpoint, from its record."""
    rows = [("trained", f"epoch {record['epoch']}, step {record['global_step']}")]
    attacker = record["trained_with"]
    rows.append(("attacker", str(attacker.get("attack", attacker)) if isinstance(attacker, dict) else "none"))
    val, data = record["val"], record["data"]
    if isinstance(val, dict):
        figures = [f"{key} {val[key]:.4f}" for key in ("miou", "pixel_acc") if val.get(key) is not None]
        on = f" on {data.get('name')} {data.get('split')}" if isinstance(data, dict) else ""
        rows.append(("validated", f"{', '.join(figures)} of {val.get('images')} images{on}"))
    return rows
