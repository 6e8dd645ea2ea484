"""What a run may continue: refusals that name the keys, and counting in other batches."""

from __future__ import annotations

import copy

import pytest

import robustseg
from robustseg.resume.continuation import (
    RUN_KEY,
    check_continuation,
    close_epoch,
    deciding_settings,
    noise_since,
    rescale_batches,
    run_record,
)
from robustseg.training import TrainingError
from robustseg.training.module import papers_sgd

FACTS = {
    "seed": 0,
    "ranks": 2,
    "batch_size": 4,
    "accumulate_grad_batches": 1,
    "samples": 40,
    "sample_ids": "0123456789abcdef",
}
CONFIGURATION = {
    "seed_everything": 0,
    "experiment": "a",
    "model": {
        "schedule": "poly",
        "init_weights": None,
        "network": {"class_path": "FCN", "init_args": {"weights": None}},
    },
    "data": {"class_path": "CamVid", "init_args": {"root": "here", "flip": 0.5, "num_workers": 2, "batch_size": 4}},
    "trainer": {"max_epochs": 3, "devices": 2, "precision": "32-true", "accumulate_grad_batches": 1},
    "robustness": {"attacks": {}},
}


def record(facts=FACTS, configuration=CONFIGURATION):
    return {RUN_KEY: run_record(facts, deciding_settings(configuration))}


def changed(mapping, **new):
    result = copy.deepcopy(mapping)
    for path, value in new.items():
        *parents, last = path.split("__")
        place = result
        for parent in parents:
            place = place[parent]
        place[last] = value
    return result


def check(facts=FACTS, configuration=CONFIGURATION, resume="exact", checkpoint=None):
    return check_continuation(checkpoint or record(), facts, deciding_settings(configuration), resume, "last.ckpt")


def test_the_same_run_continues():
    assert check() == []


@pytest.mark.parametrize(
    "other",
    [
        {"data__init_args__root": "there"},
        {"data__init_args__num_workers": 0},
        {"model__init_weights": "standard.ckpt"},
        {"model__network__init_args__weights": "imagenet.pth"},
        {"trainer__devices": 1},
        {"robustness__attacks": {"pgd": 1}},
        {"experiment": "b"},
    ],
)
def test_what_does_not_decide_the_weights_may_change(other):
    assert check(configuration=changed(CONFIGURATION, **other)) == []


@pytest.mark.parametrize(
    ("other", "line"),
    [
        ({"model__schedule": "cosine"}, 'model.schedule: "poly" there, "cosine" here'),
        ({"data__init_args__flip": 0.0}, "data.init_args.flip: 0.5 there, 0.0 here"),
        ({"trainer__max_epochs": 4}, "trainer.max_epochs: 3 there, 4 here"),
        ({"trainer__precision": "bf16-mixed"}, 'trainer.precision: "32-true" there, "bf16-mixed" here'),
        ({"model__network__class_path": "PSPNet"}, 'model.network.class_path: "FCN" there, "PSPNet" here'),
    ],
)
def test_another_configuration_is_refused_with_its_keys_unless_told(other, line):
    other = changed(CONFIGURATION, **other)
    for resume in ("exact", "elastic"):
        with pytest.raises(TrainingError, match=r"last\.ckpt is of a run with other settings") as error:
            check(configuration=other, resume=resume)
        assert line in str(error.value)
        assert ("--resume changed" in str(error.value)) == ("network" not in line)  # other shapes cannot continue
    assert check(configuration=other, resume="changed") == [f"no longer the same run: {line}"]


ATTACKED = changed(CONFIGURATION, model__attack={"class_path": "PGD"})


@pytest.mark.parametrize("noise", [None, {"1": 0}, {"2": 0, "1": 5}])
def test_other_noise_is_said_with_its_step_and_remembered(noise):
    before = record(configuration=ATTACKED) | {"global_step": 12}
    before[RUN_KEY].pop("noise")
    if noise is not None:
        before[RUN_KEY]["noise"] = noise
    (note,) = check(configuration=ATTACKED, checkpoint=before)
    assert "from step 12 on the attacker's noise is of version 2, other numbers" in note
    since = noise_since(before)
    assert since == {**(noise or {"1": 0}), "2": 12}
    after = {RUN_KEY: run_record(FACTS, deciding_settings(ATTACKED), since), "global_step": 20}
    assert check(configuration=ATTACKED, checkpoint=after) == []
    assert noise_since(after) == since


