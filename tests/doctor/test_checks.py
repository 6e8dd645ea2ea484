"""What the doctor concludes from facts: versions, devices, cores, SLURM's variables, measured speeds."""

from __future__ import annotations

from datetime import datetime
from importlib import metadata
from types import SimpleNamespace

import pytest
import torch

from robustseg.doctor import devices, slurm, versions
from robustseg.doctor.configuration import Setup
from robustseg.doctor.devices import check_devices, compare_devices
from robustseg.doctor.findings import Finding, counted, mebibytes, ok, verdict_of
from robustseg.doctor.ranks import Rank, compare_ranks
from robustseg.doctor.resources import compare_cores, compare_shm, find_cores
from robustseg.doctor.slurm import Launch, check_signal, check_slurm, find_launch, job_facts
from robustseg.doctor.throughput import Speed, recommend, worker_counts

GIB = 2**30


def by_name(findings) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def setup(
    workers: int = 2, num_devices: str | int = "auto", num_nodes: int = 1, accelerator: str = "auto", **arguments
) -> Setup:
    arguments = {"num_workers": workers, "batch_size": 8, "crop_size": [360, 360]} | arguments
    return Setup({"class_path": "CamVid", "init_args": arguments}, num_devices, num_nodes, accelerator, "runs")


def test_words_and_verdicts():
    assert [counted(n, "process") for n in (0, 1, 2)] == ["0 processes", "1 process", "2 processes"]
    assert [mebibytes(n) for n in (2**20, 3 * 2**29, 2**41)] == ["1 MiB", "1.5 GiB", "2.0 TiB"]
    findings = [ok("a", "b"), Finding("a", "problem", "b", "c"), Finding("a", "caution", "b", "c")]
    assert (verdict_of(findings), verdict_of(findings[::2]), verdict_of([])) == ("problem", "caution", "ok")


# Versions


def test_requirements_that_are_not_met():
    lines = ["robustseg 0.1.0 requires rich, which is not installed.", "fcn 2 has requirement torch<2, but you have 3."]
    wrong, rest = versions.judge(lines, {"robustseg", "torch"})
    assert (wrong.verdict, wrong.text) == ("problem", lines[0])
    assert (rest.verdict, rest.text) == ("ok", f"those of other packages that are not met: {lines[1]}")
    assert [one.text for one in versions.judge([], {"robustseg"})] == ["met"]


def test_pip_is_asked_and_need_not_be_there(monkeypatch):
    answers = {
        "No broken requirements found.": (0, []),
        "a 1 requires b, which is not installed.": (1, ["a 1 requires b, which is not installed."]),
        "": (1, None),
    }
    for text, (status, expected) in answers.items():
        done = SimpleNamespace(returncode=status, stdout=text)
        monkeypatch.setattr(versions.subprocess, "run", lambda *_, done=done, **__: done)
        assert versions.pip_check() == expected
    here = {"torch": "2.15.0.dev20260101", "albumentations": "3.0.0", "robustseg": "0.1.0"}
    wanted = ["torch>=2.6", "albumentations>=2.0.8,<3", "rich>=13", 'pytest>=8; extra == "dev"']
    monkeypatch.setattr(metadata, "requires", lambda package: wanted)
    monkeypatch.setattr(versions, "_installed", here.get)
    found = [one for one in versions.check_versions() if one.verdict != "ok"]
    assert [(one.verdict, one.text) for one in found] == [
        (
            "problem",
            "robustseg has requirement albumentations<3,>=2.0.8, but you have albumentations 3.0.0.",
        ),
        ("problem", "robustseg requires rich>=13, which is not installed."),
    ]


@pytest.mark.parametrize(("version", "bad"), [("2.6.2", True), ("2.6.3", True), ("2.6.6", False), (None, False)])
def test_the_compromised_releases(version, bad, monkeypatch):
    monkeypatch.setattr(versions, "_installed", {"lightning": version}.get)
    found = list(versions.compromised())
    assert [(one.name, one.verdict) for one in found] == [("lightning", "problem")] * bad
    assert all("pip uninstall lightning" in one.remedy for one in found)


