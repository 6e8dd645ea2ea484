"""The command line end to end, on the smallest run there is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from robustseg.cli.main import main
from robustseg.config.build import RobustSegCLI
from tests.helpers.paths import CONF

TINY = ["--config", str(CONF / "tiny.yaml")]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished training run; tests may add to its folder but not change what it holds."""
    root = tmp_path_factory.mktemp("runs")
    monitored = ["--checkpoint.monitor", "val/pgd2/miou", "--checkpoint.filename", "best"]
    assert main(["train", *TINY, *monitored, "--trainer.default_root_dir", str(root)]) == 0
    return root / "tiny" / "version_0"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def results(folder: Path) -> dict:
    """The card of the only evaluation in a run's folder, or of a folder of results."""
    (path,) = [*folder.glob("evaluation_*/card.json"), *folder.glob("card.json")]
    return json.loads(path.read_text())


def test_a_run_leaves_config_checkpoints_and_results(run):
    assert {"best.ckpt", "last.ckpt"} <= {path.name for path in (run / "checkpoints").iterdir()}
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["attack"]["init_args"]["eps"] == "8/255"
    (folder,) = run.glob("evaluation_*")
    assert {path.name for path in folder.iterdir()} >= {"card.json", "card.md", "report.html", "records"}
    card = results(run)
    assert list(card["attacks"]) == ["fgsm", "pgd2"]
    assert card["data"]["images"] == 3
    assert card["model"]["checkpoint"] == "best.ckpt"
    assert card["model"]["trained_with"]["attack"] == "SegPGD"
    assert card["attacks"]["pgd2"]["settings"]["eps"] == "8/255"
    assert card["attacks"]["pgd2"]["settings"]["steps"] == 2
    assert set(card["clean"]["class_iou"]) >= {"floor", "ball"}


def test_the_checkpoint_holds_no_object_of_ours(run):
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert not any("attack" in name for name in saved["state_dict"])
    assert not saved.get("hyper_parameters")


def test_tensorboard_has_curves_and_pictures(run):
    events = EventAccumulator(str(run)).Reload()
    assert {"val/miou", "val/fgsm/miou", "val/pgd2/miou", "val/pgd2/pixel_acc", "train/loss_adv"} <= set(
        events.Tags()["scalars"]
    )
    assert [event.step for event in events.Scalars("val/pgd2/miou")] == [1, 3]
    tags = set(events.Tags()["images"])
    assert {"val/fgsm", "val/pgd2"} <= tags
    assert any(tag.startswith("test/") for tag in tags)
    picture = events.Images("val/pgd2")[0]
    # six columns of 32 pixels with gaps; a title row and four rows (rows of the first four images)
    assert (picture.width, picture.height) == (6 * 32 + 5 * 4, 16 + 4 * 32 + 3 * 4)


def test_evaluate_prints_a_table_and_leaves_the_run_as_it_was(run, tmp_path, capsys):
    before = contents(run)
    suite = tmp_path / "suite.yaml"
    suite.write_text("robustness: {attacks: {bim3: {class_path: BIM, init_args: {steps: 3}}}}\n")
    command = ["evaluate", "--config", str(run / "config.yaml"), "--config", str(suite)]
    assert main([*command, "--ckpt_path", str(run / "checkpoints" / "last.ckpt"), "--check_images", "0"]) == 0
    out = capsys.readouterr().out
    assert "bim3" in out
    assert "clean" in out
    after = contents(run)
    assert {name: after[name] for name in before} == before
    # last.ckpt is another checkpoint than best.ckpt, which the run ended with
    (new,) = [name for name in after if name.endswith("card.json") and name not in before]
    card = json.loads(after[new])
    assert list(card["attacks"]) == ["bim3"]
    assert len(card["model"]["sha256"]) == 64
    assert card["checks"] is None
    shutil.rmtree(run / Path(new).parent)


def test_evaluation_agrees_with_the_end_of_training(run, tmp_path):
    command = ["evaluate", "--config", str(run / "config.yaml"), "--output", str(tmp_path / "out")]
    command += ["--check_images", "0"]
    # another batch size changes nothing: noise belongs to the sample
    assert main([*command, "--ckpt_path", str(run / "checkpoints" / "best.ckpt"), "--data.val_batch_size", "3"]) == 0
    assert results(tmp_path / "out")["protocol"]["batch_sizes"] == [3]
    first, second = (rows(results(folder)) for folder in (run, tmp_path / "out"))
    assert list(first) == list(second) == ["clean", "fgsm", "pgd2"]
    for name in first:
        assert second[name]["pixel_acc"] == pytest.approx(first[name]["pixel_acc"], abs=2e-3)


def rows(card: dict) -> dict[str, dict]:
    return {"clean": card["clean"], **card["attacks"]}


def epoch_lines(capsys) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)["state_dict"]


