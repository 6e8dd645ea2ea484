"""Files that the parser reads by itself where a value may name one: pipes are refused, aliases counted."""

from __future__ import annotations

import os
import threading

import pytest

from robustseg.config.build import RobustSegCLI
from tests.config.test_safety import refused
from tests.helpers import hostile_configs
from tests.opening.test_limits import laughs
from tests.opening.test_readers import in_time  # noqa: F401

TINY = ["--config", str(hostile_configs.TINY)]


@pytest.mark.parametrize("key", ["trainer", "trainer.logger", "model.network", "data", "trainer.callbacks", "config"])
def test_a_named_pipe(key, tmp_path, capsys, in_time):  # noqa: F811
    os.mkfifo(tmp_path / "pipe")
    value = str(tmp_path / "pipe")
    if key == "config":
        message = refused(["train", *TINY, "--config", value], capsys)
    else:
        *above, last = key.split(".")
        text = f"{last}: {value}"
        for name in reversed(above):
            text = f"{name}: {{{text}}}"
        (tmp_path / "stranger.yaml").write_text(text)
        message = refused(["train", *TINY, "--config", str(tmp_path / "stranger.yaml")], capsys)
    assert "error" in message
    assert "pipe" in message


def test_a_pipe_of_the_command_line_is_read(tmp_path):
    receiver, sender = os.pipe()
    thread = threading.Thread(target=lambda: (os.write(sender, b"experiment: piped\n"), os.close(sender)))
    thread.start()
    cli = RobustSegCLI([*TINY, "--config", f"/dev/fd/{receiver}"])
    thread.join()
    os.close(receiver)
    assert cli.config.experiment == "piped"


def test_aliases_in_a_file_that_a_value_names(tmp_path, capsys):
    (tmp_path / "network.yaml").write_text(laughs())
    message = refused(["train", *TINY, "--model.network", str(tmp_path / "network.yaml")], capsys)
    assert "error" in message