# Devices


@pytest.mark.parametrize(
    ("accelerator", "num_devices", "gpus", "mps", "verdict"),
    [
        ("gpu", "auto", 0, False, "problem"),
        ("cuda", 1, 0, True, "problem"),
        ("gpu", 1, 0, True, "problem"),
        ("mps", 1, 0, True, "problem"),
        ("mps", 1, 0, False, "problem"),
        ("gpu", "auto", 1, False, "ok"),
        ("gpu", 2, 1, False, "problem"),
        ("auto", 2, 1, False, "problem"),
        ("auto", 2, 0, False, "ok"),
        ("cpu", 4, 1, False, "ok"),
    ],
)
def test_devices_that_a_configuration_asks_for(accelerator, num_devices, gpus, mps, verdict):
    (found,) = compare_devices(setup(num_devices=num_devices, accelerator=accelerator), gpus, mps)
    assert found.verdict == verdict
    assert (found.remedy is None) == (verdict == "ok")


def test_a_gpu(monkeypatch):
    real = torch.ones
    monkeypatch.setattr(torch, "ones", lambda *shape, device: real(*shape))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(name="H200"))
    for free, verdict in ((70, "ok"), (10, "caution")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index, free=free: (free * GIB, 80 * GIB))
        found = devices._gpu(0)
        assert found.verdict == verdict
        assert found.text.startswith(f"H200, {free}.0 GiB of 80.0 GiB free")
    monkeypatch.setattr(torch.nn.functional, "conv2d", lambda images, weights: 2 * images)
    assert "Trust no result" in devices._gpu(0).remedy

    def fail(*_):
        raise RuntimeError("CUDA error: no kernel image is available\nmore")

    monkeypatch.setattr(torch.nn.functional, "conv2d", fail)
    assert devices._gpu(0).text == "computes nothing: CUDA error: no kernel image is available"


def test_no_gpu_where_there_should_be_one():
    assert devices._no_gpu("13.2", 0).verdict == "ok"
    assert devices._no_gpu(None, 1).verdict == "caution"
    wrong = devices._no_gpu("13.2", 1)
    assert wrong.verdict == "problem"
    assert "CUDA_VISIBLE_DEVICES" in wrong.remedy


def test_no_gpu_on_this_machine(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert by_name(check_devices(setup(accelerator="gpu")))["trainer.accelerator"].verdict == "problem"
    assert "trainer.accelerator" not in by_name(check_devices(None))


# Cores and shared memory


def test_many_workers_on_one_core():
    found = by_name(compare_cores(1, {"OMP_NUM_THREADS": "1"}, setup(workers=8)))
    assert found["cores"].text == "1 for this process"
    assert found["num_workers"].verdict == "caution"
    assert "8 data workers for each of 1 process on 1 core" in found["num_workers"].text
    assert found["num_workers"].remedy.startswith("--data.num_workers 0")
    assert by_name(compare_cores(2, {}, setup(workers=2)))["num_workers"].verdict == "ok"
    several = by_name(compare_cores(8, {}, setup(workers=3), processes=4))
    assert several["num_workers"].remedy.startswith("--data.num_workers 1;")


@pytest.mark.parametrize(
    ("value", "processes", "verdict", "remedy"),
    [
        (None, 1, "caution", "export OMP_NUM_THREADS=4"),
        ("four", 1, "caution", "export OMP_NUM_THREADS=4"),
        ("4", 1, "ok", None),
        ("5", 1, "caution", "export OMP_NUM_THREADS=4"),
        ("2", 2, "ok", None),
        ("4", 2, "caution", "export OMP_NUM_THREADS=2"),
    ],
)
def test_threads(value, processes, verdict, remedy):
    environ = {} if value is None else {"OMP_NUM_THREADS": value}
    found = by_name(compare_cores(4, environ, None, processes))["OMP_NUM_THREADS"]
    assert (found.verdict, found.remedy) == (verdict, remedy)


def test_srun_forgets_cpus_per_task(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1, 2, 3})
    assert [find_cores({"SLURM_CPUS_PER_TASK": text}) for text in ("2", "8", "many")] == [2, 4, 4]
    found = by_name(compare_cores(1, {"SLURM_CPUS_PER_TASK": "8"}, None))
    assert "SRUN_CPUS_PER_TASK" in found["cpus-per-task"].remedy
    assert "cpus-per-task" not in by_name(compare_cores(8, {"SLURM_CPUS_PER_TASK": "8"}, None))


