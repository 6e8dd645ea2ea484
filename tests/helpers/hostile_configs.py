"""Configurations from a stranger, each of which would leave a marker file if the parser trusted it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

import torch

from tests.helpers.paths import CONF

TINY = CONF / "tiny.yaml"


class Hostile(NamedTuple):
    """A configuration in YAML, with ``@D`` for the folder of the case and ``@M`` for the marker's path."""

    yaml: str
    key: str
    """How the message begins."""
    remedy: str
    """Package that the message offers to allow."""
    runs: bool = True
    """Whether it leaves the marker where nothing is checked; others are refused by the parser for other reasons."""


def _call(function: str, **arguments: object) -> str:
    return json.dumps({"class_path": function, "init_args": arguments})


def _optimizer(function: str, **arguments: object) -> str:
    return f"model: {{optimizer: {_call(function, **arguments)}}}"


_TOUCH = _call("os.system", command="touch @M")
_HUB = _call("torch.hub.load", repo_or_dir="@D/hub", model="entry", source="local")
_UNPICKLE = _call("torch.load", f="@D/evil.pt", weights_only=False)
_LAMBDA = "trainer: {callbacks: [{class_path: LambdaCallback, init_args: {setup: %s}}]}"
_BACKBONE = "model: {network: {init_args: {backbone_args: %s}}}"

