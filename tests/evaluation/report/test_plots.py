"""Plots: bars and lines as long as their figures, names as they are, no trace in matplotlib's settings."""

import re

import matplotlib
import pytest

from robustseg.evaluation.report import Curve, ReportError
from robustseg.evaluation.report.drawn import MAX_CLASSES, draw_plots, eps_curve
from robustseg.evaluation.report.plots import Bar, bar_plot, curve_plot
from tests.evaluation.report.cards import changed, make_card, typed
from tests.evaluation.report.pages import parse


def bars(svg: str, colour: str) -> list[float]:
    """Lengths of the filled rectangles of a colour, in points, from top to bottom; without the legend's."""
    paths = [path for path in parse(svg).all("path") if f"fill: {colour}" in (path.attributes.get("style") or "")]
    boxes = []
    for path in paths:
        x = [float(number) for number in re.findall(r"[ML] ([\d.]+) ", path.attributes["d"])]
        boxes.append(max(x) - min(x))
    return boxes


def test_bars_are_as_long_as_their_figures():
    series = {"a": [Bar(20.0), Bar(40.0, (30.0, 55.0)), Bar(None)], "b": [Bar(10.0), Bar(0.0), Bar(80.0)]}
    plot = bar_plot("p", "Title", ["one", "two", "three"], series, "%")
    first, second = bars(plot.svg, "#3b78c3"), bars(plot.svg, "#e08a1e")
    unit = first[0] / 20
    assert first[:3] == pytest.approx([20 * unit, 40 * unit, 0], abs=1e-3)
    assert second[:3] == pytest.approx([10 * unit, 0, 80 * unit], abs=1e-3)
    texts = [text.text for text in parse(plot.svg).all("text")]
    assert [text for text in texts if text in ("20.0", "40.0", "–", "10.0", "0.0", "80.0")] == [
        "20.0", "40.0", "–", "10.0", "0.0", "80.0",
    ]  # fmt: skip
    assert {"one", "two", "three", "a", "b", "%"} <= set(texts)


def test_interval_is_drawn_from_end_to_end():
    plot = bar_plot("p", "Title", ["one"], {"a": [Bar(40.0, (30.0, 55.0))]}, "%")
    (bar,) = bars(plot.svg, "#3b78c3")
    lines = [
        path for path in parse(plot.svg).all("path") if "stroke-width: 0.8" in (path.attributes.get("style") or "")
    ]
    spans = []
    for line in lines:
        x = [float(number) for number in re.findall(r"[ML] ([\d.]+) ", line.attributes["d"])]
        spans.append(max(x) - min(x))
    assert any(span == pytest.approx(15 * bar / 40 + 10 * bar / 40, abs=1e-2) for span in spans)


def test_letters_of_any_kind():
    names = ["$\\frac{1}{$", "日本", "a<b>&\"'", "x" * 60, "new\nline\x07"]
    plot = bar_plot("p", "Title", names, {"only": [Bar(1.0)] * 5}, "%")
    texts = [text.text for text in parse(plot.svg).all("text")]
    for name in ("$\\frac{1}{$", "日本", "a<b>&\"'", "x" * 12 + "…" + "x" * 13, "new line"):
        assert name in texts
    # One series needs no legend.
    assert "only" not in texts


def test_settings_are_put_back():
    with matplotlib.rc_context({"font.size": 17, "svg.fonttype": "path"}):
        before = dict(matplotlib.rcParams)
        curve_plot("c", Curve("t", "x", "y", [1, 2], {"a": [1, 2]}))
        assert dict(matplotlib.rcParams) == before


def test_ids_and_references_carry_the_name_of_the_plot():
    svg = curve_plot("curve-7", Curve("t", "x", "y", [1, 2], {"a": [1, 2], "b": [3, 4]})).svg
    ids = set(re.findall(r' id="([^"]+)"', svg))
    assert all(found.startswith("curve-7") for found in ids)
    references = set(re.findall(r"#(curve-7-[\w.]+)|url\(#([\w.-]+)\)", svg))
    assert references
    assert {a or b for a, b in references} <= ids
    assert "<style" not in svg
    # Letters and axes have the page's colour.
    assert "#010203" not in svg
    assert all("fill: currentColor" in text.attributes["style"] for text in parse(svg).all("text"))
    assert "http" not in svg


