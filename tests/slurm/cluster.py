"""A real SLURM on this machine: one controller and two nodes on loopback, in a temporary folder, for as long as a test.

Run as a script it is the guard of such a cluster: once its standard input ends it kills and removes all that belongs to
the cluster. That happens when it is stopped, and also when the tests are killed with no time left to stop anything.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sinfo", "sbatch", "srun", "scontrol", "scancel")
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}
CONFIGURATION = """\
ClusterName=ci
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
# A requeued job waits until the credentials of its last start have expired: 2 minutes by default.
AuthInfo=socket={folder}/munge.sock,cred_expire=5
SlurmctldPort={ports[0]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdSpoolDir={folder}/spool-%n
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
KillWait=30
GresTypes=gpu
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs=64 Gres=gpu:16
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs=64 Gres=gpu:16
PartitionName=low Nodes=n1,n2 Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=10
PartitionName=high Nodes=n1,n2 PriorityTier=10 PreemptMode=OFF
"""


def missing() -> str | None:
    """Why there can be no cluster on this machine, or None if there can."""
    if os.name != "posix" or os.geteuid() != 0:
        return "SLURM's daemons are started by root only"
    absent = [name for name in PROGRAMS if shutil.which(name, path=_search_path()) is None]
    return f"no {', '.join(absent)} on this machine (Debian: slurm-wlm and munge)" if absent else None


class Cluster:
    """Two nodes, n1 and n2, with more CPUs and GPUs than are there; partition ``high`` preempts the default ``low``.

    A context manager: leaving it kills the daemons and all jobs.
    """

    def __enter__(self) -> Cluster:
        # Not pytest's folder: the path of a socket has 107 characters at most.
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.folder.chmod(0o755)  # munged insists
        self.environment = os.environ | {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": _search_path()}
        self.guard = subprocess.Popen(
            [sys.executable, __file__, self.environment["SLURM_CONF"]],
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C must not reach it before its work is done
        )
        self.daemons: list[subprocess.Popen[bytes]] = []
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        assert self.guard.stdin is not None
        self.guard.stdin.close()
        for process in (self.guard, *self.daemons):
            process.wait()

    def _start(self) -> None:
        for name in ("state", "spool-n1", "spool-n2"):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(128))
        (self.folder / "slurm.conf").write_text(CONFIGURATION.format(folder=self.folder, ports=_free_ports(3)))
        # what stands for GPUs: batch files that ask for some are accepted as they are
        for number in range(16):
            (self.folder / f"gpu{number}").touch()
        (self.folder / "gres.conf").write_text(f"Name=gpu File={self.folder}/gpu[0-15]\n")
        files = {"key-file": "munge.key", "pid-file": "munged.pid", "seed-file": "munge.seed"}
        munge = [f"--{option}={self.folder / name}" for option, name in files.items()]
        self._daemon("munged", "--foreground", f"--socket={self.folder / 'munge.sock'}", *munge)
        self.until(lambda: (self.folder / "munge.sock").exists(), 10, "munged's socket")
        self._daemon("slurmctld", "-D", "-i")
        for node in ("n1", "n2"):
            self._daemon("slurmd", "-D", "-N", node)
        self.until(lambda: self._states() == {"idle"}, 30, "two idle nodes")

    def _daemon(self, *command: str) -> None:
        with (self.folder / f"{command[0]}.log").open("ab") as log:
            process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, start_new_session=True)
        self.daemons.append(process)

    def _states(self) -> set[str]:
        command = ["sinfo", "--noheader", "--format=%T"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        return set(done.stdout.split())

    def run(self, *command: str | Path, **variables: str) -> str:
        """What a command of SLURM prints, given environment variables beside those of the tests."""
        environment = self.environment | variables
        done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stderr}"
        return done.stdout

    def submit(self, script: Path, *options: str, output: Path, arguments: Sequence[str] = (), **variables: str) -> int:
        """Submit a batch script; its number. A job inherits the tests' environment and ``variables``."""
        command = ["sbatch", "--parsable", f"--output={output}", *options, script, *arguments]
        return int(self.run(*command, **variables).partition(";")[0])

    def facts(self, job: int) -> dict[str, str]:
        """What ``scontrol show job`` says, such as JobState, Restarts, ExitCode and StdOut."""
        pairs = re.findall(r"(\S+?)=(\S*)", self.run("scontrol", "--oneliner", "show", "job", str(job)))
        return dict(pairs)

    def state(self, job: int) -> str:
        return self.facts(job)["JobState"]

    def restarts(self, job: int) -> int:
        return int(self.facts(job)["Restarts"])

    def output(self, job: int) -> str:
        """What a job and its tasks have printed so far."""
        path = Path(self.facts(job)["StdOut"])
        return path.read_text(errors="replace") if path.exists() else ""

    def signal(self, job: int, name: str) -> None:
        """Send a signal to all tasks of a job, not to its batch script; what ``--signal`` does."""
        self.run("scancel", f"--signal={name}", str(job))

    def cancel(self, job: int) -> None:
        self.run("scancel", str(job))

    def requeue(self, job: int) -> None:
        self.run("scontrol", "requeue", str(job))

    def wait(self, job: int, *states: str, timeout: float = 180) -> None:
        """Until a job is in one of ``states``; a job that ended in another one fails at once, with what it printed."""

        def reached() -> bool:
            state = self.state(job)
            assert state in states or state not in ENDED, f"job {job} is {state}:\n{self.output(job)[-4000:]}"
            return state in states

        self.until(reached, timeout, lambda: f"job {job} {' or '.join(states)}: {self.facts(job)}\n{self.output(job)}")

    def until(self, reached: Callable[[], bool], timeout: float, what: str | Callable[[], str]) -> None:
        """Look again and again; after ``timeout`` seconds fail with ``what`` did not come about."""
        end = time.monotonic() + timeout
        while not reached():
            if time.monotonic() > end:
                logs = "".join(f"\n{path.name}: {path.read_text()[-1000:]}" for path in self.folder.glob("*.log"))
                raise AssertionError(f"not after {timeout} s: {what if isinstance(what, str) else what()}{logs}")
            time.sleep(0.1)


def _search_path() -> str:
    """Daemons are in sbin, which is not on everyone's path."""
    return os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def members(configuration: str) -> list[int]:
    """Processes of the cluster with this configuration file, which all have it in their environment."""
    marker, found = f"SLURM_CONF={configuration}".encode(), []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            if marker in (path / "environ").read_bytes().split(b"\0"):
                found.append(int(path.name))
    return found


def _guard(configuration: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.read()
    while left := members(configuration):  # a killed daemon may just have started one more
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    shutil.rmtree(Path(configuration).parent, ignore_errors=True)


if __name__ == "__main__":
    _guard(sys.argv[1])
