"""Nothing of a stranger's runs: neither what a configuration names nor what a file of weights holds."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import jsonargparse
import numpy as np
import pytest
import torch
import yaml
from torch import nn

import robustseg
from robustseg.cli.main import main
from robustseg.config import safety
from robustseg.config.build import RobustSegCLI
from robustseg.opening.plain import YAML_LOADER
from tests.helpers import hostile_configs
from tests.helpers.hostile_configs import CASES, Payload
from tests.helpers.paths import ROOT

TINY = ["--config", str(hostile_configs.TINY)]


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """A folder with a stranger's packages, importable, and files; the marker there says that one of them ran."""
    hostile_configs.forget()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    hostile_configs.prepare(tmp_path, tmp_path / "marker")
    yield tmp_path
    hostile_configs.forget()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder as training leaves it."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "checkpoints").mkdir()
    (folder / "config.yaml").write_text(hostile_configs.TINY.read_text())
    state = RobustSegCLI(["--config", str(folder / "config.yaml")]).model.state_dict()
    torch.save({"state_dict": state}, folder / "checkpoints" / "last.ckpt")
    return folder


def refused(args: list[str], capsys) -> str:
    """The message of a command that has to fail with one."""
    capsys.readouterr()
    try:
        status = main(args)
    except SystemExit as error:
        status = error.code
    message = capsys.readouterr().err
    assert status in (1, 2), message
    assert "Traceback" not in message
    return message


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_configuration(name, stranger, capsys):
    case = CASES[name]
    path = hostile_configs.write(case, stranger, stranger / "marker")
    message = refused(["train", *TINY, "--config", str(path)], capsys)
    assert not (stranger / "marker").exists()
    assert "stranger" not in sys.modules
    if case.key:
        assert f"robustseg: error: {case.key}" in message
    if case.remedy:
        assert f": add --allow_import {case.remedy} if you trust" in message


@pytest.mark.slow
def test_without_the_checks_they_run(tmp_path):
    """The table above is of what would run; it is measured in a process without the checks."""
    (tmp_path / "case").mkdir()
    command = [
        sys.executable,
        "-m",
        "tests.helpers.hostile_configs",
        str(tmp_path / "case"),
        str(tmp_path / "found.json"),
    ]
    with (tmp_path / "log").open("w") as log:
        subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, timeout=120, check=True)
    found = json.loads((tmp_path / "found.json").read_text())
    assert found == {name: case.runs for name, case in CASES.items()}
    assert sum(found.values()) >= 25


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model.attack", "stranger.Thing"],
        ["--data", "stranger.Data"],
        ["--model.attack.help", "stranger.Thing"],
        ["--model.attack=stranger.Thing", "--print_config"],
        ["--trainer.callbacks+=stranger.Thing"],
        ["--robustness.attacks.a", "stranger.Thing"],
        ["--checkpoint", "{dirpath: {class_path: stranger.Thing}}"],
        ["--model", '{"attack": {"class_path": "stranger.Thing"}}'],
    ],
    ids=" ".join,
)
def test_on_the_command_line_as_well(arguments, stranger, capsys):
    refused(["train", *TINY, *arguments], capsys)
    assert not (stranger / "marker").exists()


def test_an_environment_that_is_parsed_allows_nothing(stranger, capsys, monkeypatch):
    monkeypatch.setenv("JSONARGPARSE_DEFAULT_ENV", "true")
    for prefix in ("ROBUSTSEG_TRAIN", "ROBUSTSEG TRAIN"):
        monkeypatch.setenv(f"{prefix}_MODEL__ATTACK", "stranger.Thing")
        monkeypatch.setenv(f"{prefix}_ALLOW_IMPORT", "stranger")
    monkeypatch.setenv("ROBUSTSEG_TRAIN_EXPERIMENT", "mine")
    refused(["train", *TINY, "--model.attack.steps", "x"], capsys)
    assert not (stranger / "marker").exists()


