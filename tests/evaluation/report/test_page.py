"""What the report says, read from the page and from the Markdown."""

import io
import json
import re

import pytest
import torch
from PIL import Image

from robustseg.evaluation import Example, draw_panel
from robustseg.evaluation.report import (
    Curve,
    PanelPicture,
    ReportError,
    write_markdown,
    write_report,
)
from tests.evaluation.report.cards import changed, make_card, markdown_of, page_of, typed
from tests.evaluation.report.pages import parse

EVIL = "<script>alert(1)</script> \"'&amp; $x$ |`* ]]>"


@pytest.fixture(scope="module")
def pictures() -> list[PanelPicture]:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, 18, 24, generator=generator)
    target = torch.randint(0, 3, (18, 24), generator=generator)
    example = Example("sample_1", image, image.add(0.03).clamp(0, 1), target, target, target.roll(1, 0))
    panel = draw_panel([example], [(255, 0, 0), (0, 255, 0), (0, 0, 255)])
    buffer = io.BytesIO()
    panel.save(buffer, format="PNG")
    return [
        PanelPicture("best", "sample_2", "fgsm", 0.95, 0.8, buffer.getvalue()),
        PanelPicture("worst", "sample_1", "cospgd20", 0.9, 0.123, panel),
    ]


@pytest.fixture
def _without_plots(monkeypatch):
    """For what is said elsewhere in the page: drawing takes the longest."""
    monkeypatch.setattr("robustseg.evaluation.report.page.draw_plots", lambda card, curves: [])


@pytest.fixture(scope="module")
def page(pictures):
    return parse(page_of(make_card(), pictures))


def test_main_table(page):
    (table,) = page.all("table", "scores")
    headings, *rows = table.table()
    assert headings == [
        "attack", "pixel_acc", "mean_acc", "miou", "image_miou", "gap pixel_acc", "gap miou", "forwards", "backwards",
        "largest δ",
    ]  # fmt: skip
    names = [row.all("th")[0].children[0] for row in table.all("tr")[1:]]
    assert names == [
        "clean", "fgsm", "pgd20", "segpgd20", "cospgd20", "pgd100", "worst case per image",
        "worst case for miou (greedy)",
    ]  # fmt: skip
    card = make_card()
    row = card["attacks"]["pgd20"]
    assert rows[2] == [
        "pgd20 PGD, 20 steps, linf 8/255",
        "49.50 47.4–51.4",
        "39.60 37.5–41.5",
        f"{100 * row['miou']:.2f} {100 * row['miou'] - 2.1:.1f}–{100 * row['miou'] + 1.9:.1f}",
        f"{100 * row['image_miou']:.2f} {100 * row['image_miou'] - 2.1:.1f}–{100 * row['image_miou'] + 1.9:.1f}",
        "40.50",
        f"{100 * row['gap']['miou']:.2f}",
        "20",
        "20",
        "8.00/255 100.0 % of eps",
    ]
    assert rows[0][1] == "90.00 87.9–91.9"
    assert rows[0][5:] == [""] * 5
    assert rows[6][1] == "39.60 37.5–41.5"
    assert rows[6][5] == "50.40"
    assert rows[7][1:5] == ["41.40", "", f"{100 * card['worst_case']['greedy']['miou']:.2f}", ""]


def test_the_lowest_figure_of_each_column_is_marked(page):
    (table,) = page.all("table", "scores")
    marked = {row.all("th")[0].children[0]: len(row.all("td", "lowest")) for row in table.all("tr")[1:]}
    assert {name: count for name, count in marked.items() if count} == {"cospgd20": 4}


