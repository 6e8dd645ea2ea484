"""Transfer matrices: every figure from a loop over pixels, resumption, and what is refused."""

from __future__ import annotations

import json

import pytest

from robustseg.attacks import BIM, DS, PGD
from robustseg.evaluation import EvaluationError
from robustseg.evaluation.benchmark import Shard, run_benchmark
from robustseg.studies import TransferMatrix, run_transfer
from tests.evaluation.benchmark.tiny import interrupted, measured, quiet_trainer, tiny_benchmark, tiny_data, toy_model
from tests.helpers.tables import texts
from tests.studies.reference import attacked, full_size, scores

ATTACKS = {"fs2": BIM(steps=2), "ds2": DS(steps=2)}
STUDY = TransferMatrix(ATTACKS, [("fs2", "ds2")])
DATA = tiny_data(test_length=4)
MODELS = {name: toy_model(seed) for seed, name in enumerate("abc")}


def benchmarks(names="abc", **changes):
    checkpoints = {name: {"path": f"{name}.ckpt", "sha256": name * 64} for name in MODELS}
    return {
        name: tiny_benchmark(model=MODELS[name], data=DATA, checkpoint=checkpoints[name], **changes) for name in names
    }


def transfer(folder, names="abc", study=STUDY, **changes):
    return run_transfer(quiet_trainer(folder), benchmarks(names, **changes), study, folder)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("transfer")
    return transfer(folder), folder


def test_every_cell_is_the_source_s_images_under_the_target(done):
    result, _ = done
    cells = {(row["attack"], row["source"], row["target"]): row for row in result.rows}
    assert len(cells) == len(result.rows) == 3 + 2 * 9
    for (attack, source, target), row in cells.items():
        answer = full_size(MODELS[target])

        def shown(sample, image, truth, attack=attack, source=source, answer=answer):
            if source is None:
                return answer(image)
            return answer(attacked(MODELS[source], ATTACKS[attack], sample, image, truth))

        expected = scores(DATA, shown, 7)
        assert {key: row[key] for key in expected} == pytest.approx(expected, abs=1e-12)
        assert row["white_box"] == (None if source is None else source == target)
    assert cells["fs2", "a", "b"]["miou"] != cells["fs2", "b", "a"]["miou"]


def test_comparisons_count_pairs_of_different_models(done):
    result, _ = done
    cells = {(row["attack"], row["source"], row["target"]): row for row in result.rows}
    (compared,) = result.extra["comparisons"]
    assert compared["weaker"] == "fs2"
    pairs = [(source, target) for source in "abc" for target in "abc" if source != target]
    assert [(pair["source"], pair["target"]) for pair in compared["by_pair"]] == pairs
    for key in ("miou", "pixel_acc"):
        won = [p for p in pairs if cells["ds2", p[0], p[1]][key] < cells["fs2", p[0], p[1]][key]]
        assert compared[key] == {"stronger": len(won), "pairs": 6}
    # both ways round, since with equal numbers either would do
    turned = TransferMatrix(ATTACKS, [("ds2", "fs2")])
    (other,) = turned.across([*_sources(result, done[1])], DATA.class_names).extra["comparisons"]
    assert compared["miou"]["stronger"] + other["miou"]["stronger"] == 6
    losers = [f"{s} → {t}" for s, t in pairs if not cells["ds2", s, t]["miou"] < cells["fs2", s, t]["miou"]]
    assert all(pair in result.findings[0] for pair in losers)


def _sources(result, folder):
    from robustseg.evaluation.measurements import read_measurements
    from robustseg.evaluation.protocol import claim
    from robustseg.studies.run import target
    from robustseg.studies.transfer import Measured

    everyone = benchmarks()
    answering = [target(name, of.model, of.settings, of.checkpoint) for name, of in everyone.items()]
    for name, of in everyone.items():
        models = [each._replace(key="") if each.name == name else each for each in answering]
        settings = {attack: each.describe() for attack, each in ATTACKS.items()}
        keys = [model.key for model in models]
        found = read_measurements(folder / name, claim(folder / name, of.facts), of.samples, settings, 7, keys)
        yield Measured(name, found, models)


