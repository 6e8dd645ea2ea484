"""Plots of bars, curves and matrices as SVG elements for an HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from robustseg.evaluation.errors import ReportError
from robustseg.evaluation.report.drawing import INK, Plot, drawing, svg_of
from robustseg.evaluation.report.wording import NOTHING, plain, shorten

_BAR = 0.15
_COLOURS = ("#3b78c3", "#e08a1e", "#8f5bb0", "#2f9e6e", "#c8504f", "#7f7f7f")
"""Colours of different lightness, readable on white and near-black and, in this order, for the colour-blind."""
_MARKERS = "os^Dvx"
_MARKED = 30
"""Largest number of points on a line with markers."""
_HEAT = ((23, 55, 94), (226, 236, 246))
"""RGB colours of the darkest and of the lightest cell of a heat map."""
_NAME_LENGTH = 26


class Bar(NamedTuple):
    """A figure with its confidence interval, in the unit of the axis."""

    value: float | None
    interval: tuple[float, float] | None = None


class Curve(NamedTuple):
    """The data of a line plot, with one line per name."""

    title: str
    x_label: str
    y_label: str
    x: Sequence[float]
    """Values in any order; they are spaced evenly, since eps usually doubles from point to point."""
    series: Mapping[str, Sequence[float | None]]
    """Values of each line, one per x; None for a missing value."""
    ticks: Sequence[str] | None = None
    """Label at each x, which may be empty; the number itself by default."""


def bar_plot(
    name: str, title: str, categories: Sequence[str], series: Mapping[str, Sequence[Bar]], axis: str, digits: int = 1
) -> Plot:
    """Draw horizontal bars, grouped by category from top to bottom, with intervals and values.

    Args:
        name: Name of the plot, unique in the page.
        title: Title of the plot.
        categories: Names of the groups.
        series: Bars of each series by its name, one per category.
        axis: Label of the value axis.
        digits: Number of decimals of the written values.
    """
    categories = [shorten(plain(category), _NAME_LENGTH) for category in categories]
    height = 0.75 + len(categories) * (_BAR * len(series) + 0.1)
    with drawing(height) as figure:
        axes = figure.subplots()
        thickness = 0.84 / len(series)
        highest = max((_end(bar) for bars in series.values() for bar in bars), default=0.0) or 1.0
        for place, (label, bars) in enumerate(series.items()):
            rows = [row - 0.42 + (place + 0.5) * thickness for row in range(len(bars))]
            lengths = [bar.value or 0.0 for bar in bars]
            axes.barh(rows, lengths, thickness * 0.88, color=_COLOURS[place % len(_COLOURS)], label=plain(label))
            for row, bar in zip(rows, bars, strict=True):
                _annotate(axes, row, bar, highest, digits)
        axes.set_yticks(range(len(categories)), labels=categories)
        axes.set_ylim(len(categories) - 0.45, -0.55)
        axes.set_xlim(0, highest * 1.16)
        axes.set_xlabel(axis)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)
        if len(series) > 1:
            figure.legend(loc="outside upper left", ncols=len(series), handlelength=1.2)
        return Plot(name, title, svg_of(figure, name, title))


def curve_plot(name: str, curve: Curve) -> Plot:
    """Draw lines with markers over evenly spaced values of x.

    Args:
        name: Name of the plot, unique in the page.
        curve: The lines.

    Raises:
        ReportError: A line has another number of values than there are x.
    """
    order = sorted(range(len(curve.x)), key=lambda place: curve.x[place])
    ticks = [f"{value:g}" for value in curve.x] if curve.ticks is None else [plain(tick) for tick in curve.ticks]
    for label, values in [*curve.series.items(), ("ticks", ticks)]:
        if len(values) != len(curve.x):
            raise ReportError(
                f"curve {curve.title!r}: {label} has {len(values)} values for {len(curve.x)} x: give one for each."
            )
    with drawing(2.6) as figure:
        axes = figure.subplots()
        for place, (label, values) in enumerate(curve.series.items()):
            found = [(position, values[at]) for position, at in enumerate(order)]
            known = [(position, value) for position, value in found if value is not None]
            xs, ys = [position for position, _ in known], [value for _, value in known]
            # A constant line is a reference level, not a measurement at each x.
            is_level = len(ys) > 1 and len(set(ys)) == 1
            # Lines beyond the number of colours are dotted.
            stroke = "-" if place < len(_COLOURS) else ":"
            marked = _MARKERS[place % len(_MARKERS)] if len(order) <= _MARKED else ""
            line, marker = ("--", "") if is_level else (stroke, marked)
            colour = _COLOURS[place % len(_COLOURS)]
            axes.plot(xs, ys, line, label=plain(label), color=colour, marker=marker, markersize=4, linewidth=1.4)
        labelled = [(position, ticks[at]) for position, at in enumerate(order) if ticks[at]]
        axes.set_xticks([position for position, _ in labelled], labels=[tick for _, tick in labelled])
        axes.set_xlabel(plain(curve.x_label))
        axes.set_ylabel(plain(curve.y_label))
        # matplotlib's own margin is a share of the range of values, and too small if all values are high.
        highest = max((value for values in curve.series.values() for value in values if value is not None), default=0.0)
        axes.set_ylim(0, 1.06 * highest or 1.0)
        axes.grid()
        if len(curve.series) > 1:
            figure.legend(loc="outside upper left", ncols=min(3, len(curve.series)), handlelength=1.8)
        return Plot(name, plain(curve.title), svg_of(figure, name, plain(curve.title)))


def heat_plot(
    name: str,
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float | None]],
    axes_labels: tuple[str, str],
    highest: float,
    framed: Sequence[tuple[int, int]] = (),
) -> Plot:
    """Draw a matrix of figures in percent, each written in its cell; lower figures are darker.

    Args:
        name: Name of the plot, unique in the page.
        title: Title of the plot.
        rows: Names of the rows, from top to bottom.
        columns: Names of the columns.
        values: A row of values for each of ``rows``; None for a missing value.
        axes_labels: Labels of the rows and of the columns.
        highest: Value of the lightest cells, so that several plots share one scale.
        framed: (row, column) of cells to mark with a frame.
    """
    row_names, column_names = ([shorten(plain(each), _NAME_LENGTH) for each in names] for names in (rows, columns))
    with drawing(0.9 + 0.34 * len(rows)) as figure:
        axes = figure.subplots()
        for row, line in enumerate(values):
            for column, value in enumerate(line):
                # 0 is darkest; the exponent increases the contrast between low figures, which matter most.
                shade = 1.0 if value is None or not highest else min(max(value / highest, 0.0), 1.0) ** 0.6
                corner = (column - 0.47, row - 0.44)
                axes.add_patch(Rectangle(corner, 0.94, 0.88, facecolor=_between(*_HEAT, shade), linewidth=0))
                ink = "#ffffff" if shade < 0.42 else "#101418"
                text = NOTHING if value is None else f"{value:.1f}"
                axes.text(column, row, text, ha="center", va="center", fontsize=8, color=ink)
        for row, column in framed:
            corner = (column - 0.47, row - 0.44)
            axes.add_patch(Rectangle(corner, 0.94, 0.88, fill=False, edgecolor=INK, linewidth=1.4))
        axes.set_xticks(range(len(columns)), labels=column_names)
        axes.set_yticks(range(len(rows)), labels=row_names)
        axes.set_xlim(-0.55, len(columns) - 0.45)
        axes.set_ylim(len(rows) - 0.45, -0.55)
        axes.set_ylabel(axes_labels[0])
        axes.set_xlabel(axes_labels[1])
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.tick_params(length=0)
        return Plot(name, title, svg_of(figure, name, title))


def _between(dark: tuple[int, int, int], light: tuple[int, int, int], share: float) -> tuple[float, ...]:
    return tuple((low + share * (high - low)) / 255 for low, high in zip(dark, light, strict=True))


def _end(bar: Bar) -> float:
    return max(bar.value or 0.0, bar.interval[1] if bar.interval else 0.0)


def _annotate(axes: Axes, row: float, bar: Bar, highest: float, digits: int) -> None:
    """Draw the interval as a line with ends, and write the value to the right of it."""
    if bar.value is not None and bar.interval is not None:
        reach = [[max(bar.value - bar.interval[0], 0.0)], [max(bar.interval[1] - bar.value, 0.0)]]
        axes.errorbar(bar.value, row, xerr=reach, fmt="none", ecolor=INK, elinewidth=0.8, capsize=1.6, capthick=0.8)
    written = NOTHING if bar.value is None else f"{bar.value:.{digits}f}"
    axes.text(_end(bar) + 0.012 * highest, row, written, va="center", fontsize=7)