class TestCommands:
    """Each reads configurations, and some those of other models."""

    def test_evaluate_a_run_from_a_stranger(self, run, stranger, capsys):
        (stranger / "config.yaml").write_text((run / "config.yaml").read_text().replace("SegPGD", "stranger.Thing"))
        checkpoint = str(run / "checkpoints" / "last.ckpt")
        message = refused(["evaluate", "--config", str(stranger / "config.yaml"), "--ckpt_path", checkpoint], capsys)
        assert "model.attack names stranger.Thing" in message
        assert not (stranger / "marker").exists()

    def test_study_and_its_targets(self, run, stranger, capsys):
        of = ["--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints" / "last.ckpt")]
        path = stranger / "study.yaml"
        path.write_text("study: {class_path: stranger.Thing}")
        assert "study names stranger.Thing" in refused(["study", *of, "--config", str(path)], capsys)
        path.write_text("study: {class_path: StepCurve, init_args: {attacks: {p: {class_path: PGD}}, steps: [1]}}")
        (stranger / "config.yaml").write_text((run / "config.yaml").read_text().replace("SegPGD", "stranger.Thing"))
        target = f"other={stranger / 'config.yaml'}:{run / 'checkpoints' / 'last.ckpt'}"
        message = refused(["study", *of, "--config", str(path), "--models", target], capsys)
        assert "model.attack names stranger.Thing" in message
        assert not (stranger / "marker").exists()

    def test_a_target_is_allowed_on_the_study_s_command_line(self, run, tmp_path, monkeypatch):
        friend(tmp_path, monkeypatch, "friend_of_studies")
        path = tmp_path / "study.yaml"
        path.write_text(
            "study: {class_path: StepCurve, init_args: {attacks: {p: {class_path: PGD}}, steps: [1]}}\n"
            "robustness: {test_num_images: 1}\n"
        )
        text = (run / "config.yaml").read_text().replace("SegPGD", "friend_of_studies.Thing")
        (tmp_path / "config.yaml").write_text(text)
        of = ["--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints" / "last.ckpt")]
        target = f"other={tmp_path / 'config.yaml'}:{run / 'checkpoints' / 'last.ckpt'}"
        command = ["study", *of, "--config", str(path), "--output", str(tmp_path / "out"), "--models", target]
        assert main([*command, "--allow_import", "friend_of_studies"]) == 0

    def test_transfer(self, run, stranger, capsys):
        text = (run / "config.yaml").read_text().replace("SegPGD", "stranger.Thing")
        (stranger / "config.yaml").write_text(text)
        models = [f"a={run}", f"b={stranger / 'config.yaml'}:{run / 'checkpoints' / 'last.ckpt'}"]
        command = ["transfer", "--config", str(ROOT / "configs" / "study" / "transfer.yaml"), "--models", *models]
        message = refused([*command, "--output", str(stranger / "out")], capsys)
        assert "model.attack names stranger.Thing" in message
        assert not (stranger / "marker").exists()


