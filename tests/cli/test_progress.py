"""What commands show while they work: in a terminal, in a job's log, and with --quiet."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from robustseg.cli.main import main
from robustseg.config.build import RobustSegCLI
from robustseg.terminal.display import REFRESHES
from tests.helpers.paths import CONF, ROOT
from tests.helpers.terminal import in_terminal, seconds_of

TINY = CONF / "tiny.yaml"
ROBUSTSEG = [sys.executable, "-c", "import sys; from robustseg.cli.main import main; sys.exit(main())"]
HOSTILE = ["pgd[l2]", "a[/b]", "[bold]x", "b\x1b[31mred", "\u202ec", "d\rover"]
NOISE = ["Tip", "litlogger", "available: False", "TPU", "HPU", "FLOPs", "Modules in", "Seed set", "srun", "num_workers",
         "log_every_n_steps", "Loading `train_dataloader`", "stopped:", "UserWarning", "FutureWarning"]  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "last.ckpt"
    torch.save({"state_dict": RobustSegCLI(["--config", str(TINY)]).model.state_dict()}, path)
    return path


def evaluation(folder: Path, checkpoint: Path, attacks: dict, **data: int) -> list[str]:
    """Arguments of an evaluation under these attacks."""
    settings = {"trainer": {"enable_progress_bar": None}, "robustness": {"attacks": attacks}}
    settings["data"] = {"class_path": "SyntheticScenes", "init_args": data}
    (folder / "suite.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    files = ["--config", str(TINY), "--config", str(folder / "suite.yaml"), "--ckpt_path", str(checkpoint)]
    return ["evaluate", *files, "--output", str(folder / "out")]


def pgd(steps: int) -> dict:
    return {"class_path": "PGD", "init_args": {"steps": steps}}


def a_minute(folder: Path, checkpoint: Path, factor: float = 1.0) -> list[str]:
    """An evaluation of about a minute, or of ``factor`` minutes, whose attacks differ in cost."""
    steps = int(60 * factor)
    attacks = {"first": pgd(steps), "long": pgd(3 * steps), "single": {"class_path": "FGSM"}}
    attacks["restarted"] = {"class_path": "SegPGD", "init_args": {"steps": steps, "restarts": 2}}
    command = evaluation(folder, checkpoint, attacks, test_length=18, val_batch_size=2)
    slow = ["--allow_import", "tests", "--model.network", "tests.helpers.slow.Slow", "--check_images", "2"]
    slow += [f"--model.network.{option}" for option in ("backbone=test_resnet", "channels=8", "aux_head=false")]
    return [*command, *slow, "--model.network.output_stride=8"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_bar_of_a_minute_long_evaluation(tmp_path, checkpoint):
    """A new state each second, and from the second batch on a time left within a factor of two."""
    seen = in_terminal([*ROBUSTSEG, *a_minute(tmp_path, checkpoint)])
    assert seen.status == 0, seen.text[-3000:]
    states = [(moment, line) for moment, line in seen.states() if "images" in line or "checking" in line]
    assert states[-1][0] - states[0][0] > 30
    gaps = [(b[0] - a[0], a[1]) for a, b in itertools.pairwise(states)]
    # a state for each second of the clock that it shows, drawn at the next of four moments per second
    seconds = {seconds_of(re.search(r"(\d+:[\d:]+)(?: · [\d:]+ left)?\s*$", line)[1]) for _, line in states}
    assert seconds == set(range(min(seconds), max(seconds) + 1))
    assert max(gaps)[0] < 1 + 1 / REFRESHES + 0.05, max(gaps)
    end = states[-1][0]
    judged = 0
    for moment, line in states:
        assert len(line.rstrip()) <= 80
        left = re.search(r"([\d:]+) left", line)
        images = re.search(r"images (\d+)/18", line)
        if (images and int(images[1]) >= 2) and end - moment > 5:
            assert left is not None, line
            assert (end - moment) / 2 <= seconds_of(left[1]) <= 2 * (end - moment), (end - moment, line)
            judged += 1
    assert judged > 50
    shown = " ".join(line for _, line in states)
    for text in ("attack 1/4 first", "attack 2/4 long", "attack 4/4 restarted", "step 1", "images 16/18"):
        assert text in shown
    assert not [noise for noise in NOISE if noise in seen.text]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_jobs_log_has_a_line_per_minute(tmp_path, checkpoint):
    command = [*ROBUSTSEG, *a_minute(tmp_path, checkpoint, 2.3)]
    lines = []
    start = time.monotonic()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ | {"PYTHONPATH": str(ROOT)}
    ) as process:
        for line in process.stdout:
            lines.append((time.monotonic() - start, line.decode()))
    assert process.returncode == 0, lines
    moments = [(moment, line) for moment, line in lines if line.startswith("robustseg: attack ")]
    assert 2 <= len(moments) <= 6, lines
    gaps = [b[0] - a[0] for a, b in itertools.pairwise(moments)]
    assert 50 < gaps[0] < 60
    assert all(55 < gap < 65 for gap in gaps[1:])
    for _, line in moments:
        assert re.fullmatch(
            r"robustseg: attack \d/4 \w+, step \d+/\d+, images \d+/18, [\d:]+ so far, about [\d:]+ left\n", line
        )
    text = "".join(line for _, line in lines)
    assert "\r" not in text
    assert "\x1b" not in text
    assert not [noise for noise in NOISE if noise in text]


@pytest.mark.slow
def test_training_in_a_terminal(tmp_path):
    """Epochs, validation and its attacks on one bar; figures on lines of their own, when they are new."""
    options = ["--trainer.enable_progress_bar", "null", "--trainer.default_root_dir", str(tmp_path)]
    options += ["--trainer.max_epochs", "4", "--trainer.check_val_every_n_epoch", "2"]
    options += ["--robustness.attacks", "{slow: {class_path: PGD, init_args: {steps: 60}}}"]
    seen = in_terminal([*ROBUSTSEG, "train", "--config", str(TINY), *options], columns=120)
    assert seen.status == 0, seen.text[-3000:]
    pattern = r"epoch \d/4 .*validation · attack 1/1 slow · step \d+/60 · images \d/5"
    assert [line for _, line in seen.states() if re.match(pattern, line)], seen.states()
    epochs = [
        line
        for line in seen.text.replace("\x1b[2K", "").replace("\r", "\n").split("\n")
        if re.match(r"epoch +\d/4 +train", line)
    ]
    assert ["val/miou" in line for line in epochs] == [False, True, False, True]
    assert ["val/slow/miou" in line for line in epochs] == [False, True, False, True]
    assert not [noise for noise in NOISE if noise in seen.text]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["RichProgressBar", "TQDMProgressBar"])
def test_a_bar_of_lightning_takes_the_place_of_the_display(tmp_path, name):
    options = ["--trainer.enable_progress_bar", "null", "--trainer.default_root_dir", str(tmp_path)]
    options += ["--trainer.callbacks", name, "--trainer.logger", "false", "--trainer.max_epochs", "1"]
    seen = in_terminal([*ROBUSTSEG, "train", "--config", str(TINY), *options], columns=120)
    assert seen.status == 0, seen.text[-3000:]
    _, sanity, after = seen.text.partition("Sanity Checking")
    assert sanity
    assert "building the model" not in after
    assert "attack 1/2" not in after


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_is_one_line_and_immediate(tmp_path, checkpoint):
    command = [*ROBUSTSEG, *evaluation(tmp_path, checkpoint, {"endless": pgd(10**6)}, test_length=2, num_workers=2)]
    seen = in_terminal(command, interrupt_after="step")
    (pressed,) = [moment for moment, text in seen.pieces if text == "<Ctrl-C>"]
    assert seen.status == 130
    assert seen.pieces[-1][0] - pressed < 2
    after = seen.text.partition("<Ctrl-C>")[2]
    assert "robustseg: interrupted: what was measured is kept; run the same command again to go on." in after
    assert "Traceback" not in seen.text
    assert after.rstrip().endswith("to go on.")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("command", ["train", "models", "leaderboard"])
def test_signals_during_imports(tmp_path, command, number, status):
    """A finder that hangs in place of torch's import: nothing was begun, and the answer is one line."""
    hang = (
        "import sys, time\n"
        "class Hang:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch':\n"
        "            open('importing', 'w').close(); time.sleep(60)\n"
        "sys.meta_path.insert(0, Hang())\n"
        "from robustseg.cli.main import main\n"
        "sys.exit(main())\n"
    )
    arguments = {"train": ["--config", str(TINY)], "models": ["pspnet_r50"], "leaderboard": [str(tmp_path)]}[command]
    process = subprocess.Popen(
        [sys.executable, "-c", hang, command, *arguments],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        limit = time.monotonic() + 60
        while not (tmp_path / "importing").exists():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < limit
            time.sleep(0.05)
        start = time.monotonic()
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
        assert time.monotonic() - start < 3
    finally:
        process.kill()
    assert process.returncode == status
    assert errors.count("\n") == 1
    assert errors.startswith("robustseg: " + ("interrupted: " if number == signal.SIGINT else "ended by SIGTERM: "))


def test_quiet_leaves_the_results(tmp_path, checkpoint, capfd, monkeypatch):
    monkeypatch.setattr("robustseg.terminal.display.FIRST", 0.0)
    command = [
        *evaluation(tmp_path, checkpoint, {"fgsm": {"class_path": "FGSM"}}, test_length=2),
        "--check_images",
        "0",
    ]
    assert main([*command, "--quiet"]) == 0
    out, err = capfd.readouterr()
    assert out.startswith("SyntheticScenes test, 2 images")
    assert "written to" in out
    assert not [noise for noise in NOISE if noise in out + err]


def test_quiet_training_prints_no_epochs_and_real_warnings(tmp_path, capfd):
    options = ["--trainer.default_root_dir", str(tmp_path), "--trainer.max_epochs", "1", "--quiet"]
    options += ["--data.disk_cache", str(tmp_path / "cache")]
    with pytest.warns(UserWarning, match="disk_cache"):
        assert main(["train", "--config", str(TINY), *options]) == 0
    out, err = capfd.readouterr()
    assert "epoch 1/1" not in out
    assert out.startswith("SyntheticScenes test")
    assert not [noise for noise in NOISE if noise in out + err]


def test_names_are_no_markup_anywhere(tmp_path, checkpoint, capfd):
    """An attack called a[/b] ended an evaluation, and pgd[l2] was printed as pgd."""
    attacks = {name: {"class_path": "FGSM"} for name in HOSTILE}
    command = evaluation(tmp_path, checkpoint, attacks, test_length=2)
    assert main([*command, "--check_images", "0"]) == 0
    out, err = capfd.readouterr()
    assert all(line.isprintable() for line in (out + err).splitlines())
    for name in ("pgd[l2]", "a[/b]", "[bold]x", "b\\x1b[31mred", "\\u202ec"):
        assert name in out
    capfd.readouterr()
    assert main(["leaderboard", str(tmp_path / "out")]) == 0
    out, _ = capfd.readouterr()
    assert all(line.isprintable() for line in out.splitlines())


@pytest.mark.slow
def test_names_in_the_bar_of_a_terminal(tmp_path, checkpoint):
    attacks = {name: pgd(150) for name in HOSTILE}
    command = [*evaluation(tmp_path, checkpoint, attacks, test_length=2), "--check_images", "0"]
    seen = in_terminal([*ROBUSTSEG, *command])
    assert seen.status == 0, seen.text[-2000:]
    shown = " ".join(line for _, line in seen.states())
    assert "pgd[l2]" in shown
    assert "a[/b]" in shown
    assert "\\x1b[31mred" in shown
    assert "\x1b[31mred" not in seen.text
    assert "\u202e" not in seen.text


@pytest.mark.parametrize(
    "command",
    [
        ["inspect", "no\x1b[31m.ckpt"],
        ["leaderboard", "no\x1b[31mthing"],
        ["merge", "new", "no\u202ething"],
        ["configs", "no\x1b[31mthing"],
        ["datasets", "no\rthing"],
        ["models", "no\x9bthing"],
        ["mod\x1b[31mels"],
        ["evaluate", "--config", str(TINY), "--ckpt_path", "a\x1b[31mb"],
        ["train", "--config", "no\x1b[31mthing"],
        ["train", "--config", str(TINY), "--model.attack", "PG\x1b[31mD"],
        ["train", "--config", str(TINY), "--no\x1b[31m", "x"],
        ["doctor", "--json", "/no\x1b[31m/a"],
        ["models", "--no\x1b[31m"],
    ],
    ids=lambda command: ascii(command[:1] + command[-1:]),
)
def test_messages_cannot_manipulate_a_terminal(command, capfd):
    try:
        status = main(command)
    except SystemExit as end:
        status = end.code
    assert status in (1, 2)
    out, err = capfd.readouterr()
    assert all(line.isprintable() for line in (out + err).splitlines())
    assert err.startswith("robustseg: error: ")


def test_names_of_tensors_are_shown_as_text(tmp_path, capfd):
    names = ["a\x1b[31m.weight", "b[/b].bias", "\u202ec"]
    torch.save({"state_dict": {name: torch.zeros(2, 2) for name in names}}, tmp_path / "odd.pth")
    main(["inspect", str(tmp_path / "odd.pth")])
    main(["inspect", str(tmp_path / "odd.pth"), "--network", "pspnet_r50"])
    out, err = capfd.readouterr()
    assert all(line.isprintable() for line in (out + err).splitlines())
