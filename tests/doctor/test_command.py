"""``robustseg doctor`` with real processes, folders, mounts and a real command line."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from PIL import Image
from torch.utils.data import DataLoader

from robustseg.cli.main import main
from robustseg.data import DataError
from robustseg.doctor import command, paths, ranks
from robustseg.doctor.configuration import Setup, build_data, read_setup
from robustseg.doctor.findings import Finding, ok
from robustseg.doctor.isolation import run_isolated
from robustseg.doctor.paths import check_folder, check_paths
from robustseg.doctor.slurm import Launch
from robustseg.doctor.throughput import _failed, check_data, measure
from robustseg.types import Batch
from tests.helpers.paths import CONF, ROOT

TINY = CONF / "tiny.yaml"
FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def no_job(monkeypatch):
    """Tests may themselves run in a job."""
    for key in list(os.environ):
        if key.startswith(("SLURM_", "TORCHELASTIC_")) or key in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"):
            monkeypatch.delenv(key)


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def problems(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.verdict == "problem"]


# The command


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Printed text, JSON and exit status of all sections, with one folder that cannot be written."""
    folder = tmp_path_factory.mktemp("doctor")
    (folder / "file").write_text("")
    arguments = ["--config", str(TINY), "--data.num_workers", "1", "--seconds", "0.2", "--json", "out.json"]
    arguments += ["--path", "good/runs", "--path", "file/runs"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    environment |= {"COLUMNS": "2000", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import sys; from robustseg.cli.main import main; sys.exit(main())",
                "doctor",
                *arguments,
            ],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        status = process.wait(timeout=200)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert not (folder / "good").exists(), "what was made for the examination is there still"
    assert sorted(path.name for path in folder.iterdir()) == ["file", "log", "out.json"]
    return (folder / "log").read_text(), json.loads((folder / "out.json").read_text()), status


@pytest.mark.slow
def test_what_is_printed_is_what_the_json_says(report):
    printed, found, _ = report
    rows, section, expected = [], "", []
    for line in printed.splitlines():
        cells = re.match(r"(ok|caution|problem) +(\S.*?)  +(\S.*?) *$", line)
        if cells:
            rows.append([section, *cells.groups(), None])
        elif match := re.match(r" +remedy: (.*?) *$", line):
            rows[-1][-1] = match[1]
        elif line in command.SECTIONS:
            section = line
        else:
            assert not line.strip() or line.startswith(("1 problem", "2 problems")), line
    for one in found["findings"]:
        expected.append([one["section"], one["verdict"], one["name"], one["text"], one["remedy"]])
    assert rows == expected
    assert {row[0] for row in rows} == set(command.SECTIONS)
    assert all((one["remedy"] is None) == (one["verdict"] == "ok") for one in found["findings"])


@pytest.mark.slow
def test_the_folder_below_a_file_is_the_only_problem(report):
    printed, found, status = report
    (wrong,) = [one for one in found["findings"] if one["verdict"] == "problem"]
    assert (wrong["section"], wrong["name"]) == ("paths", "file/runs")
    assert "Not a directory" in wrong["text"]
    assert status == 1
    assert found["verdict"] == "problem"
    assert printed.rstrip().endswith("the problems are in: paths")


@pytest.mark.slow
def test_everything_was_really_done(report):
    _, found, _ = report
    values = {(one["section"], one["name"]): one for one in found["findings"]}
    assert values["versions", "environment"]["values"]["torch_version"]
    assert values["devices", "trainer.accelerator"]["text"] == "cpu is here"
    assert "reduce 4 MiB" in values["distributed", "ranks"]["text"]
    assert values["data", "0 workers"]["values"]["rate"] > 0
    assert values["data", "1 worker"]["values"]["rate"] > 0
    assert "without the configured cache" in values["data", "data"]["text"]
    assert values["resources", "num_workers"]["text"] == "1 for each of 1 process"
    assert set(found["seconds"]) == set(command.SECTIONS)


def test_sections_can_be_chosen_and_the_status_is_zero_without_problems(capsys):
    assert main(["doctor", "--only", "slurm"]) == 0
    printed = capsys.readouterr().out
    assert "This is not a SLURM job." in printed
    assert not any(section in printed.splitlines() for section in command.SECTIONS if section != "slurm")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "gpu"], "invalid choice: 'gpu'"),
        (["--seconds", "0"], "0 is not a number of seconds"),
        (["--nonsense", "1"], "nonsense"),
        (["--config", "not/there.yaml"], "not/there.yaml"),
    ],
)
def test_wrong_options(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["doctor", *arguments])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_json_into_a_folder_that_is_not_there(tmp_path, capsys):
    assert main(["doctor", "--only", "slurm", "--json", str(tmp_path / "none" / "out.json")]) == 1
    captured = capsys.readouterr()
    assert "there is no folder" in captured.err
    assert captured.out == ""


