"""Settings that cannot work are refused before anything is trained or written, with their key and the remedy."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from robustseg.attacks import FGSM
from robustseg.callbacks import RobustnessEvaluation
from robustseg.cli.main import main
from robustseg.config.limits import RULES
from robustseg.evaluation import Evaluator, MemorySink
from robustseg.resume.callback import ResumeCheckpoint
from robustseg.training import RobustSegmentation
from tests.helpers.nets import ToyNetwork
from tests.helpers.paths import CONF

SGD = ["--model.optimizer", "SGD", "--model.optimizer.lr"]


def train(root: Path, *options: str) -> int:
    return main(["train", "--config", str(CONF / "tiny.yaml"), "--trainer.default_root_dir", str(root), *options])


def error(root: Path, options: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The message that a training is refused with, before it writes anything."""
    try:
        status = train(root, *options)
    except SystemExit as end:
        status = end.code
    assert status in (1, 2)
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert not root.exists()
    (line,) = [line for line in err.splitlines() if line.startswith("robustseg: error:")]
    return line


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--config", "robustness: {attacks: {1: {class_path: FGSM}}}"], ["an attack is called 1", "quotes"]),
        (["--config", "robustness: {attacks: {true: {class_path: FGSM}}}"], ["an attack is called True", "bool"]),
        (["--config", "robustness: {attacks: {null: {class_path: FGSM}}}"], ["an attack is called None"]),
        (["--config", "robustness: {attacks: {'': {class_path: FGSM}}}"], ["the name of an attack is empty"]),
        (["--config", "robustness: {attacks: {clean: {class_path: FGSM}}}"], ["cannot be called 'clean'"]),
        (
            ["--config", "robustness: {detectors: {2.5: {class_path: ScaleConsistency}}}"],
            ["a detector is called 2.5", "quotes"],
        ),
        (["--config", "plan: 8h"], ["plan = 8h in a file, which cannot set it", "--plan"]),
        (["--config", "allow_import: [package]"], ["allow_import = ['package']", "--allow_import"]),
        (["--config", "quiet: true"], ["quiet = true", "--quiet"]),
        (["--trainer.max_epochs", "0"], ["trainer.max_epochs = 0", "1 epoch"]),
        (["--trainer.max_epochs", "-2"], ["trainer.max_epochs = -2"]),
        (["--trainer.max_epochs", "-1"], ["trainer.max_epochs = -1", "trainer.max_steps"]),
        (["--trainer.max_steps", "0"], ["trainer.max_steps = 0", "-1"]),
        (["--trainer.min_epochs", "5"], ["trainer.min_epochs = 5", "trainer.max_epochs = 2"]),
        (["--trainer.limit_train_batches", "0"], ["trainer.limit_train_batches = 0", "null"]),
        (["--trainer.limit_train_batches", "0.0"], ["trainer.limit_train_batches = 0.0"]),
        (["--trainer.limit_train_batches", "0.01"], ["trainer.limit_train_batches = 0.01", "0.5"]),
        (["--trainer.limit_test_batches", "0"], ["trainer.limit_test_batches = 0", "robustness.test_num_images"]),
        (["--trainer.gradient_clip_val", "-1"], ["trainer.gradient_clip_val = -1", "null"]),
        (["--trainer.gradient_clip_val", ".nan"], ["trainer.gradient_clip_val = nan", "finite"]),
        (["--save.every_n_minutes", ".nan"], ["save.every_n_minutes = nan", "finite"]),
        (["--save.every_n_minutes", "-1"], ["save.every_n_minutes", "positive"]),
        (["--trainer.accumulate_grad_batches", "0"], ["trainer.accumulate_grad_batches = 0", "1 batch"]),
        (["--trainer.accumulate_grad_batches", "-1"], ["trainer.accumulate_grad_batches = -1"]),
        (
            ["--trainer.accumulate_grad_batches", "1" + "0" * 30],
            ["trainer.accumulate_grad_batches = 1000", "too large"],
        ),
        (["--trainer.accumulate_grad_batches", "3"], ["trainer.accumulate_grad_batches = 3", "an epoch has 2 batches"]),
        (["--trainer.barebones", "true"], ["trainer.barebones = true", "leave it out"]),
        (["--checkpoint.filename", "../../best"], ["checkpoint.filename = ../../best", "use a name"]),
        (["--model.ignore_index", "3"], ["model.ignore_index is that of the data", "leave it out"]),
        (["--data.batch_size", "1" + "0" * 30], ["data.init_args.batch_size = 1000", "too large"]),
        (["--seed_everything", "-1"], ["seed_everything = -1", "4294967295"]),
        (["--seed_everything", "99999999999"], ["seed_everything = 99999999999"]),
        (["--seed_everything", "true"], ["seed_everything = true", "whole number"]),
        (["--seed_everything", "false"], ["seed_everything = false"]),
        (["--trainer.default_root_dir", str(CONF / "tiny.yaml")], ["trainer.default_root_dir", "another folder"]),
        (["--trainer.default_root_dir", str(CONF / "tiny.yaml" / "x")], ["trainer.default_root_dir"]),
        (["--trainer.default_root_dir", "/proc/x"], ["trainer.default_root_dir = /proc/x", "another folder"]),
        (["--trainer.default_root_dir", ""], ["trainer.default_root_dir is empty"]),
        (["--experiment", ""], ["experiment is empty"]),
        (["--experiment", "../x"], ["experiment = ../x", "trainer.default_root_dir"]),
        (["--trainer.check_val_every_n_epoch", "0"], ["trainer.check_val_every_n_epoch = 0", "limit_val_batches"]),
        (["--trainer.val_check_interval", "0"], ["trainer.val_check_interval = 0"]),
        (["--trainer.val_check_interval", "100"], ["trainer.val_check_interval = 100", "2 batches", "null"]),
        (["--trainer.devices", "-1"], ["trainer:", "devices"]),
        (["--trainer.accelerator", "foo"], ["trainer:", "accelerator"]),
        (["--trainer.num_sanity_val_steps", "-2"], ["trainer.num_sanity_val_steps = -2"]),
        (["--trainer.log_every_n_steps", "-1"], ["trainer.log_every_n_steps = -1"]),
        (["--trainer.enable_checkpointing", "false"], ["trainer.enable_checkpointing = false"]),
        (["--checkpoint.every_n_epochs", "-1"], ["checkpoint.every_n_epochs = -1"]),
        (["--checkpoint.monitor", "val/miou", "--checkpoint.every_n_epochs", "0"], ["never looked at", "set it to 1"]),
        ([*SGD, "0"], ["model.optimizer.init_args.lr = 0.0", "positive"]),
        ([*SGD, ".inf"], ["model.optimizer.init_args.lr = inf", "finite"]),
        ([*SGD, "0.1", "--model.optimizer.weight_decay", ".nan"], ["model.optimizer.init_args.weight_decay = nan"]),
        (["--model.mean", "[.nan,0,0]"], ["model.mean[0] = nan"]),
        (["--robustness.num_examples", "-1"], ["num_examples = -1"]),
        (["--data.crop_size", "[65,64]"], ["crop_size = [65, 64]", "void"]),
        (["--data.batch_size", "100"], ["data.batch_size to 8"]),
        (["--config", "trainer: {max_epochs: 1}\ntrainer: {max_epochs: 2}"], ["trainer is given twice", "1 and 2"]),
        (
            ["--config", "model: {attack: {class_path: PGD, init_args: {steps: 1, steps: 2}}}"],
            ["model.attack.init_args.steps is given twice"],
        ),
        (["--config", "x: [{a: 1}, {a: 1, a: 2}]"], ["x[1].a is given twice"]),
        (["--robustness.attacks", "{a: {class_path: FGSM}, a: {class_path: PGD}}"], ["a is given twice"]),
    ],
    ids=lambda value: "-".join(value)[:50],
)
def test_what_cannot_work_is_refused(options, parts, tmp_path, capsys):
    line = error(tmp_path / "runs", options, capsys)
    assert all(part in line for part in parts), line


