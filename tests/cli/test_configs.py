"""``robustseg configs`` and names in ``--config``."""

import subprocess
import sys

import pytest
import yaml

from robustseg.cli.main import main
from robustseg.cli.studies import parse_models
from robustseg.config.build import RobustSegCLI
from robustseg.shipped import complete, files
from robustseg.studies import StudyError
from tests.helpers.paths import ROOT

SHORT = ["--trainer.accelerator", "cpu"]


def printed(capsys, *args, status=0):
    assert main(["configs", *args]) == status
    return capsys.readouterr()


def test_all_are_listed_with_a_line_about_each(capsys):
    lines = printed(capsys).out.splitlines()
    assert max(map(len, lines)) <= 104
    for name in files():
        assert len(lines[lines.index(name) + 1].strip()) > 15, f"{name} does not say what it is"
    assert printed(capsys, "attack", "slurm").out.count("\n    ") == len(
        [name for name in files() if name.startswith(("attack/", "slurm/"))]
    )


def test_one_is_printed_as_it_is_or_complete(capsys):
    name = "experiment/voc/pspnet_r50_segpgd3"
    assert printed(capsys, name).out == files()[name].read_text()
    text = printed(capsys, name, "--complete").out
    assert yaml.safe_load(text) == complete(files()[name])
    assert text.startswith(files()[name].read_text().split("include:")[0])
    assert printed(capsys, "configs/quickstart.yaml", "--complete").out == files()["quickstart"].read_text()
    assert "did you mean network/pspnet_r50" in printed(capsys, "network/pspnet_r05", status=1).err


def test_a_copied_tree_is_complete_and_stays(tmp_path, capsys):
    folder = tmp_path / "mine"
    printed(capsys, "--copy", str(folder))
    assert {path for path in folder.rglob("*") if path.is_file()} == {
        folder / path.relative_to(ROOT / "configs") for path in files().values()
    }
    for name, path in files().items():
        copy = folder / path.relative_to(ROOT / "configs")
        assert copy.stat().st_mode == path.stat().st_mode
        if path.suffix == ".yaml":
            assert yaml.safe_load(copy.read_text()) == complete(path), name
        else:
            assert copy.read_bytes() == path.read_bytes()
    printed(capsys, "--copy", str(folder))  # nothing to change
    (folder / "slurm" / "start.sh").write_text("mine")
    (folder / "attack" / "pgd3.yaml").unlink()
    assert "start.sh is there already" in printed(capsys, "--copy", str(folder), status=1).err
    assert not (folder / "attack" / "pgd3.yaml").exists()
    (tmp_path / "file").touch()
    assert "cannot be copied there" in printed(capsys, "--copy", str(tmp_path / "file"), "slurm", status=1).err


def test_nothing_heavy_is_imported():
    code = (
        "import sys; from robustseg.cli.configs import list_configs; list_configs([]);"
        "sys.exit(str({'torch', 'numpy', 'jsonargparse', 'pytorch_lightning'} & sys.modules.keys()))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.stderr.strip() == "set()"


@pytest.mark.parametrize(
    "option", [["--config", "quickstart"], ["--config=configs/quickstart.yaml"], ["-c", "quickstart"]]
)
def test_names_stand_for_files_everywhere(option, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert RobustSegCLI([*option, *SHORT]).config.experiment == "quickstart"


def test_an_include_is_what_several_options_are(tmp_path, monkeypatch):
    """Also as saved: numbers that YAML takes for text, text that looks like numbers, and keys that are numbers."""
    monkeypatch.chdir(tmp_path)
    own = "experiment: '1e3'\nmodel: {optimizer: {init_args: {lr: 1e-3}}}\nrobustness: {suite: '010'}\n"
    remap = "{class_path: Targeted, init_args: {attack: {class_path: PGD, init_args: {targeted: true}}, " \
        "target_map: {class_path: Remap, init_args: {mapping: {0: 1, 1: 0}}}}}"  # fmt: skip
    (tmp_path / "own.yaml").write_text(own)
    (tmp_path / "suite.yaml").write_text(f"robustness: {{attacks: {{remap: {remap}}}, validate_with: []}}")
    (tmp_path / "attacks.yaml").write_text("robustness: {attacks: null}")
    parts = ["quickstart", "attacks.yaml", "suite.yaml"]
    (tmp_path / "all.yaml").write_text(f"include: {parts}\n{own}".replace("'quickstart'", "quickstart"))
    apart = RobustSegCLI([*(f"--config={part}" for part in [*parts, "own.yaml"]), *SHORT])
    whole = RobustSegCLI(["--config", "all.yaml", *SHORT])
    texts = [cli.parser.dump(cli.config, skip_none=False) for cli in (apart, whole)]
    assert texts[0] == texts[1]
    assert "include" not in texts[1]
    assert whole.config.experiment == "1e3"
    assert whole.config.model.optimizer.init_args.lr == 0.001


def test_a_model_of_a_study_is_named_by_its_configuration(tmp_path):
    checkpoint = tmp_path / "last.ckpt"
    checkpoint.touch()
    (place,) = parse_models([f"a=quickstart:{checkpoint}"], "--models")
    assert place.config == files()["quickstart"]
    with pytest.raises(StudyError, match=r"--models a=quikstart:.*did you mean quickstart"):
        parse_models([f"a=quikstart:{checkpoint}"], "--models")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            ["train", "--config", "quikstart"],
            "--config quikstart: neither a file nor a shipped configuration: did you mean",
        ),
        (["evaluate", "--config", "robustness/stong"], "did you mean robustness/strong"),
        (["doctor", "--config", "data/camvit"], "did you mean data/camvid"),
        (["inspect", "x.pth", "--config", "network/fcn_smal"], "did you mean network/fcn_small"),
        (["train", "--config", "bad.yaml"], "bad.yaml: include: ../secret.yaml is outside of this file's folder"),
    ],
)
def test_one_error_for_what_cannot_be_used(command, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text("include: [../secret.yaml]")
    try:
        status = main(command)
    except SystemExit as ended:
        status = ended.code
    assert status
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def test_a_file_that_includes_others_still_finds_what_lies_beside_it(tmp_path, capsys):
    (tmp_path / "net.yaml").write_text("{class_path: FCN, init_args: {backbone: test_resnet}}")
    (tmp_path / "run.yaml").write_text("include: [data/synthetic]\nmodel: {network: net.yaml}")
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--config", str(tmp_path / "run.yaml"), "--print_config"])
    assert "class_path: robustseg.models.FCN" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "problem"), [("model:\n\tnetwork: x", "cannot be read as YAML"), ("", "holds NoneType")]
)
def test_a_file_that_is_no_configuration_is_named(text, problem, tmp_path, capsys):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--config", str(tmp_path / "bad.yaml")])
    assert f"{tmp_path / 'bad.yaml'} {problem}" in capsys.readouterr().err
