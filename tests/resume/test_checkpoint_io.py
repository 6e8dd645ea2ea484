"""The Lightning plugins: what they write in the background is what the state was, and what they refuse to read."""

from __future__ import annotations

import copy
import os
import random
import shutil
import threading
from collections import Counter, OrderedDict
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from robustseg.resume import checkpoint_io
from robustseg.resume.checkpoint_files import CheckpointError, checkpoint_name, newest_usable
from robustseg.resume.checkpoint_io import AtomicCheckpointIO, BackgroundCheckpointIO
from tests.resume.checkpoint_kills import Hostile, assert_content, content, kill_at_random

KINDS = [AtomicCheckpointIO, BackgroundCheckpointIO]


def lightning(step: int = 1, **changed: object) -> dict[str, object]:
    """What Lightning puts into a checkpoint, in short."""
    return {
        "pytorch-lightning_version": pl.__version__,
        "state_dict": {"weight": torch.full((3,), float(step))},
        "loops": {"fit_loop": {}},
        "optimizer_states": [],
        "global_step": step,
    } | changed


@pytest.fixture
def background():
    """A background writer, and whether it may write: an event, set."""
    writer = BackgroundCheckpointIO()
    yield writer
    writer._writes.clear()
    writer._removals.clear()
    writer.teardown()


@pytest.fixture
def gate(monkeypatch):
    """Holds the background thread before each write until it is set."""
    opened, write_file = threading.Event(), checkpoint_io.write_file

    def wait_and_write(fill, path):
        assert opened.wait(20)
        write_file(fill, path)

    monkeypatch.setattr(checkpoint_io, "write_file", wait_and_write)
    yield opened
    opened.set()


@pytest.mark.parametrize("kind", KINDS)
def test_the_newest_are_kept_and_last_is_a_link(tmp_path, kind):
    writer = kind(keep=2)
    folder = tmp_path / "run" / "checkpoints"
    for step in (1, 2, 3):
        writer.save_checkpoint(lightning(step), str(folder / checkpoint_name(step)))
    writer.save_checkpoint(lightning(9), folder / "best.ckpt")
    writer.wait()
    expected = ["best.ckpt", "last.ckpt", checkpoint_name(2), checkpoint_name(3)]
    assert sorted(path.name for path in folder.iterdir()) == expected
    assert os.readlink(folder / "last.ckpt") == checkpoint_name(3)
    assert writer.load_checkpoint(str(folder / "last.ckpt"))["global_step"] == 3
    writer.remove_checkpoint(str(folder / "best.ckpt"))
    writer.remove_checkpoint(folder / "not there.ckpt")
    writer.teardown()
    assert not list(folder.glob("best*"))


@pytest.mark.parametrize("kind", KINDS)
def test_at_least_one_is_kept(kind):
    with pytest.raises(ValueError, match="keep = 0: keep at least one"):
        kind(keep=0)


# Reading