CASES = {
    # functions where an optimiser may be named, called with arguments of the file's choice
    "os.system": Hostile(f"model: {{optimizer: {_TOUCH}}}", "model.optimizer names os.system", "os"),
    "exec through timeit": Hostile(
        _optimizer("timeit.timeit", stmt="open('@M', 'w')", number=1),
        "model.optimizer names timeit.timeit",
        "timeit",
    ),
    "runpy": Hostile(
        _optimizer("runpy.run_path", path_name="@D/hub/hubconf.py"),
        "model.optimizer names runpy.run_path",
        "runpy",
    ),
    "subprocess": Hostile(
        "model: {optimizer: {class_path: subprocess.Popen, init_args: {args: touch @M, shell: true}}}",
        "model.optimizer names subprocess.Popen",
        "subprocess",
        runs=False,
    ),
    "eval": Hostile(
        _optimizer("builtins.eval", source="open('@M', 'w')"),
        "model.optimizer names builtins.eval",
        "builtins",
        runs=False,
    ),
    "pickle": Hostile(
        "model: {optimizer: {class_path: pickle.load, init_args: {file: '@D/evil.pt'}}}",
        "model.optimizer names pickle.load",
        "pickle",
        runs=False,
    ),
    "numpy.load": Hostile(
        _optimizer("numpy.load", file="@D/evil.pkl", allow_pickle=True),
        "model.optimizer names numpy.load",
        "numpy",
    ),
    "import of a name alone": Hostile(
        "model: {optimizer: stranger.Thing}", "model.optimizer names stranger.Thing", "stranger"
    ),
    # the same of packages that are trusted, for their classes
    "torch.hub.load": Hostile(f"model: {{optimizer: {_HUB}}}", "model.optimizer names torch.hub.load", "torch"),
    "torch.load": Hostile(f"model: {{optimizer: {_UNPICKLE}}}", "model.optimizer names torch.load", "torch"),
    "torch.serialization.load": Hostile(
        _optimizer("torch.serialization.load", f="@D/evil.pt", weights_only=False),
        "model.optimizer names torch.serialization.load",
        "torch",
    ),
    "Lightning's loader": Hostile(
        _optimizer("lightning_fabric.utilities.cloud_io._load", path_or_url="@D/evil.pt", weights_only=False),
        "model.optimizer names lightning_fabric.utilities.cloud_io._load",
        "lightning_fabric",
    ),
    "torch.ops.load_library": Hostile(
        _optimizer("torch.ops.load_library", path="@D/evil.so"),
        "model.optimizer names torch.ops.load_library",
        "torch",
        runs=False,
    ),
    "our own command line": Hostile(
        _optimizer("robustseg.cli.main.main", args=["train", "--allow_import", "stranger"]),
        "model.optimizer names robustseg.cli.main.main",
        "robustseg",
        runs=False,
    ),
    "a class of torch that is no optimiser": Hostile(
        _LAMBDA % _call("torch.nn.LazyLinear", out_features=1),
        "trainer.callbacks[0].init_args.setup names torch.nn.LazyLinear",
        "torch",
        runs=False,
    ),
    "a module in a network, of torch": Hostile(
        "model: {network: {class_path: ExternalNetwork, init_args: {module: {class_path: torch.nn.Identity}}}}",
        "model.network.init_args.module names torch.nn.Identity",
        "torch",
        runs=False,
    ),
    "what torch imports": Hostile(
        _optimizer("torch.os.system", command="touch @M"),
        "model.optimizer names posix.system",
        "posix",
    ),
    "what our package imports": Hostile(
        _optimizer("robustseg.cli.main.os.system", command="touch @M"),
        "model.optimizer names posix.system",
        "posix",
    ),
    "what Lightning imports": Hostile(
        _optimizer("pytorch_lightning.cli.torch.load", f="@D/evil.pt", weights_only=False),
        "model.optimizer names pytorch_lightning.cli.torch.load",
        "torch",
    ),
    "a longer way": Hostile(
        _optimizer("robustseg.resume.runs.re.functools.os.system", command="touch @M"),
        "",
        "",
        runs=False,
    ),
    # classes of the right kind from elsewhere
    "attack": Hostile("model: {attack: {class_path: stranger.Thing}}", "model.attack names stranger.Thing", "stranger"),
    "attack by name": Hostile("model: {attack: stranger.Thing}", "model.attack names stranger.Thing", "stranger"),
    "attack in another file": Hostile("model: {attack: '@D/attack.yaml'}", "model.attack names", "stranger"),
    "model in another file": Hostile("model: '@D/model.yaml'", "model.attack names stranger.Thing", "stranger"),
    "attack of a suite": Hostile(
        "robustness: {attacks: {a: {class_path: stranger.Thing}}}", "robustness.attacks names stranger.", "stranger"
    ),
    "detector": Hostile(
        "robustness: {detectors: {a: {class_path: stranger.Thing}}}", "robustness.detectors names stranger.", "stranger"
    ),
    "loss of an attack": Hostile(
        "robustness: {attacks: {a: {class_path: APGD, init_args: {loss: stranger.Thing}}}}", "loss names", "stranger"
    ),
    "data": Hostile("data: {class_path: stranger.Data}", "data names stranger.Data", "stranger"),
    "network": Hostile("model: {network: stranger.Thing}", "model.network names stranger.Thing", "stranger"),
    "a module in a network": Hostile(
        "model: {network: {class_path: ExternalNetwork, init_args: {module: {class_path: stranger.Thing}}}}",
        "module names stranger.Thing",
        "stranger",
    ),
    "callback": Hostile("trainer: {callbacks: [{class_path: stranger.Thing}]}", "trainer.callbacks names", "stranger"),
    "logger": Hostile("trainer: {logger: {class_path: stranger.Thing}}", "trainer.logger names", "stranger"),
    "strategy": Hostile("trainer: {strategy: {class_path: stranger.Thing}}", "trainer.strategy names", "stranger"),
    "plugin": Hostile("trainer: {plugins: [{class_path: stranger.Thing}]}", "trainer.plugins names", "stranger"),
    "through an anchor": Hostile(
        "trainer: {callbacks: []}\nrobustness: {attacks: {a: &a {class_path: stranger.Thing}, b: *a}}",
        "robustness.attacks names",
        "stranger",
    ),
    # functions where a callback takes one
    "hook": Hostile(_LAMBDA % _TOUCH, "setup names os.system", "os"),
    "hook from torch": Hostile(_LAMBDA % _HUB, "trainer.callbacks[0].init_args.setup names torch.hub.load", "torch"),
    "hook by name": Hostile(_LAMBDA % "stranger.hook", "setup names stranger.hook", "stranger"),
    # where any value goes
    "any value": Hostile(_BACKBONE % f"{{x: {_TOUCH}}}", "model.network.init_args.backbone_args.x names", "os"),
    "a list of any values": Hostile(
        _BACKBONE % f"{{x: [1, {_TOUCH}]}}", "model.network.init_args.backbone_args.x[1] names os.system", "os"
    ),
    "any value from torch": Hostile(
        _BACKBONE % f"{{x: {_HUB}}}", "model.network.init_args.backbone_args.x names torch.hub.load", "torch"
    ),
    "any value of a lookalike": Hostile(
        _BACKBONE % "{x: {class_path: robustseg_evil.Thing}}",
        "model.network.init_args.backbone_args.x names robustseg_evil.Thing",
        "robustseg_evil",
    ),
    "dict_kwargs": Hostile(
        f"model: {{network: {{class_path: FCN, dict_kwargs: {{x: {_TOUCH}}}}}}}",
        "model.network.dict_kwargs.x names os.system",
        "os",
        runs=False,
    ),
    # names that look right
    "lookalike of torch": Hostile(
        "model: {optimizer: torchevil.Thing}", "model.optimizer names torchevil", "torchevil"
    ),
    "lookalike of ours": Hostile(
        "model: {attack: robustseg_evil.Thing}", "model.attack names robustseg_evil.Thing", "robustseg_evil"
    ),
    "Cyrillic letter": Hostile("model: {optimizer: t\u043erch.Thing}", "model.optimizer names", "t\u043erch"),
    "relative": Hostile("model: {attack: {class_path: .stranger.Thing}}", "", "", runs=False),
    # YAML
    "tag that calls": Hostile("model: !!python/object/apply:os.system ['touch @M']", "", "", runs=False),
    "tag that names": Hostile("model: {optimizer: !!python/name:os.system }", "", "", runs=False),
    "interpolation": Hostile("model: {optimizer: '${oc.env:HOME}'}", "", "", runs=False),
    # the file allows itself
    "allow_import": Hostile("allow_import: stranger", "allow_import = stranger in a file, which", "", runs=False),
    "allow_import and use": Hostile(
        "allow_import: [stranger]\nmodel: {attack: stranger.Thing}", "model.attack names stranger.Thing", "stranger"
    ),
}


