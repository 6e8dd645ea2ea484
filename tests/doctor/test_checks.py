"""What the doctor concludes from facts: versions, devices, cores, memory, SLURM's variables, measured speeds."""

from __future__ import annotations

import configparser
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from packaging.requirements import Requirement

from robustseg.doctor import devices, resources, slurm
from robustseg.doctor.configuration import Setup
from robustseg.doctor.devices import TOLERANCE, convolution, deviation, supported
from robustseg.doctor.findings import Finding, counted, mebibytes, ok, verdict_of
from robustseg.doctor.machine import Cores, Memory, find_cores, find_memory
from robustseg.doctor.ranks import Rank, compare_ranks
from robustseg.doctor.resources import compare_cores, compare_memory, compare_shm
from robustseg.doctor.slurm import Launch, check_signal, check_slurm, find_launch, job_facts
from robustseg.doctor.throughput import Speed, recommend, worker_counts
from robustseg.doctor.versions import compare, compromised, declared
from tests.helpers.paths import ROOT

GIB = 2**30


def by_name(findings) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def setup(workers: int = 2, num_devices: str | int = "auto", num_nodes: int = 1, **arguments) -> Setup:
    arguments = {"num_workers": workers, "batch_size": 8, "crop_size": [360, 360]} | arguments
    return Setup({"class_path": "CamVid", "init_args": arguments}, num_devices, num_nodes, "auto", "runs")


def test_words_and_verdicts():
    assert [counted(n, "process") for n in (0, 1, 2)] == ["0 processes", "1 process", "2 processes"]
    assert [mebibytes(n) for n in (2**20, 3 * 2**29, 2**41)] == ["1 MiB", "1.5 GiB", "2.0 TiB"]
    findings = [ok("a", "b"), Finding("a", "problem", "b", "c"), Finding("a", "caution", "b", "c")]
    assert (verdict_of(findings), verdict_of(findings[::2]), verdict_of([])) == ("problem", "caution", "ok")


# Versions


def test_the_bounds_are_those_of_setup_cfg():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    python, requirements = declared()
    assert str(python) == parser["options"]["python_requires"]
    found = {one.name: str(one.specifier) for one in requirements}
    assert found["albumentations"] in ("<3,>=2.0.8", ">=2.0.8,<3")
    assert {"torch", "pytorch-lightning", "jsonargparse", "packaging"} <= set(found)
    assert "pytest" not in found


def test_versions_outside_of_their_bounds():
    wanted = [Requirement("torch>=2.4"), Requirement("albumentations>=2.0.8,<3"), Requirement("rich>=13")]
    here = {"torch": "2.15.0+cu132", "albumentations": "3.0.0"}.get
    found = by_name(compare(wanted, here))
    assert found["packages"].text == "torch 2.15.0+cu132"
    assert found["albumentations"].verdict == found["rich"].verdict == "problem"
    assert found["albumentations"].text == "3.0.0 is installed, but albumentations<3,>=2.0.8 is needed."
    assert found["rich"].text.startswith("not installed")
    assert found["rich"].remedy == "python -m pip install 'rich>=13'"
    assert not [one for one in compare(wanted[:1], {"torch": "2.15.0.dev20260101"}.get) if one.verdict != "ok"]


@pytest.mark.parametrize(("version", "bad"), [("2.6.2", True), ("2.6.3", True), ("2.6.6", False), (None, False)])
def test_the_compromised_releases(version, bad):
    found = list(compromised({"lightning": version}.get))
    assert [(one.name, one.verdict) for one in found] == [("lightning", "problem")] * bad
    assert all("pip uninstall lightning" in one.remedy for one in found)


# Devices


def test_a_right_convolution_passes_and_rounded_weights_do_not():
    cpu = torch.device("cpu")
    reference = convolution(cpu, torch.float64)
    error = deviation(convolution(cpu, torch.float32), reference)
    assert 0 < error < TOLERANCE / 10
    assert TOLERANCE < deviation(convolution(cpu, torch.float32, autocast=True), reference) < devices.TOLERANCE_BF16
    # TF32 keeps ten bits of the mantissa, and must not go unnoticed
    rounded = [(one * 2**10).round() / 2**10 * (1 + 2**-11) for one in reference]
    assert deviation(rounded, reference) > TOLERANCE
    assert deviation([one * float("nan") for one in reference], reference) == float("inf")