def test_head(page):
    (verdict,) = page.all("div", "verdict")
    assert verdict.text.startswith("! caution The evidence is weaker")
    assert "9 of 10 checks ok, 1 caution." in verdict.text
    assert page.all("div", "tile")[0].all("p", "figures")[0].text == "90.0 → 39.6 %"
    facts = {row.all("dt")[0].text: row.all("dd")[0].text for row in page.all("dl", "facts")[0].all("div")}
    assert facts["Checkpoint"] == "last.ckpt, raw weights, sha256 794cf728127f…"
    assert facts["Data"] == "CamVid val, sha256 c0ffeec0ffee…"
    assert facts["Images"] == "all 101 of the split"
    assert facts["Threat"] == "linf, eps = 8/255"
    assert facts["Trained with"] == "SegPGD, 3 steps, linf 8/255"
    assert facts["Suite"] == "strong"
    assert facts["Commit"] == "4268a6e"
    assert facts["Versions"] == "robustseg 0.4.0, python 3.12.3, torch 2.8.0"


@pytest.mark.usefixtures("_without_plots")
def test_a_part_of_the_split_is_said():
    card = changed(make_card(images=8), "data.split_images", 101)
    assert "8 of the split's 101" in parse(page_of(card)).text
    with_ids = parse(page_of(changed(card, "data.ids", ["a", "b"])))
    assert "8 of the split's 101, ids in the card" in with_ids.text
    assert "a, b" in with_ids.text


def test_checks(page):
    flags = page.all("li", "flag")
    assert len(flags) == 10
    verdicts = [flag.all("span", "badge")[0].text for flag in flags]
    assert verdicts == ["✓ ok"] * 5 + ["! caution"] + ["✓ ok"] * 4
    assert "use more steps" in flags[5].text
    assert json.loads(flags[5].all("pre")[0].text) == {"pgd20": 0.455123, "twice": 0.4471, "images": [0.41, 0.52, None]}
    assert not flags[0].all("details")


@pytest.mark.usefixtures("_without_plots")
@pytest.mark.parametrize("verdict", ["unreliable", "not checked"])
def test_other_verdicts(verdict):
    card = changed(make_card(verdict="unreliable"), "flags.2.verdict", verdict)
    page = parse(page_of(card))
    assert "Do not quote them." in page.all("div", "verdict")[0].text
    assert page.all("li", verdict.replace(" ", "-"))[0].all("span", "badge")[0].text[2:] == verdict
    assert f", 1 {verdict}." in page.all("div", "verdict")[0].text
    assert "No check was run" in parse(page_of(changed(card, "flags", []))).text


def test_plots(page):
    titles = [figure.all("figcaption")[0].text for figure in page.all("div", "plots")[0].all("figure")]
    assert titles == [
        "Scores, clean and under each attack",
        "IoU per class, clean and under attack",
        "Images on which each attack is the worst",
        "Pixel accuracy over eps, 8 probe images",
    ]
    ids = [
        element.attributes["id"]
        for tag in ("svg", "g", "path")
        for element in page.all(tag)
        if "id" in element.attributes
    ]
    assert len(ids) == len(set(ids))


def test_pictures(page, pictures):
    panels = page.all("figure", "panel")
    assert [panel.all("figcaption")[0].text for panel in panels] == [
        "worst sample_1 under cospgd20: pixel_acc 90.0 % → 12.3 %",
        "best sample_2 under fgsm: pixel_acc 95.0 % → 80.0 %",
    ]
    for panel in panels:
        (image,) = panel.all("img")
        assert image.attributes["src"].startswith("data:image/png;base64,iVBOR")
        assert "ground truth" in image.attributes["alt"]


@pytest.mark.usefixtures("_without_plots")
def test_legend_of_the_pictures(pictures):
    card = make_card(classes=["a", "b", "c"])
    (legend,) = parse(page_of(card, pictures, palette=[(255, 0, 0), (0, 16, 0), (0, 0, 0)])).all("ul", "legend")
    assert legend.text == "a b c ignored"
    assert [chip.attributes["style"] for chip in legend.all("span")][:2] == [
        "background: #ff0000",
        "background: #001000",
    ]
    with pytest.raises(ReportError, match="palette = 1 colours for 3 classes"):
        page_of(card, palette=[(0, 0, 0)])


def _truncated() -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").save(buffer, format="PNG")
    return buffer.getvalue()[:-60]