HONEST = {
    "EMA": "trainer: {callbacks: [{class_path: EMAWeightAveraging, init_args: {decay: 0.99}}]}",
    "EMA by its path": "trainer: {callbacks: [{class_path: pytorch_lightning.callbacks.EMAWeightAveraging}]}",
    "several callbacks": "trainer: {callbacks: [{class_path: EarlyStopping, init_args: {monitor: val/miou}}, "
    "{class_path: DeviceStatsMonitor}, {class_path: WeightAveraging}]}",
    "callback without functions": "trainer: {callbacks: [{class_path: LambdaCallback}]}",
    "CSV logger": "trainer: {logger: {class_path: CSVLogger, init_args: {save_dir: logs}}}",
    "loggers": "trainer: {logger: [{class_path: pytorch_lightning.loggers.TensorBoardLogger, init_args: "
    "{save_dir: a.b}}, {class_path: CSVLogger, init_args: {save_dir: logs}}]}",
    "profiler": "trainer: {profiler: {class_path: SimpleProfiler, init_args: {filename: steps}}}",
    "profiler by name": "trainer: {profiler: simple}",
    "PyTorch profiler": "trainer: {profiler: {class_path: PyTorchProfiler, init_args: {row_limit: 5}}}",
    "strategy": "trainer: {strategy: {class_path: DDPStrategy, init_args: {find_unused_parameters: true}}, devices: 1}",
    "SLURM": "trainer: {plugins: [{class_path: SLURMEnvironment, init_args: {auto_requeue: false}}]}",
    "checkpoint plugin": "trainer: {plugins: [{class_path: lightning_fabric.plugins.io.TorchCheckpointIO}]}",
    "accelerator": "trainer: {accelerator: {class_path: CPUAccelerator}}",
    "limits in time": "trainer: {max_time: '00:01:00:00', val_check_interval: 0.5}",
    "AdamW": "model: {optimizer: {class_path: AdamW, init_args: {lr: 0.001, betas: [0.9, 0.99]}}}",
    "optimiser by name": "model: {optimizer: Adam}",
    "optimiser of torch": "model: {optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.1, nesterov: false}}}",
    "optimiser of timm": "model: {optimizer: {class_path: timm.optim.Lion, init_args: {lr: 0.001}}}",
    "the papers' optimiser": "model: {optimizer: robustseg.training.module.papers_sgd}",
    "attack by its path": "model: {attack: {class_path: robustseg.attacks.SegPGD, init_args: {steps: 2}}}",
    "attack of parts": "model: {attack: {class_path: IterativeAttack, init_args: {threat: {class_path: ThreatModel, "
    "init_args: {eps: 4/255}}, loss: CosPGDLoss, step_rule: {class_path: MomentumStep, init_args: {step_size: 1/255}}, "
    "transform: {class_path: DynamicScale, init_args: {scale_range: 0.25}}}}}",
    "targeted": "robustness: {attacks: {t: {class_path: Targeted, init_args: {attack: {class_path: PGD, init_args: "
    "{targeted: true}}, target_map: {class_path: PureClass, init_args: {class_id: 1}}}}}}",
    "window": "model: {window: {class_path: SlidingWindow, init_args: {size: [32, 32]}}}",
    "network by its path": "model: {network: {class_path: robustseg.models.FCN, init_args: {backbone: test_resnet}}}",
    "torchvision's network": "model: {network: {class_path: ExternalNetwork, init_args: {module: "
    "{class_path: torchvision.models.segmentation.lraspp_mobilenet_v3_large, init_args: {weights_backbone: null, "
    "num_classes: 8}}}}}",
    "backbone_args": "model: {network: {init_args: {backbone_args: {drop_rate: 0.1}}}}",
    "text like a path": "experiment: os.system\nrobustness: {suite: subprocess.run}\n"
    "trainer: {default_root_dir: stranger.Thing}",
}


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_configuration(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "honest.yaml").write_text(HONEST[name])
    cli = RobustSegCLI([*TINY, "--config", "honest.yaml"])
    # As evaluate will read it again.
    (tmp_path / "saved.yaml").write_text(cli.parser.dump(cli.config, skip_none=False))
    RobustSegCLI(["--config", "saved.yaml"])


def test_a_class_where_any_value_goes_is_not_built(capsys):
    value = "{x: {class_path: robustseg.attacks.PGD, init_args: {steps: 2}}}"
    message = refused(["train", *TINY, "--model.network.backbone_args", value], capsys)
    assert "{'x': Namespace(class_path='robustseg.attacks.PGD'" in message


def friend(folder: Path, monkeypatch, name: str) -> None:
    (folder / f"{name}.py").write_text(
        "import os, torch\n"
        "from torch.hub import load\n"
        "from robustseg.attacks import PGD\n"
        "class Thing(PGD): pass\n"
        "def hook(trainer, pl_module, stage): pass\n"
    )
    monkeypatch.syspath_prepend(folder)


@pytest.mark.parametrize(
    "option",
    [
        ["--allow_import", "{}"],
        ["--allow-import", "{}"],
        ["--allow_import={}"],
        ["--allow_import", "other,{}"],
        ["--allow_import", "[other, {}]"],
        ["--allow_import", "{}", "--allow_import", "other"],
    ],
    ids=" ".join,
)
def test_a_package_that_is_allowed(option, tmp_path, monkeypatch, request):
    name = f"friend{request.node.callspec.indices['option']}"
    friend(tmp_path, monkeypatch, name)
    hooks = f"[{{class_path: LambdaCallback, init_args: {{setup: {name}.hook}}}}]"
    option = [part.format(name) for part in option]
    cli = RobustSegCLI([*TINY, "--model.attack", f"{name}.Thing", *option, "--trainer.callbacks", hooks])
    assert type(cli.model.attack).__name__ == "Thing"
    assert "allow_import" not in cli.parser.dump(cli.config, skip_none=False)