def test_other_ranks_speak_of_what_is_wrong_only(tmp_path, capsys, monkeypatch):
    for key, value in {"RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "MASTER_ADDR": "n1", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(key, str(value))
    (tmp_path / "file").write_text("")
    wrong = ["--only", "versions", "paths", "slurm", "data", "--path", str(tmp_path / "file" / "runs")]
    assert main(["doctor", *wrong, "--json", str(tmp_path / "out.json")]) == 1
    printed = capsys.readouterr().out
    assert "paths, rank 1 on" in printed
    assert "Not a directory" in printed
    assert "versions" not in printed
    assert "ok " not in printed
    assert not (tmp_path / "out.json").exists()
    found = json.loads((tmp_path / "out.rank1.json").read_text())
    assert {one["section"] for one in found["findings"]} == {"versions", "paths"}


def test_who_examines_what():
    everything = list(command.SECTIONS)
    assert command._chosen(None, None) == everything
    assert command._chosen(["paths", "devices"], None) == ["devices", "paths"]
    # joining comes first, while all still run alike
    first = command._chosen(None, Launch("srun", 0, 4, 0))
    assert (first[0], sorted(first)) == ("distributed", sorted(everything))
    # the first task of another machine speaks for it, the others look at their own device
    assert set(command._chosen(None, Launch("srun", 2, 4, 0))) == set(everything) - {"slurm", "data"}
    assert command._chosen(None, Launch("srun", 3, 4, 1)) == ["distributed", "devices"]


def test_a_whole_training_configuration_is_understood():
    setup = read_setup(["--config", str(TINY), "--trainer.devices", "[0, 1]", "--data.num_workers=3"])
    assert (setup.devices, setup.num_workers, setup.root, setup.accelerator) == (2, 3, "runs", "cpu")
    assert setup.batch_bytes == 4 * 32 * 32 * 20
    assert read_setup(["--trainer.devices", "-1"]).processes(4) == 4
    assert read_setup(["--trainer.accelerator", "cpu"]).processes(4) == 1
    assert read_setup(["--data", "SyntheticScenes"]).processes(0) == 1


# Isolation


def hangs(pid_file):
    child = subprocess.Popen(["sleep", "100"])
    Path(pid_file).write_text(f"{os.getpid()} {child.pid}")
    yield ok("first", "was there")
    time.sleep(100)


def dies():
    os.write(2, b"the driver is unhappy\n")
    yield ok("first", "was there")
    faulthandler.disable()  # pytest's
    os.kill(os.getpid(), signal.SIGBUS)


def leaves():
    yield ok("first", "was there")
    os._exit(7)


def raises():
    yield ok("first", "was there")
    raise KeyError("lost")


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def until(condition, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_what_hangs_is_ended_with_all_that_it_started(tmp_path):
    start = time.monotonic()
    first, last = run_isolated(hangs, (str(tmp_path / "pids"),), 1)
    assert time.monotonic() - start < 8
    assert first == ok("first", "was there")
    assert (last.name, last.verdict) == ("time limit", "problem")
    assert all(until(lambda pid=pid: gone(int(pid))) for pid in (tmp_path / "pids").read_text().split())


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (dies, "ended by SIGBUS; its last words: the driver is unhappy"),
        (leaves, "exit status 7"),
        (raises, "failed with KeyError: 'lost'"),
    ],
)
def test_what_crashes_is_a_finding(check, text):
    first, last = run_isolated(check, (), 20)
    assert first == ok("first", "was there")
    assert last.verdict == "problem"
    assert text in last.text
    assert last.remedy