@pytest.mark.usefixtures("_without_plots")
@pytest.mark.parametrize("content", [b"GIF89a", b"\x89PNG\r\n\x1a\nnothing", b"", _truncated()], ids=range(4))
def test_pictures_that_are_none(content):
    with pytest.raises(ReportError, match=r"the picture of 'sample' (is not a PNG file|cannot be decoded)"):
        page_of(make_card(), [PanelPicture("worst", "sample", "pgd20", 0.9, 0.1, content)])


def test_details(page):
    (details,) = [section for section in page.all("section") if section.attributes["id"] == "details"]
    summaries = [summary.text for summary in details.all("summary")]
    assert summaries[:3] == ["Perturbations", "IoU of each class", "Settings of fgsm FGSM, 1 step, linf 8/255"]
    sizes, classes = (table.table() for table in details.all("table"))
    assert sizes[0] == ["attack", "linf", "L2", "linf, 8 bit", "L2, 8 bit", "images fooled", "not attacked"]
    assert sizes[1] == ["fgsm", "8.00/255", "5.312", "8.00/255", "5.299", "0.0 %", "0"]
    assert classes[0] == ["class", "clean", "fgsm", "pgd20", "segpgd20", "cospgd20", "pgd100", "worst case per image"]
    assert classes[-1] == ["Bicyclist", *["–"] * 7]
    values = {row.all("dt")[0].text: row.all("dd")[0].text for row in details.all("dl")[1].all("div")}
    assert values["steps"] == "20"
    assert values["random_start"] == "true"
    assert values["step_rule"] == "SignStep(step_size='1/100')"


@pytest.mark.usefixtures("_without_plots")
def test_an_attack_that_could_not_run_says_why():
    card = changed(make_card(), "attacks.pgd20", {"settings": {"attack": "PGD"}, "error": "no gradient <here>"})
    page = parse(page_of(card))
    assert page.all("td", "error")[0].text == "Could not run: no gradient <here>"
    assert "could not run: no gradient &lt;here&gt;" in markdown_of(card)
    # Not in plots and tables of figures.
    assert [row[0] for row in page.all("section")[-1].all("table")[0].table()][1:] == [
        "fgsm",
        "segpgd20",
        "cospgd20",
        "pgd100",
    ]


@pytest.mark.usefixtures("_without_plots")
def test_more_than_the_budget_and_no_budget():
    card = changed(make_card(), "attacks.pgd20.linf_max", 10 / 255)
    card = changed(card, "attacks.fgsm.settings.eps", None)
    card = changed(card, "attacks.pgd100.settings.norm", "l2")
    card = changed(card, "attacks.pgd100.settings.eps", "16")
    rows = parse(page_of(card)).all("table", "scores")[0].table()
    assert rows[3][-1] == "10.00/255 125.0 % of eps"
    assert rows[2][-1] == "8.00/255 no bound"
    assert rows[6][-1] == "5.312 33.2 % of eps"


def test_names_are_text_and_nothing_else():
    card = make_card(classes=[EVIL, "b\x00\x1b\ud800", "c"])
    card["attacks"] = {EVIL: card["attacks"]["cospgd20"]}
    card["worst_case"]["per_image"]["chosen"] = {EVIL: 101}
    for key in ("model.network", "model.checkpoint", "data.name", "flags.1.line", "protocol.suite"):
        card = changed(card, key, EVIL)
    card = changed(card, "flags.1.evidence", {EVIL: EVIL})
    card = changed(card, f"attacks.{EVIL}.settings.loss", EVIL)
    picture = PanelPicture("worst", EVIL, EVIL, None, None, Image.new("RGB", (4, 4)))
    curve = Curve(EVIL, EVIL, EVIL, [1], {EVIL: [2]}, [EVIL])
    text = page_of(card, [picture], [curve])
    assert "<script" not in text
    page = parse(text)
    assert not page.all("script")
    assert EVIL in page.all("li", "flag")[1].text
    assert page.all("table", "scores")[0].all("tr")[2].all("th")[0].children[0] == EVIL
    assert EVIL in page.all("img")[0].attributes["alt"]
    # In a plot, too: a long name is shortened, dollar signs stay.
    assert any("<script>alert" in tick.text for tick in page.all("text"))
    markdown = markdown_of(card)
    written, _, evidence = markdown.partition("## Evidence of the checks")
    assert "<script" not in written
    assert all(line.startswith("    ") for line in evidence.splitlines() if "<script" in line)
    for block in written.split("\n\n"):
        if block.startswith("|"):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_a_difference_of_nothing_has_no_sign():
    card = changed(make_card(), "attacks.pgd20.gap", {"pixel_acc": -0.000049, "miou": -0.012})
    row = markdown_of(card).split("| pgd20 |")[1].splitlines()[0]
    assert row.split("|")[4:6] == [" 0.00 ", " −1.20 "]


