"""Rows, tables and plots of the study, each figure from loops over images and pixels."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from robustseg.attacks import Targeted
from robustseg.detectors import OnPatches, ScaleConsistency, SpatialConsistency, ThroughBlur
from robustseg.evaluation.report.wording import NOTHING
from tests.evaluation.benchmark.tiny import measured, tiny_benchmark
from tests.helpers.tables import texts
from tests.studies.detection.tiny import (
    ATTACKS,
    CLASSES,
    DATA,
    MAPS,
    MODELS,
    answer_of,
    detection,
    scenes,
    study_of,
    transfer_of,
)
from tests.studies.reference import attacked, images_of, scores

DETECTORS = {
    "scale, σ = 1": (ScaleConsistency(1.0), "scale"),
    "spatial, K = 1": (SpatialConsistency(12, 1, (2, 4)), "spatial"),
    "spatial, K = 2": (SpatialConsistency(12, 2, (2, 4)), "spatial"),
    "spatial, K = 2, 8–12 px": (SpatialConsistency((8, 12), 2, (2, 4)), "spatial"),
}
DAG, PURE = ATTACKS["dag"], MAPS["pure"]
PLAIN = {(f"{a}_{m}", "plain", 0): Targeted(ATTACKS[a], MAPS[m]) for a in ATTACKS for m in MAPS}
ADAPTIVE = {
    ("dag_pure", "blurred", 1.0): Targeted(ThroughBlur(DAG, 1.0), PURE),
    ("dag_pure", "both", 1.0): Targeted(ThroughBlur(DAG, 1.0, whole=True), PURE),
    ("dag_pure", "patches", 1): Targeted(OnPatches(DAG, 12, 1), PURE),
    ("dag_pure", "redrawn", 2): Targeted(OnPatches(DAG, 12, 2, redraw=True), PURE),
}
AGAINST = {"scale": ("plain", "blurred", "both"), "spatial": ("plain", "patches", "redrawn")}
STUDY = detection(
    random_patch_size=(8, 12), redrawn_k=[2], transfer=["dag_pure", "pgd_strip"], detected_on=["a"], name="found"
)
MODEL = MODELS["a"]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("detection")
    return transfer_of(folder, STUDY), folder


@pytest.fixture(scope="module")
def shown():
    """Adversarial images of model a, one by one, by (combination, adversary, level)."""
    every = PLAIN | ADAPTIVE
    return {key: [attacked(MODEL, attack, *each) for each in images_of(DATA)] for key, attack in every.items()}


def scored(detector, images):
    samples = [sample for sample, _, _ in images_of(DATA)]
    return [float(detector.scores(MODEL, image, [id])) for id, image in zip(samples, images, strict=True)]


def literal_auc(benign, adversarial):
    pairs = [(b, a) for b in benign for a in adversarial]
    return sum(1.0 if a < b else 0.5 if a == b else 0.0 for b, a in pairs) / len(pairs)


def test_auc_and_mean_scores(done, shown):
    rows = {(r["detector"], r["combination"], r["adversary"], r["level"]): r for r in done[0].rows}
    expected = {(name, *key) for name, (_, family) in DETECTORS.items() for key in shown if key[1] in AGAINST[family]}
    assert set(rows) == expected
    assert len(rows) == len(done[0].rows)
    clean = [image for _, image, _ in images_of(DATA)]
    for (name, *key), row in rows.items():
        detector, _ = DETECTORS[name]
        benign, adversarial = scored(detector, clean), scored(detector, shown[tuple(key)])
        assert row["auc"] == pytest.approx(literal_auc(benign, adversarial), abs=1e-12)
        assert row["benign"] == pytest.approx(sum(benign) / 3, abs=1e-12)
        assert row["adversarial"] == pytest.approx(sum(adversarial) / 3, abs=1e-12)
        assert (row["model"], row["images"], row["error"]) == ("a", 3, None)
        assert row["detector_level"] == (1.0 if name.startswith("scale") else 1 if name == "spatial, K = 1" else 2)
    assert len({row["auc"] for row in rows.values()}) > 3


def share_of_target(images_adv, wanted, target, model=MODEL, blur=None):
    found, answer = [], answer_of(model)
    for image, aim, true in zip(images_adv, wanted, target, strict=True):
        predicted = answer(image if blur is None else blur(image)).argmax(1)
        counted = [
            int(p) == int(w)
            for p, w, t in zip(predicted.flatten(), aim.flatten(), true.flatten(), strict=True)
            if int(t) != 255 and int(w) != int(t)
        ]
        found.append(sum(counted) / len(counted))
    return sum(found) / len(found)


def test_what_the_attacks_did(done, shown):
    rows = {(r["combination"], r["adversary"], r["level"]): r for r in done[0].extra["attacks_did"]}
    assert set(rows) == set(shown)
    truth = [target for _, _, target in images_of(DATA)]
    clean = [image for _, image, _ in images_of(DATA)]
    for key, row in rows.items():
        images_adv, wanted = shown[key], [(PLAIN | ADAPTIVE)[key].wanted(target) for target in truth]
        assert row["target_success"] == pytest.approx(share_of_target(images_adv, wanted, truth), abs=1e-12)
        behind = None
        if key[1] in ("blurred", "both"):
            behind = pytest.approx(share_of_target(images_adv, wanted, truth, blur=ScaleConsistency(1.0).blur), 1e-12)
        assert row["target_success_blurred"] == behind
        far = [math.sqrt(float((a - b).double().pow(2).mean())) for a, b in zip(images_adv, clean, strict=True)]
        assert row["rms"] == pytest.approx(sum(far) / 3, rel=1e-5)
        places = {sample: image for (sample, _, _), image in zip(images_of(DATA), images_adv, strict=True)}
        answer = answer_of(MODEL)
        expected = scores(DATA, lambda s, i, t, answer=answer, places=places: answer(places[s]), CLASSES)
        assert {name: row[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert rows["pgd_pure", "plain", 0]["forwards"] == 2
    assert rows["dag_pure", "both", 1.0]["forwards"] > rows["dag_pure", "blurred", 1.0]["forwards"]


def literal_target_miou(images_adv, wanted, truth, model):
    """Over the classes that the targets show, of the counts of all images."""
    right, aimed, seen = ([0] * CLASSES for _ in range(3))
    for image, aim, true in zip(images_adv, wanted, truth, strict=True):
        predicted = answer_of(model)(image).argmax(1)
        for p, w, t in zip(*(each.flatten().tolist() for each in (predicted, aim, true)), strict=True):
            if t != 255 and w != t:
                right[w] += p == w
                aimed[w] += 1
                seen[p] += 1
    values = [right[c] / (aimed[c] + seen[c] - right[c]) for c in range(CLASSES) if aimed[c]]
    assert any(seen[c] for c in range(CLASSES) if not aimed[c])
    return sum(values) / len(values)


def test_every_cell_of_the_transfer_matrix(done):
    cells = {(r["combination"], r["source"], r["target"]): r for r in done[0].extra["transfer"]}
    assert set(cells) == {(c, s, t) for c in ("dag_pure", "pgd_strip") for s in "ab" for t in "ab"}
    truth = [target for _, _, target in images_of(DATA)]
    for (combination, source, target), row in cells.items():
        attack = PLAIN[combination, "plain", 0]
        images_adv = [attacked(MODELS[source], attack, *each) for each in images_of(DATA)]
        wanted = [attack.wanted(each) for each in truth]
        success = share_of_target(images_adv, wanted, truth, MODELS[target])
        assert row["target_success"] == pytest.approx(success, abs=1e-12)
        miou = literal_target_miou(images_adv, wanted, truth, MODELS[target])
        assert row["target_miou"] == pytest.approx(miou, abs=1e-12)
        assert (row["white_box"], row["error"]) == (source == target, None)
    assert cells["dag_pure", "a", "b"]["target_miou"] != cells["dag_pure", "b", "a"]["target_miou"]


def test_curves_go_from_the_clean_images_to_the_results(done, shown):
    rows = {(r["combination"], r["adversary"], r["level"], r["step"]): r for r in done[0].extra["curves"]}
    keys = [key for key in shown if key[1] in AGAINST["spatial"]]
    assert {key[:3] for key in rows} == set(keys)
    clean = sum(scored(DETECTORS["spatial, K = 2"][0], [image for _, image, _ in images_of(DATA)])) / 3
    for key in keys:
        assert [step for *_, step in (k for k in rows if k[:3] == key)] == [1, 3, 12]
        if key[0].startswith("dag"):
            assert rows[(*key, 1)]["consistency"] == pytest.approx(clean, abs=1e-12)
    last = sum(scored(DETECTORS["spatial, K = 2"][0], shown["pgd_pure", "plain", 0])) / 3
    assert rows["pgd_pure", "plain", 0, 12]["consistency"] == pytest.approx(last, abs=1e-12)


def test_a_model_without_detectors_is_attacked_for_transfer_only(done):
    result, folder = done
    assert {row["model"] for row in result.rows} == {"a"}
    names = {name for _, name in measured(folder / "b")}
    attacks = {name.split(" on ")[0].split(" seen by ")[0] for name in names}
    assert attacks == {"clean", "dag_pure", "pgd_strip"}
    views = {name.split(" seen by ")[1] for name in names if " seen by " in name}
    assert len(views) == 2
    assert all(view.startswith("target") for view in views)


def test_tables_show_the_rows(done):
    result, folder = done
    tables = {table.title: table for table in result.tables}
    cells = {(r["detector"], r["combination"], r["adversary"], r["level"]): r["auc"] for r in result.rows}
    own, beyond = tables["AUC, %"], tables["AUC under attacks beyond the paper's, %"]
    combinations = list(dict.fromkeys(key[0] for key in PLAIN))
    assert own.headings == ["model", "detector", *combinations, "dag_pure, adaptive"]
    assert beyond.headings == ["model", "detector", "dag_pure, adaptive"]
    lines = {row[1]: row[2:] for row in texts(own)}
    assert list(lines) == list(DETECTORS)
    adaptive = {"scale, σ = 1": ("blurred", 1.0), "spatial, K = 1": ("patches", 1)}
    for name, line in lines.items():
        written = [f"{100 * cells[name, combination, 'plain', 0]:.2f}" for combination in combinations]
        # nothing attacked two patches drawn once
        last = f"{100 * cells[(name, 'dag_pure', *adaptive[name])]:.2f}" if name in adaptive else NOTHING
        assert line == [*written, last]
    beyond_lines = {row[1]: row[2] for row in texts(beyond)}
    assert beyond_lines == {
        "scale, σ = 1": f"{100 * cells['scale, σ = 1', 'dag_pure', 'both', 1.0]:.2f}",
        "spatial, K = 2": f"{100 * cells['spatial, K = 2', 'dag_pure', 'redrawn', 2]:.2f}",
        "spatial, K = 2, 8–12 px": f"{100 * cells['spatial, K = 2, 8–12 px', 'dag_pure', 'redrawn', 2]:.2f}",
    }
    transfer = {(r["combination"], r["source"], r["target"]): r for r in result.extra["transfer"]}
    (found,) = (table for title, table in tables.items() if title.startswith("Transfer of pgd_strip"))
    cell = transfer["pgd_strip", "b", "a"]
    assert found.headings == ["made on", "a", "b"]
    assert texts(found)[1][:2] == ["b", f"{100 * cell['target_miou']:.2f} / {100 * cell['target_success']:.2f}"]
    page = (folder / "study_found.html").read_text(encoding="utf-8")
    assert all(title.replace("'", "&#39;") in page for title in tables)
    record = json.loads((folder / "study_found.json").read_text(encoding="utf-8"))
    assert record["rows"] == result.rows
    assert record["transfer"] == result.extra["transfer"]
    assert list(record["models"]) == ["a", "b"]


def test_plots_are_the_papers_figures(done):
    titles = [plot.title for plot in done[0].plots]
    assert titles == [
        "AUC of spatial consistency under dag_pure, %",
        "AUC of scale consistency under dag_pure, %",
        "miou of overlaps under plain attacks",
        "miou of overlaps under dag_pure",
        "self-entropy of the pixels",
        *(f"{what} of the target map, {c}, %" for what in ("normalised miou", "pixel success rate")
          for c in ("dag_pure", "pgd_strip")),
    ]  # fmt: skip
    assert len({plot.name for plot in done[0].plots}) == len(titles)
    cells = {(r["detector"], r["combination"], r["adversary"], r["level"]): r["auc"] for r in done[0].rows}
    spatial, entropy = done[0].plots[0].svg, done[0].plots[4]
    assert all(f"{100 * auc:.1f}" in spatial for key, auc in cells.items() if key[:2] == ("spatial, K = 1", "dag_pure"))
    assert all(text in spatial for text in ("plain", "K 1", "new K 2"))
    assert entropy.wide
    assert entropy.svg.count("<image") >= 2 * (2 + len(PLAIN))


def test_images_that_an_attack_has_nothing_to_do_on_take_no_part(tmp_path):
    """The first image is ignored as a whole, the second shows what is wanted."""
    only = detection({"pgd": ATTACKS["pgd"]}, {"pure": PURE}, adaptive=[])
    found = study_of(tmp_path / "all", only)
    assert {row["images"] for row in found.rows} == {3}
    data = scenes()
    dataset = data.dataset("test")
    read = dataset.read

    def some(index):
        image, target = read(index)
        return image, target if index == 2 else np.full_like(target, 2 if index else 255)

    dataset.read = some
    of = tiny_benchmark(model=MODELS["a"], data=data, attacks={})
    result = study_of(tmp_path / "some", only, of)
    assert {row["images"] for row in result.rows} == {1}
    assert all(row["auc"] in (0.0, 0.5, 1.0) for row in result.rows)
    assert all(row["consistency"] is not None for row in result.extra["curves"])