class Payload:
    """Leaves the marker when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch '{self.marker}'",)


def prepare(folder: Path, marker: Path) -> None:
    """Everything that the cases point to, in ``folder``, which has to be importable from."""
    import pickle

    source = (
        f"open({str(marker)!r}, 'w').close()\n"
        "from robustseg.attacks import PGD\n"
        "from robustseg.data import SyntheticScenes\n"
        "import os, torch\n"
        "class Thing(PGD): pass\n"
        "class Data(SyntheticScenes): pass\n"
        "def hook(*arguments, **named): pass\n"
    )
    for package in ("stranger", "torchevil", "robustseg_evil", "t\u043erch"):
        (folder / f"{package}.py").write_text(source, encoding="utf-8")
    (folder / "hub").mkdir()
    (folder / "hub" / "hubconf.py").write_text(f"open({str(marker)!r}, 'w').close()\ndef entry(): return 1\n")
    (folder / "attack.yaml").write_text("class_path: stranger.Thing\n")
    (folder / "model.yaml").write_text("attack: {class_path: stranger.Thing}\n")
    (folder / "evil.pkl").write_bytes(pickle.dumps(Payload(marker)))
    torch.save({"state_dict": {"a": Payload(marker)}}, folder / "evil.pt")


def write(case: Hostile, folder: Path, marker: Path) -> Path:
    """The configuration file of a case."""
    path = folder / "case.yaml"
    path.write_text(case.yaml.replace("@D", str(folder)).replace("@M", str(marker)), encoding="utf-8")
    return path


def forget() -> None:
    """Let the next import of a stranger's package run it again."""
    for name in [name for name in sys.modules if name in ("stranger", "torchevil", "robustseg_evil", "t\u043erch")]:
        del sys.modules[name]


def unguarded(folder: Path) -> dict[str, bool]:
    """For each case, whether the marker appears in a process that checks nothing."""
    import contextlib
    import io

    import robustseg.config.build

    robustseg.config.build.limit_imports = lambda allowed: None
    robustseg.config.build.refused_object = lambda config, allowed: None
    robustseg.config.build.refused_write = lambda *arguments: None
    sys.path.insert(0, str(folder))
    marker = folder / "marker"
    prepare(folder, marker)
    seen = {}
    for name, case in CASES.items():
        forget()
        marker.unlink(missing_ok=True)
        # What comes of it is of no interest: a stranger's code has run by then, or has not.
        with contextlib.suppress(BaseException), contextlib.redirect_stderr(io.StringIO()):
            robustseg.config.build.RobustSegCLI(["--config", str(TINY), "--config", str(write(case, folder, marker))])
        seen[name] = marker.exists()
    return seen


if __name__ == "__main__":
    found = unguarded(Path(sys.argv[1]))
    Path(sys.argv[2]).write_text(json.dumps(found), encoding="utf-8")
