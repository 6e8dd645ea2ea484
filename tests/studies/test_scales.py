"""Scores at several sizes against literal resizing, and the files of a study."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn import functional as F

from robustseg.attacks import BIM
from robustseg.evaluation.report.plots import heat_plot
from robustseg.studies import MultiScaleEvaluation, run_study
from robustseg.studies.output import combined_svg
from tests.evaluation.benchmark.tiny import measured, quiet_trainer, tiny_benchmark, tiny_data
from tests.studies.reference import attacked, full_size, scores

DATA = tiny_data(test_length=4)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scales")
    of = tiny_benchmark(data=DATA)
    study = MultiScaleEvaluation({"<bim> & co": BIM(steps=2)}, [1.0, 0.5], "two-scales")
    return run_study(quiet_trainer(folder), of, study, folder), of, folder


def at(model, image, scale):
    small = F.interpolate(image, scale_factor=scale, mode="bilinear", align_corners=False)
    return F.interpolate(full_size(model)(small), size=image.shape[-2:], mode="bilinear", align_corners=False)


def test_scores_at_each_size(done):
    result, of, folder = done
    rows = {(row["attack"], row["scored_at"]): row for row in result.rows}
    assert list(rows) == [(a, s) for a in ("clean", "<bim> & co") for s in ("50 %", "100 %", "averaged")]
    answers = {
        "50 %": lambda image: at(of.model, image, 0.5),
        "100 %": full_size(of.model),
        "averaged": lambda image: (at(of.model, image, 0.5) + full_size(of.model)(image)) / 2,
    }
    for (attack, size), row in rows.items():
        answer = answers[size]

        def shown(sample, image, target, attack=attack, answer=answer):
            adversarial = image if attack == "clean" else attacked(of.model, BIM(steps=2), sample, image, target)
            return answer(adversarial)

        expected = scores(DATA, shown, 7)
        assert {key: row[key] for key in expected} == pytest.approx(expected, abs=1e-12)
    assert len({row["miou"] for row in rows.values()}) == 6
    # full size is the model itself, under the names of an evaluation
    assert {"clean", "<bim> & co"} < {name for _, name in measured(folder)}


def test_files_hold_the_figures_and_escape_names(done):
    result, _, folder = done
    record = json.loads((folder / "study_two-scales.json").read_text())
    assert record["rows"] == json.loads(json.dumps(result.rows))
    assert record["study"] == "MultiScaleEvaluation"
    page, text = (folder / "study_two-scales.html").read_text(), (folder / "study_two-scales.md").read_text()
    figure = f"{100 * result.rows[4]['miou']:.2f}"
    assert figure in page
    assert figure in text
    assert "<bim>" not in page + text
    assert "&lt;bim&gt; &amp; co" in page
    assert "http" not in page.replace("http-equiv", "")
    svg = (folder / "study_two-scales.svg").read_text()
    assert svg.count("<svg") == 1 + len(result.plots)
    assert all(plot.title in svg for plot in result.plots)


def test_another_run_writes_the_same_bytes(done, tmp_path):
    _, _, folder = done
    study = MultiScaleEvaluation({"<bim> & co": BIM(steps=2)}, [1.0, 0.5], "two-scales")
    run_study(quiet_trainer(tmp_path), tiny_benchmark(data=DATA), study, tmp_path)
    for path in folder.glob("study_*"):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_heat_maps_write_every_cell():
    values = [[53.04, None], [0.0, 7.26]]
    plot = heat_plot("name", "title", ["a", "b"], ["c", "d"], values, ("rows", "columns"), 53.04, [(1, 0)])
    texts = torch.tensor([plot.svg.count(text) for text in (">53.0<", ">0.0<", ">7.3<", ">–<", ">rows<", ">c<")])
    assert bool((texts >= 1).all())
    again = heat_plot("name", "title", ["a", "b"], ["c", "d"], values, ("rows", "columns"), 53.04, [(1, 0)])
    assert again == plot
    # the lower the darker: the lowest has the darkest colour, 0x17375e
    assert "#17375e" in plot.svg
    assert combined_svg([plot, plot, plot]).count("<svg") == 4
