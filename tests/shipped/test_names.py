"""Names of shipped configurations: what they stand for, and what is said where they stand for nothing, or for two."""

import pytest

from robustseg.shipped import ConfigFileError, files, find, names
from tests.helpers.paths import ROOT

CONFIGS = ROOT / "configs"


def test_every_file_of_the_repository_has_its_name():
    found = {path for path in CONFIGS.rglob("*") if path.is_file()}
    assert set(files().values()) == found
    assert files()["experiment/voc/pspnet_r50_segpgd3"] == CONFIGS / "experiment/voc/pspnet_r50_segpgd3.yaml"
    assert files()["slurm/start.sh"] == CONFIGS / "slurm/start.sh"
    assert list(files())[:2] == ["quickstart", "quickstart_standard"]


def test_an_installed_package_has_its_own(tmp_path):
    package = tmp_path / "robustseg"
    with pytest.raises(ConfigFileError, match="install it again"):
        names._files(package)
    (tmp_path / "configs").mkdir()
    (package / "configs").mkdir(parents=True)
    (tmp_path / "configs" / "quickstart.yaml").touch()
    (package / "configs" / "quickstart.yaml").touch()
    names._files.cache_clear()
    assert names._files(package)["quickstart"] == package / "configs" / "quickstart.yaml"


@pytest.mark.parametrize("name", ["robustness/strong", "configs/robustness/strong.yaml", "./robustness/strong.yaml"])
def test_spellings(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "robustness" / "strong").mkdir(parents=True)  # a folder is no file
    assert find(name) == CONFIGS / "robustness/strong.yaml"


def test_a_file_wins_and_that_is_said_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "quickstart"
    file.write_bytes((CONFIGS / "quickstart.yaml").read_bytes())
    assert find("quickstart").resolve() == file
    assert capsys.readouterr().err == ""  # the same
    file.write_text("seed_everything: 1")
    assert [find("quickstart").resolve() for _ in range(2)] == [file, file]
    assert (
        capsys.readouterr().err.count("quickstart is a file here and a shipped configuration: the file is taken") == 1
    )


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("quikstart", "quickstart"),
        ("strong", "robustness/strong"),
        ("network/pspnet_r05", "network/pspnet_r50"),
        ("experiment/pspnet_r50_segpgd3", "experiment/voc/pspnet_r50_segpgd3"),
        ("configs/data/cityscape.yaml", "data/cityscapes"),
    ],
)
def test_an_unknown_name_gets_the_nearest(name, near):
    with pytest.raises(ConfigFileError) as caught:
        find(name)
    assert str(caught.value).startswith(f"{name}: neither a file nor a shipped configuration: did you mean ")
    assert near in str(caught.value)
    assert "slurm" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing/xyzzy.yaml", "../configs/quickstart", "/etc", ""])
def test_a_name_like_no_other(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigFileError, match=r"configuration: .*robustseg configs lists all"):
        find(name)
