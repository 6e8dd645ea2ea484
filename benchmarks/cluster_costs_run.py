"""A measured training run of cluster_costs.py, in a process that is one of its ranks."""

from __future__ import annotations

import io
import logging
import os
import resource
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from cluster_costs_case import Run
from lightning_fabric.plugins.environments import LightningEnvironment
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins.io import AsyncCheckpointIO
from torch import distributed

from robustseg.attacks import SegPGD
from robustseg.data import SyntheticScenes
from robustseg.data.lightning import SegmentationDataModule
from robustseg.models import Network, PSPNet
from robustseg.resume.callback import ResumeCheckpoint
from robustseg.resume.checkpoint_files import serialise
from robustseg.resume.checkpoint_io import AtomicCheckpointIO
from robustseg.resume.checkpoint_reading import unreadable
from robustseg.training import RobustSegmentation
from robustseg.training.seeding import seed_step

Clocks = tuple[float, float]
"""Seconds of wall-clock time and of this process's processor time, all threads together."""

CALLS = 200


def network(name: str, classes: int) -> Network:
    """Build the networks of configs/network/pspnet_small.yaml and pspnet_r50.yaml, without pretrained weights."""
    if name == "full":
        return PSPNet(classes, "resnet50", pretrained=False, output_stride=8, channels=512)
    sizes = {"channels": [32, 64, 128, 256]}
    return PSPNet(
        classes, "resnet10t", backbone_args=sizes, pretrained=False, output_stride=8, channels=64, aux_head=False
    )


class StepTimes(pl.Callback):
    """A callback that clocks each step's start; a step's time thus includes loading and callbacks."""

    def __init__(self, now: Callable[[], Clocks]):
        self.now = now
        self.starts: list[Clocks] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.starts.append(self.now())


class TimedHook:
    """A wrapper of a callback's ``on_train_batch_end`` that clocks it, separately for steps with a checkpoint.

    After each checkpoint it waits for background writing, since in practice the next checkpoint comes long after that.
    """

    def __init__(self, callback: pl.Callback, every: int | None, now: Callable[[], Clocks]):
        self.hook, self.every, self.now = callback.on_train_batch_end, every, now
        self.idle: list[Clocks] = []
        self.blocked: list[Clocks] = []
        self.background: list[Clocks] = []
        callback.on_train_batch_end = self  # type: ignore[method-assign]

    def __call__(self, trainer: pl.Trainer, *rest: Any) -> None:
        start = self.now()
        self.hook(trainer, *rest)
        end = self.now()
        if trainer.is_last_batch:  # the checkpoints of an epoch's end begin in this call
            return
        took = (end[0] - start[0], end[1] - start[1])
        due = self.every is not None and trainer.global_step % self.every == 0
        (self.blocked if due else self.idle).append(took)
        if due:
            finish_writing(trainer)
            written = self.now()
            self.background.append((written[0] - end[0], written[1] - end[1]))


def finish_writing(trainer: pl.Trainer) -> None:
    io = trainer.strategy.checkpoint_io
    if isinstance(io, AtomicCheckpointIO):
        io.wait()
    elif isinstance(io, AsyncCheckpointIO):
        io.teardown()


class Ending(pl.Callback):
    """A callback with the measurements that are made once, after the last step."""

    def __init__(self, run: Run, save: ResumeCheckpoint | None, now: Callable[[], Clocks]):
        self.run, self.save, self.now = run, save, now
        self.result: dict[str, Any] = {}

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        finish_writing(trainer)
        # in MiB, before anything else is measured; Linux counts in KiB
        self.result["resident"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if self.run.device == "cuda":
            self.result["device"] = torch.cuda.max_memory_allocated() / 2**20
        save = self.save
        if save is None:
            return
        group = save._group
        align = (lambda: distributed.barrier(group)) if group is not None else (lambda: None)
        self.result["agreeing"] = self._per_call(lambda: save._wanted(False), align)
        self.result["seeding"] = self._per_call(lambda: seed_step(0, "train", 1, 1, 0), lambda: None)
        if self.run.every is not None and save.newest is not None:
            finish_writing(trainer)
            self.result["sizes"] = sizes(save.newest)
            self.result["parts"] = self._parts(trainer, save.newest.with_name("parts.ckpt"))

    def _per_call(self, function: Callable[[], object], before: Callable[[], object]) -> Clocks:
        """Return a call's median wall-clock and mean processor time, whose clock is too coarse for a single call."""
        walls, processor = [], 0.0
        for _ in range(CALLS):
            before()
            start = self.now()
            function()
            end = self.now()
            walls.append(end[0] - start[0])
            processor += end[1] - start[1]
        return statistics.median(walls), processor / CALLS

    def _parts(self, trainer: pl.Trainer, path: Path) -> dict[str, Clocks]:
        """Clock the parts of writing a checkpoint, one after the other."""
        buffer = io.BytesIO()
        content: dict[str, Any] = {}

        def written() -> None:
            with path.open("wb") as file:
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())

        parts: dict[str, Callable[[], object]] = {
            "collecting the state": lambda: content.update(trainer._checkpoint_connector.dump_checkpoint(False)),
            "serialising it to memory": lambda: serialise(content, buffer),
            "writing these bytes to the disk, with fsync": written,
            "looking whether it can be read": lambda: unreadable(path),
        }
        clocks = {}
        for name, part in parts.items():
            start = self.now()
            part()
            end = self.now()
            clocks[name] = (end[0] - start[0], end[1] - start[1])
        path.unlink()
        return clocks


