"""Sliding windows from the command line to the record of an evaluation."""

from __future__ import annotations

import pytest
import yaml

from robustseg.cli.main import main
from robustseg.config.build import RobustSegCLI
from robustseg.models import SlidingWindow, read_record
from tests.helpers.paths import CONF

TINY = ["--config", str(CONF / "tiny.yaml")]


@pytest.mark.parametrize(
    ("arguments", "window"),
    [
        ([], None),
        (["--model.window.size", "[32, 24]"], SlidingWindow((32, 24))),
        (["--model.window.size=[32, 24]", "--model.window.stride=[8, 9]"], SlidingWindow((32, 24), (8, 9))),
        (["--model.window", "{size: [32, 24], chunk: 3}"], SlidingWindow((32, 24), None, 3)),
        (["--model.window.size", "[32, 24]", "--model.window", "null"], None),
    ],
)
def test_the_window_is_an_option(arguments, window, tmp_path):
    cli = RobustSegCLI([*TINY, *arguments, "--trainer.default_root_dir", str(tmp_path)])
    assert cli.model.model.window == window


@pytest.mark.parametrize(
    ("window", "words"),
    [
        ("{size: [32, 24], stride: [8, 25]}", ["stride = [8, 25]", "size = [32, 24]"]),
        ("{size: [0, 24]}", ["size = [0, 24]"]),
        ("{size: [32, 24], chunk: 0}", ["chunk = 0"]),
        ("{size: [32]}", ["size"]),
        ("{stride: [8, 8]}", ["size"]),
    ],
)
def test_a_window_that_cannot_be_is_one_message(window, words, tmp_path, capsys):
    command = ["train", *TINY, "--model.window", window, "--trainer.default_root_dir", str(tmp_path)]
    try:
        status = main(command)
    except SystemExit as error:  # the parser's own errors
        status = error.code
    assert status in (1, 2)
    message = capsys.readouterr().err
    assert message.startswith("robustseg: error: ")
    for word in words:
        assert word in message, message


def test_a_run_with_windows_keeps_them_in_its_configuration_and_record(tmp_path):
    window = tmp_path / "window.yaml"
    window.write_text("model: {window: {size: [16, 24]}}\ndata: {init_args: {crop_size: [16, 16]}}\n")
    root = ["--trainer.default_root_dir", str(tmp_path), "--trainer.max_epochs", "1"]
    cli = RobustSegCLI([*TINY, "--config", str(window), *root])
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    folder = tmp_path / "tiny" / "version_0"
    assert yaml.safe_load((folder / "config.yaml").read_text())["model"]["window"] == {
        "size": [16, 24],
        "stride": None,
        "chunk": 1,
    }
    record = read_record(folder / "checkpoints" / "last.ckpt")
    assert record["data"]["window"]["size"] == [16, 24]
    assert record["trained_with"]["attack"] == "SegPGD"
    again = RobustSegCLI(["--config", str(folder / "config.yaml")])
    assert again.model.model.window == SlidingWindow((16, 24))
