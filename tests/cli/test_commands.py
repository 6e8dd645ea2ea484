"""The table of commands: what is imported for which, what is said of typing errors, and where output ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from pytorch_lightning.utilities.exceptions import MisconfigurationException

import robustseg
from robustseg.attacks import AttackError
from robustseg.cli.arguments import MissingFile
from robustseg.cli.main import BROKEN_PIPE, COMMANDS, _imported, main, usage
from robustseg.config.errors import ConfigError, is_expected
from robustseg.data import DataError
from robustseg.detectors import DetectorError
from robustseg.evaluation import EvaluationError
from robustseg.evaluation.errors import ReportError
from robustseg.models import ModelError
from robustseg.resume.checkpoint_files import CheckpointError
from robustseg.resume.runs import RunError
from robustseg.shipped import ConfigFileError
from robustseg.shipped.suggest import did_you_mean
from robustseg.studies import StudyError
from robustseg.training import TrainingError

AT_ONCE = [
    [],
    ["--help"],
    ["--version"],
    ["trian"],
    ["train", "--config=nosuch.yaml"],
    ["evaluate", "--config", "nosuch.yaml", "--ckpt_path", "x"],
    ["merge", "new", "nosuch"],
    ["leaderboard", "nosuch"],
    ["leaderboard", "--htlm", "x"],
    ["inspect", "nosuch"],
    ["models", "--help"],
    ["datasets"],
    ["datasets", "PascalVOC"],
    ["datasets", "Citiscapes"],
]
PROBE = """
import contextlib, io, json, sys
before = set(sys.modules)
from robustseg.cli.main import main
seen = []
for command in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            main(command)
        except SystemExit:
            pass
    new = set(sys.modules) - before
    packages = {name.partition(".")[0] for name in new} - sys.stdlib_module_names
    seen.append([command, sorted(packages), len(new), "Traceback" in said.getvalue()])
print(json.dumps(seen))
"""


def test_what_answers_at_once_imports_the_standard_library_only():
    run = subprocess.run([sys.executable, "-c", PROBE, json.dumps(AT_ONCE)], capture_output=True, text=True, check=True)
    for command, packages, modules, failed in json.loads(run.stdout):
        # configurations are found, and read, by PyYAML alone
        assert {name for name in packages if "cython" not in name} <= {"robustseg", "yaml", "_yaml"}, command
        assert modules < 150, command  # 93 where this was written; torch alone is 1,000
        assert not failed, command


def test_the_usage_is_the_table():
    text = usage()
    assert max(map(len, text.splitlines())) <= 80
    for command in COMMANDS.values():
        assert f"\n  {command.name} " in text
        assert callable(_imported(command.work))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "no command 'trian'. Did you mean train?"),
        (["zzz"], "no command 'zzz'. There are: train, evaluate"),
        (["leaderboard", "--htlm", "x"], "--htlm. Did you mean --html?"),
        (["leaderboard", "--grou", "x"], "--grou. Did you mean --group?"),
        (["train", "--config", "nosuch.yaml"], "--config nosuch.yaml: neither a file nor a shipped configuration"),
        (["train", "-c=nosuch.yaml"], "-c nosuch.yaml: neither a file nor a shipped configuration"),
        (["leaderboard", "nosuch"], "nosuch does not exist: name the folder of a finished evaluation"),
        (["merge", "new", "nosuch"], "nosuch does not exist: name the folder of an evaluation"),
    ],
)
def test_typing_errors_are_answered_in_two_lines(arguments, said, capsys):
    try:
        status = main(arguments)
    except SystemExit as end:
        status = end.code
    err = capsys.readouterr().err
    assert status in (1, 2)
    assert said in err
    assert len(err.splitlines()) <= 2


def test_names_are_alike_whatever_their_case_and_hyphens():
    assert did_you_mean("--NUM-CLASSES", ["--network", "--num_classes"]) == " Did you mean --num_classes?"
    assert did_you_mean("x", ["network"]) == ""


def test_own_errors_are_messages_and_others_are_not():
    ours = (AttackError, CheckpointError, DataError, DetectorError, EvaluationError, ModelError, ReportError, RunError)
    ours += (ConfigError, ConfigFileError, MissingFile, StudyError, TrainingError)
    for kind in (*ours, MisconfigurationException):
        assert is_expected(kind("what is wrong"))
    assert not is_expected(ValueError("a mistake of ours"))


def test_a_reader_that_leaves_ends_a_command_quietly(monkeypatch, capfd):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert main(["datasets"]) == BROKEN_PIPE
        monkeypatch.undo()
    assert capfd.readouterr().err == ""


def test_another_broken_pipe_is_an_error(monkeypatch):
    def work(args):
        raise BrokenPipeError

    monkeypatch.setattr("robustseg.cli.data.list_datasets", work)
    with pytest.raises(BrokenPipeError):
        main(["datasets"])


def test_help_begins_with_our_own_options(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    titles = ["options:", "Model, attacker", "Data:", "Suite of attacks", "Best checkpoints", "Lightning's Trainer"]
    places = [text.index(f"\n{title}") for title in titles]
    assert places == sorted(places)
    assert text.index("--model.attack.help SegPGD") < places[0]
    assert max(map(len, text[: places[1]].splitlines())) <= 80
    with pytest.raises(SystemExit):
        main(["train", "--model.attack.help", "SegPGD"])
    assert "--model.attack.schedule {linear,log,exp" in capsys.readouterr().out


def test_the_package_is_a_command():
    found = subprocess.run([sys.executable, "-m", "robustseg", "--version"], capture_output=True, text=True, check=True)
    assert found.stdout == f"robustseg {robustseg.__version__}\n"