def test_resume_last_continues_in_the_same_folder(tmp_path, capsys):
    command = ["train", *TINY, "--trainer.default_root_dir", str(tmp_path)]
    assert main(command) == 0
    lines = epoch_lines(capsys)
    assert len(lines) == 2  # not a terminal: a line per epoch instead of a bar
    assert all(part in lines[1] for part in ("epoch 2/2", "train/loss", "val/miou", "val/pgd2/miou"))
    before = weights(tmp_path / "tiny" / "version_0" / "checkpoints" / "last.ckpt")

    # a run that was renamed, resumed twice
    (tmp_path / "tiny").rename(tmp_path / "other")
    command += ["--experiment", "other", "--ckpt_path", "last", "--trainer.max_epochs"]
    assert main([*command, "3"]) == 1  # another schedule
    assert "trainer.max_epochs: 2 there, 3 here" in capsys.readouterr().err
    command = [*command[:-1], "--resume", "changed", command[-1]]
    assert main([*command, "3"]) == 0
    assert [line.split()[1] for line in epoch_lines(capsys)] == ["3/3"]
    folder = tmp_path / "other" / "version_0"
    after = weights(folder / "checkpoints" / "last.ckpt")
    # the longer run's schedule is in force: with the finished one's the learning rate, and this change, would be zero
    assert any(not torch.equal(before[name], after[name]) for name in before if name.endswith("weight"))
    assert main([*command, "4"]) == 0
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["version_0"]
    assert sorted(path.name for path in (folder / "checkpoints").glob("last*")) == ["last.ckpt"]
    epochs = [
        yaml.safe_load((folder / name).read_text())["trainer"]["max_epochs"]
        for name in ("config.yaml", "config_resumed_0.yaml", "config_resumed_1.yaml")
    ]
    assert epochs == [2, 3, 4]
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 8


def test_the_attacker_is_swapped_on_the_command_line(tmp_path):
    cli = RobustSegCLI([*TINY, "--model.attack", "PGD", "--model.attack.steps", "7", "--model.attack.eps", "4/255"])
    assert type(cli.model.attack).__name__ == "PGD"
    assert cli.model.attack.steps == 7
    assert str(cli.model.attack.threat.eps) == "4/255"


def test_an_attack_composed_in_yaml(tmp_path):
    """Threat, loss, step rule and transform are selectable by their names, not only the presets."""
    path = tmp_path / "attack.yaml"
    path.write_text(
        "model:\n  attack:\n    class_path: IterativeAttack\n    init_args:\n"
        "      threat: {class_path: ThreatModel, init_args: {eps: 4/255}}\n      loss: CosPGDLoss\n"
        "      step_rule: {class_path: MomentumStep, init_args: {step_size: 1/255}}\n      steps: 3\n"
        "      transform: {class_path: DynamicScale, init_args: {scale_range: 0.25}}\n"
    )
    attack = RobustSegCLI([*TINY, "--config", str(path)]).model.attack
    assert attack.describe()["loss"] == {"class": "CosPGDLoss"}
    assert attack.transform.scale_range == 0.25


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--model.attack.eps", "2"], ["eps = 2", "2/255"]),
        (["--model.attack.eps=-1/255"], ["eps = -1/255", "negative"]),
        (["--model.attack.eps", "eight"], ["eps = 'eight'", "8/255"]),
        (["--model.attack.step_size", "0"], ["step_size = 0"]),
        (["--model.attack.steps", "0"], ["steps = 0"]),
        (["--data.batch_size", "1"], ["data.batch_size"]),
        (["--data.batch_size", "0"], ["batch_size"]),
        (["--model.adversarial_fraction", "1.5"], ["adversarial_fraction = 1.5"]),
        (["--ckpt_path", "nowhere.ckpt"], ["nowhere.ckpt"]),
        (["--robustness.validate_with", "[pgd9]"], ["pgd9", "fgsm, pgd2"]),
        (
            ["--robustness.attacks", "{a: {class_path: PGD}, b: {class_path: PGD, init_args: {eps: 3}}}"],
            ["robustness.attacks.b.init_args.eps", "eps = 3"],
        ),
        (["--checkpoint.monitor", "val/pgd2/miou", "--robustness.every_n_epochs", "2"], ["checkpoint.monitor", "pgd2"]),
        (["--checkpoint.monitor", "val/fgsm/miou", "--robustness.validate_with", "[pgd2]"], ["validate_with"]),
        (["--model.network.init_args.backbone", "resnet51"], ["resnet51", "resnet50"]),
    ],
)
def test_bad_values_end_in_one_line_before_anything_is_written(arguments, parts, tmp_path, capsys):
    assert main(["train", *TINY, "--trainer.default_root_dir", str(tmp_path), *arguments]) == 1
    err = capsys.readouterr().err
    (line,) = [line for line in err.splitlines() if line.startswith("robustseg: error:")]
    assert all(part in line for part in parts), line
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--model.attack", "SegPDG"], ["model.attack", "SegPDG"]),
        (["--model.network", "PSPnet"], ["model.network", "PSPnet"]),
        (["--data", "CamVdi"], ["data", "CamVid"]),
        (["--model.optimizer", "AdamX"], ["model.optimizer", "AdamX", "AdamW"]),
        (["--model.attack.stps", "3"], ["model.attack: SegPGD", "stps", "Did you mean steps?"]),
        (["--model.attack.help", "SegPDG"], ["model.attack", "Did you mean SegPGD?"]),
        (["--trainer.max_epoch", "3"], ["--trainer.max_epoch", "Did you mean --trainer.max_epochs?"]),
        (["--confg", "x"], ["--confg", "Did you mean --config?"]),
        (["--config", "trainer: {max_epoch: 3}"], ["max_epoch", "Did you mean trainer.max_epochs?"]),
        (["--config", "modle: {attack: null}"], ["modle.attack", "Did you mean model.attack?"]),
        (
            ["--config", "robustness: {attacks: {a: {class_path: PGD, init_args: {stps: 3}}}}"],
            ["robustness.attacks: PGD", "stps", "Did you mean steps?"],
        ),
        (["--model.attack.steps", "no"], ["model.attack: SegPGD", "steps", "int"]),
    ],
)
def test_unknown_names_are_refused_by_the_parser(arguments, parts, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(["train", *TINY, "--trainer.default_root_dir", str(tmp_path), *arguments])
    assert exit_info.value.code == 2
    err = capsys.readouterr().err
    assert all(part in err for part in parts), err
    assert len(err.splitlines()) < 15, "the message drowns in the list of options"
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_other_classes_is_refused(run, tmp_path, capsys):
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    for name, value in state["state_dict"].items():
        if value.shape[:1] == (7,):
            state["state_dict"][name] = value[:5].clone()
    torch.save(state, tmp_path / "five.ckpt")
    command = ["evaluate", "--config", str(run / "config.yaml"), "--output", str(tmp_path / "out")]
    assert main([*command, "--ckpt_path", str(tmp_path / "five.ckpt")]) == 1
    err = capsys.readouterr().err
    assert "five.ckpt" in err
    assert "5" in err
    assert "7" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["classes", "truncated", "empty", "text"])