def sizes(path: Path) -> dict[str, float]:
    """Return a checkpoint's megabytes (10^6): weights, their EMA, the optimiser's state, the rest, and the file."""
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)

    def tensors(value: Any) -> int:
        if isinstance(value, torch.Tensor):
            return value.numel() * value.element_size()
        values = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
        return sum(map(tensors, values))

    found = {"weights": tensors(content["state_dict"]), "EMA": tensors(content.get("current_model_state"))}
    found["optimiser"] = tensors(content["optimizer_states"])
    file = path.stat().st_size
    found |= {"rest": file - sum(found.values()), "file": file}
    return {name: size / 1e6 for name, size in found.items()}


def clocks(device: str) -> Clocks:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def writer(run: Run) -> tuple[pl.Callback | None, list[Any]]:
    """Return the callback that writes checkpoints, and the plugins that it needs."""
    kind, _, background = run.writer.partition(" ")
    if kind == "lightning":
        # It writes into the logger's folder, and keeps only the newest checkpoint.
        callback = ModelCheckpoint(every_n_train_steps=run.every, save_top_k=1, save_on_train_epoch_end=False)
        return callback, [AsyncCheckpointIO()] if background else []
    if kind == "none":
        return None, []
    # every_n_epochs = 0: only the last checkpoint
    return ResumeCheckpoint(run.every, None, 0, asynchronous=bool(background)), []


def train(run: Run) -> dict[str, Any]:
    pl.seed_everything(0)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)

    def now() -> Clocks:
        return clocks(run.device)

    save, plugins = writer(run)
    times = StepTimes(now)
    resume = save if isinstance(save, ResumeCheckpoint) else None
    ending = Ending(run, resume, now)
    callbacks: list[pl.Callback] = [times, ending] if save is None else [times, ending, save]
    hooks = {} if save is None else {"save": TimedHook(save, run.every, now)}
    if run.ema:
        average = EMAWeightAveraging()
        callbacks.insert(0, average)
        hooks["ema"] = TimedHook(average, None, now)
    # one step more than is measured: an epoch's last step ends in other hooks
    images = run.batch * run.ranks * (run.steps + 1)
    data = SyntheticScenes(train_length=images, image_size=run.size, batch_size=run.batch, num_workers=0, cache=False)
    module = RobustSegmentation(
        network(run.network, data.num_classes), SegPGD(eps=8 / 255, step_size=0.01, steps=run.attack_steps)
    )
    trainer = pl.Trainer(
        accelerator="gpu" if run.device == "cuda" else "cpu",
        devices=run.ranks,
        strategy="ddp" if run.ranks > 1 else "auto",
        precision=run.precision,  # type: ignore[arg-type]
        max_epochs=1,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        logger=TensorBoardLogger(run.folder, name="", version=""),
        enable_checkpointing=save is not None,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
        plugins=[LightningEnvironment(), *plugins],
    )
    trainer.fit(module, datamodule=SegmentationDataModule(data))
    pairs = zip(times.starts, times.starts[1:], strict=False)
    return {
        "steps": [(end[0] - start[0], end[1] - start[1]) for start, end in pairs],
        **{
            name: {"idle": hook.idle, "blocked": hook.blocked, "background": hook.background}
            for name, hook in hooks.items()
        },
        **ending.result,
    }


def measure(run: Run, rank: int) -> dict[str, Any]:
    """Train as one of the ranks of ``run``, in a process of its own.

    Args:
        run: The run.
        rank: Number of this rank, counted from 0.

    Returns:
        ``steps``: seconds from the start of each step to that of the next. ``save`` and ``ema``: seconds in these
        callbacks after steps without (``idle``) and with a checkpoint (``blocked``), and until it is written
        (``background``). ``resident`` and, on a GPU, ``device``: peak memory in MiB. With ResumeCheckpoint, ``seeding``
        and ``agreeing``: seconds of one call, and with checkpoints their ``sizes`` in MB and ``parts`` in seconds. All
        seconds are pairs of wall-clock and processor time.
    """
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": str(run.ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(run.port)}
    # on GPUs too there is a gloo group, which agrees on signals
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if run.device == "cuda" and run.ranks == 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = str(run.place) if visible is None else visible.split(",")[run.place]
    torch.set_num_threads(run.threads)
    # As in robustseg's command: denormal numbers slow CPU convolutions of barely trained models down several times.
    torch.set_flush_denormal(True)
    return train(run)