def test_shared_memory_against_what_workers_need():
    batch = 8 * 360 * 360 * 20
    need = 2 * (2 * 3 + 1) * batch  # two processes with three workers that each hold two batches, and one in use
    assert compare_shm(2 * need, 64 * GIB, setup(3), 2).verdict == "ok"
    close = compare_shm(2 * need - 1, 64 * GIB, setup(3), 2)
    assert (close.verdict, close.values["need"]) == ("caution", need)
    short = compare_shm(need - 1, 64 * GIB, setup(3), 2)
    assert (short.verdict, "--shm-size" in short.remedy) == ("problem", True)
    assert compare_shm(0, 64 * 2**20, setup(0), 1).verdict == "ok"
    # the size of the images is not configured, or nothing is
    for unknown in (None, setup(3, crop_size=None)):
        assert compare_shm(2**26, 2**26, unknown, 1).verdict == "caution"
        assert compare_shm(2**27, 2**27, unknown, 1).verdict == "ok"


# SLURM


JOB = {
    "SLURM_JOB_ID": "17",
    "SLURM_JOB_NAME": "train",
    "SLURM_NNODES": "2",
    "SLURM_NODELIST": "n[1-2]",
    "SLURM_NTASKS": "4",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}


def examined(monkeypatch, configuration: Setup | None = None, gpus: int = 0, without: tuple[str, ...] = (), **changed):
    """What the doctor says of a job, without SLURM's programs."""
    monkeypatch.setattr(slurm.shutil, "which", lambda name: None)
    environ = {key: value for key, value in (JOB | changed).items() if key not in without}
    found = by_name(check_slurm(environ, configuration, gpus))
    del found["scontrol"]
    return found


def test_outside_of_a_job():
    assert [one.text for one in check_slurm({}, None, 0)] == ["This is not a SLURM job."]


def test_a_job_as_it_should_be(monkeypatch):
    found = examined(monkeypatch, setup(num_devices=2, num_nodes=2))
    assert {one.verdict for one in found.values()} == {"ok"}
    assert found["trainer"].text == "trainer.devices is 2 and trainer.num_nodes is 2, as the job has them."
    assert found["tasks"].text == "4 tasks started by srun, --ntasks-per-node=2."
    assert found["job"].values["SLURM_NODELIST"] == "n[1-2]"
    assert "--config" in examined(monkeypatch)["trainer"].text


def test_ntasks_without_ntasks_per_node(monkeypatch):
    found = examined(monkeypatch, without=("SLURM_NTASKS_PER_NODE",))["ntasks-per-node"]
    assert found.verdict == "problem"
    assert "--nodes=2 and --ntasks-per-node=2" in found.remedy


@pytest.mark.parametrize("step", [None, "4294967290", "4294967291"])
def test_several_tasks_without_srun(step, monkeypatch):
    changed = {} if step is None else {"SLURM_STEP_ID": step}
    found = examined(monkeypatch, without=("SLURM_STEP_ID",) if step is None else (), **changed)["srun"]
    assert found.verdict == "problem"
    assert "rank 0 of 4 and wait for others that never start" in found.text
    assert "srun --ntasks-per-node=2 robustseg" in found.remedy


def test_an_interactive_shell(monkeypatch):
    shell = {"without": ("SLURM_STEP_ID", "SLURM_PROCID", "SLURM_NTASKS_PER_NODE"), "SLURM_JOB_NAME": "interactive"}
    found = examined(monkeypatch, setup(num_devices=1), **shell)
    assert found["srun"].verdict == "caution"
    assert not [one for one in found.values() if one.verdict == "problem"]


