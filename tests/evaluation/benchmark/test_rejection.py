"""Detectors in front of the model: what is fitted, what is counted, and what is not measured again."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
import torch

from robustseg.attacks import FGSM, PGD, PureClass, Targeted
from robustseg.data import DataError, collate
from robustseg.detectors import OnPatches, ScaleConsistency, SpatialConsistency, Threshold
from robustseg.evaluation import EvaluationError
from robustseg.evaluation.attack_stage import AttackStage
from robustseg.evaluation.benchmark import Shard, merge, module, run
from robustseg.evaluation.benchmark import thresholds as rejection
from robustseg.evaluation.rejection import rejection_scores
from robustseg.evaluation.store import RECORDS
from robustseg.metrics import class_counts, confusion_matrix
from tests.evaluation.benchmark.test_run import WithoutGradient, card_bytes, contents
from tests.evaluation.benchmark.tiny import (
    IMAGES,
    card_of,
    measure,
    measured,
    tiny_benchmark,
    tiny_data,
    toy_model,
    without_report,
)
from tests.helpers.cases import partly

ATTACKS = {"fgsm": FGSM(), "pgd2": PGD(steps=2)}
BENIGN = 10
RATE = 0.2


class Counting(ScaleConsistency):
    """Counts the images that it scores, without the adversarial ones and the clean ones of the test split."""

    benign = 0

    def describe(self):
        return {**super().describe(), "detector": "ScaleConsistency"}

    def scores(self, model, images, ids, **more):
        self.benign += sum(name.startswith("train") for name in ids)
        return super().scores(model, images, ids, **more)


def detectors():
    return {"spatial": SpatialConsistency(16, 3, (2, 6)), "scale": Counting(1.0)}


@pytest.fixture(autouse=True)
def lean(monkeypatch):
    """Without the report, which takes most of the time and is tested elsewhere."""
    without_report(monkeypatch)


def benchmark(**changes):
    settings = {"attacks": ATTACKS, "threshold_images": BENIGN, "false_positive_rate": RATE, "detectors": detectors()}
    return tiny_benchmark(**(settings | changes))


def evaluate(folder: Path, **changes):
    return measure(benchmark(**changes), folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of one process that measured everything."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        without_report(patch)
        evaluate(folder)
    return folder


def scored(detector, samples):
    """In the batches of the evaluation."""
    model, found = toy_model(), []
    for start in range(0, len(samples), 3):
        batch = collate(samples[start : start + 3])
        found.append(detector.scores(model, batch.images, batch.ids))
    return torch.cat(found)


def benign_samples(count=BENIGN, length=512):
    """Training images as the model would see them, from a module that does not augment."""
    dataset = tiny_data(augment=False).dataset("train")
    return [dataset[(2 * k + 1) * length // (2 * count)] for k in range(count)]


@pytest.mark.parametrize("name", ["spatial", "scale"])
def test_the_card_holds_what_follows_from_scores_and_threshold(whole, name):
    detector, found = detectors()[name], card_of(whole)["detectors"][name]
    threshold = Threshold.fit(detector, scored(detector, benign_samples()), RATE)
    assert found["threshold"] == {"value": threshold.value, "false_positive_rate": RATE, "images": BENIGN}
    assert found["settings"] == detector.describe()
    dataset, model = tiny_data().dataset("test"), toy_model()
    samples = [dataset[index] for index in range(IMAGES)]
    clean = scored(detector, samples)
    adversarial = [FGSM()(model, s.image[None], s.target[None])[0] for s in samples]
    # One by one: an image's perturbation does not depend on its batch.
    changed = [sample._replace(image=image) for sample, image in zip(samples, adversarial, strict=True)]
    attacked = scored(detector, changed)
    targets = torch.stack([sample.target for sample in samples])
    for row, shown, seen, is_attack in (
        (found["clean"], samples, clean, False),
        (found["attacks"]["fgsm"], changed, attacked, True),
    ):
        with torch.no_grad():
            predictions = torch.cat([model(sample.image[None]).argmax(1) for sample in shown])
        counts = class_counts(confusion_matrix(predictions, targets, 7))
        expected = rejection_scores(counts, seen < threshold.value, adversarial=is_attack)
        assert {key: row[key] for key in expected} == expected
        assert row["error"] is None
    pairs = [(a < c) + 0.5 * (a == c) for a in attacked.tolist() for c in clean.tolist()]
    assert found["attacks"]["fgsm"]["auc"] == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)
    assert "auc" not in found["clean"]
    assert 0 < found["attacks"]["fgsm"]["rejected"] <= 1


def test_a_threshold_can_be_taken_from_the_folder(whole):
    loaded = Threshold.load(whole / "threshold_spatial.json", detectors()["spatial"])
    assert loaded.value == card_of(whole)["detectors"]["spatial"]["threshold"]["value"]
    assert loaded.images == BENIGN


def test_training_images_are_neither_augmented_nor_cropped_for_it_nor_is_training_changed():
    dataset = tiny_data().dataset("train")
    plain = dataset.as_deployed()
    expected = benign_samples(count=4)
    places = [(2 * k + 1) * 512 // 8 for k in range(4)]
    assert [plain[place].id for place in places] == [sample.id for sample in expected]
    assert all(torch.equal(plain[p].image, sample.image) for p, sample in zip(places, expected, strict=True))
    assert dataset.augment is not None
    assert not torch.equal(dataset[places[0]].image, expected[0].image)


def test_scores_of_attacks_are_those_without_detectors(whole, tmp_path):
    plain = evaluate(tmp_path / "out", detectors={})
    card = card_of(whole)
    assert "detectors" not in plain
    assert list(card) == [*plain, "detectors"]
    assert {key: card[key] for key in plain} == card_of(tmp_path / "out")
    # Left out again, the folder with the detectors' records gives the same card.
    shutil.copytree(whole, tmp_path / "without")
    evaluate(tmp_path / "without", detectors={})
    assert card_bytes(tmp_path / "without") == card_bytes(tmp_path / "out")


def test_a_detector_that_comes_later_has_the_attacks_run_again_and_nothing_scored_twice(whole, tmp_path):
    evaluate(tmp_path / "out", detectors={})
    before = contents(tmp_path / "out" / RECORDS)
    assert evaluate(tmp_path / "out")["detectors"] == card_of(whole)["detectors"]
    after = contents(tmp_path / "out" / RECORDS)
    assert {name: after[name] for name in before} == before
    assert measured(tmp_path / "out") == measured(whole)
    assert set(measured(whole).values()) == {1}


def test_an_evaluation_that_is_complete_scores_nothing_and_writes_the_same(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "copy")
    before, detector = contents(tmp_path / "copy"), Counting(1.0)
    evaluate(tmp_path / "copy", detectors=detectors() | {"scale": detector})
    assert contents(tmp_path / "copy") == before
    assert detector.benign == 0


def test_another_rate_is_a_matter_of_the_same_scores_and_more_images_of_the_new_ones(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "copy")
    detector = Counting(1.0)
    strict = evaluate(tmp_path / "copy", detectors=detectors() | {"scale": detector}, false_positive_rate=0.0)
    assert detector.benign == 0
    lowest = scored(ScaleConsistency(1.0), benign_samples()).min()
    assert strict["detectors"]["scale"]["threshold"]["value"] == float(lowest)
    assert (
        strict["detectors"]["scale"]["clean"]["rejected"] <= card_of(whole)["detectors"]["scale"]["clean"]["rejected"]
    )
    card = evaluate(tmp_path / "copy", detectors={"scale": detector}, data=tiny_data(train_length=7))
    assert detector.benign == 7
    assert card["detectors"]["scale"]["threshold"]["images"] == 7
    everything = benchmark(threshold_images=None, data=tiny_data(train_length=7))
    assert everything.benign_indices == list(range(7))


def test_patches_depend_on_the_seed_of_the_evaluation(tmp_path):
    batch, found = collate(benign_samples(3)), []
    for seed in (0, 1):
        of = benchmark(seed=seed, threshold_images=3)
        spatial = of.detectors["spatial"]
        found.append(rejection._benign_scores(of, spatial, tmp_path, torch.device("cpu"), AttackStage({})))
        assert torch.equal(found[-1], spatial.scores(of.model, batch.images, batch.ids, seed=seed))
    assert not torch.equal(*found)
    assert len(list(tmp_path.glob("benign-*.json"))) == 2


def test_an_image_that_changed_is_scored_again(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "copy")
    detector, data = Counting(1.0), tiny_data()
    dataset = data.dataset("train")
    arrays, first = dataset.arrays, 512 // (2 * BENIGN)
    dataset.arrays = lambda index: arrays(index) if index != first else (255 - arrays(index)[0], arrays(index)[1])
    evaluate(tmp_path / "copy", detectors={"scale": detector}, data=data)
    # With its batch, as in an evaluation from nothing.
    assert detector.benign == 3


@pytest.mark.parametrize(
    "content",
    partly(
        ["{", '{"scores": {"a": "b"}}', "", "[]", '{"scores": {}}'], lambda text: "{" in text[:1] and "{}" not in text
    ),
)
def test_a_damaged_file_of_scores_is_made_again(whole, tmp_path, content):
    shutil.copytree(whole, tmp_path / "copy")
    for path in (tmp_path / "copy").glob("benign-*.json"):
        path.write_text(content)
    evaluate(tmp_path / "copy")
    assert contents(tmp_path / "copy") == contents(whole)


@pytest.mark.parametrize("number", partly([1, 4, 6, 8], (4, 6).__contains__))
def test_an_interrupted_fit_goes_on_after_the_last_batch(whole, tmp_path, monkeypatch, number):
    write, left = rejection.write_json, [number]

    def interrupted(record, path, **options):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        write(record, path, **options)

    shutil.copytree(whole / RECORDS, tmp_path / "out" / RECORDS)
    shutil.copy(whole / "protocol.json", tmp_path / "out")
    monkeypatch.setattr(rejection, "write_json", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path / "out")
    monkeypatch.setattr(rejection, "write_json", write)
    detector = Counting(1.0)
    evaluate(tmp_path / "out", detectors=detectors() | {"scale": detector})
    assert card_bytes(tmp_path / "out") == card_bytes(whole)
    # Of the eight writes the last four are scale's; its batches are 3, 3, 3 and 1 images.
    assert detector.benign == BENIGN - 3 * max(0, number - 5)


def test_an_evaluation_that_is_interrupted_between_batches_ends_with_the_same_card(whole, tmp_path, monkeypatch):
    update, left = module.Evaluator.update, [2]

    def interrupted(self, *arguments):
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("power cut")
        return update(self, *arguments)

    monkeypatch.setattr(module.Evaluator, "update", interrupted)
    with pytest.raises(RuntimeError, match="power cut"):
        evaluate(tmp_path / "out")
    assert sum(measured(tmp_path / "out").values()) == 2 * 3 * 3 * (1 + len(ATTACKS))
    monkeypatch.setattr(module.Evaluator, "update", update)
    evaluate(tmp_path / "out")
    assert card_bytes(tmp_path / "out") == card_bytes(whole)
    assert measured(tmp_path / "out") == measured(whole)


def test_shards_in_one_folder_and_merged_give_the_card_of_one_process(whole, tmp_path):
    assert evaluate(tmp_path / "out", shard=Shard(2, 2)) is None
    assert not list((tmp_path / "out").glob("benign-*"))
    evaluate(tmp_path / "out", shard=Shard(1, 2))
    assert card_bytes(tmp_path / "out") == card_bytes(whole)
    folders = [tmp_path / f"s{number}" for number in (1, 2)]
    for number, folder in enumerate(folders, 1):
        assert evaluate(folder, shard=Shard(number, 2)) is None
    merge(tmp_path / "merged", folders)
    evaluate(tmp_path / "merged")
    assert card_bytes(tmp_path / "merged") == card_bytes(whole)
    assert measured(tmp_path / "merged") == measured(whole)


def test_scores_of_benign_images_are_merged_too(whole, tmp_path):
    merge(tmp_path / "merged", [whole])
    detector = Counting(1.0)
    evaluate(tmp_path / "merged", detectors=detectors() | {"scale": detector})
    assert detector.benign == 0
    assert card_bytes(tmp_path / "merged") == card_bytes(whole)


def test_other_settings_under_the_same_name_are_refused(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(
        EvaluationError, match=r"view scale with other settings \(sigma: 1.0 there, 2.0 here\)"
    ) as caught:
        evaluate(tmp_path / "out", detectors={"scale": ScaleConsistency(2.0)})
    assert "another name" in str(caught.value)
    assert contents(tmp_path / "out") == before


def test_a_benign_set_of_one_score_is_one_message_and_everything_measured_is_kept(tmp_path):
    model = toy_model()
    with torch.no_grad():
        model.network.head.weight.zero_()
    with pytest.raises(EvaluationError, match=r"^robustness\.detectors\.scale: .* all 10 benign images") as caught:
        evaluate(tmp_path / "out", model=model, detectors={"scale": ScaleConsistency(1.0)})
    assert "All records are kept" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sum(measured(tmp_path / "out").values()) == 2 * IMAGES * (1 + len(ATTACKS))
    assert not (tmp_path / "out" / "card.json").exists()
    evaluate(tmp_path / "out", model=model, detectors={})
    assert card_of(tmp_path / "out")["clean"]["images"] == IMAGES


class NoTraining(type(tiny_data())):
    """A data set whose training split cannot be opened, or is empty."""

    empty = False

    def make_dataset(self, split):
        if split == "train" and not self.empty:
            raise DataError("data/toys/train: no such folder: name the right one.")
        dataset = super().make_dataset(split)
        if split == "train":
            dataset.length = 0
        return dataset


@pytest.mark.parametrize(("empty", "said"), [(False, "no such folder"), (True, "has no images")])
def test_without_a_training_split_nothing_is_started(tmp_path, empty, said):
    data = NoTraining(image_size=(32, 32), test_length=IMAGES)
    data.empty = empty
    with pytest.raises(EvaluationError, match=rf"robustness\.detectors: .*training split.*leave .* out.*{said}"):
        evaluate(tmp_path / "out", data=data)
    assert not (tmp_path / "out").exists()
    assert benchmark(data=data, detectors={}).samples


@pytest.mark.parametrize(
    ("detector", "message"),
    [
        (SpatialConsistency(33, 2, (2, 4)), r"detectors\.one, image .*: patch_size = 33 is larger than the images of"),
        (ScaleConsistency(20.0), r"detectors\.one, image .*: sigma = 20 reaches 80 pixels far"),
    ],
)
def test_images_that_a_detector_cannot_score_are_refused_at_once(tmp_path, detector, message):
    with pytest.raises(EvaluationError, match=message):
        evaluate(tmp_path / "out", detectors={"one": detector})
    assert not (tmp_path / "out").exists()


def test_a_benign_image_that_cannot_be_read_is_one_message(tmp_path):
    data = tiny_data()
    dataset = data.dataset("train")

    def broken(index):
        raise DataError(f"train-{index}: cannot be read.")

    dataset.arrays = broken
    with pytest.raises(EvaluationError, match=r"detectors\.spatial: .*train-25: cannot be read.*All records are kept"):
        evaluate(tmp_path / "out", data=data)
    assert evaluate(tmp_path / "out")["detectors"]


def test_an_attack_that_cannot_run_has_no_figures_before_a_detector(tmp_path):
    model = toy_model()
    model.network = WithoutGradient(model.network)
    card = evaluate(tmp_path / "out", model=model)
    assert set(card["detectors"]["scale"]["attacks"]["pgd2"]) == {"error"}
    assert "autograd" in card["detectors"]["scale"]["attacks"]["pgd2"]["error"]
    assert card["detectors"]["scale"]["clean"]["error"] is None


def test_adaptive_attacks_are_measured_beside(tmp_path):
    attack = Targeted(OnPatches(PGD(steps=1, targeted=True), patch_size=16, k=2), PureClass(1))
    card = evaluate(tmp_path / "out", attacks={"adaptive": attack})
    assert card["detectors"]["spatial"]["attacks"]["adaptive"]["error"] is None
    assert card["attacks"]["adaptive"]["settings"]["inner"]["attack"] == "OnPatches"


def test_names_need_not_be_names_of_files_and_views_keep_theirs(tmp_path, capsys):
    evaluate(tmp_path / "out", detectors={"a/b ..": ScaleConsistency(1.0)}, attacks={"a[/b]": FGSM()})
    assert capsys.readouterr().out.count("a[/b]") == 2
    assert "\na[/b]," in (tmp_path / "out" / "scores.csv").read_text()
    assert (tmp_path / "out" / "threshold_a%2Fb%20...json").exists()
    of = benchmark()
    assert list(of.every_view) == ["spatial", "scale"]
    with pytest.raises(EvaluationError, match="both called 'far'"):
        benchmark(detectors={"far": ScaleConsistency(1.0)}, views={"far": of.detector_views["scale"]})


@pytest.mark.parametrize("file", ["benign-", "threshold_spatial"])
def test_a_full_disk_is_one_message(whole, tmp_path, monkeypatch, file):
    shutil.copytree(whole / RECORDS, tmp_path / "out" / RECORDS)
    shutil.copy(whole / "protocol.json", tmp_path / "out")

    def full(old, new):
        if str(new).rpartition("/")[2].startswith(file):
            raise OSError(28, "No space left on device")
        rename(old, new)

    rename, of = os.replace, benchmark()
    taken = run.read_measurements(tmp_path / "out", run.claim(tmp_path / "out", of.facts), of.samples,
                                  of.attack_settings, 7, views=of.detector_views)  # fmt: skip
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(EvaluationError, match=rf"{re.escape(file)}.*No space left.*make room"):
        rejection.detectors_of(of, taken, tmp_path / "out", torch.device("cpu"), AttackStage({}))
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]
