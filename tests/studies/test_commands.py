"""robustseg study and robustseg transfer through the real command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from robustseg.cli.main import main
from robustseg.cli.studies import check_same_data
from robustseg.config.build import RobustSegCLI
from robustseg.data import SyntheticScenes
from robustseg.studies import StudyError
from tests.helpers.paths import CONF


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three runs that differ in their weights, as training leaves them."""
    root = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(("one", "two", "three")):
        folder = root / name
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "config.yaml").write_text((CONF / "tiny.yaml").read_text())
        cli = RobustSegCLI(["--config", str(folder / "config.yaml"), "--seed_everything", str(seed)])
        with torch.no_grad():
            # Fresh weights answer one class everywhere.
            cli.model.model.network.head.apply(lambda m: m.weight.mul_(8) if hasattr(m, "kernel_size") else m)
        torch.save({"state_dict": cli.model.state_dict()}, folder / "checkpoints" / "last.ckpt")
    return root


def study_file(folder: Path, name: str, **arguments) -> str:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({"study": {"class_path": name, "init_args": arguments}}))
    return str(path)


def one_line(command: list[str], capsys) -> str:
    """The error of a command that is refused."""
    try:
        status = main(command)
    except SystemExit as exit:
        status = exit.code
    assert status in (1, 2)
    error = capsys.readouterr().err
    assert "robustseg: error: " in error
    assert "Traceback" not in error
    return error


PGD = {"class_path": "PGD", "init_args": {"eps": "8/255"}}
BIM2 = {"class_path": "BIM", "init_args": {"steps": 2}}


def arguments(run: Path) -> list[str]:
    return ["--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints" / "last.ckpt")]


def test_a_study_stands_in_the_evaluation_s_folder(runs, tmp_path, capsys):
    evaluate = ["evaluate", *arguments(runs / "one"), "--check_images", "0"]
    assert main(evaluate) == 0
    (folder,) = (runs / "one").glob("evaluation_*")
    path = study_file(tmp_path, "StepCurve", attacks={"pgd": PGD}, steps=[2, 1])
    command = ["study", *arguments(runs / "one"), "--config", path, "--models", f"two={runs / 'two'}"]
    assert main(command) == 0
    assert "study_step_curve.html" in capsys.readouterr().out.replace("\n", "")
    assert [path.name for path in (runs / "one").glob("evaluation_*")] == [folder.name]
    record = json.loads((folder / "study_step_curve.json").read_text())
    card = json.loads((folder / "card.json").read_text())
    rows = {(row["model"], row["attack"], row["steps"]): row for row in record["rows"]}
    assert len(rows) == 6
    # pgd2 of the run's own suite
    assert rows["the attacked model", "pgd", 2]["miou"] == card["attacks"]["pgd2"]["miou"]
    assert rows["the attacked model", "clean", None]["miou"] == card["clean"]["miou"]
    assert rows["two", "clean", None]["miou"] != card["clean"]["miou"]
    before = (folder / "study_step_curve.json").read_bytes()
    assert main(command) == 0
    assert (folder / "study_step_curve.json").read_bytes() == before
    # studies of the evaluation leave its card as it is
    assert main(evaluate) == 0
    assert json.loads((folder / "card.json").read_text()) == card


@pytest.mark.parametrize("given", [["--targets", "a=b"], ["--targets=a=b"], ["--targets"]])
def test_the_old_name_of_models_is_answered_with_the_new_one(runs, tmp_path, capsys, given):
    path = study_file(tmp_path, "StepCurve", attacks={"pgd": PGD}, steps=[1])
    said = one_line(["study", *arguments(runs / "one"), "--config", path, *given], capsys)
    assert "--targets is now --models" in said