def test_a_key_that_stands_twice_in_an_included_file_is_named_with_it(tmp_path, capsys):
    (tmp_path / "part.yaml").write_text("trainer:\n  max_epochs: 1\n  max_epochs: 2\n")
    (tmp_path / "whole.yaml").write_text("include: [part.yaml]\n")
    line = error(tmp_path / "runs", ["--config", str(tmp_path / "whole.yaml")], capsys)
    assert "part.yaml: trainer.max_epochs is given twice, in lines 2 and 3" in line


def test_later_files_and_merge_keys_still_win(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("trainer: {<<: {max_epochs: 9}, max_epochs: 1}")
    options = ["--config", str(path), "--config", "trainer: {fast_dev_run: true}", "--trainer.max_epochs=2"]
    assert train(tmp_path / "runs", *options) == 0


def test_a_warm_up_is_shorter_than_the_run(tmp_path, capsys):
    assert train(tmp_path, "--model.warmup_steps", "400", "--trainer.limit_train_batches", "null") == 1
    assert "model.warmup_steps = 400, but the run has" in capsys.readouterr().err


def test_a_folder_that_exists_and_a_new_one_below_can_be_used(tmp_path):
    assert train(tmp_path / "new" / "below", "--trainer.fast_dev_run", "true") == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda value: ResumeCheckpoint(every_n_minutes=value),
        lambda value: RobustSegmentation(ToyNetwork(3), aux_weight=value, mean=(0, 0, 0), std=(1, 1, 1)),
        lambda value: RobustSegmentation(ToyNetwork(3), head_lr_factor=value, mean=(0, 0, 0), std=(1, 1, 1)),
        lambda value: RobustSegmentation(ToyNetwork(3), adversarial_fraction=value, mean=(0, 0, 0), std=(1, 1, 1)),
        lambda value: RobustnessEvaluation(false_positive_rate=value),
    ],
)
@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_constructors_refuse_them_as_well(make, value):
    with pytest.raises(ValueError, match=str(value)):
        make(value)


@pytest.mark.parametrize("name", [1, True, None, 1.5, "", "clean"])
def test_names_of_attacks_are_refused_in_python(name):
    with pytest.raises(ValueError, match="attack"):
        Evaluator({name: FGSM()}, 3, MemorySink())


def test_every_rule_is_about_an_option_that_there_is(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    assert all(f"--{key} " in text for key in RULES if not key.startswith("model.optimizer."))
