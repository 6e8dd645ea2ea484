"""Training under SLURM with the shipped batch files: interrupted in whatever way, it ends in the same bits.

Two tasks train with SegPGD, augmentation, a data worker each and an EMA of the weights. Every step is kept, and
compared with the same step of a run that was left alone.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT
from tests.resume.runs import CONFIG, state, unlike
from tests.slurm.cluster import Cluster, members, missing

FILES = ROOT / "configs" / "slurm"
STEPS = 20
PATIENCE = 400
"""Seconds to wait for what takes ten on an idle machine."""
OPTIONS = [
    *("--allow_import=tests", "--config", str(CONFIG), "--trainer.callbacks+=tests.slurm.brake.Brake"),
    *("--trainer.max_epochs=4", "--save.every_n_steps=1", "--save.keep=100", "--data.num_workers=1"),
    *("--robustness.attacks={}", "--robustness.validate_with=[]", "--checkpoint.monitor=null"),
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    # Time limits of SLURM itself may be missed on a machine that others load.
    pytest.mark.flaky(reruns=1),
    pytest.mark.skipif(missing() is not None, reason=f"no SLURM: {missing()}"),
]


@dataclass
class Run:
    """A training run, and the jobs that bring it to its end."""

    cluster: Cluster
    folder: Path
    name: str
    file: str = "one_node.sbatch"
    strategy: str = "ddp"

    def __post_init__(self) -> None:
        self.brake = self.folder / f"{self.name}.brake"
        self.job = 0
        self.outputs: list[Path] = []

    def submit(self, *options: str, more: Sequence[str] = ()) -> None:
        """The shipped file as it is, on loopback."""
        here = {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
        here |= {"ROBUSTSEG_RUNS": str(self.folder), "BRAKE": str(self.brake), "PYTHONPATH": str(ROOT)}
        here["STRATEGY"] = self.strategy
        tasks = "--ntasks-per-node=1" if self.file == "several_nodes.sbatch" else "--ntasks-per-node=2"
        options = (f"--job-name={self.name}", f"--chdir={ROOT}", tasks, *options)
        output = self.folder / f"{self.name}-{len(self.outputs)}.out"
        self.outputs.append(output)
        arguments = [*OPTIONS, *more]
        self.job = self.cluster.submit(FILES / self.file, *options, output=output, arguments=arguments, **here)

    def printed(self) -> str:
        return "".join(path.read_text(errors="replace") for path in self.outputs if path.exists())

    def checkpoints(self) -> dict[int, Path]:
        """Those of each step so far."""
        found = (self.folder / self.name).glob("version_*/checkpoints/step_*.ckpt")
        return {int(path.stem.partition("_")[2]): path for path in found}

    def hold(self, start: int) -> None:
        """Let that start of the job come to its third step, and wait there."""
        new = self.brake.with_suffix(".new")
        new.write_text(str(start))
        new.replace(self.brake)

    def interrupt(self, act: Callable[[], None]) -> None:
        """Do something to the run once it is held, and let it go on."""
        before = max(self.checkpoints(), default=0)

        def in_its_middle() -> bool:
            state = self.cluster.state(self.job)
            assert state in {"PENDING", "RUNNING", "COMPLETING"}, f"{state}: {self.printed()[-6000:]}"
            return max(self.checkpoints(), default=0) >= before + 2

        self.cluster.until(in_its_middle, PATIENCE, lambda: self.printed()[-6000:])
        act()
        self.brake.unlink()

    def wait_for_restarts(self, number: int) -> None:
        def there() -> bool:
            return self.cluster.restarts(self.job) == number or self.cluster.state(self.job) in ("FAILED", "COMPLETED")

        self.cluster.until(there, PATIENCE, lambda: self.printed()[-6000:])
        assert self.cluster.restarts(self.job) == number, self.printed()[-6000:]

    def finish(self) -> None:
        self.cluster.wait(self.job, "COMPLETED", timeout=PATIENCE)

    def starts_from(self) -> list[int]:
        """The steps at which it was continued."""
        lines = [line for line in self.printed().split("\n") if line.startswith("robustseg: resuming from ")]
        return [int(Path(line).stem.partition("_")[2]) for line in lines]

    def rank(self, number: int) -> int:
        """The process of a rank; its data workers have its environment, but are younger."""
        wanted = {f"SLURM_JOB_ID={self.job}".encode(), f"SLURM_PROCID={number}".encode()}
        return min(
            pid
            for pid in members(self.cluster.environment["SLURM_CONF"])
            if wanted <= set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
            and Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].endswith(b"python3")
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("training")


@pytest.fixture(scope="module")
def limited(cluster, folder) -> Run:
    """A job that hits its time limit, while the others run.

    SLURM looks every half minute, so that the signal comes 60 to 90 seconds after the start. A minute is enough to
    start in, on a busy machine as well.
    """
    run = Run(cluster, folder, "limited")
    run.hold(0)
    run.submit("--time=2", "--signal=USR1@30")
    return run


@pytest.fixture(scope="module")
def whole(limited, cluster, folder) -> Run:
    """A run that nothing happens to."""
    run = Run(cluster, folder, "whole")
    run.submit()
    run.finish()
    assert cluster.restarts(run.job) == 0
    assert run.starts_from() == []
    assert sorted(run.checkpoints()) == list(range(1, STEPS + 1))
    return run


@pytest.fixture(scope="module")
def wrong(whole, cluster, folder) -> Run:
    """A job that cannot start, while the others run."""
    run = Run(cluster, folder, "wrong")
    run.submit(more=["--model.warmup_steps=-1"])
    return run


def assert_same_bits(run: Run, whole: Run) -> None:
    assert "Traceback" not in run.printed()
    assert sorted(run.checkpoints()) == list(range(1, STEPS + 1))
    for step, path in sorted(whole.checkpoints().items()):
        assert not unlike(state(path), state(run.checkpoints()[step])), f"step {step} of {run.name}"


def test_the_time_passes_weights_change(whole):
    """What is compared below is not the same at all steps."""
    first, last = (state(whole.checkpoints()[step])["state_dict"] for step in (1, STEPS))
    assert len(unlike(first, last)) > 0.5 * len(first)


def test_signalled_and_requeued_on_two_nodes(whole, wrong, cluster, folder):
    run = Run(cluster, folder, "requeued", "several_nodes.sbatch")
    run.hold(0)
    run.submit()
    run.interrupt(lambda: cluster.signal(run.job, "USR1"))
    run.wait_for_restarts(1)
    run.hold(1)
    run.interrupt(lambda: cluster.requeue(run.job))
    run.wait_for_restarts(2)
    run.finish()
    # each time the step that was under way was finished and kept
    assert run.starts_from() == [3, 6]
    assert cluster.restarts(run.job) == 2
    assert_same_bits(run, whole)


def test_sharded_signalled_and_requeued(cluster, folder):
    """Without the EMA, which FSDP2 refuses."""
    alone = ["--trainer.callbacks=[tests.slurm.brake.Brake]", "--trainer.max_epochs=1"]
    runs = [Run(cluster, folder, name, strategy="fsdp2") for name in ("sharded_whole", "sharded")]
    for run in runs:
        if run is runs[1]:
            run.hold(0)
        run.submit(more=alone)
    run.interrupt(lambda: cluster.signal(run.job, "USR1"))
    for each in runs:
        each.finish()
    assert run.starts_from() == [3]
    whole, requeued = (each.checkpoints() for each in runs)
    assert sorted(whole) == sorted(requeued)
    for step, path in whole.items():
        assert not unlike(state(path), state(requeued[step])), f"step {step}"


def test_a_rank_killed_then_cancelled_and_submitted_again(whole, cluster, folder):
    run = Run(cluster, folder, "killed")
    run.hold(0)
    run.submit()
    run.interrupt(lambda: os.kill(run.rank(1), signal.SIGKILL))
    run.wait_for_restarts(1)
    assert "crashed with status 137 of task 1 after a checkpoint, to be continued" in run.printed()
    run.hold(1)
    run.interrupt(lambda: cluster.cancel(run.job))
    cluster.wait(run.job, "CANCELLED", timeout=PATIENCE)
    assert not re.search("srun: error: .*: Killed", run.printed()), "the tasks did not leave when they were told to"
    first = run.job
    run.submit()
    run.finish()
    # The step at which a rank was killed is lost. It was cancelled in the last step of an epoch, which ends with a
    # validation, and that is left without a checkpoint.
    assert run.starts_from() == [2, 4]
    assert (cluster.state(first), cluster.restarts(first)) == ("CANCELLED", 1)
    assert_same_bits(run, whole)


def test_the_time_limit(whole, limited, cluster):
    limited.finish()
    # one on a machine that brings the second start to its end within its own limit
    restarts = cluster.restarts(limited.job)
    assert restarts >= 1
    assert len(limited.starts_from()) == restarts
    assert 2 < limited.starts_from()[0] < STEPS
    assert_same_bits(limited, whole)


def test_a_wrong_option_is_the_end(wrong, cluster):
    run = wrong
    cluster.wait(run.job, "FAILED", timeout=PATIENCE)
    assert cluster.restarts(run.job) == 0
    assert "robustseg: error: model.warmup_steps: warmup_steps = -1 is negative." in run.printed()
    assert "status 1 of task" in run.printed()
    assert "nothing to continue: not started again" in run.printed()