def test_a_section_ends_with_its_doctor(tmp_path):
    doctor = FORK.Process(target=run_isolated, args=(hangs, (str(tmp_path / "pids"),), 60))
    doctor.start()
    pids = tmp_path / "pids"
    try:
        assert until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    finally:
        doctor.kill()
        doctor.join()
    assert all(until(lambda pid=pid: gone(int(pid))) for pid in pids.read_text().split())


# Processes that join


def test_processes_of_this_machine_join_over_loopback(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    found = by_name(list(ranks.check_local(gpus=0)))
    assert "2 ranks on" in found["ranks"].text
    assert "reduce 4 MiB in" in found["ranks"].text
    assert found["NCCL across ranks"].text == "not checked: not every rank has a GPU"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nonexistent")
    (gloo,) = ranks.check_local(gpus=0)
    assert gloo.verdict == "problem"
    assert "Unable to find address for: nonexistent" in gloo.text
    assert "enforce" not in gloo.text
    assert "GLOO_SOCKET_IFNAME=nonexistent" in gloo.remedy
    assert "here one of: lo" in gloo.remedy


def test_processes_that_do_not_come_back_in_time(monkeypatch):
    monkeypatch.setattr(ranks, "check_ranks", lambda *arguments: time.sleep(60))
    start = time.monotonic()
    (found,) = ranks.check_local(0, limit=0.25)
    assert found.text == "processes of this machine did not come back in time."
    assert time.monotonic() - start < 10


def join(launches: list[Launch], tmp_path: Path, limit: float, monkeypatch, gpus: int = 0) -> list[list[Finding]]:
    """Findings of several processes that each believe to be one of several tasks."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(ranks._free_port()))
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")

    def one(number: int, launch: Launch) -> None:
        import torch

        torch.set_num_threads(1)
        found = [tuple(finding) for finding in ranks.check_ranks(launch, gpus, limit)]
        (tmp_path / f"{number}.json").write_text(json.dumps(found))

    processes = [FORK.Process(target=one, args=(number, launch)) for number, launch in enumerate(launches)]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(60)
    finally:
        for process in processes:
            process.kill()
    return [
        [Finding(*one) for one in json.loads((tmp_path / f"{number}.json").read_text())]
        for number in range(len(launches))
    ]


@pytest.mark.slow
def test_all_tasks_join_through_their_variables(tmp_path, monkeypatch):
    everybody = join([Launch("torchrun", rank, 3, rank) for rank in range(3)], tmp_path, 30, monkeypatch)
    for findings in everybody:
        found = by_name(findings)
        assert not problems(findings)
        assert f"3 ranks on {os.uname().nodename} (3) joined" in found["ranks"].text
        assert [one["rank"] for one in found["ranks"].values["ranks"]] == [0, 1, 2]
        assert "slowest rank" in found


@pytest.mark.slow
def test_tasks_that_do_not_come_are_named(tmp_path, monkeypatch):
    here = [Launch("torchrun", rank, 4, rank) for rank in (0, 2)]
    for launch, (finding,) in zip(here, join(here, tmp_path, 2, monkeypatch), strict=True):
        assert finding.verdict == "problem"
        assert f"rank {launch.rank} of 4" in finding.text
        assert "did not come: 1, 3 within 2 s" in finding.text
        assert "MASTER_ADDR" in finding.remedy


@pytest.mark.slow
def test_without_the_main_process_the_others_say_where_they_looked(tmp_path, monkeypatch):
    ((finding,),) = join([Launch("torchrun", 1, 2, 1)], tmp_path, 1, monkeypatch)
    assert finding.verdict == "problem"
    assert f"main address 127.0.0.1:{os.environ['MASTER_PORT']}" in finding.text
    assert "GLOO_SOCKET_IFNAME=lo" in finding.remedy


@pytest.mark.slow
def test_two_tasks_of_the_same_rank(tmp_path, monkeypatch):
    everybody = join([Launch("torchrun", rank, 3, rank) for rank in (0, 1, 1)], tmp_path, 2, monkeypatch)
    assert any("another task is rank 1 as well" in finding.text for findings in everybody for finding in findings)


# Folders


def test_a_good_folder_has_everything_and_is_left_as_it_was(tmp_path):
    folder = tmp_path / "deep" / "runs"
    findings = list(check_folder(str(folder)))
    assert not problems(findings)
    told = " ".join(finding.text for finding in findings)
    assert "written and synced 64 MiB" in told
    assert "atomic replacement, symbolic links, hard links, advisory locks" in told
    assert list(tmp_path.iterdir()) == []
    folder.mkdir(parents=True)
    (folder / "kept").write_text("")
    list(check_folder(str(folder)))
    assert [path.name for path in folder.iterdir()] == ["kept"]


@contextlib.contextmanager
def mounted(folder: Path, options: str):
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


def test_a_small_file_system(tmp_path):
    with mounted(tmp_path / "small", "size=1m") as folder:
        findings = list(check_folder(str(folder)))
        assert [finding.verdict for finding in findings] == ["caution", "ok", "problem"]
        assert "on tmpfs: what is there is gone when the machine restarts" in findings[0].text
        assert findings[2].text == "1 MiB of 1 MiB free: a few checkpoints fill it."
        (folder / "full").write_bytes(b"0" * 2**20)
        (finding,) = problems(list(check_folder(str(folder))))
        assert "No space left" in finding.text
        assert finding.remedy.startswith("Make room")


def test_a_file_system_with_few_files_left(tmp_path):
    with mounted(tmp_path / "few", "size=20m,nr_inodes=60") as folder:
        told = [finding.text for finding in problems(list(check_folder(str(folder))))]
        assert any(re.fullmatch(r"room for \d\d more files \(inodes\) only\.", text) for text in told)


def test_a_read_only_file_system(tmp_path):
    with mounted(tmp_path / "fixed", "size=1m,ro") as folder:
        (finding,) = list(check_folder(str(folder / "runs")))
        assert finding.verdict == "problem"
        assert "Read-only file system" in finding.text
        assert "have it mounted for writing" in finding.remedy


def test_a_file_system_that_lacks_links_and_locks(tmp_path, monkeypatch):
    def refuse(*arguments, **named):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(paths.os, "link", refuse)
    monkeypatch.setattr(paths.fcntl, "flock", lambda *arguments: None)  # as NFS mounted with nolock
    monkeypatch.setattr(Path, "symlink_to", refuse)
    found = [finding for finding in check_folder(str(tmp_path)) if " no " in f" {finding.text}"]
    assert [(finding.verdict, finding.text.partition(" (")[0]) for finding in found] == [
        ("problem", "no symbolic links"),
        ("caution", "no hard links"),
        ("caution", "no advisory locks"),
    ]
    assert "two got the lock at once" in found[2].text


def test_a_slow_file_system(tmp_path, monkeypatch):
    clock = iter(range(0, 10_000, 3))
    monkeypatch.setattr(paths.time, "perf_counter", lambda: next(clock))
    slow = next(finding for finding in check_folder(str(tmp_path)) if "synced" in finding.text)
    assert slow.verdict == "caution"
    assert slow.text.startswith("written and synced 4 MiB at 1 MB/s")
    assert slow.text.endswith("a checkpoint of 300 MB takes 215 s.")


def test_folders_of_libraries(tmp_path):
    (tmp_path / "file").write_text("")
    environ = {"TMPDIR": str(tmp_path / "file" / "x"), "TORCH_HOME": str(tmp_path / "file"), "HF_HOME": str(tmp_path)}
    found = by_name(list(check_paths((), environ)))
    assert found["$TMPDIR"].verdict == "problem"
    assert found["torch's cache"].verdict == "caution"
    assert "TORCH_HOME" in found["torch's cache"].remedy
    assert found["Hugging Face's cache"].text == f"{tmp_path}/hub can be written"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# Data


def setup_of(root: Path, **arguments: object) -> Setup:
    arguments = {"root": str(root), "image_size": [16, 16], "num_workers": 0, "batch_size": 2} | arguments
    return Setup({"class_path": "robustseg.data.CamVid", "init_args": arguments}, "auto", 1, "cpu", "runs")


@pytest.fixture
def camvid(tmp_path) -> Path:
    for split in ("train", "val", "test"):
        for number in range(4):
            for folder, mode in ((split, "RGB"), (f"{split}annot", "L")):
                (tmp_path / folder).mkdir(exist_ok=True)
                Image.new(mode, (20, 16)).save(tmp_path / folder / f"{split}{number}.png")
    return tmp_path


def test_a_data_folder_that_is_not_there(tmp_path):
    (finding,) = check_data(setup_of(tmp_path / "none"), cores=1, gpus=0, seconds=0.1)
    assert finding.verdict == "problem"
    assert str(tmp_path / "none") in finding.text


def test_an_argument_that_the_data_refuse():
    setup = Setup({"class_path": "SyntheticScenes", "init_args": {"image_size": [8, 8]}}, "auto", 1, "cpu", "runs")
    (finding,) = check_data(setup, cores=1, gpus=0, seconds=0.1)
    assert finding.text == "image_size = [8, 8] is too small for a scene: set both to 32 or more."


def test_an_image_that_is_cut_off(camvid):
    picture = camvid / "train" / "train2.png"
    picture.write_bytes(picture.read_bytes()[:-30])
    (finding,) = problems(list(check_data(setup_of(camvid), cores=1, gpus=0, seconds=0.1)))
    assert "train2" in finding.text
    with pytest.raises(DataError, match="train2"):
        measure(build_data(setup_of(camvid).data), 1, 0.1)
    # torch puts a worker's traceback into the message, of which the last line is meant for people
    wrapped = RuntimeError("Caught KeyError in DataLoader worker process 0.\nTraceback ...:\n  File ...\nKeyError: 7\n")
    assert _failed(1, wrapped).text == "RuntimeError: KeyError: 7"


def test_good_data_are_measured_and_a_number_of_workers_is_recommended(camvid):
    found = by_name(list(check_data(setup_of(camvid), cores=1, gpus=0, seconds=0.1)))
    assert all(finding.verdict != "problem" for finding in found.values())
    assert "4 training and 4 validation images" in found["data"].text
    assert found["0 workers"].values["rate"] > 0
    assert found["1 worker"].values["rate"] > 0
    assert found["validation"].text == "the first batch has 2 images of 16x16 pixels"
    assert "recommendation" in found


class SlowData:
    """Stands for a data set whose batches of two take a tenth of a second, five to an epoch.

    At first each worker has one ready.
    """

    num_workers = 0
    ready = 0

    timeout = 0.0

    def train_loader(self):
        return self

    def __iter__(self):
        for _ in range(5):
            if not 0 < self.ready < self.num_workers:
                time.sleep(0.1)
            self.ready += 1
            yield Batch([0, 0], [0, 0], ["a", "b"])


class LosesBatches(SlowData):
    """Its workers never hand anything over, as when ``/dev/shm`` is full."""

    def train_loader(self):
        return DataLoader([0, 1], num_workers=self.num_workers, collate_fn=lambda samples: time.sleep(100))


def test_workers_that_lose_their_batches():
    with pytest.raises(RuntimeError, match="timed out") as error:
        measure(LosesBatches(), 1, 0.1, patience=0.5)
    finding = _failed(1, error.value)
    assert (finding.name, finding.verdict) == ("1 worker", "problem")
    assert "/dev/shm is full" in finding.remedy


@pytest.mark.parametrize("workers", [0, 4])
def test_the_rate_is_that_of_steady_batches(workers):
    speed = measure(SlowData(), workers, 0.75)
    assert speed.rate == pytest.approx(20, rel=0.2)
    assert speed.first == pytest.approx(0.1, rel=0.5)


def test_the_shipped_data_configurations_are_understood():
    for path in (ROOT / "configs" / "data").glob("*.yaml"):
        setup = read_setup(["--config", str(path)])
        given = yaml.safe_load(path.read_text())["data"]
        assert setup.data["class_path"].endswith(given["class_path"])
        assert setup.num_workers == given["init_args"]["num_workers"]
