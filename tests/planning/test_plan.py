"""--plan of the commands: what it prints, that nothing is written, and bad input."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch
import yaml

from robustseg.cli.main import main
from robustseg.config.build import RobustSegCLI
from tests.helpers.paths import CONF

TINY = CONF / "tiny.yaml"
SUITE = {
    "fgsm": {"class_path": "FGSM"},
    "pgd30": {"class_path": "PGD", "init_args": {"steps": 30}},
    "apgd20": {"class_path": "APGD", "init_args": {"steps": 20}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("plan")
    torch.save({"state_dict": RobustSegCLI(["--config", str(TINY)]).model.state_dict()}, root / "last.ckpt")
    (root / "suite.yaml").write_text(yaml.safe_dump({"robustness": {"attacks": SUITE}}, sort_keys=False))
    return root


@pytest.fixture
def evaluation(folder, tmp_path, monkeypatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    files = ["--config", str(TINY), "--config", str(folder / "suite.yaml"), "--ckpt_path", str(folder / "last.ckpt")]
    return ["evaluate", *files, "--data.test_length", "6", "--check_images", "0", "--output", "out"]


def planned(command: list[str], *options: str) -> dict:
    """The plan as JSON; nothing else is written."""
    before = sorted(Path().rglob("*"))
    assert main([*command, *(options or ["--plan"]), "--json", "plan.json"]) == 0
    assert sorted(Path().rglob("*")) == sorted({*before, Path("plan.json")})
    found = json.loads(Path("plan.json").read_text())
    Path("plan.json").unlink()
    return found


def test_a_plan_of_an_evaluation(evaluation, capsys):
    plan = planned([*evaluation, "--check_images", "1"], "--plan", "8h")
    items = {item["name"]: item for item in plan["items"]}
    assert [*items][:4] == ["clean", *SUITE]
    assert [items[name]["gradients"] for name in SUITE] == [1, 30, 20]
    assert [items[name]["may_end_earlier"] for name in SUITE] == [False, False, True]
    assert items["pgd30"]["seconds"] > 5 * items["fgsm"]["seconds"] > 0
    assert items["checking the model"]["count"] == 1
    assert plan["seconds"] == pytest.approx(plan["start"] + sum(item["seconds"] for item in plan["items"]))
    assert (plan["within"], plan["processes"], plan["batches"], plan["kept"]) == (28800, 1, 3, 0)
    said = capsys.readouterr().out.splitlines()
    table = [line for line in said if line[:1] in "┃│┏┡├└"]
    assert len(table) > 10
    assert max(map(len, table)) <= 80
    assert any("≤ 20" in line for line in table)
    assert any("≤ means at most" in line for line in said)


def test_shards_that_end_in_time(evaluation, capsys, monkeypatch):
    """The line for sbatch starts each shard with the command's own arguments, those with spaces as well."""
    monkeypatch.setattr("robustseg.planning.bill.Bill.processes_within", lambda self, seconds: 3)
    planned(evaluation, "--plan", "90m", "--shard", "2/4", "--experiment", "of two words")
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("sbatch"))
    submitted = shlex.split(line)
    assert {"--array=1-3", "--time=1:30:00", "--requeue"} <= {*submitted}
    started = shlex.split(submitted[submitted.index("--wrap") + 1])
    assert started[:3] == ["srun", "robustseg", "evaluate"]
    assert started[3:-2] == [*evaluation[1:], "--experiment", "of two words"]
    assert started[-2:] == ["--shard", "$SLURM_ARRAY_TASK_ID/3"]


def test_what_is_measured_is_kept(evaluation, capsys):
    assert main([*evaluation, "--robustness.attacks", "null"]) == 0
    plan = planned(evaluation)
    assert plan["kept"] == 6
    names = [item["name"] for item in plan["items"]]
    assert "clean" not in names
    assert "pgd30" in names
    attacks = ["--robustness.attacks", json.dumps({"apgd20": SUITE["apgd20"]})]
    assert main([*evaluation, *attacks]) == 0
    capsys.readouterr()
    done = planned([*evaluation, *attacks])
    assert (done["batches"], done["kept"]) == (0, 12)
    assert "Everything is measured" in capsys.readouterr().out


