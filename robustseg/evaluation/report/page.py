"""The report of one evaluation as a self-contained HTML page."""

from __future__ import annotations

import os
from collections.abc import Sequence

from markupsafe import Markup

from robustseg.evaluation.card import Card
from robustseg.evaluation.errors import ReportError
from robustseg.evaluation.panels import Palette
from robustseg.evaluation.report import detected, tables, view
from robustseg.evaluation.report.drawn import draw_plots
from robustseg.evaluation.report.pages import render
from robustseg.evaluation.report.pictures import PanelPicture, data_uri
from robustseg.evaluation.report.plots import Curve
from robustseg.evaluation.report.wording import percent, plain
from robustseg.evaluation.table import to_html
from robustseg.files import write_text


def write_report(
    card: Card,
    path: str | os.PathLike[str],
    pictures: Sequence[PanelPicture] = (),
    curves: Sequence[Curve] = (),
    palette: Palette = (),
) -> None:
    """Write the report as one self-contained HTML file with tables, checks, plots and pictures.

    The same card, pictures and curves give the same bytes.

    Args:
        card: The result card, see :func:`~robustseg.evaluation.read_card`.
        path: The HTML file.
        pictures: Images to show, in this order within the worst and the best.
        curves: Further curves to draw, beside the one over eps from the checks.
        palette: RGB colour of each class in the pictures, for their legend; empty for no legend.

    Raises:
        ReportError: The card, a picture or a curve cannot be shown.
    """
    write_text(report_html(card, pictures, curves, palette), path)


def report_html(
    card: Card, pictures: Sequence[PanelPicture] = (), curves: Sequence[Curve] = (), palette: Palette = ()
) -> str:
    """Return the text of :func:`write_report`'s file."""
    plots = [plot._replace(svg=Markup(plot.svg)) for plot in draw_plots(card, curves)]
    return render(
        "report.html.j2",
        title=view.title(card),
        verdict=card.verdict,
        verdict_line=view.VERDICT_LINES[card.verdict],
        checks_summary=view.checks_summary(card),
        symbols=view.SYMBOLS,
        tiles=view.tiles(card),
        facts=view.facts(card),
        intervals=card.clean.no_confidence is None,
        scores=to_html(tables.scores(card, summaries=True), "scores cards"),
        notes=view.notes(card),
        flags=view.flags(card),
        plots=plots,
        pictures=[_shown(picture, card) for picture in sorted(pictures, key=lambda picture: picture.kind != "worst")],
        legend=_legend(card, palette),
        settings=[*view.settings(card), *detected.settings(card)],
        detectors=detected.lines(card),
        detector_table=to_html(tables.detectors(card), "plain detectors"),
        detector_note=detected.note(card),
        sizes=to_html(tables.sizes(card)),
        classes=to_html(tables.classes(card)),
        model_settings=view.model_settings(card),
    )


def _legend(card: Card, palette: Palette) -> list[tuple[str, str]]:
    """Return the name and CSS colour of each class."""
    names = card.data.class_names
    if palette and len(palette) != len(names):
        raise ReportError(f"palette = {len(palette)} colours for {len(names)} classes: give one for each.")
    colours = [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in palette]
    return [(plain(name), colour) for name, colour in zip(names, colours, strict=False)]


def _shown(picture: PanelPicture, card: Card) -> dict[str, str]:
    sample, attack = plain(picture.id), plain(picture.attack)
    before, after = percent(picture.clean_pixel_acc, 1), percent(picture.robust_pixel_acc, 1)
    truth = "ground truth" if card.protocol.targets == "labels" else "own answer"
    return {
        "uri": data_uri(picture),
        "kind": picture.kind,
        "id": sample,
        "attack": attack,
        "before": before,
        "after": after,
        "alt": f"{sample} under {attack}: image, perturbation, adversarial image, {truth}, and the predictions "
        f"before and after; pixel accuracy {before} % before and {after} % after.",
    }