def line(svg: str, colour: str) -> list[tuple[float, float]]:
    (path,) = [
        path
        for path in parse(svg).all("path")
        if f"stroke: {colour}; stroke-width: 1.4" in (path.attributes.get("style") or "")
        and "clip-path" in path.attributes
    ]
    return [(float(x), float(y)) for x, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", path.attributes["d"])]


def test_lines_go_through_their_figures_in_the_order_of_x():
    curve = Curve("t", "steps", "miou", [20, 3, 7], {"a": [10.0, 40.0, 20.0], "b": [None, 5.0, 6.0]}, ["T", "t", "s"])
    plot = curve_plot("c", curve)
    (x0, y0), (x1, y1), (x2, y2) = line(plot.svg, "#3b78c3")
    assert x1 - x0 == pytest.approx(x2 - x1)
    # Downwards in an SVG: twice as far from 40 to 20 as from 20 to 10.
    assert (y1 - y0) == pytest.approx(2 * (y2 - y1))
    assert [x for x, _ in line(plot.svg, "#e08a1e")] == pytest.approx([x0, x1])
    texts = [text.text for text in parse(plot.svg).all("text")]
    assert texts[:3] == ["t", "s", "T"]


def test_a_line_without_any_figure_is_left_out():
    plot = curve_plot("c", Curve("t", "x", "y", [1, 2], {"a": [None, None], "b": [1, 2]}))
    assert len(line(plot.svg, "#e08a1e")) == 2


@pytest.mark.parametrize("curve", [Curve("t", "x", "y", [1, 2], {"a": [1]}), Curve("t", "x", "y", [1], {"a": [1]}, [])])
def test_lengths_that_differ(curve):
    with pytest.raises(ReportError, match=r"curve 't': (a|ticks) has \d values for \d x: give one for each"):
        curve_plot("c", curve)


def test_curve_over_eps():
    curve = eps_curve(typed(make_card()))
    assert curve.title == "Pixel accuracy over eps, 8 probe images"
    assert curve.ticks == ["0", "2/255", "4/255", "8/255", "16/255", "32/255", "1"]
    assert curve.x == pytest.approx([0, 2 / 255, 4 / 255, 8 / 255, 16 / 255, 32 / 255, 1])
    assert curve.series["white-box probe"][:2] == pytest.approx([90, 72])
    assert curve.series["chance"] == pytest.approx([31.0] * 7)


@pytest.mark.parametrize(
    "checks",
    [
        None,
        {},
        {"eps_curve": {"error": "no gradient"}},
        {"eps_curve": {"pixel_acc": {"0": 0.5}}},
        {"eps_curve": {"pixel_acc": {"0": 0.5}, "eps": {"0": "x"}}},
        {"eps_curve": [1, 2]},
    ],
)
def test_no_curve_over_eps(checks):
    assert eps_curve(typed(changed(make_card(), "checks", checks))) is None


def test_many_classes_show_those_that_lose_most():
    card = make_card(classes=[f"class {number}" for number in range(60)])
    weakest = card["attacks"]["cospgd20"]
    for number, name in enumerate(card["data"]["class_names"]):
        card["clean"]["class_iou"][name] = 0.9
        weakest["class_iou"][name] = 0.1 if number >= 20 else 0.8
    weakest["miou"] = 0.001
    plot = next(plot for plot in draw_plots(typed(card)) if plot.name == "classes")
    texts = {text.text for text in parse(plot.svg).all("text")}
    assert {name for name in texts if name.startswith("class ")} == {f"class {number}" for number in range(20, 60)}
    assert plot.note == f"The {MAX_CLASSES} of 60 classes that lose most; the table below has all."


def test_worst_attacks_of_images_kept_clean():
    card = changed(make_card(), "worst_case.greedy.chosen", {"cospgd20": 90, "clean": 11})
    plot = next(plot for plot in draw_plots(typed(card)) if plot.name == "chosen")
    assert bars(plot.svg, "#e08a1e")[5] / bars(plot.svg, "#e08a1e")[3] == pytest.approx(11 / 90, abs=1e-3)


def test_scores_are_drawn_in_percent_with_their_intervals(monkeypatch):
    drawn = {}

    def record(name, title, categories, series, *_, **__):
        drawn[name] = dict(zip(categories, zip(*series.values(), strict=True), strict=True))
        return bar_plot(name, title, categories, series, "%")

    monkeypatch.setattr("robustseg.evaluation.report.drawn.bar_plot", record)
    card = make_card()
    draw_plots(typed(card))
    bar, other = drawn["scores"]["pgd20"]
    assert bar.value == pytest.approx(49.5)
    assert bar.interval == pytest.approx((47.4, 51.4))
    assert other.value == pytest.approx(100 * card["attacks"]["pgd20"]["miou"])
    greedy = drawn["scores"]["greedy worst case"]
    assert greedy == (Bar(pytest.approx(41.4)), Bar(pytest.approx(100 * card["worst_case"]["greedy"]["miou"])))
    assert drawn["classes"]["Road"][0].value == pytest.approx(100 * card["clean"]["class_iou"]["Road"])
    assert [bar.value for bar in drawn["chosen"]["cospgd20"]] == [66, 101]