def test_plots_and_tables_show_the_matrix(done):
    result, folder = done
    assert [plot.title for plot in result.plots] == [
        f"{key} of the target under {attack}, %" for key in ("miou", "pixel_acc") for attack in ATTACKS
    ]
    clean, *lines = texts(result.tables[0])
    assert clean[:2] == ["clean", ""]
    assert [line[:2] for line in lines] == [[attack, source] for attack in ATTACKS for source in "abc"]
    row = next(row for row in result.rows if (row["attack"], row["source"], row["target"]) == ("ds2", "b", "c"))
    assert lines[4][4] == f"{100 * row['miou']:.2f}"
    assert f"{100 * row['miou']:.1f}" in result.plots[1].svg
    record = json.loads((folder / "study_transfer.json").read_text())
    assert list(record["models"]) == ["a", "b", "c"]
    assert record["data"]["images"] == 4
    assert record["attacks"]["ds2"]["transform"] == {"class": "DynamicScale", "scale_range": 0.5}


def test_interrupted_transfer_goes_on_and_writes_the_same_bytes(done, tmp_path, monkeypatch):
    whole = done[1]
    with interrupted(monkeypatch, 4):
        transfer(tmp_path)
    done_before = {name: measured(tmp_path / name) for name in "ab"}
    assert done_before["a"]
    transfer(tmp_path)
    for name in "abc":
        assert measured(tmp_path / name) == measured(whole / name)
        assert set(measured(tmp_path / name).values()) == {1}
    for ending in ("json", "md", "svg", "html"):
        assert (tmp_path / f"study_transfer.{ending}").read_bytes() == (whole / f"study_transfer.{ending}").read_bytes()


def test_a_target_that_is_added_is_all_that_is_measured(tmp_path):
    transfer(tmp_path, "ab")
    before = measured(tmp_path / "a")
    result = transfer(tmp_path, "abc")
    added = measured(tmp_path / "a") - before
    assert set(measured(tmp_path / "a").values()) == {1}
    assert len({name for _, name in added}) == 3  # clean and two attacks, shown to c
    assert len(added) == 3 * 4
    assert len(result.rows) == 3 + 18


def test_the_white_box_shares_its_records_with_an_evaluation(tmp_path):
    of = benchmarks("a", attacks={"fs2": ATTACKS["fs2"]})["a"]
    run_benchmark(quiet_trainer(tmp_path / "a"), of, tmp_path / "a")
    transfer(tmp_path, "ab")
    assert set(measured(tmp_path / "a").values()) == {1}


def test_another_checkpoint_under_the_same_name_is_refused(tmp_path):
    transfer(tmp_path, "ab")
    changed = benchmarks("ab")
    changed["b"] = tiny_benchmark(model=toy_model(7), data=DATA, checkpoint={"path": "b.ckpt", "sha256": "d" * 64})
    before = measured(tmp_path / "a")
    with pytest.raises(EvaluationError, match=r"b holds an evaluation of something else \(model.sha256"):
        run_transfer(quiet_trainer(tmp_path), changed, STUDY, tmp_path)
    # what a did to the other checkpoint has a name of its own
    new = {name for _, name in measured(tmp_path / "a") - before}
    assert len(new) == 3
    assert not new & {name for _, name in before}


def test_shards_make_one_matrix(done, tmp_path):
    assert transfer(tmp_path, shard=Shard(1, 2)) is None
    result = transfer(tmp_path, shard=Shard(2, 2))
    assert result.rows == done[0].rows


def test_one_source_alone_is_a_study_too(tmp_path):
    from robustseg.studies import run_study
    from robustseg.studies.run import target

    of = benchmarks("ab")
    other = target("b", of["b"].model, of["b"].settings, of["b"].checkpoint)
    result = run_study(quiet_trainer(tmp_path), of["a"], STUDY, tmp_path, "a", [other])
    assert [(row["source"], row["target"]) for row in result.rows[2:4]] == [("a", "a"), ("a", "b")]


def test_pgd_has_noise_of_its_own_per_sample(tmp_path):
    """The random start of an image is the same whatever model it is made on, and in whatever batch."""
    result = transfer(tmp_path, "ab", TransferMatrix({"pgd1": PGD(steps=1)}))
    row = result.rows[-1]
    expected = scores(DATA, lambda *sample: full_size(MODELS["b"])(attacked(MODELS["b"], PGD(steps=1), *sample)), 7)
    assert row["miou"] == pytest.approx(expected["miou"], abs=1e-12)