def test_tasks_that_lightning_takes_for_an_interactive_shell(monkeypatch):
    found = examined(monkeypatch, SLURM_JOB_NAME="bash")
    assert found["job name"].verdict == "problem"
    assert "each would train by itself" in found["job name"].text


@pytest.mark.parametrize(
    ("num_devices", "gpus", "verdict"),
    [(2, 0, "ok"), (4, 0, "problem"), ("auto", 2, "ok"), ("auto", 4, "problem"), ("auto", 0, "problem")],
)
def test_devices_against_tasks_per_node(num_devices, gpus, verdict, monkeypatch):
    found = examined(monkeypatch, setup(num_devices=num_devices, num_nodes=2), gpus)
    assert found["trainer" if verdict == "ok" else "trainer.devices"].verdict == verdict
    if verdict == "problem":
        assert found["trainer.devices"].remedy.startswith("--trainer.devices 2 ")


def test_nodes_against_num_nodes(monkeypatch):
    found = examined(monkeypatch, setup(num_devices=2, num_nodes=1))["trainer.num_nodes"]
    assert (found.verdict, found.remedy) == ("problem", "--trainer.num_nodes 2, or #SBATCH --nodes=1.")


def test_a_single_task_with_several_devices(monkeypatch):
    one = {"without": ("SLURM_NTASKS_PER_NODE",), "SLURM_NTASKS": "1", "SLURM_NNODES": "1"}
    found = examined(monkeypatch, setup(num_devices=4), **one)
    assert "--ntasks-per-node is 1, but trainer.devices is 4" in found["trainer.devices"].text


def test_gpus_per_task_and_gpus_that_are_not_seen(monkeypatch):
    found = examined(monkeypatch, gpus=1, SLURM_GPUS_PER_TASK="1")["gpus-per-task"]
    assert (found.verdict, "--gpus-per-node=2" in found.remedy) == ("problem", True)
    assert "gpus-per-task" not in examined(monkeypatch, gpus=2, SLURM_GPUS_PER_TASK="1")
    assert examined(monkeypatch, gpus=0, SLURM_GPUS_ON_NODE="2")["GPUs"].verdict == "problem"
    assert "GPUs" not in examined(monkeypatch, gpus=2, SLURM_GPUS_ON_NODE="2")


def test_no_scontrol(monkeypatch):
    monkeypatch.setattr(slurm.shutil, "which", lambda name: None)
    found = by_name(check_slurm(JOB, None, 0))["scontrol"]
    assert (found.verdict, "status 85" in found.text) == ("caution", True)


def test_what_scontrol_says(monkeypatch, tmp_path):
    program = tmp_path / "scontrol"
    program.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = show ]; then echo "JobId=$4 BatchFlag=1 Requeue=0 TimeLimit=UNLIMITED EndTime=Unknown"\n'
        'elif [ "$1" = write ]; then printf "#!/bin/bash\\n#SBATCH --signal=USR1@120\\n"; fi\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    found = by_name(check_slurm(JOB, None, 0))
    assert found["time limit"].text == "None: TimeLimit=UNLIMITED."
    assert found["requeue"].verdict == "caution"
    assert found["signal"].verdict == "ok"
    program.write_text("#!/bin/sh\nexit 1\n")
    assert "gave no answer" in by_name(check_slurm(JOB, None, 0))["scontrol"].text


def test_time_left_and_requeue():
    job = {"EndTime": "2026-11-21T12:00:00", "TimeLimit": "01:00:00", "Requeue": "1", "BatchFlag": "1"}
    found = by_name(job_facts(job, datetime(2026, 11, 21, 11, 15)))
    assert found["time limit"].text == "45 minutes are left of 01:00:00."
    assert found["requeue"].verdict == "ok"
    refused = by_name(job_facts(job | {"Requeue": "0"}, datetime(2026, 11, 21)))["requeue"]
    assert (refused.verdict, refused.remedy) == ("caution", "#SBATCH --requeue")
    assert (
        by_name(job_facts(job | {"Requeue": "0", "BatchFlag": "0"}, datetime(2026, 11, 21)))["requeue"].verdict == "ok"
    )


