"""Plans against the runs that they are of: within 25 % of the processor time."""

from __future__ import annotations

import functools
import json
import shutil
import time
from pathlib import Path

import pytest
import torch
import yaml

from robustseg.cli.main import main
from robustseg.config.build import RobustSegCLI
from robustseg.terminal.display import Display
from tests.helpers.paths import CONF

TINY = CONF / "tiny.yaml"
SUITE = {
    "fgsm": {"class_path": "FGSM"},
    "pgd20": {"class_path": "PGD", "init_args": {"steps": 20}},
    "cospgd30": {"class_path": "CosPGD", "init_args": {"steps": 30}},
    "worst": {
        "class_path": "WorstOf",
        "init_args": {
            "attacks": [
                {"class_path": "SegPGD", "init_args": {"steps": 12}},
                {"class_path": "MIFGSM", "init_args": {"steps": 12}},
            ]
        },
    },
}
DATA = {"image_size": [64, 64], "train_length": 48, "val_length": 8, "test_length": 12, "val_batch_size": 4}
DATA |= {"batch_size": 8, "num_workers": 0}


@pytest.fixture
def configured(tmp_path, monkeypatch) -> Path:
    """Two models and a configuration, with one thread and a clock of processor time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("robustseg.cli.main.Display", functools.partial(Display, clock=time.process_time))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    settings = yaml.safe_load(TINY.read_text())
    settings["data"] = {"class_path": "SyntheticScenes", "init_args": DATA}
    settings["trainer"] |= {"max_epochs": 5, "limit_train_batches": None, "check_val_every_n_epoch": 1}
    settings["model"]["attack"]["init_args"]["steps"] = 5
    settings["robustness"] = {"attacks": SUITE, "num_examples": 0}
    for name, seed in (("A", 0), ("B", 1)):
        folder = tmp_path / name / "checkpoints"
        folder.mkdir(parents=True)
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump(settings))
        cli = RobustSegCLI(["--config", str(tmp_path / name / "config.yaml"), "--seed_everything", str(seed)])
        torch.save({"state_dict": cli.model.state_dict()}, folder / "last.ckpt")
    yield tmp_path
    torch.set_num_threads(threads)


OF_A = ["--config", "A/config.yaml", "--ckpt_path", "A/checkpoints/last.ckpt", "--output", "out"]
STUDY = {
    "class_path": "StepCurve",
    "init_args": {"attacks": {"pgd": SUITE["fgsm"] | {"class_path": "PGD"}}, "steps": [1, 10, 40, 80]},
}
COMMANDS = {
    "evaluate": ["evaluate", *OF_A, "--check_images", "2"],
    "train": ["train", "--config", "A/config.yaml", "--trainer.default_root_dir", "out"],
    "study": ["study", *OF_A, "--config", json.dumps({"study": STUDY})],
    "transfer": ["transfer", "--models", "A=A", "B=B", "--config", "study/transfer", "--output", "out"],
}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.flaky(reruns=2)  # others on the machine share its caches
@pytest.mark.parametrize("command", COMMANDS)
def test_the_bill_is_within_a_quarter(command, configured):
    arguments = COMMANDS[command]
    assert main([*arguments, "--plan"]) == 0  # what a process does once, such as imports, is done
    began = time.process_time()
    assert main([*arguments, "--plan", "--json", "plan.json"]) == 0
    of_plan = time.process_time() - began
    assert not Path("out").exists()
    began = time.process_time()
    assert main(arguments) == 0
    took = time.process_time() - began
    shutil.rmtree("out")
    plan = json.loads(Path("plan.json").read_text())
    assert 0.8 < plan["seconds"] / took < 1.25, (plan, took)
    assert of_plan < 20
