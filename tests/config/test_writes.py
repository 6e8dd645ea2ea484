"""Places that a stranger's configuration would write to: named and refused unless the command line allows them."""

from __future__ import annotations

import pytest

from robustseg.cli.main import main
from robustseg.config.build import RobustSegCLI
from tests.config.test_safety import refused
from tests.helpers import hostile_configs

TINY = ["--config", str(hostile_configs.TINY)]
CASES = {
    "logger": (
        "trainer.logger.init_args.save_dir",
        "trainer: {logger: {class_path: CSVLogger, init_args: {save_dir: @}}}",
    ),
    "one of two loggers": (
        "trainer.logger[1].init_args.save_dir",
        "trainer: {logger: [{class_path: CSVLogger, init_args: {save_dir: logs}}, "
        "{class_path: TensorBoardLogger, init_args: {save_dir: @}}]}",
    ),
    "a logger's name": (
        "trainer.logger.init_args.name",
        "trainer: {logger: {class_path: CSVLogger, init_args: {save_dir: a, name: @}}}",
    ),
    "profiler": (
        "trainer.profiler.init_args.dirpath",
        "trainer: {profiler: {class_path: SimpleProfiler, init_args: {dirpath: @, filename: x}}}",
    ),
    "a profiler's file": (
        "trainer.profiler.init_args.filename",
        "trainer: {profiler: {class_path: AdvancedProfiler, init_args: {filename: @}}}",
    ),
    "callback": (
        "trainer.callbacks[0].init_args.dirpath",
        "trainer: {callbacks: [{class_path: ModelCheckpoint, init_args: {dirpath: @}}]}",
    ),
    "best checkpoint": ("checkpoint.dirpath", "checkpoint: {dirpath: @}"),
    "cache": ("data.init_args.disk_cache", "data: {init_args: {disk_cache: @}}"),
}
PLACES = ("/elsewhere/x", "../x", "a/../../x", "~/x", "$ELSEWHERE/x", "a/${UPWARDS}/x", "$ELSEWHERE/../../x")
FEW = [(name, "/elsewhere/x") for name in CASES] + [("logger", place) for place in PLACES[1:]]
ALL = [(name, place) for name in CASES for place in PLACES if (name, place) not in FEW]


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("ELSEWHERE", "/elsewhere")  # TensorBoard's logger replaces variables, others do not
    monkeypatch.setenv("UPWARDS", "../..")
    return tmp_path / "here"


@pytest.mark.parametrize(
    ("name", "place"), [*FEW, *(pytest.param(*each, marks=pytest.mark.exhaustive) for each in ALL)]
)
def test_elsewhere(name, place, here, capsys):
    key, text = CASES[name]
    (here / "stranger.yaml").write_text(text.replace("@", f"'{place}'"))
    message = refused(["train", *TINY, "--config", "stranger.yaml"], capsys)
    assert f"robustseg: error: {key} = {place} lies outside of this folder and of" in message
    assert "--allow_write" in message
    assert {path.name for path in here.parent.iterdir()} == {"here"}


@pytest.mark.parametrize("place", ["file:///elsewhere/x", "s3://bucket/x"])
def test_addresses(place, here, capsys):
    (here / "stranger.yaml").write_text(CASES["logger"][1].replace("@", f"'{place}'"))
    assert f"{CASES['logger'][0]} = {place} lies outside" in refused(
        ["train", *TINY, "--config", "stranger.yaml"], capsys
    )


def test_allowed_by_name_or_given_on_the_command_line(here, capsys):
    (here / "mine.yaml").write_text(CASES["logger"][1].replace("@", "/elsewhere/x"))
    mine = [*TINY, "--config", "mine.yaml"]
    for option in (
        ["--allow_write", "/elsewhere"],
        ["--allow-write=/elsewhere/x"],
        ["--allow_write", "/a", "--allow_write=/"],
    ):
        cli = RobustSegCLI([*mine, *option])
        assert cli.config.trainer.logger.init_args.save_dir == "/elsewhere/x"
    assert "outside" in refused(["train", *mine, "--allow_write", "/elsewhere/y"], capsys)
    for option in (["--trainer.logger.init_args.save_dir", "/given"], ["--trainer.logger.save_dir=/given"]):
        assert RobustSegCLI([*mine, *option]).config.trainer.logger.init_args.save_dir == "/given"
    logger = "{class_path: CSVLogger, init_args: {save_dir: /given}}"
    RobustSegCLI([*TINY, "--trainer.logger", logger])
    (here / "logger.yaml").write_text(logger)
    assert "outside" in refused(["train", *TINY, "--trainer.logger", "logger.yaml"], capsys)


def test_a_file_cannot_allow_itself(here, capsys):
    (here / "stranger.yaml").write_text("allow_write: /\n" + CASES["logger"][1].replace("@", "/elsewhere"))
    assert "allow_write" in refused(["train", *TINY, "--config", "stranger.yaml"], capsys)


def test_within_the_run_and_below_the_working_directory(here):
    root = here.parent / "runs"
    text = CASES["logger"][1].replace("@", f"{root}/logs")
    (here / "mine.yaml").write_text(f"{text}\ncheckpoint: {{dirpath: {here}/best}}\nexperiment: a/b\n")
    RobustSegCLI([*TINY, "--config", "mine.yaml", "--trainer.default_root_dir", str(root)])


def test_an_evaluation_looks_at_what_it_builds(here, capsys):
    (here / "x.ckpt").touch()
    (here / "run.yaml").write_text(CASES["best checkpoint"][1].replace("@", "/elsewhere"))
    of = [*TINY, "--config", "run.yaml", "--ckpt_path", "x.ckpt"]
    RobustSegCLI(of, evaluate=True)
    (here / "out.yaml").write_text("output: /elsewhere\n")
    assert "output = /elsewhere lies outside" in refused(["evaluate", *of, "--config", "out.yaml"], capsys)
    for name in ("profiler", "logger"):
        (here / "other.yaml").write_text(CASES[name][1].replace("@", "/elsewhere"))
        assert CASES[name][0] in refused(["evaluate", *of, "--config", "other.yaml"], capsys)


def test_the_option_is_in_the_help(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "--allow_write FOLDER" in capsys.readouterr().out