def test_a_device_that_computes_wrongly_or_not_at_all(monkeypatch):
    cpu, right = torch.device("cpu"), convolution(torch.device("cpu"), torch.float64)

    def compute(device, dtype, autocast=False):
        assert autocast or not torch.backends.cudnn.allow_tf32
        return [one * (1.3 if autocast else 1.0) for one in right]

    monkeypatch.setattr(devices, "convolution", compute)
    (found,) = devices._computed("GPU 0", cpu, right, "facts")
    assert (found.verdict, "bf16 is off by 3.0e-01" in found.text) == ("caution", True)
    monkeypatch.setattr(devices, "convolution", lambda *arguments, **named: [one * 1.001 for one in right])
    (found,) = devices._computed("GPU 0", cpu, right, "facts")
    assert (found.verdict, "are off by 1.0e-03" in found.text) == ("problem", True)

    def fail(*arguments, **named):
        raise RuntimeError("CUDA error: no kernel image is available\nmore")

    monkeypatch.setattr(devices, "convolution", fail)
    (found,) = devices._computed("GPU 0", cpu, right, "facts")
    assert found.verdict == "problem"
    assert found.text == "facts; a convolution failed: CUDA error: no kernel image is available"


@pytest.mark.parametrize(
    ("capability", "built_for", "expected"),
    [
        ((9, 0), ["sm_80", "sm_90"], True),
        ((8, 6), ["sm_80"], True),
        ((8, 0), ["sm_86"], False),
        ((7, 0), ["sm_75", "sm_80"], False),
        ((12, 1), ["sm_100", "sm_120"], True),
        ((12, 1), ["sm_100", "compute_100"], True),
        ((12, 0), ["sm_90a", "compute_90a"], False),
        ((9, 0), ["sm_90a"], True),
        ((10, 3), ["compute_100f"], True),
        ((12, 0), ["compute_100f"], False),
        ((9, 0), [], False),
        ((9, 0), ["gfx90a"], False),
    ],
)
def test_a_build_covers_a_gpu(capability, built_for, expected):
    assert supported(capability, built_for) is expected


def fake_gpu(monkeypatch, free: int = 70 * GIB, capability: tuple[int, int] = (9, 0), bf16: bool = True) -> None:
    properties = SimpleNamespace(name="H200", major=capability[0], minor=capability[1])
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_90"])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (free, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "device", lambda index: nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    monkeypatch.setattr(devices, "convolution", lambda *arguments, **named: [torch.ones(1)])


def test_a_gpu(monkeypatch):
    fake_gpu(monkeypatch)
    (found,) = devices._gpu(0, "580.1", [torch.ones(1)])
    assert found.verdict == "ok"
    assert found.text.startswith("H200, 70.0 GiB of 80.0 GiB free, compute capability 9.0, driver 580.1; a float32")
    fake_gpu(monkeypatch, free=10 * GIB, bf16=False)
    verdicts = {one.name: one.verdict for one in devices._gpu(0, "580.1", [torch.ones(1)])}
    assert verdicts == {"GPU 0": "ok", "GPU 0 memory": "caution", "GPU 0 bf16": "caution"}
    fake_gpu(monkeypatch, capability=(7, 0))
    (found,) = devices._gpu(0, "580.1", [torch.ones(1)])
    assert found.verdict == "problem"
    assert "compute capability 7.0, and this torch was built for sm_80 sm_90" in found.text


def test_no_gpu_where_there_should_be_one():
    assert devices._no_gpu("13.2", [], 0).verdict == "ok"
    assert devices._no_gpu(None, ["/dev/nvidia0"], 0).verdict == "caution"
    wrong = devices._no_gpu("13.2", ["/dev/nvidia0"], 0)
    assert wrong.verdict == "problem"
    assert "CUDA_VISIBLE_DEVICES" in wrong.remedy


