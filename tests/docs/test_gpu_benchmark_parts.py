"""benchmarks/gpu.py: its time budget, arguments, figures, and what it asks of CUDA."""

from __future__ import annotations

import time
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.docs.gpu_script import TINY, rows_of


def check(table, name, run, **options):
    return table.Check(name, run, **options)


def test_the_time_budget_ends_a_check_and_those_after_it(gpu):
    table = gpu.table

    def long():
        try:
            time.sleep(30)
        except Exception:  # such a clause of the code under test must not take the end of time for its own failure
            return "swallowed"
        return "slept"

    start = time.perf_counter()
    checks = [check(table, "short", lambda: "found"), check(table, "long", long), check(table, "after", lambda: "late")]
    rows = table.run_checks(checks, 0.5)
    assert time.perf_counter() - start < 10
    assert [(row.verdict, row.found) for row in rows] == [("ok", "found"), *[("not run", "out of time")] * 2]
    assert table.status(rows) == 0
    cut = table.run_check(check(table, "long", long, longest=0.2), 100)
    assert (cut.verdict, cut.found) == ("not run", "cut off after 0.2 s")
    assert table.run_check(check(table, "costly", lambda: "done", needs=50), 40).verdict == "not run"


def test_a_lost_device_ends_the_rows_with_its_reason(gpu):
    table = gpu.table

    def wrong():
        raise table.Wrong("bad")

    def absent():
        raise table.Absent("this GPU has no bf16")

    checks = [
        check(table, "absent", absent),
        check(table, "wrong", wrong, correctness=False),
        check(table, "then", lambda: "fine"),
    ]
    rows = table.run_checks(checks, 9, lambda: "")
    assert [row.verdict for row in rows] == ["not run", "FAILED", "ok"]
    assert table.status(rows) == 0
    rows = table.run_checks(checks, 9, lambda: "the device is lost: illegal access")
    assert [(row.verdict, row.found) for row in rows[1:]] == [
        ("FAILED", "bad"),
        ("not run", "the device is lost: illegal access"),
    ]


def test_ctrl_c_leaves_the_rows_so_far(gpu, monkeypatch, tmp_path):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu.attacks, "twice", lambda *_: "fine")
    monkeypatch.setattr(gpu.attacks, "no_trace", interrupted)
    monkeypatch.setattr(gpu.attacks, "like_the_cpu", lambda *_: "fine")
    monkeypatch.setattr(gpu.attacks, "strength", lambda *_: "fine")
    with pytest.raises(KeyboardInterrupt):
        gpu.main([*TINY, "--match", "CosPGD ", "--output", str(tmp_path / "gpu.md")])
    rows = rows_of((tmp_path / "gpu.md").read_text(encoding="utf-8"))
    assert "CosPGD twice" in rows
    assert not any("no trace" in name for name in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch", "0"], "--batch 0: use at least 1."),
        (["--minutes", "0"], "--minutes 0: use more than 0."),
        (["--minutes", "nan"], "--minutes nan: use more than 0."),
        (["--output", "/nowhere/gpu.md"], "--output /nowhere/gpu.md: no such folder."),
        (["--device", "mps"], "--device mps: use cuda, cuda:N or cpu."),
        (["--device", "gpu"], "--device gpu: use cuda, cuda:N or cpu."),
        (["--device", "cuda:"], "--device cuda:: use cuda, cuda:N or cpu."),
        (["--device", "cuda:7"], "--device cuda:7: torch finds "),
    ],
)
def test_arguments_are_refused_before_anything_runs(gpu, monkeypatch, capsys, arguments, message):
    with pytest.raises(SystemExit):
        gpu.script.arguments(["--device", "cpu", *arguments])
    assert message in capsys.readouterr().err


class Gpu:
    """Stand-in for torch.cuda on a machine without one."""

    def __init__(self, monkeypatch, waits=0):
        self.modes, self.waits = [], waits
        properties = SimpleNamespace(
            name="Test GPU", total_memory=16 * 2**30, multi_processor_count=40, major=7, minor=5
        )
        for name, value in {
            "set_device": lambda device: torch.cuda._utils._get_device_index(device),  # refuses a device without index
            "synchronize": lambda device=None: None,
            "empty_cache": lambda: None,
            "memory_allocated": lambda device=None: 1000,
            "get_rng_state_all": lambda: [torch.zeros(16, dtype=torch.uint8)],
            "get_device_properties": lambda device: properties,
            "get_sync_debug_mode": lambda: 0,
            "set_sync_debug_mode": self.modes.append,
            "is_bf16_supported": lambda including_emulation=True: including_emulation,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)

    def run(self):
        for _ in range(self.waits):  # the message of torch, from the same place each time
            warnings.warn("called a synchronizing CUDA operation (Triggered internally at …)", stacklevel=1)
        warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=1)


