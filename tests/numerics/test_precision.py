"""Full float32 precision with each form of torch's switches, and their restoration."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from robustseg.detectors import ScaleConsistency
from robustseg.detectors.errors import DetectorError
from robustseg.evaluation import EvaluationError
from robustseg.evaluation.attacking import predict
from robustseg.numerics import precision
from robustseg.numerics.precision import full_precision, lowered, matmul_precision
from tests.helpers.paths import ROOT

OLD = {
    "": "",
    "high": "torch.set_float32_matmul_precision('high')",
    "medium": "torch.set_float32_matmul_precision('medium')",
    "cuda products": "torch.backends.cuda.matmul.allow_tf32 = True",
    "no cudnn": "torch.backends.cudnn.allow_tf32 = False",
    "high, no cudnn": "torch.set_float32_matmul_precision('high'); torch.backends.cudnn.allow_tf32 = False",
}
NEW = {
    "": "",
    "general": "torch.backends.fp32_precision = 'tf32'",
    "general ieee": "torch.backends.fp32_precision = 'ieee'",
    "cuda": "torch.backends.cudnn.fp32_precision = 'tf32'",
    "cuda products": "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
    "cuda products ieee": "torch.backends.cuda.matmul.fp32_precision = 'ieee'",
    "convolutions": "torch.backends.cudnn.conv.fp32_precision = 'tf32'",
    "convolutions ieee": "torch.backends.cudnn.conv.fp32_precision = 'ieee'",
    "recurrent": "torch.backends.cudnn.rnn.fp32_precision = 'ieee'",
    "CPU products": "torch.backends.mkldnn.matmul.fp32_precision = 'bf16'",
    "CPU convolutions": "torch.backends.mkldnn.conv.fp32_precision = 'bf16'",
    "CPU": "torch.backends.mkldnn.fp32_precision = 'tf32'",
}
CHECK = """
import torch
from robustseg.numerics.precision import full_precision, lowered

OPS = (("generic", "all"), *((b, o) for b in ("cuda", "mkldnn") for o in ("all", "matmul", "conv", "rnn")))

def read(of):
    try:
        return of()
    except RuntimeError:
        return "mixed"

def state():
    return [torch._C._get_fp32_precision_getter(*op) for op in OPS] + [
        read(of)
        for of in (
            torch.get_float32_matmul_precision,
            lambda: torch.backends.cuda.matmul.allow_tf32,
            lambda: torch.backends.cudnn.allow_tf32,
            lambda: torch.is_autocast_enabled("cpu"),
            lambda: torch.is_autocast_enabled("cuda"),
        )
    ]

def compare(setting):
    before = state()
    with torch.autocast("cpu", torch.bfloat16), full_precision():
        inside = state()
        for (backend, op), value in zip(OPS, inside):
            if op != "all" and value not in ("none", "ieee"):
                print(setting, backend, op, value)
        if lowered() is not None or inside[-1] or inside[-2]:
            print(setting, lowered(), inside)
        with full_precision():
            assert state() == inside
    if state() != before:
        print(setting, "before", before, "after", state())
"""


def run(code: str) -> str:
    """The output of a process of its own: what has been set once is never quite as before it was."""
    done = subprocess.run([sys.executable, "-c", CHECK + code], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("old", OLD)
def test_every_switch_is_off_inside_and_as_before_afterwards(old):
    """All new settings after one old one, each in a fork, since torch has no way back to what was never set."""
    code = [f"import os\nfor name, new in {NEW!r}.items():"]
    code += ["    child = os.fork()", "    if child == 0:"]
    code += [f"        exec({OLD[old]!r})", "        exec(new)", "        compare(name)", "        os._exit(0)"]
    code += ["    if os.waitpid(child, 0)[1]:", "        print(name, 'failed')"]
    assert run("\n".join(code)) == ""


@pytest.fixture
def torchs_own():
    """Switches as torch has them at its start, whatever tests before have set in this process."""
    before = precision._switches()
    for switch in before:
        precision._set(switch, "tf32" if switch in (("cuda", "conv"), ("cuda", "rnn")) else "none")
    yield
    precision._restore(before)


@pytest.mark.usefixtures("torchs_own")
def test_new_switches_set_in_this_process_are_off_inside_and_restored():
    products, convolutions = torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision
    try:
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        torch.backends.cudnn.conv.fp32_precision = "ieee"
        with pytest.raises(KeyError), full_precision():
            assert torch.backends.cuda.matmul.fp32_precision == "ieee"
            assert torch.backends.cudnn.rnn.fp32_precision == "ieee"
            assert lowered() is None
            raise KeyError
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
        assert torch.backends.cudnn.conv.fp32_precision == "ieee"
        assert torch.backends.cudnn.rnn.fp32_precision == "tf32"
        assert matmul_precision() == "cuda tf32, mkldnn none"
    finally:
        torch.backends.cuda.matmul.fp32_precision = products
        torch.backends.cudnn.conv.fp32_precision = convolutions


@pytest.mark.usefixtures("torchs_own")
def test_lower_precision_is_named():
    assert lowered() == "tf32 in cuda.conv, tf32 in cuda.rnn"  # torch's default
    with full_precision():
        assert lowered() is None
        with torch.autocast("cpu"):
            assert lowered() == "autocast on cpu"


class Switching(nn.Conv2d):
    """A model that switches on products in lower precision in its forward, as a library at its first call."""

    def forward(self, images):
        torch.set_float32_matmul_precision("high")
        return super().forward(images)


def test_a_model_that_lowers_the_precision_gets_no_figures():
    images, targets = torch.rand(1, 3, 8, 8), torch.zeros(1, 8, 8, dtype=torch.long)
    model = Switching(3, 4, 1)
    try:
        with pytest.raises(EvaluationError, match=r"forward switched on tf32 in cuda\.matmul, tf32 in mkldnn\.matmul"):
            predict(model, images, targets)
        torch.set_float32_matmul_precision("highest")
        with pytest.raises(DetectorError, match=r"forward switched on tf32 in cuda\.matmul"):
            ScaleConsistency(sigma=0.5).scores(model, images, ["a"])
    finally:
        torch.set_float32_matmul_precision("highest")


def test_predictions_are_in_full_precision_without_a_guard_around_them():
    seen = []

    class Watching(nn.Conv2d):
        def forward(self, images):
            seen.append(lowered())
            return super().forward(images)

    with torch.autocast("cpu", torch.bfloat16):
        predict(Watching(3, 4, 1), torch.rand(1, 3, 8, 8), torch.zeros(1, 8, 8, dtype=torch.long))
    assert seen == [None]
