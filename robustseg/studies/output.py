"""A study's files: JSON, Markdown, one SVG with all plots and a self-contained page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup

from robustseg.evaluation.card import SearchFacts
from robustseg.evaluation.figures import BY_KEY, SCORES
from robustseg.evaluation.protocol import FIRST_NOISE
from robustseg.evaluation.report.drawing import Plot
from robustseg.evaluation.report.pages import render
from robustseg.evaluation.report.wording import DIGITS, count, plain, searched, setting
from robustseg.evaluation.table import MISSING, Cell, Table, Text, figure, to_html, to_markdown
from robustseg.evaluation.table.markdown import escape
from robustseg.files import write_json, write_text
from robustseg.studies.study import Study, StudyResult

FORMAT = 1
"""Version of the JSON file's format."""
_WORDS = ("model", "attack", "schedule", "scored_at", "source", "target")
"""Columns with words instead of figures."""
_SHARES = ("misratio", "floss_share", *SCORES)
_GAP, _TITLE = 14.0, 18.0
_COLUMNS = 2
_SHOWN = 1.4
"""Pixels per point in the combined SVG file."""
_PAGE_STYLE = "color: #1b1f24; background: #ffffff; font-family: system-ui, sans-serif;"


def write_study(study: Study, result: StudyResult, about: Mapping[str, Any], folder: Path) -> Path:
    """Write ``study_<name>`` as .json, .md, .svg and .html; the same measurements give the same bytes.

    Args:
        study: The study.
        result: The result of the study.
        about: Model or models, data, protocol, versions and commit, for the record.
        folder: Folder of the results; created if it is not there.

    Returns:
        Path of the HTML page.
    """
    record = {
        "format": FORMAT,
        "study": type(study).__name__,
        "name": study.name,
        "title": result.title,
        **about,
        "attacks": {name: attack.describe() for name, attack in study.attacks().items()},
        "rows": list(result.rows),
        "findings": list(result.findings),
        **result.extra,
    }
    stem = f"study_{study.name}"
    write_json(record, folder / f"{stem}.json")
    write_text(_markdown(study, result, about), folder / f"{stem}.md")
    write_text(combined_svg(result.plots), folder / f"{stem}.svg")
    write_text(_page(study, result, about), folder / f"{stem}.html")
    return folder / f"{stem}.html"


def tables_of(result: StudyResult) -> list[Table]:
    """Return the displayed tables: those of the study, or one table of its rows."""
    if result.tables:
        return list(result.tables)
    rows = [[_cell(row, key) for key in result.columns] for row in result.rows]
    words = len(list(takewhile(_WORDS.__contains__, result.columns)))
    return [Table.of("", result.columns.values(), rows, words)]


def _cell(row: Mapping[str, Any], key: str) -> Cell:
    value = row[key]
    if value is None:
        return Text("could not run") if row.get("error") and key not in ("eps", "steps", *_SHARES) else MISSING
    if key in _SHARES:
        return figure(value, DIGITS, 100, (row.get("confidence") or {}).get(key))
    if isinstance(value, float):
        return Text(count(value) if key in BY_KEY and BY_KEY[key].unit == "calls" else f"{value:.4g}")
    return Text(plain(value))


def facts_of(about: Mapping[str, Any]) -> dict[str, str]:
    """Describe the models, the data and the protocol in a few lines, by heading."""
    data, protocol = about["data"], about["protocol"]
    models = about["models"] if "models" in about else {"": about["model"]}
    found = {
        f"Model {name}".strip(): f"{model['network']}, {model['checkpoint']}, sha256 {str(model['sha256'])[:12]}…"
        for name, model in models.items()
    }
    images = f"{data['images']} of the split's {data['split_images']}"
    found["Data"] = f"{data['name']} {data['split']}, {images} images, sha256 {data['sha256'][:12]}…"
    found["Precision, seed"] = f"{protocol['precision']}, {protocol['seed']}"
    found["Noise"] = f"version {protocol.get('noise', FIRST_NOISE)}"
    if protocol.get("search"):
        found["Search"] = searched(SearchFacts.model_validate(protocol["search"]))
    found["Versions"] = _versions(about["versions"])
    found["Commit"] = plain(about.get("commit") or "unknown")
    return found


def _markdown(study: Study, result: StudyResult, about: Mapping[str, Any]) -> str:
    parts = [f"# {escape(result.title)}", escape(result.text)]
    if result.findings:
        parts.append("\n".join(f"- {escape(line)}" for line in result.findings))
    for table in tables_of(result):
        if table.title:
            parts.append(f"## {escape(table.title)}")
        parts.append(to_markdown(table))
    parts.append("## What was measured")
    parts.append("\n".join(f"- {escape(name)}: {escape(value)}" for name, value in facts_of(about).items()))
    parts.append("## Attacks")
    described = {name: attack.describe() for name, attack in study.attacks().items()}
    settings = {name: ", ".join(f"{k} = {setting(v)}" for k, v in each.items()) for name, each in described.items()}
    lines = [f"- {escape(name)}: {escape(text)}" for name, text in settings.items()]
    return "\n\n".join([*parts, "\n".join(lines)]) + "\n"


def _versions(versions: Any) -> str:
    """Write versions as ``torch 2.4, numpy 1.26``; all of them if shards were measured with different ones."""
    each = versions if isinstance(versions, list) else [versions]
    return " / ".join(", ".join(f"{plain(name)} {plain(value)}" for name, value in one.items()) for one in each)


def _page(study: Study, result: StudyResult, about: Mapping[str, Any]) -> str:
    attacks = study.attacks().items()
    return render(
        "study.html.j2",
        title=plain(result.title),
        text=plain(result.text),
        findings=[plain(line) for line in result.findings],
        facts=facts_of(about),
        plots=[plot._replace(svg=Markup(plot.svg)) for plot in result.plots],
        tables=[{"title": table.title, "drawn": to_html(table)} for table in tables_of(result)],
        settings=[(plain(name), {k: setting(v) for k, v in attack.describe().items()}) for name, attack in attacks],
    )


def combined_svg(plots: Sequence[Plot]) -> str:
    """Combine all plots into one SVG file, two side by side, each under its title, for viewers outside of a page."""
    root = ElementTree.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "style": _PAGE_STYLE})
    style = ElementTree.SubElement(root, "style")
    style.text = "* { stroke-linejoin: round; stroke-linecap: butt; } text { font-family: inherit; }"
    top, width = 0.0, 0.0
    for start in range(0, len(plots), _COLUMNS):
        left, bottom = 0.0, top
        for plot in plots[start : start + _COLUMNS]:
            size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', plot.svg)
            assert size is not None
            title = ElementTree.SubElement(root, "text", {"x": f"{left + 4:g}", "y": f"{top + 13:g}"})
            title.set("style", "font-size: 10px; font-weight: bold; fill: currentColor")
            title.text = plot.title
            inner = ElementTree.fromstring(plot.svg)
            # Embedded plots inherit the text colour of the file's style.
            place = {"x": f"{left:g}", "y": f"{top + _TITLE:g}", "width": size[1], "height": size[2]}
            inner.attrib.update(place)
            root.append(inner)
            left += float(size[1]) + _GAP
            bottom = max(bottom, top + _TITLE + float(size[2]))
        top, width = bottom + _GAP, max(width, left - _GAP)
    height = max(top - _GAP, 0.0)
    root.set("viewBox", f"0 0 {width:g} {height:g}")
    root.set("width", f"{_SHOWN * width:g}")
    root.set("height", f"{_SHOWN * height:g}")
    return ElementTree.tostring(root, encoding="unicode") + "\n"