@pytest.mark.parametrize(
    ("named", "arguments", "message", "remedy"),
    [
        ("friendly.load", {"repo_or_dir": "x", "model": "y"}, "names friendly.load, which is no class that", "torch"),
        ("friendly.torch.load", {"f": "x"}, "names friendly.torch.load, which is no class that", "torch"),
        ("friendly.os.system", {"command": "x"}, "names posix.system, which is outside of", "posix"),
        ("friendly_not.Thing", {}, "names friendly_not.Thing, which is outside of", "friendly_not"),
    ],
)
def test_an_allowed_package_does_not_allow_what_it_imports(
    named, arguments, message, remedy, tmp_path, monkeypatch, capsys
):
    friend(tmp_path, monkeypatch, "friendly")
    friend(tmp_path, monkeypatch, "friendly_not")
    value = json.dumps({"class_path": named, "init_args": arguments})
    args = ["train", *TINY, "--model.optimizer", value, "--allow_import", "friendly"]
    text = refused(args, capsys)
    assert f"model.optimizer {message}" in text
    assert f": add --allow_import {remedy} if you trust" in text


def test_what_was_allowed_before_is_not_built_now(tmp_path, monkeypatch, capsys):
    friend(tmp_path, monkeypatch, "friend_before")
    arguments = [*TINY, "--model.attack", "friend_before.Thing"]
    RobustSegCLI([*arguments, "--allow_import", "friend_before"])
    assert "model.attack names friend_before.Thing, which is outside of" in refused(["train", *arguments], capsys)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "*", "../evil", "evil.py;", "jsonargparse", "jsonargparse.core"])
def test_a_name_that_is_no_package(name, capsys):
    assert "is not a package to allow" in refused(["train", *TINY, f"--allow_import={name}"], capsys)