# Cores, memory, shared memory


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = "MemTotal: 67108864 kB\nMemFree: 1 kB\nMemAvailable: 33554432 kB\n"


def test_control_groups_of_version_2(tmp_path):
    root = tree(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "0::/slurm/job/step\n",
            "sys/fs/cgroup/slurm/job/step/cpu.max": "max 100000\n",
            "sys/fs/cgroup/slurm/job/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/slurm/cpu.max": "800000 100000\n",
            "sys/fs/cgroup/slurm/job/memory.max": f"{8 * GIB}\n",
            "sys/fs/cgroup/slurm/job/memory.current": f"{7 * GIB}\n",
            "sys/fs/cgroup/slurm/job/memory.stat": f"anon 1\ninactive_file {2 * GIB}\n",
            "sys/fs/cgroup/slurm/job/step/memory.max": "max\n",
        },
    )
    cores = find_cores({"SLURM_CPUS_PER_TASK": "4"}, root)
    assert (cores.quota, cores.slurm, cores.allotted) == (1.5, 4, 1)
    assert find_memory(root) == Memory(64 * GIB, 8 * GIB, 3 * GIB)


def test_control_groups_of_version_1_in_a_container(tmp_path):
    root = tree(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            # the path is that of the host, and only the group itself is mounted here
            "proc/self/cgroup": "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "250000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{4 * GIB}\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{1 * GIB}\n",
        },
    )
    assert find_cores({}, root).quota == 2.5
    assert find_memory(root) == Memory(64 * GIB, 4 * GIB, 3 * GIB)


def test_no_limits_and_no_linux(tmp_path):
    root = tree(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "4:cpu:/\n5:memory:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
    )
    assert find_cores({}, root).quota is None
    assert find_memory(root) == Memory(64 * GIB, None, 32 * GIB)
    assert find_memory(tmp_path / "elsewhere") is None
    assert find_cores({"SLURM_CPUS_PER_TASK": "many"}, tmp_path / "elsewhere").slurm is None


def test_many_workers_on_one_core():
    one_core = Cores(machine=64, affinity=1, quota=None, slurm=None)
    found = by_name(compare_cores(one_core, {"OMP_NUM_THREADS": "1"}, setup(workers=8)))
    assert found["cores"].text == "1 allotted (machine 64, affinity 1)"
    assert found["num_workers"].verdict == "caution"
    assert "8 data workers for each of 1 process on 1 core" in found["num_workers"].text
    assert found["num_workers"].remedy.startswith("--data.num_workers 0")
    quota = by_name(compare_cores(Cores(64, 64, 1.9, None), {"OMP_NUM_THREADS": "1"}, setup(workers=2)))
    assert quota["num_workers"].verdict == "caution"
    assert by_name(compare_cores(Cores(64, 64, 2.0, None), {}, setup(workers=2)))["num_workers"].verdict == "ok"
    several = by_name(compare_cores(Cores(8, 8, None, None), {}, setup(workers=3), processes=4))
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
    found = by_name(compare_cores(Cores(4, 4, None, None), environ, None, processes))["OMP_NUM_THREADS"]
    assert (found.verdict, found.remedy) == (verdict, remedy)


def test_srun_forgets_cpus_per_task():
    found = by_name(compare_cores(Cores(64, 1, None, 8), {}, None))
    assert "SRUN_CPUS_PER_TASK" in found["cpus-per-task"].remedy
    assert "cpus-per-task" not in by_name(compare_cores(Cores(64, 8, None, 8), {}, None))


def test_memory_that_is_nearly_used_up():
    assert compare_memory(Memory(64 * GIB, None, 3 * GIB)).verdict == "ok"
    little = compare_memory(Memory(64 * GIB, 8 * GIB, GIB))
    assert (little.verdict, "#SBATCH --mem" in little.remedy) == ("caution", True)


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


def test_few_open_files(monkeypatch):
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 4096))
    (found,) = resources._open_files()
    assert found.remedy == "ulimit -n 4096"


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