def test_noise_does_not_matter_without_an_attack():
    before = changed(record(configuration=changed(CONFIGURATION, model__attack=None)), global_step=12)
    before[RUN_KEY]["noise"] = {"1": 0}
    assert check(configuration=changed(CONFIGURATION, model__attack=None), checkpoint=before) == []


@pytest.mark.parametrize("noise", [3, [], {}, {"1": "0"}, {"1": True}, None])
def test_noise_that_is_none_is_refused(noise):
    before = record()
    before[RUN_KEY]["noise"] = noise
    with pytest.raises(TrainingError, match=r"last\.ckpt: robustseg_run\.noise is no step by version"):
        check(checkpoint=before)


def test_functions_are_compared_by_name_and_not_by_address():
    """The representation of a function has an address in it, another one in each process."""
    (written,) = deciding_settings({"model": {"optimizer": papers_sgd}})["model"].values()
    assert written == "robustseg.training.module.papers_sgd"


def test_an_attack_s_weights_are_not_the_network_s():
    attack = changed(CONFIGURATION, model__attack={"class_path": "MLAttack", "init_args": {"weights": 1.0}})
    other = changed(attack, model__attack__init_args__weights=50.0)
    with pytest.raises(TrainingError, match=r"model\.attack\.init_args\.weights: 1\.0 there, 50\.0 here"):
        check(configuration=other, checkpoint=record(configuration=attack))


@pytest.mark.parametrize("key", ["limit_train_batches", "val_check_interval"])
def test_numbers_of_batches_are_compared_as_images_where_batches_are_others(key):
    before = changed(CONFIGURATION, **{f"trainer__{key}": 6})
    facts = {**FACTS, "batch_size": 2, "accumulate_grad_batches": 2}
    now = changed(before, trainer__accumulate_grad_batches=2)
    with pytest.raises(TrainingError, match=f'trainer.{key}: "48 images" there, "24 images" here'):
        check(facts, now, "elastic", record(configuration=before))
    now = changed(now, **{f"trainer__{key}": 12})
    assert len(check(facts, now, "elastic", record(configuration=before))) == 1
    before = changed(CONFIGURATION, **{f"trainer__{key}": 0.5})
    now = changed(before, trainer__accumulate_grad_batches=2)
    assert len(check(facts, now, "elastic", record(configuration=before))) == 1


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("seed", 1, "seed: 0 there, 1 here"),
        ("samples", 41, "samples: 40 there, 41 here"),
        ("sample_ids", "f", "sample_ids"),
    ],
)
def test_another_seed_or_other_samples_are_refused(key, value, line):
    with pytest.raises(TrainingError, match=line):
        check(facts={**FACTS, key: value})


@pytest.mark.parametrize(
    "shared",
    [
        {"ranks": 1, "batch_size": 8},
        {"ranks": 1, "accumulate_grad_batches": 2},
        {"ranks": 4, "batch_size": 2},
        {"batch_size": 2, "accumulate_grad_batches": 2},
    ],
)
def test_other_ranks_with_the_same_images_in_an_update_need_elastic(shared):
    facts = {**FACTS, **shared}
    settings = {"trainer__accumulate_grad_batches": facts["accumulate_grad_batches"]}
    configuration = changed(CONFIGURATION, **settings)
    with pytest.raises(TrainingError, match="--resume elastic"):
        check(facts, configuration)
    (note,) = check(facts, configuration, "elastic")
    assert note.startswith("no longer equal to the bit (")
    assert ("BatchNorm" in note) == ("batch_size" in shared)
    assert ("accumulated" in note) == ("accumulate_grad_batches" in shared)


def test_elastic_keeps_the_images_of_an_update():
    facts = {**FACTS, "ranks": 1}
    with pytest.raises(TrainingError, match=r"had 8 images there and has 4 here\.") as error:
        check(facts)
    assert "elastic" not in str(error.value)
    with pytest.raises(TrainingError, match=r"8 images there \(2 processes × 4 × 1 batches\).*is 8\."):
        check(facts, resume="elastic")
    assert "an update had 8 images, now it has 4" in check(facts, resume="changed")[0]