def test_the_option_is_in_the_help(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "--allow_import PACKAGE" in capsys.readouterr().out


class TestWeights:
    """Files of weights, wherever a configuration may name one."""

    @pytest.mark.parametrize(
        ("command", "arguments"),
        [
            ("evaluate", ["--ckpt_path", "@F"]),
            ("train", ["--ckpt_path", "@F"]),
            ("train", ["--model.init_weights", "@F"]),
            ("train", ["--model.network.weights", "@F"]),
            ("train", ["--model.network.backbone_args", "{pretrained_cfg_overlay: {file: '@F'}}"]),
            ("train", ["--model.network.backbone_args", "{pretrained_cfg: {file: '@F'}}"]),
            ("train", ["--model.network.backbone_args", "{checkpoint_path: '@F'}"]),
            ("train", ["--model.network.backbone", "local-dir:@D"]),
            ("train", ["--robustness.attacks", "{u: {class_path: Universal, init_args: {path: '@F'}}}"]),
            ("train", ["--trainer.callbacks", "[{class_path: WeightAveraging, init_args: {avg_fn: torch.load}}]"]),
        ],
        ids=lambda value: value if isinstance(value, str) else " ".join(value),
    )
    def test_hostile(self, command, arguments, stranger, capsys):
        arguments = [text.replace("@F", str(stranger / "evil.pt")).replace("@D", str(stranger)) for text in arguments]
        assert refused([command, *TINY, *arguments], capsys)
        assert not (stranger / "marker").exists()

    def test_the_files_are_hostile(self, stranger):
        for read in (
            lambda: torch.load(stranger / "evil.pt", weights_only=False),
            lambda: np.load(stranger / "evil.pkl", allow_pickle=True),
        ):
            read()
            assert (stranger / "marker").exists()
            (stranger / "marker").unlink()

    def test_a_checkpoint_of_lightning_with_a_payload_beside_the_weights(self, run, stranger, capsys):
        content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
        for place in ("callbacks", "hyper_parameters", "optimizer_states", "loops"):
            path = stranger / f"{place}.ckpt"
            torch.save({**content, place: {"x": Payload(stranger / "marker")}}, path)
            for command in ("train", "evaluate"):
                refused([command, *TINY, "--ckpt_path", str(path)], capsys)
        assert not (stranger / "marker").exists()

    def test_the_environment_does_not_loosen_it(self, stranger, capsys, monkeypatch):
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
        refused(["train", *TINY, "--ckpt_path", str(stranger / "evil.pt")], capsys)
        assert not (stranger / "marker").exists()


class TestRules:
    """What may be built, object by object."""

    @pytest.mark.parametrize(
        "path",
        ["torch.optim.SGD", "robustseg.attacks.PGD", "robustseg.training.module.papers_sgd",
         "pytorch_lightning.callbacks.EMAWeightAveraging", "torchvision.models.segmentation.fcn_resnet50"],
    )  # fmt: skip
    def test_buildable(self, path):
        config = jsonargparse.Namespace(a=jsonargparse.Namespace(class_path=path))
        assert safety.refused_object(config, []) is None

    @pytest.mark.parametrize(
        "path",
        ["torch.hub.load", "torch.nn.Linear", "torch.nn", "torch.nothing", "torch.os.system", "torch", "os.system",
         "timm.create_model", "torchvision.models.get_model", "robustseg.nothing", "robustseg.cli.main.main",
         "robustseg.config.build.RobustSegCLI", "robustseg.models.load_segmentation_weights",
         "robustseg.data.lightning.SegmentationDataModule.load_from_checkpoint"],
    )  # fmt: skip
    def test_not_buildable(self, path):
        package = path.partition(".")[0]
        defined_in = {
            "torch.os.system": "posix",
            "robustseg.data.lightning.SegmentationDataModule.load_from_checkpoint": "pytorch_lightning",
        }
        for value in ({"class_path": path}, [{"x": ({"class_path": path},)}]):
            message = safety.refused_object(jsonargparse.Namespace(key=value), [])
            assert message is not None
            assert message.startswith("key")
            assert f"--allow_import {defined_in.get(path, package)} " in message

    def test_functions_and_classes_that_stand_as_they_are(self):
        for value in (os.system, subprocess.Popen, torch.hub.load, [nn.Linear], {"a": torch.load}, lambda: 0, eval):
            assert safety.refused_object(jsonargparse.Namespace(key=value), []) is not None
        for value in (torch.optim.SGD, 1, "os.system", None, torch.float16, Path("a"), [1.0, "b"]):
            assert safety.refused_object(jsonargparse.Namespace(key=value), []) is None

    def test_every_class_that_our_own_take_is_covered(self):
        """A class with a new kind of argument gets that kind into BUILDABLE."""
        import inspect
        import typing

        def classes(hint):
            if inspect.isclass(hint) and not typing.get_args(hint):
                yield hint
            for inner in typing.get_args(hint):
                yield from classes(inner)

        def subclasses(cls):
            for inner in cls.__subclasses__():
                yield inner
                yield from subclasses(inner)

        bases = [base for base in safety.BUILDABLE if base.__module__.startswith("robustseg.")]
        ours = [cls for base in bases for cls in (base, *subclasses(base)) if cls.__module__.startswith("robustseg.")]
        assert len(ours) > 40
        for cls in ours:
            for name, hint in typing.get_type_hints(cls.__init__).items():
                for kind in classes(hint):
                    if kind.__module__.startswith("robustseg.") and not issubclass(kind, tuple):
                        assert issubclass(kind, safety.BUILDABLE), f"{cls.__name__}({name}: {kind.__name__})"


def test_no_other_reader_in_the_package():
    """Every torch.load and np.load says that it unpickles nothing, and nothing else that could is called."""
    assert YAML_LOADER in (yaml.SafeLoader, yaml.CSafeLoader)
    for path in Path(robustseg.__file__).parent.rglob("*.py"):
        for call in (node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)):
            named = ast.unparse(call.func)
            options = [ast.unparse(keyword) for keyword in call.keywords]
            if named == "torch.load":
                assert "weights_only=True" in options, f"{path}:{call.lineno}"
            if named in ("np.load", "numpy.load"):
                assert "allow_pickle=False" in options, f"{path}:{call.lineno}"
            if named == "yaml.load":
                loaders = [ast.unparse(argument) for argument in call.args[1:]]
                assert loaders == ["YAML_LOADER"], f"{path}:{call.lineno}"
                continue
            module, _, function = named.rpartition(".")
            assert named not in ("eval", "exec"), f"{path}:{call.lineno}"
            assert module not in ("pickle", "dill", "joblib", "marshal", "shelve", "yaml", "torch.hub") or (
                not function.startswith(("load", "open", "Unpickler", "unsafe"))
            ), f"{path}:{call.lineno}"