def test_what_is_asked_of_cuda(gpu, monkeypatch):
    stand_in = Gpu(monkeypatch, waits=4)
    device = gpu.device.Device("cuda")
    assert device.cuda
    assert device.torch == torch.device("cuda", 0)
    assert gpu.device.Device("cuda:1").torch == torch.device("cuda", 1)
    assert device.synchronisations(stand_in.run) == 4
    assert stand_in.modes == ["warn", 0]
    assert device.allocated() == 1000
    assert len(device.random_states()) == 2
    assert device.lost() == ""
    facts = dict(device.facts())
    assert facts["device"] == "Test GPU, 16.0 GiB, 40 multiprocessors, compute capability 7.5"
    assert "CUDA" in facts["driver"]
    with pytest.raises(gpu.table.Absent, match="no bf16"):
        device.precision("bf16")

    def lost(device=None):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", lost)
    assert "illegal memory access" in device.lost()


def test_the_switches_are_set_back(gpu):
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark, torch.are_deterministic_algorithms_enabled()
    with gpu.device.float32():
        assert (cudnn.allow_tf32, matmul.allow_tf32) == (False, False)
    with gpu.device.float32(tf32=True):
        assert (cudnn.allow_tf32, matmul.allow_tf32) == (True, True)
    with gpu.device.deterministic(), gpu.speed.cudnn_benchmark():
        assert torch.are_deterministic_algorithms_enabled()
    with gpu.attacks.new_switches():
        pass
    assert before == (
        cudnn.allow_tf32,
        matmul.allow_tf32,
        cudnn.benchmark,
        torch.are_deterministic_algorithms_enabled(),
    )


def test_half_the_batch_is_tried_where_the_memory_ends(gpu, monkeypatch):
    bench = gpu.speed.Bench(gpu.device.Device("cpu"), True, 8, 0.0)
    tried = []

    def row(self, subject, variant, batch):
        tried.append(batch)
        if batch > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return "fits"

    monkeypatch.setattr(gpu.speed.Bench, "_row", row)
    assert bench.row(gpu.speed.LARGE[0], gpu.speed.WAYS[0]) == "fits"
    assert tried == [8, 4, 2]


def test_figures_of_a_row_follow_from_its_times(gpu):
    times = {"bare loop": 3.0, "PGD": 3.3, "torchattacks": 3.0}
    text = gpu.speed.report([times] * 3, 8, 5.5e12, 1e13, 2**30)
    assert text.startswith(
        "7.3 img/s per step of PGD at batch 8; 1100.0 ms per step; 0.50 of 10 TFLOP/s (bare loop 0.55)"
    )
    assert "of the bare loop: PGD 1.10, torchattacks 1.00; PGD of torchattacks': 1.10; 1.00 GiB" in text
    without = gpu.speed.report([{"bare loop": 3.0, "PGD": 3.3}], 8, 5.5e12, 1e13, 2**30, 41.6)
    assert "PGD of torchattacks': it is not installed" in without
    assert without.endswith("first runs 42 s")


def test_the_operations_of_a_forward_and_an_input_gradient_are_counted(gpu):
    bench = gpu.speed.Bench(gpu.device.Device("cpu"), True, 1, 0.0)
    model = torch.nn.Conv2d(3, 5, 3, padding=1).requires_grad_(False)
    # 2 for each product, once forwards and once backwards; none for the weights
    assert bench._flops(model, torch.rand(1, 3, 16, 16)) == 2 * 2 * 16 * 16 * 3 * 5 * 9


def test_networks_and_batches_stay_on_a_gpu(gpu, monkeypatch):
    """Nothing of a row is made on the CPU and mixed with tensors of the GPU."""
    where = torch.device("cuda", 0)
    Gpu(monkeypatch)
    monkeypatch.setattr(torch.autograd, "grad", lambda value, point, *rest, **options: (torch.ones_like(point),))
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *given, **options: self)  # the mode cannot move weights
    with FakeTensorMode():
        with where:
            network = gpu.networks.shipped("pspnet_small")
        model = gpu.networks.calibrated(network, (64, 64), where, times=1)
        images = torch.rand(2, 3, 64, 64, device=where)
        targets = model(images).argmax(1)
        assert targets.device.type == gpu.speed.bare_loop(model, images, targets, 2).device.type == "cuda"
        assert gpu.speed.one_gradient(model, images, targets).device.type == "cuda"
        bench = gpu.speed.Bench(gpu.device.Device("cuda"), True, 2, 0.0)
        assert bench._throughput(8, 8, 3, 8, True) > 0
        assert bench._rounds({"bare loop": lambda: gpu.speed.bare_loop(model, images, targets, 1)})