def test_resuming_from_a_bad_checkpoint_is_refused_before_anything_is_written(run, tmp_path, capsys, damage):
    path = tmp_path / "bad.ckpt"
    good = (run / "checkpoints" / "last.ckpt").read_bytes()
    path.write_bytes({"truncated": good[: len(good) // 2], "empty": b"", "text": b"not a checkpoint"}.get(damage, good))
    if damage == "classes":
        state = torch.load(path, weights_only=True)
        state["state_dict"] = {k: v[:5].clone() if v.shape[:1] == (7,) else v for k, v in state["state_dict"].items()}
        torch.save(state, path)
    root = tmp_path / "runs"
    assert main(["train", *TINY, "--trainer.default_root_dir", str(root), "--ckpt_path", str(path)]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("robustseg: error:")]
    assert "bad.ckpt" in line
    assert not root.exists()


def test_values_that_only_training_can_refuse_end_in_one_line(tmp_path, capsys):
    command = ["train", *TINY, "--trainer.default_root_dir", str(tmp_path)]
    assert (
        main([*command, "--model.optimizer", "SGD", "--model.optimizer.lr", "0.1", "--model.optimizer.momentum", "-1"])
        == 1
    )
    assert "robustseg: error: model.optimizer: Invalid momentum" in capsys.readouterr().err
    assert main([*command, "--trainer.max_epochs", "-1"]) == 1
    assert "trainer.max_epochs" in capsys.readouterr().err


def test_a_broken_test_split_is_found_before_training(tmp_path, capsys):
    for split in ("train", "val", "test"):
        for folder, mode in ((split, "RGB"), (f"{split}annot", "L")):
            (tmp_path / "data" / folder).mkdir(parents=True)
            for name in "abcd":
                Image.new(mode, (32, 32)).save(tmp_path / "data" / folder / f"{name}.png")
    (tmp_path / "data" / "testannot" / "c.png").unlink()
    data = ["--data", "CamVid", "--data.root", str(tmp_path / "data"), "--data.image_size", "[32,32]"]
    assert main(["train", *TINY, "--trainer.default_root_dir", str(tmp_path / "runs"), *data]) == 1
    assert "testannot" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_evaluate_ignores_where_training_started_from(run, tmp_path):
    """A run that began with downloaded or other weights is scored without them."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"]["init_weights"] = "gone.ckpt"
    config["model"]["network"]["init_args"] |= {"pretrained": True, "weights": "gone.pth"}
    config["robustness"] |= {"validate_with": ["pgd2"]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "suite.yaml").write_text("robustness: {attacks: {fgsm: {class_path: FGSM}}}")
    command = ["evaluate", "--config", str(tmp_path / "config.yaml"), "--config", str(tmp_path / "suite.yaml")]
    checkpoint = str(run / "checkpoints" / "last.ckpt")
    command += ["--check_images", "0"]
    assert main([*command, "--ckpt_path", checkpoint, "--output", str(tmp_path / "out")]) == 0
    assert list(results(tmp_path / "out")["attacks"]) == ["fgsm"]


def test_evaluate_needs_a_checkpoint(capsys):
    assert main(["evaluate", *TINY]) == 1
    assert "--ckpt_path" in capsys.readouterr().err