def test_attacks_that_cannot_run_say_why(evaluation, capsys):
    helpers = "tests.helpers.broken_nets"
    network = ["--allow_import", helpers, "--model.network.class_path", f"{helpers}.OneHotFCN"]
    plan = planned([*evaluation, *network])
    assert all("autograd" in item["error"] for item in plan["items"] if item["name"] in SUITE)
    assert capsys.readouterr().out.count("autograd") == 1


def test_a_search_is_repeated_in_float32(evaluation):
    plan = planned([*evaluation, "--robustness.search", "{precision: float32, images: 4}"])
    items = {item["name"]: item for item in plan["items"]}
    assert (items["searching in float32"]["count"], items["searching in float32"]["gradients"]) == (4, 1 + 30 + 20)
    assert not items["searching in float32"]["shared"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--plan", "8"], "such as 8h"),
        (["--plan=soon"], "such as 8h"),
        (["--plan", "--json"], "needs a file"),
        (["--plan", "--json", "nowhere/plan.json"], "there is no folder"),
    ],
)
def test_bad_options(evaluation, options, words, capsys):
    assert main([*evaluation, *options]) == 1
    assert words in capsys.readouterr().err
    assert not [*Path().iterdir()]


def test_too_short_a_time(evaluation, capsys):
    assert planned(evaluation, "--plan", "0.01s")["processes"] is None
    assert "no number of shards ends it" in capsys.readouterr().out


def test_the_first_of_several_processes_plans(evaluation, capsys, monkeypatch):
    monkeypatch.setattr("lightning_fabric.utilities.rank_zero.rank_zero_only.rank", 1)
    for command in ("evaluate", "study", "transfer", "train"):
        assert main([command, *evaluation[1:], "--plan"]) == 0
    assert capsys.readouterr() == ("", "")


def test_ranks_share_the_images(evaluation, capsys):
    planned(evaluation, "--plan", "--trainer.devices", "2", "--trainer.strategy", "ddp")
    assert "The configured 2 ranks share the images" in capsys.readouterr().out


def test_another_evaluation_in_the_folder(evaluation, capsys):
    assert main([*evaluation, "--robustness.attacks", "null"]) == 0
    assert main([*evaluation, "--plan", "--seed_everything", "4"]) == 1
    assert "seed: 0 there, 4 here" in capsys.readouterr().err


def test_a_plan_of_a_training(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = {"max_epochs": 6, "limit_train_batches": 2, "check_val_every_n_epoch": 2}
    command = ["train", "--config", str(TINY), "--robustness.every_n_epochs", "4"]
    plan = planned([*command, *(part for key, value in options.items() for part in (f"--trainer.{key}", str(value)))])
    said = capsys.readouterr().out
    assert "12 updates of 4 images, 2 of them attacked, in 6 epochs of 2." in said
    assert "3 validations, 1 of them under attack." in said
    items = {item["name"]: item for item in plan["items"]}
    assert items["updates"]["count"] == 12
    assert items["updates"]["gradients"] == 2
    assert items["val: clean"]["count"] == 3 * 5 + 2 * 2
    assert items["val: pgd2"]["count"] == 5
    assert items["test: pgd2"]["count"] == 3


def test_studies(folder, evaluation, capsys):
    runs = []
    for name in ("A", "B"):
        run = folder / name
        (run / "checkpoints").mkdir(parents=True, exist_ok=True)
        (run / "checkpoints" / "last.ckpt").write_bytes((folder / "last.ckpt").read_bytes())
        (run / "config.yaml").write_text(TINY.read_text())
        runs.append(f"{name}={run}")
    plan = planned(["transfer", "--models", *runs, "--config", "study/transfer", "--output", "out"])
    names = [item["name"] for item in plan["items"]]
    assert {f"{model}: ds10" for model in "AB"} <= {*names}
    attacks = {"pgd": {"class_path": "PGD"}}
    study = {"study": {"class_path": "StepCurve", "init_args": {"attacks": attacks, "steps": [1, 100]}}}
    curve = [*evaluation, "--config", json.dumps(study), "--models", runs[0]]
    plan = planned(["study", *curve[1:]])
    steps = {item["name"]: item["gradients"] for item in plan["items"]}
    assert (steps["pgd1"], steps["pgd100"]) == (1, 100)
    assert "intervals, report" not in steps