def test_nothing_is_loaded_from_anywhere(page):
    policy = next(m for m in page.all("meta") if m.attributes.get("http-equiv") == "Content-Security-Policy")
    assert policy.attributes["content"].startswith("default-src 'none'")
    assert not page.all("link")
    assert not page.all("script")
    for tag in ("img", "a", "use"):
        for element in page.all(tag):
            address = element.attributes.get("src") or element.attributes.get("href")
            assert address.startswith(("data:image/png", "#"))


def test_same_card_same_bytes(tmp_path, pictures):
    import matplotlib

    card = typed(make_card())
    write_report(card, tmp_path / "a" / "1.html", pictures)
    write_markdown(card, tmp_path / "1.md")
    # What is read back from the file, and a user with other settings.
    with matplotlib.rc_context({"font.size": 20, "svg.fonttype": "path", "svg.hashsalt": None, "axes.grid": True}):
        write_report(typed(card.as_dict()), tmp_path / "2.html", pictures)
    write_markdown(typed(card.as_dict()), tmp_path / "2.md")
    assert (tmp_path / "a" / "1.html").read_bytes() == (tmp_path / "2.html").read_bytes()
    assert (tmp_path / "1.md").read_bytes() == (tmp_path / "2.md").read_bytes()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["1.html"]


@pytest.mark.usefixtures("_without_plots")
def test_text_that_no_file_can_hold_is_replaced(tmp_path):
    write_report(
        typed(changed(make_card(), "flags.1.evidence", {"name": "half of a pair: \ud800"})), tmp_path / "r.html"
    )
    assert "half of a pair: ?" in parse((tmp_path / "r.html").read_text(encoding="utf-8")).text


def test_an_old_report_survives_what_goes_wrong(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_report(typed(make_card()), path)
    assert [(found.name, found.read_text()) for found in tmp_path.iterdir()] == [("report.html", "old")]


def test_a_card_without_the_optional_parts():
    card = changed(make_card(), "worst_case", None)
    card = changed(changed(card, "checks", None), "commit", None)
    for row in card["attacks"].values():
        for key in ("gap", "forwards", "linf_max", "confidence"):
            del row[key]
    card["attacks"]["pgd20"]["miou"] = None
    page = parse(page_of(card))
    assert len(page.all("svg")) == 2
    assert [tile.all("p", "below")[0].text for tile in page.all("div", "tile")] == ["clean → cospgd20"] * 2
    markdown_of(card)
    nothing = parse(page_of(changed(card, "attacks", {})))
    assert len(nothing.all("svg")) == 1
    assert not nothing.all("div", "tile")


def test_markdown_says_what_the_page_says(page):
    text = markdown_of(make_card())
    (table,) = page.all("table", "scores")
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    for row in table.table()[1:]:
        figures = [cell.split()[0] for cell in row[1:] if cell]
        name = re.split(r" (?=[A-Z]\w*GD|FGSM|no attack|each|one)", row[0])[0]
        line = next(line for line in lines if line.startswith(f"| {name} |"))
        assert re.findall(r"(?<![\d–(.])\d+(?:\.\d+)?(?:/255)?(?=\*\*| )(?! %)(?!–)", line.split("|", 2)[2]) == figures
    for flag in page.all("li", "flag"):
        assert flag.all("p")[1].text.replace("-", "-") in text.replace("\\", "")
    assert "! caution" in text
    assert "## Evidence of the checks" in text