def test_missing_and_damaged_files_are_refused(tmp_path):
    reader, path = AtomicCheckpointIO(), tmp_path / checkpoint_name(1)
    reader.save_checkpoint(lightning(), path)
    whole = path.read_bytes()
    for damaged, match in (
        (b"", "is empty"),
        (whole[:-1], "is truncated"),
        (whole[:300], "is truncated"),
        (whole.replace(b"weight", b"weighs"), r"is damaged \(in its record"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(
            CheckpointError, match=rf"checkpoint .*step_00000001\.ckpt {match}.*--ckpt_path last"
        ) as caught:
            reader.load_checkpoint(path)
        assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"step_00000001.ckpt does not exist: give another one"):
        reader.load_checkpoint(path)
    with pytest.raises(CheckpointError, match=r"last.ckpt is a link to step_00000001.ckpt, which does not exist"):
        reader.load_checkpoint(tmp_path / "last.ckpt")


@pytest.mark.parametrize("weights_only", [None, True, False])
def test_objects_are_named_and_never_unpickled(tmp_path, weights_only):
    path, marker = tmp_path / "stranger.ckpt", tmp_path / "was run"
    torch.save(lightning(callbacks=Hostile(marker)), path)
    with pytest.raises(
        CheckpointError, match=r"stranger\.ckpt asks for the Python object posix\.mkdir, and only tensors"
    ):
        AtomicCheckpointIO().load_checkpoint(path, weights_only=weights_only)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists(), "the file was not hostile"


@pytest.mark.parametrize(("version", "refused"), [("99.0.0", True), ("2.999.0rc1", True), ("2.0.0", False), (3, False)])
def test_checkpoints_of_a_newer_lightning_are_refused(tmp_path, version, refused):
    path = tmp_path / "other.ckpt"
    torch.save(lightning(**{"pytorch-lightning_version": version}), path)
    if not refused:
        assert AtomicCheckpointIO().load_checkpoint(path)["global_step"] == 1
        return
    with pytest.raises(CheckpointError, match=rf"pytorch-lightning {version}, and {pl.__version__} is .*pip install"):
        AtomicCheckpointIO().load_checkpoint(path)


@pytest.mark.parametrize(
    "stranger",
    [
        {"weight": torch.ones(1)},
        {"state_dict": {"weight": torch.ones(1)}},
        {name: value for name, value in lightning().items() if name != "optimizer_states"},
        [torch.ones(1)],
        {},
    ],
    ids=["state dict", "under state_dict", "save_weights_only", "list", "empty"],
)
def test_weights_alone_are_no_checkpoint_to_go_on_from(tmp_path, stranger):
    path = tmp_path / "weights.pt"
    torch.save(stranger, path)
    with pytest.raises(CheckpointError, match=r"weights.pt holds no training state.*--model.init_weights"):
        AtomicCheckpointIO().load_checkpoint(path)


# Writing in the background


def comparable(value: object) -> object:
    """The same with lists in the place of tensors."""
    if isinstance(value, dict):
        return {key: comparable(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(comparable, value))
    return value.tolist() if isinstance(value, torch.Tensor) else value


def test_what_changes_after_the_call_does_not_reach_the_file(tmp_path, background, gate):
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.rand(3, 4)).sum().backward()
    optimizer.step()
    base = torch.arange(6.0)
    state = lightning(
        state_dict=net.state_dict(),
        optimizer_states=[optimizer.state_dict()],
        parameter=net[0].weight,
        shared=[base, base[2:4]],
        ordered=OrderedDict(a=[1, 2], b={"c": [3]}),
        counter=Counter("aab"),
        kept=(1, [2, [3]]),
    )
    before = copy.deepcopy({key: value for key, value in state.items() if key != "shared"})
    # keeps the thread from this state until the state has changed
    background.save_checkpoint(lightning(0), tmp_path / checkpoint_name(0))
    background.save_checkpoint(state, tmp_path / checkpoint_name(1))
    with torch.no_grad():
        for tensor in (*net.state_dict().values(), base, *(s["momentum_buffer"] for s in optimizer.state.values())):
            tensor.fill_(-7)
    optimizer.param_groups[0]["lr"] = -7.0
    state["ordered"]["b"]["c"].append(-7)
    state["kept"][1].append(-7)
    state["counter"]["a"] = -7
    state["new"] = -7
    assert not list(tmp_path.glob("*.ckpt"))
    gate.set()
    background.wait()
    found = background.load_checkpoint(tmp_path / checkpoint_name(1))
    shared = found.pop("shared")
    assert shared[0].tolist() == [0, 1, 2, 3, 4, 5]
    assert shared[1].tolist() == [2, 3]
    assert shared[0].untyped_storage().data_ptr() == shared[1].untyped_storage().data_ptr()
    assert comparable(found) == comparable(before)


def test_the_file_is_the_same_as_written_at_once(tmp_path, background):
    state = content(1, 3_000_000)
    background.save_checkpoint(state, tmp_path / "one" / checkpoint_name(1))
    background.wait()
    AtomicCheckpointIO().save_checkpoint(state, tmp_path / "two" / checkpoint_name(1))
    one, two = ((tmp_path / name / checkpoint_name(1)).read_bytes() for name in ("one", "two"))
    assert len(one) > checkpoint_io._BLOCK
    assert one == two


def test_at_most_one_write_waits_beside_the_running_one(tmp_path, background, gate):
    for step in (1, 2):
        background.save_checkpoint(lightning(step), tmp_path / checkpoint_name(step))
    third = threading.Thread(target=background.save_checkpoint, args=(lightning(3), tmp_path / checkpoint_name(3)))
    third.start()
    third.join(0.3)
    assert third.is_alive(), "a third state was taken before the first was written"
    gate.set()
    third.join(20)
    assert not third.is_alive()
    background.wait()
    assert newest_usable(tmp_path) == (tmp_path / checkpoint_name(3), [])


@pytest.mark.parametrize("how", ["save", "wait", "teardown", "load"])
def test_an_error_in_the_thread_arrives(tmp_path, background, how):
    folder = tmp_path / "run"
    folder.write_text("in the folder's place")
    background.save_checkpoint(lightning(1), folder / checkpoint_name(1))
    if how == "save":
        background._writes[0].exception()
    calls = {
        "save": lambda: background.save_checkpoint(lightning(2), tmp_path / checkpoint_name(2)),
        "wait": background.wait,
        "teardown": background.teardown,
        "load": lambda: background.load_checkpoint(tmp_path / "any.ckpt"),
    }
    with pytest.raises(CheckpointError, match=r"run cannot be made"):
        calls[how]()
    background.wait()  # told once
    folder.unlink()
    background.save_checkpoint(lightning(3), folder / checkpoint_name(3))
    background.teardown()
    assert newest_usable(folder)[0] == folder / checkpoint_name(3)


def test_all_errors_are_told(tmp_path, background, gate):
    for step in (1, 2):
        (tmp_path / checkpoint_name(step)).mkdir()
        background.save_checkpoint(lightning(step), tmp_path / checkpoint_name(step))
    gate.set()
    with pytest.raises(CheckpointError, match=r"write step_00000001.ckpt \(Is a.*; .*write step_00000002.ckpt \(Is a"):
        background.teardown()


def test_a_state_that_cannot_be_saved_is_refused_in_the_call(tmp_path, background):
    with pytest.raises(CheckpointError, match="cannot be saved"):
        background.save_checkpoint(lightning(hook=lambda: 0), tmp_path / checkpoint_name(1))
    background.save_checkpoint(lightning(root=Path()), tmp_path / checkpoint_name(1))
    with pytest.raises(CheckpointError, match="would not be readable again: it asks for the Python object pathlib"):
        background.wait()
    assert not list(tmp_path.iterdir())


def test_nothing_is_removed_before_what_replaces_it_is_written(tmp_path, background, gate):
    old, new = tmp_path / "best.ckpt", tmp_path / "best-v1.ckpt"
    AtomicCheckpointIO().save_checkpoint(lightning(1), tmp_path / "first" / "best.ckpt")
    for path in (tmp_path / "first").iterdir():
        shutil.move(path, tmp_path)
    background.save_checkpoint(lightning(2), new)
    background.remove_checkpoint(old)
    assert old.exists()
    gate.set()
    background.wait()
    assert new.exists()
    assert not old.exists()


def test_nothing_is_removed_when_what_replaces_it_could_not_be_written(tmp_path, background):
    old = tmp_path / "best.ckpt"
    AtomicCheckpointIO().save_checkpoint(lightning(1), old)
    (tmp_path / "file").write_text("")
    background.save_checkpoint(lightning(2), tmp_path / "file" / "best.ckpt")
    background.remove_checkpoint(old)
    with pytest.raises(CheckpointError):
        background.teardown()
    assert AtomicCheckpointIO().load_checkpoint(old)["global_step"] == 1


@pytest.mark.slow
def test_sigkill_of_a_background_writer_never_costs_a_checkpoint(tmp_path):
    def save(step: int) -> None:
        writers.setdefault(0, BackgroundCheckpointIO(keep=2)).save_checkpoint(
            content(start + step, 30_000), tmp_path / checkpoint_name(start + step)
        )

    writers: dict[int, BackgroundCheckpointIO] = {}
    start, rng = 0, random.Random(1)
    for _ in range(15):
        done = kill_at_random(save, tmp_path / "acknowledged", rng, 0.15)
        found, messages = newest_usable(tmp_path)
        assert messages == []
        newest = 0 if found is None else int(found.stem.removeprefix("step_"))
        # two may have been taken and not written
        assert start + done - 2 <= newest <= start + done + 1
        if found is not None:
            assert_content(found, newest, 30_000)
        start = newest
    assert start >= 3


# In a Trainer


class Tiny(pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        loss = self.net(batch[0]).square().mean()
        self.log("falling", -float(self.global_step))
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def trainer(folder: Path, kind: type[AtomicCheckpointIO], steps: int, **arguments: object) -> pl.Trainer:
    best = ModelCheckpoint(folder, "best-{step}", monitor="falling", save_top_k=1, every_n_train_steps=1)
    every = ModelCheckpoint(
        folder, "step_{step:08d}", save_top_k=-1, every_n_train_steps=2, auto_insert_metric_name=False
    )
    return pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        callbacks=[best, every],
        plugins=[kind(keep=2)],
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **arguments,
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_lightning_trains_and_resumes_through_the_files(tmp_path, kind):
    data = DataLoader(TensorDataset(torch.rand(8, 4, generator=torch.Generator().manual_seed(0))), batch_size=1)
    whole = Tiny()
    trainer(tmp_path / "whole", kind, 8).fit(whole, data)
    trainer(tmp_path / "half", kind, 4).fit(Tiny(), data)
    names = sorted(path.name for path in (tmp_path / "half").glob("*.ckpt"))
    assert names == ["best-step=4.ckpt", "last.ckpt", checkpoint_name(2), checkpoint_name(4)]
    resumed = Tiny()
    trainer(tmp_path / "half", kind, 8).fit(resumed, data, ckpt_path=str(tmp_path / "half" / "last.ckpt"))
    names = sorted(path.name for path in (tmp_path / "half").glob("*.ckpt*"))
    assert names == ["best-step=8.ckpt", "last.ckpt", checkpoint_name(6), checkpoint_name(8)]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("checkpoints")]
    found = AtomicCheckpointIO().load_checkpoint(tmp_path / "half" / "last.ckpt")
    assert found["global_step"] == 8
    assert torch.equal(found["state_dict"]["net.weight"], resumed.net.weight)


@pytest.mark.filterwarnings("ignore")
def test_a_full_disk_in_the_background_ends_a_fit_with_its_message(tmp_path, monkeypatch):
    def full(fill, path):
        raise CheckpointError(f"{path.parent}: cannot write {path.name} (No space left on device)")

    monkeypatch.setattr(checkpoint_io, "write_file", full)
    data = DataLoader(TensorDataset(torch.rand(8, 4)), batch_size=1)
    with pytest.raises(CheckpointError, match="No space left"):
        trainer(tmp_path, BackgroundCheckpointIO, 8).fit(Tiny(), data)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("checkpoints")]
