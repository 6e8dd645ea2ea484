"""benchmarks/cluster_costs.py, data_loading.py, detector_cost.py: what they print follows from what was measured."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.helpers.paths import ROOT

BENCHMARKS = ROOT / "benchmarks"
SCRIPT = BENCHMARKS / "cluster_costs.py"


@pytest.fixture
def costs(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import cluster_costs

    return cluster_costs


@pytest.fixture
def run(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import cluster_costs_run

    return cluster_costs_run


def call(*arguments: str, log: Path) -> tuple[int, str]:
    """Exit status and output; whatever the script has started ends with it."""
    with open(log, "w") as file:
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), *arguments], cwd=log.parent, stdout=file, stderr=file, start_new_session=True
        )
    try:
        process.wait(timeout=500)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return process.returncode, log.read_text()


@pytest.mark.slow
@pytest.mark.timeout(600)  # a dozen processes, on a busy machine
def test_the_quick_run_prints_every_part_of_the_table(tmp_path):
    status, printed = call("--quick", "--only", "scaling", "full", "--folder", str(tmp_path), log=tmp_path / "log")
    assert status == 0, printed
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines() if line[:1] == "|"]
    assert all(len(row) == 4 for row in rows)
    table = {row[0]: row[1:] for row in rows[2:]}
    assert len(table) == len(rows) - 2
    for what in ("1 process", "2 processes, nothing shared", "2 ranks, DDP"):
        assert "images/s each" in table[f"weak scaling: {what}"][0]
    assert table["weak scaling: 1 process"][2].endswith("× 1.00 (1.00..1.00)")
    figures = [float(re.match(r"[\d.]+", row[1])[0]) for row in rows[2:]]
    assert all(figure > 0 for figure in figures)
    (size,) = (row for name, row in table.items() if name.endswith("a checkpoint on the disk"))
    weights, ema, optimiser, rest = (float(number) for number in re.findall(r"[\d.]+", size[1]))
    assert weights == ema > 1
    assert optimiser == pytest.approx(weights, rel=0.05)  # SGD's momentum
    assert rest < 0.2
    assert float(size[0].split()[0]) == pytest.approx(weights + ema + optimiser + rest, abs=0.3)
    assert sum("peak resident memory" in name for name in table) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch", "1"], "--batch 1: use at least 2, of which one is attacked."),
        (["--rounds", "0"], "--rounds 0: use at least 1."),
        (["--steps", "-3"], "--steps -3: use at least 1."),
        (["--folder", "/nowhere"], "--folder /nowhere: no such folder."),
    ],
)
def test_arguments_are_refused_before_anything_runs(costs, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys, "argv", ["cluster_costs.py", *arguments])
    with pytest.raises(SystemExit):
        costs.arguments()
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([2.0], "2.00 (2.00..2.00)"),
        ([1234.5, 1.0, 99999.0], "1234 (1..99999)"),
        ([0.01234, 0.01, 0.02], "0.0123 (0.0100..0.0200)"),
        ([0.0], "0.000 (0.000..0.000)"),
    ],
)
def test_a_spread_is_median_and_range_to_three_digits(costs, values, text):
    assert costs.spread(values) == text


def test_a_step_is_the_median_of_those_after_the_warm_up_that_no_checkpoint_follows(costs):
    result = {"steps": [[50, 5], [40, 4], [1, 0.1], [9, 0.9], [3, 0.3], [9, 0.9], [2, 0.2], [9, 0.9]]}
    assert costs.step(result, 0) == 6
    assert costs.step(result, 1) == pytest.approx(0.6)
    # without the checkpoints at steps 2, 4, 6 and 8 there are 50, 1, 3, 2, of which the first two warm up
    assert costs.step(result, 0, every=2) == 2.5
    assert costs.step({"steps": [[7, 1]]}, 0) == 7


def test_contenders_take_turns(costs):
    order = []
    contenders = {name: lambda name=name: order.append(name) or [name] for name in "abc"}
    results = costs.turns(4, contenders)
    assert "".join(order) == "abcbcacababc"
    assert results == [{name: [name] for name in "abc"}] * 4


def test_a_writer_costs_one_percent_from_a_hundred_times_its_wait(costs):
    def measured(wait):
        clocks = {"idle": [[9, 9]], "blocked": [[99, 99], [wait, wait / 2]], "background": [[99, 99], [1.0, 0.5]]}
        return {"robustseg async": [{"save": clocks, "steps": [[0.25, 0.2]] * 8}]}

    rounds = [measured(wait) for wait in (0.5, 0.75, 1.0)]
    what, wall, relative, processor = costs.writer_row("size", "robustseg async", rounds, "full")
    assert what == "size, training waits for `ResumeCheckpoint`, asynchronous"
    assert wall == "750 (500..1000) ms, then 1000 (1000..1000) beside it"
    assert relative == "≤ 1 % from 75 s apart; every 15 minutes 0.08 %"
    assert processor == "375 (250..500) ms, then 500 (500..500)"
    assert costs.writer_row("size", "robustseg async", rounds, "small")[2] == (
        "3.0 (2.0..4.0) steps: ≤ 1 % from 300 steps apart"
    )


def test_memory_is_compared_with_the_first(costs):
    measured = {"without": [{"resident": 100.0}], "with": [{"resident": 130.0}, {"resident": 150.0}]}
    assert costs.memory("net", measured) == [
        ("net, peak resident memory: without", "100.0 (100.0..100.0) MiB", "+0 MiB", ""),
        ("net, peak resident memory: with", "140.0 (130.0..150.0) MiB", "+40 MiB", ""),
    ]
    on_gpu = {name: [{**run, "device": 7.0} for run in runs] for name, runs in measured.items()}
    assert [row[0] for row in costs.memory("net", on_gpu)][2:] == [
        "net, peak memory of the GPU: without",
        "net, peak memory of the GPU: with",
    ]


def test_a_hook_is_clocked_apart_for_steps_with_a_checkpoint(run, monkeypatch):
    time = 0.0

    def spend(seconds):
        nonlocal time
        time += seconds

    callback = SimpleNamespace(on_train_batch_end=lambda trainer: spend(trainer.global_step))
    hook = run.TimedHook(callback, 2, lambda: (time, time / 2))
    monkeypatch.setattr(run, "finish_writing", lambda trainer: spend(0.5))
    for number in range(1, 7):
        spend(100)
        callback.on_train_batch_end(SimpleNamespace(global_step=number, is_last_batch=number == 6))
    assert hook.idle == [(1, 0.5), (3, 1.5), (5, 2.5)]
    assert hook.blocked == [(2, 1), (4, 2)]
    assert hook.background == [(0.5, 0.25)] * 2


def test_sizes_are_of_the_tensors_and_the_rest_of_the_file(run, tmp_path):
    content = {
        "state_dict": {"a": torch.zeros(250_000)},
        "optimizer_states": [{"state": {0: {"exp": torch.zeros(500_000), "step": 3}}}],
        "text": "x" * 100_000,
    }
    torch.save(content, tmp_path / "file")
    found = run.sizes(tmp_path / "file")
    assert (found["weights"], found["EMA"], found["optimiser"]) == (1.0, 0.0, 2.0)
    assert found["file"] == (tmp_path / "file").stat().st_size / 1e6
    assert found["rest"] == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize(
    ("writer", "background"), [("robustseg", False), ("robustseg async", True), ("lightning async", True)]
)
def test_writers_are_what_their_names_say(run, writer, background):
    from cluster_costs_case import Run

    callback, plugins = run.writer(Run(1, (32, 32), 2, writer=writer, every=5))
    if writer.startswith("robustseg"):
        assert (callback.every_n_steps, callback.every_n_minutes, callback.asynchronous) == (5, None, background)
        assert not plugins
    else:
        assert callback._every_n_train_steps == 5
        assert [type(plugin).__name__ for plugin in plugins] == ["AsyncCheckpointIO"] * background


def test_the_network_is_that_of_the_configuration(run):
    from robustseg.models import SegmentationModel

    count = sum(parameter.numel() for parameter in SegmentationModel(run.network("full", 7)).parameters())
    assert 45e6 < count < 52e6


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.timeout(300)
def test_without_a_gpu_cuda_is_refused(tmp_path):
    status, printed = call("--device", "cuda", "--quick", log=tmp_path / "log")
    assert status == 1
    assert "--device cuda: torch finds no GPU here; use --device cpu." in printed


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_a_run_says_when_it_fails_is_shown(tmp_path):
    arguments = ("--quick", "--only", "scaling", "--precision", "nonsense")
    status, printed = call(*arguments, log=tmp_path / "log")
    assert status == 1
    assert "nonsense" in printed
    assert "this run ended with status 1" in printed


@pytest.fixture
def loading(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import data_loading

    return data_loading


@pytest.fixture
def load(loading, monkeypatch, capsys, tmp_path):
    """Run data_loading.py on three tiny pictures and return what it prints."""

    def run(*arguments: str) -> str:
        small = ("--size", "32", "48", "--images", "3", "--resize", "16", "24", "--rounds", "2", "--workers", "1")
        monkeypatch.setattr(sys, "argv", ["data_loading.py", *small, "--folder", str(tmp_path), *arguments])
        monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
        loading.main()
        assert not list(tmp_path.iterdir())
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_every_way_of_loading_is_in_a_table(load, kind):
    printed = load("--format", kind)
    rows = re.findall(r"^(\w.*?) {2,}([\d.]+) \(.*?\) +([\d.]+) \(", printed, re.MULTILINE)
    names = [row[0] for row in rows]
    assert len(rows) == len(set(names)) == 16 + 4
    assert all(float(speed) > 0 and float(ratio) > 0 for _, speed, ratio in rows)
    for base in ("OpenCV decodes image and mask", "DataLoader, 0 workers, files"):
        assert re.search(rf"^{base} .* 1.00 \(1.00..1.00\)$", printed, re.MULTILINE)
    assert "3 pictures of 32x48 from here" in printed
    assert "an entry of data.disk_cache takes 2 kB resized and 6 kB at full size" in printed


def test_formats_are_compared_at_both_sizes(load):
    printed = load("--formats")
    assert printed.count("data.disk_cache: with checksum") == 2
    assert re.search(r"^plain bytes +[\d.]+ ms +× 1.00 \(1.00..1.00\) +6.1 kB$", printed, re.MULTILINE)
    assert re.search(r"^data.disk_cache.* 1.6 kB$", printed, re.MULTILINE)


def test_those_compared_with_return_what_we_do(loading, tmp_path):
    args = SimpleNamespace(size=(32, 48), images=2, format="png", resize=(16, 24), crop=None, batch=2)
    loading.write_pictures(tmp_path, args)
    dataset = loading.module(tmp_path, args, resized=False).dataset("train")
    table = torch.arange(256)
    table[11] = 255
    for index, (_, image, mask) in enumerate(dataset.pairs):
        for kind in (loading.with_decode_image, loading.with_pillow_and_v2):
            images, targets = kind(loading.to_tensors())(str(image), str(mask))
            torch.testing.assert_close(images.as_subclass(torch.Tensor), dataset[index].image)
            assert targets.dtype == torch.int64
            assert torch.equal(table[targets.as_subclass(torch.Tensor)[0]], dataset[index].target)
    steps = loading.augmentation((16, 24))
    images, targets = loading.with_decode_image(loading.to_tensors(*steps))(str(image), str(mask))
    assert images.shape == (3, 16, 24)
    assert targets.shape == (1, 16, 24)


def test_images_per_second_and_ratios_are_formed_within_a_round(loading):
    measured = [{"base": 2.0, "fast": 1.0}, {"base": 8.0, "fast": 2.0}, {"base": 4.0, "fast": 4.0}]
    assert loading.rows(measured, "base", 8) == [
        ("base", "2 (1..4)", "1.00 (1.00..1.00)"),
        ("fast", "4 (2..8)", "2.00 (1.00..4.00)"),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "0"], "--images 0: use at least 1."),
        (["--size", "8", "400"], "--size 8 400: use at least 16 16."),
        (["--root", "/nowhere"], "--root /nowhere: it holds no folder train."),
        (["--folder", "/nowhere"], "--folder /nowhere: no such folder."),
    ],
)
def test_arguments_of_data_loading_are_refused_first(loading, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys, "argv", ["data_loading.py", *arguments])
    with pytest.raises(SystemExit):
        loading.arguments()
    assert message in capsys.readouterr().err


@pytest.fixture
def detection(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import detector_cost

    return detector_cost


TINY = (
    "--size", "40", "48", "--patch", "24", "--displacement", "2", "4", "--k", "1", "3", "--votes", "2", "--sigma", "1",
)  # fmt: skip


def test_every_score_is_in_the_table(detection, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["detector_cost.py", *TINY, "--rounds", "2"])
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    monkeypatch.setattr(torch, "set_flush_denormal", lambda switch: None)
    detection.main()
    ratio = r" +[\d.]+ \([\d.]+\.\.[\d.]+\)"
    row = rf"^(s\S+.*?) {{2,}}(\d+) +([\d.]+){ratio}{ratio} +([\d.]+) +[\d.]+$"
    rows = re.findall(row, capsys.readouterr().out, re.MULTILINE)
    assert all(float(milliseconds) > 0 and float(peak) > 0 for *_, milliseconds, peak in rows)
    counts = {name: int(count) for name, count, *_ in rows}
    assert 2 * 2 * 2 <= counts.pop("self-entropy, K = 2") <= 2 * 3 * 3
    assert counts.pop("scale, sigma = 1") == 2
    assert counts == {"spatial, K = 1": 2, "spatial, K = 3": 6, "spatial, K = 3, random sizes": 6}


@pytest.mark.parametrize("at_once", [(), ("--patches-per-forward", "4")])
def test_the_forwards_are_those_of_the_score(detection, monkeypatch, at_once):
    monkeypatch.setattr(sys, "argv", ["detector_cost.py", *TINY, *at_once])
    asked = []

    def model(images):
        assert not torch.is_grad_enabled()
        asked.append(images.clone())
        return images.repeat(1, 2, 1, 1)

    for contender in detection.contenders(detection.arguments(), model).values():
        both = []
        for run in contender[1:]:
            asked.clear()
            run()
            both.append([*asked])
        assert len(both[0]) == len(both[1])
        assert all(torch.equal(mine, bare) for mine, bare in zip(*both, strict=True))
        assert sum(len(images) for images in both[1]) == contender.patches


def test_scores_and_their_forwards_take_turns(detection):
    order = []
    found = {
        name: detection.Contender(1, lambda name=name: order.append(name), lambda name=name: order.append(name.upper()))
        for name in "ab"
    }
    measured = detection.measure(found, 3, torch.device("cpu"))
    assert "".join(order) == "AaBbbBaAAaBbbBaA"
    assert {name: len(times) for name, times in measured.items()} == {"a": 3, "b": 3}


def test_times_belong_to_what_they_are_of(detection, monkeypatch):
    monkeypatch.setattr(detection, "timed", lambda run, device: run())
    measured = detection.measure({"a": detection.Contender(1, lambda: "score", lambda: "bare")}, 2, torch.device("cpu"))
    assert measured == {"a": [("score", "bare")] * 2}


def test_a_row_has_the_ratios_within_a_round(detection):
    times = [((2.0, 3.0), (1.0, 2.0)), ((9.0, 4.0), (3.0, 2.0)), ((4.0, 5.0), (4.0, 2.0))]
    times = [tuple(detection.Times(*clocks) for clocks in each) for each in times]
    printed = detection.row("name", detection.Contender(7, None, None), times, (3 * 2**20, 2**21))
    assert re.split(r" {2,}", printed) == [
        "name", "7", "4000.0", "2.000 (1.000..3.000)", "2.000 (1.500..2.500)", "3.0", "1.500",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "--rounds 0: use at least 1."),
        (["--network", "nowhere.yaml"], "--network nowhere.yaml: no such file."),
        (["--patch", "170"], "patch_size = 170 with displacement = [6, 12] takes 182 pixels"),
        (["--k", "0"], "k = 0: at least one"),
        (["--sigma", "0"], "sigma = 0.0: a positive"),
    ],
)
def test_arguments_of_the_detectors_are_refused_first(detection, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys, "argv", ["detector_cost.py", *arguments])
    with pytest.raises(SystemExit):
        detection.arguments()
    assert message in capsys.readouterr().err


def test_archives_are_compared_with_the_tree(loading, monkeypatch, capsys, tmp_path):
    import archives

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    small = ("--size", "32", "48", "--images", "3", "--resize", "16", "24", "--rounds", "2", "--workers", "1")
    monkeypatch.setattr(sys, "argv", ["archives.py", *small])
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    archives.main()
    printed = capsys.readouterr().out
    for name in ("unpacked files", "zip, stored", "zip, deflated", "tar"):
        assert len(re.findall(rf"^{name} +[\d.]+ \(.*?\) +[\d.]+ \(", printed, re.MULTILINE)) == 2
        assert re.search(rf"^seconds to open, {name}: [\d.]+$", printed, re.MULTILINE)