@pytest.mark.parametrize(
    ("line", "verdict"),
    [
        ("#SBATCH --signal=USR1@120", "ok"),
        ("#SBATCH --signal=SIGUSR1@60", "ok"),
        ("#SBATCH --signal USR1", "ok"),
        ("#SBATCH --signal=TERM@90  # comment", "ok"),
        ("#SBATCH --signal=10@120", "ok"),
        ("#SBATCH --signal=USR1@20", "caution"),
        ("#SBATCH --signal=B:USR1@120", "problem"),
        ("#SBATCH --signal=USR2@120", "problem"),
        ("##SBATCH --signal=USR1@120", "caution"),
        ("", "caution"),
    ],
)
def test_the_signal_before_the_end(line, verdict):
    (found,) = check_signal(f"#!/bin/bash\n#SBATCH --time=1:00\n{line}\nsrun robustseg train\n")
    assert found.verdict == verdict
    assert found.remedy == (None if verdict == "ok" else "#SBATCH --signal=USR1@120")


def test_the_place_among_several_processes():
    assert find_launch({}) is None
    assert find_launch(JOB) == Launch("srun", 3, 4, 1)
    assert find_launch(JOB | {"SLURM_NTASKS": "1"}) is None
    assert find_launch(JOB | {"SLURM_JOB_NAME": "bash"}) is None
    assert find_launch(JOB | {"SLURM_STEP_ID": "4294967291"}) is None
    torchrun = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "n1", "MASTER_PORT": "1"}
    # torchrun may be what srun starts
    assert find_launch(JOB | torchrun) == Launch("torchrun", 5, 8, 1)


# Ranks and speeds


def test_ranks_that_differ():
    ranks = [Rank(number, f"n{number // 2}", 0.010, "torch 2.15.0", 2) for number in range(4)]
    alike = by_name(compare_ranks(ranks, 1.0, 0.02))
    assert {one.verdict for one in alike.values()} == {"ok"}
    assert "4 ranks on n0 (2), n1 (2) joined in 1.0 s" in alike["ranks"].text
    ranks[3] = Rank(3, "n1", 0.030, "torch 2.14.0", 1)
    found = by_name(compare_ranks(ranks, 1.0, 0.02))
    assert found["slowest rank"].verdict == "caution"
    assert found["slowest rank"].text.startswith("rank 3 on n1 takes 3.0 times the median")
    assert "--exclude=n1" in found["slowest rank"].remedy
    assert found["same versions"].verdict == found["same GPUs"].verdict == "problem"
    assert "rank 0 on n0 has torch 2.15.0" in found["same versions"].text
    assert "rank 3 on n1 has torch 2.14.0" in found["same versions"].text


def test_numbers_of_workers_to_measure():
    assert worker_counts(1, 0) == [0, 1]
    assert worker_counts(2, 0) == [0, 1, 2]
    assert worker_counts(12, 6) == [0, 1, 2, 4, 6, 8, 12]


@pytest.mark.parametrize(
    ("rates", "configured", "gpu", "verdict", "text"),
    [
        ([100, 95, 100], None, False, "ok", "num_workers: 0. 100 images/s with 0 workers; more bring little."),
        (
            [50, 95, 100],
            None,
            False,
            "ok",
            "num_workers: 1. 95 images/s with 1 worker, 1.9 times as many as with 0; more",
        ),
        ([100, 50, 95], None, True, "ok", "num_workers: 2. 95 images/s with 2 workers, 0.9 times as many as with 0."),
        ([50, 95, 100], 2, False, "ok", "Keep num_workers at 2"),
        (
            [50, 95, 100],
            0,
            False,
            "caution",
            "1.9 times as many as with 0, 50 with the configured 0.",
        ),
        ([100, 95, 100], 0, True, "caution", "with the configured 0 the GPU waits for every batch."),
        ([100], 0, True, "ok", "Keep num_workers at 0"),
    ],
)
def test_the_recommended_number_of_workers(rates, configured, gpu, verdict, text):
    speeds = [Speed(workers, 0.1, rate) for workers, rate in enumerate(rates)]
    found = recommend(speeds, configured, gpu)
    assert found.verdict == verdict
    assert text in found.text