def test_other_files_and_newer_versions_are_refused():
    with pytest.raises(TrainingError, match=r"--model\.init_weights last\.ckpt"):
        check(checkpoint={"state_dict": {}})
    newer = record()
    newer[RUN_KEY]["version"] = "999.0"
    with pytest.raises(TrainingError, match=f"written by robustseg 999.0.*{robustseg.__version__}"):
        check(checkpoint=newer)
    newer = record()
    newer[RUN_KEY]["format"] = 2
    with pytest.raises(TrainingError, match="format 2"):
        check(checkpoint=newer)
    malformed = record()
    malformed[RUN_KEY]["version"] = "not a version"
    with pytest.raises(TrainingError, match="not a version"):
        check(checkpoint=malformed)


def batches(total, current, completed):
    return {
        "total": dict(ready=total, started=total, processed=total, completed=total - (current - completed)),
        "current": dict(ready=current, started=current, processed=current, completed=completed),
        "is_last_batch": False,
    }


@pytest.mark.parametrize(
    ("before", "now", "given", "expected"),
    [
        (1, 2, batches(13, 3, 2), batches(26, 6, 5)),
        (2, 1, batches(26, 6, 5), batches(13, 3, 2)),
        (1, 2, batches(20, 10, 10), batches(40, 20, 20)),
        (3, 3, batches(9, 3, 2), batches(9, 3, 2)),
    ],
)
def test_batches_are_counted_in_those_of_this_run(before, now, given, expected):
    checkpoint = record({**FACTS, "accumulate_grad_batches": before})
    checkpoint["loops"] = {"fit_loop": {"epoch_loop.batch_progress": given}}
    # the same images in an update
    facts = {**FACTS, "accumulate_grad_batches": now, "batch_size": 12 // now}
    checkpoint[RUN_KEY]["facts"]["batch_size"] = 12 // before
    position = rescale_batches(checkpoint, facts)
    assert checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"] == expected
    assert position == (None if before == now else expected["current"]["ready"] * 2 * (12 // now))


@pytest.mark.parametrize(("batch_size", "current"), [(2, 6), (8, 1), (12, 1), (100, 0)])
def test_another_batch_size_goes_on_at_a_whole_update(batch_size, current):
    """Three batches of four images on two ranks: as many whole batches as fit into these images."""
    checkpoint = record()
    checkpoint["loops"] = {"fit_loop": {"epoch_loop.batch_progress": batches(13, 3, 2)}}
    position = rescale_batches(checkpoint, {**FACTS, "batch_size": batch_size})
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
    assert progress == dict(ready=current, started=current, processed=current, completed=max(current - 1, 0))
    assert position == current * 2 * batch_size <= 24


@pytest.mark.parametrize(("ready", "processed", "at_end"), [(2, 2, True), (2, 1, False)])
def test_an_epoch_is_closed_only_at_its_end(ready, processed, at_end):
    counts = dict(ready=ready, started=ready, processed=processed, completed=1)
    checkpoint = {"loops": {"fit_loop": {"epoch_progress": {"total": dict(counts), "current": dict(counts)}}}}
    assert close_epoch(checkpoint) is at_end
    for key in ("total", "current"):
        assert checkpoint["loops"]["fit_loop"]["epoch_progress"][key]["completed"] == (2 if at_end else 1)


def test_settings_that_an_older_version_did_not_have_count_where_they_are_no_defaults():
    attack = {"class_path": "robustseg.attacks.SegPGD", "init_args": {"eps": "8/255", "steps": 3}}
    now = changed(attack, init_args__restarts=1, init_args__stages=[[1.0, 1.0]], init_args__watched=None)
    older = record(configuration=changed(CONFIGURATION, model__attack=attack))
    assert check(checkpoint=older, configuration=changed(CONFIGURATION, model__attack=now)) == []
    other = changed(now, init_args__restarts=2)
    with pytest.raises(TrainingError, match=r"model\.attack\.init_args\.restarts: 1 there, 2 here"):
        check(checkpoint=older, configuration=changed(CONFIGURATION, model__attack=other))