def test_transfer_between_three_models(runs, tmp_path):
    path = study_file(tmp_path, "TransferMatrix", attacks={"fs2": BIM2, "pgd": PGD}, comparisons=[["fs2", "pgd"]])
    models = [f"one={runs / 'one'}", f"two={runs / 'two' / 'config.yaml'}:{runs / 'two' / 'checkpoints' / 'last.ckpt'}"]
    models.append(f"three={runs / 'three'}:{runs / 'three' / 'checkpoints' / 'last.ckpt'}")
    command = ["transfer", "--models", *models, "--config", path, "--output", str(tmp_path / "out")]
    assert main(command) == 0
    record = json.loads((tmp_path / "out" / "study_transfer.json").read_text())
    assert len(record["rows"]) == 3 + 2 * 9
    assert record["comparisons"][0]["miou"]["pairs"] == 6
    clean = [row["miou"] for row in record["rows"][:3]]
    assert len(set(clean)) == 3
    # what an evaluation of each finds on clean images
    for name, miou in zip(("one", "two"), clean, strict=False):
        out = tmp_path / name
        assert main(["evaluate", *arguments(runs / name), "--output", str(out), "--check_images", "0"]) == 0
        assert json.loads((out / "card.json").read_text())["clean"]["miou"] == miou
    assert {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()} == {"one", "two", "three"}


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ({"name": "StepCurf", "attacks": {"pgd": PGD}, "steps": [1]}, "study: there is no class 'StepCurf'. Did you"),
        ({"name": "StepCurve", "attacks": {"pgd": PGD}, "steps": [0]}, "steps = [0]: 0 is no number of steps"),
        ({"name": "EpsCurve", "attacks": {"pgd": PGD}, "eps": ["much"]}, "eps = 'much' is not a number: write a"),
        ({"name": "TransferMatrix", "attacks": {}}, "attacks = {}: name at least one attack"),
        (
            {"name": "MultiScaleEvaluation", "attacks": {"pgd": PGD}, "scales": [-1.0]},
            "scales = [-1.0]: -1.0 is no factor of a size",
        ),
    ],
)
def test_bad_studies_are_one_line(runs, tmp_path, capsys, study, message):
    path = study_file(tmp_path, study.pop("name"), **study)
    assert message in one_line(["study", *arguments(runs / "one"), "--config", path], capsys)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (["one"], "--models one: write NAME=RUN_FOLDER or NAME=CONFIG:CHECKPOINT"),
        (["one={root}/one"], "--models names 1 model(s): transfer takes at least two"),
        (["one={root}/one", "one={root}/two"], "two models are called 'one': rename one"),
        (["one={root}/one", "two={root}/nothing"], "nothing is not there: name a run's folder"),
        (["one={root}/one", "two={root}/two/config.yaml"], "config.yaml is a file without a checkpoint"),
        (["one={root}/one", "two={root}/two:{root}/no.ckpt"], "there is no {root}/no.ckpt: name the folder"),
        (["a/b={root}/one", "two={root}/two"], "the name of letters, digits"),
    ],
)
def test_bad_models_are_one_line(runs, tmp_path, capsys, models, message):
    path = study_file(tmp_path, "TransferMatrix", attacks={"fs2": BIM2})
    texts = [text.format(root=runs) for text in models]
    assert main(["transfer", "--models", *texts, "--config", path, "--output", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert message.format(root=runs) in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_models_that_do_not_fit_are_refused(runs, tmp_path, capsys):
    other = runs.parent / "other_size"
    other.mkdir(exist_ok=True)
    config = yaml.safe_load((CONF / "tiny.yaml").read_text())
    config["data"]["init_args"]["image_size"] = [40, 40]
    (other / "config.yaml").write_text(yaml.safe_dump(config))
    last = runs / "two" / "checkpoints" / "last.ckpt"
    path = study_file(tmp_path, "TransferMatrix", attacks={"fs2": BIM2})
    models = ["--models", f"one={runs / 'one'}", f"two={other}:{last}"]
    command = ["transfer", *models, "--config", path, "--output", str(tmp_path / "out")]
    assert main(command) == 1
    assert "model two gets images of size 40×40 and ignores 255, the first one 32×32" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    # options hold for all of them
    assert main([*command, "--data.init_args.image_size", "[48, 40]"]) == 0
    record = json.loads((tmp_path / "out" / "study_transfer.json").read_text())
    assert record["data"]["image_size"] == [48, 40]


def test_models_that_would_be_scored_on_other_images_are_refused(runs, tmp_path, capsys):
    other = tmp_path / "fewer"
    other.mkdir()
    config = yaml.safe_load((CONF / "tiny.yaml").read_text())
    config["robustness"]["test_num_images"] = 1
    (other / "config.yaml").write_text(yaml.safe_dump(config))
    path = study_file(tmp_path, "TransferMatrix", attacks={"fs2": BIM2})
    models = ["--models", f"one={runs / 'one'}", f"two={other}:{runs / 'two' / 'checkpoints' / 'last.ckpt'}"]
    command = ["transfer", *models, "--config", path, "--output", str(tmp_path / "out")]
    assert main(command) == 1
    assert "--models two would be scored on 1 images" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    # the remedy that the message names
    assert main([*command, "--robustness.test_num_images", "2"]) == 0


def test_models_of_other_classes_are_refused():
    class Fewer(SyntheticScenes):
        classes = SyntheticScenes.classes[:-1]

    class Turned(SyntheticScenes):
        classes = SyntheticScenes.classes[::-1]

    first = SyntheticScenes(image_size=(32, 32))
    with pytest.raises(StudyError, match=r"model two has other classes than the first one \(6 and 7\): compare"):
        check_same_data(first, Fewer(image_size=(32, 32)), "two")
    with pytest.raises(StudyError, match=r"\(7 and 7, such as \w+ / \w+\)"):
        check_same_data(first, Turned(image_size=(32, 32)), "two")
    check_same_data(first, SyntheticScenes(image_size=(32, 32)), "two")


def test_what_transfer_needs(runs, tmp_path, capsys):
    models = ["--models", f"one={runs / 'one'}", f"two={runs / 'two'}"]
    path = study_file(tmp_path, "StepCurve", attacks={"pgd": PGD}, steps=[1])
    assert main(["transfer", *models, "--config", path]) == 1
    assert "transfer needs --output" in capsys.readouterr().err
    assert main(["transfer", *models, "--config", path, "--output", str(tmp_path / "out")]) == 1
    assert "StepCurve attacks one model" in capsys.readouterr().err
