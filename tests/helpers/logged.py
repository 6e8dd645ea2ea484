"""Readers of what loggers have written into the folder of a run or an evaluation."""

from __future__ import annotations

import csv
import json
import os
import re
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

BLOCK = 32768


class Logged(NamedTuple):
    """What a logger has."""

    steps: dict[str, list[int]]
    """Steps of each figure, in the order of writing."""
    pictures: set[str]
    settings: dict[str, Any]
    runs: int
    """How many runs of its own kind it took them for."""


def csv_file(folder: Path) -> Logged:
    """A CSVLogger's."""
    (table,) = folder.glob("metrics.csv")
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(None not in row and None not in row.values() for row in rows)
    steps = {key: [int(row["step"]) for row in rows if row[key]] for key in rows[0] if key != "step"}
    return Logged(steps, set(), yaml.safe_load((folder / "hparams.yaml").read_text()), 1)


def tensorboard(folder: Path) -> Logged:
    """A TensorBoardLogger's."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    steps = {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    settings = yaml.safe_load((folder / "hparams.yaml").read_text())
    return Logged(steps, set(events.Tags()["images"]), settings, 1)


def wandb(folder: Path) -> Logged:
    """A WandbLogger's, offline: one file for each start."""
    steps: dict[str, list[int]] = {}
    pictures, settings, runs = set(), {}, set()
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for record in _ended(path):
            if record.run.run_id:
                runs.add(record.run.run_id)
            settings |= {item.key: json.loads(item.value_json) for item in record.config.update}
            row = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            for key in row:
                if key.endswith("/_type"):
                    pictures.add(key.removesuffix("/_type"))
                elif not key.endswith(("/width", "/height", "/format", "/count", "/filenames")):
                    steps.setdefault(key, []).append(int(row.get("trainer/global_step", 0)))
    return Logged(steps, pictures, settings, len(runs))


def _ended(path: Path) -> list[Any]:
    """The records of a run that has ended: W&B's other process may still be writing them."""
    for _ in range(200):
        records = list(_wandb_records(path))
        if records and records[-1].WhichOneof("record_type") == "exit":
            return records
        time.sleep(0.1)
    raise TimeoutError(f"{path}: no end within 20 seconds")


def _wandb_records(path: Path) -> Iterator[Any]:
    """The records of a file, which has the format of LevelDB's log after seven bytes."""
    from wandb.proto import wandb_internal_pb2

    content, place, whole = path.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if BLOCK - place % BLOCK < 7:
            place += BLOCK - place % BLOCK
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def mlflow(folder: Path) -> Logged:
    """An MLFlowLogger's."""
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"file:{folder / 'mlruns'}")
    experiments = [e.experiment_id for e in client.search_experiments() if e.name != "Default"]
    runs = client.search_runs(experiments)
    (run,) = runs
    steps = {name: [m.step for m in client.get_metric_history(run.info.run_id, name)] for name in run.data.metrics}
    files = [Path(file.path).name for file in client.list_artifacts(run.info.run_id, "images")]
    pictures = {re.split(r"[+%]step", name)[0].replace("~", "/").replace("#", "/") for name in files}
    return Logged(steps, pictures, dict(run.data.params), len(runs))


READERS = {"CSVLogger": csv_file, "TensorBoardLogger": tensorboard, "WandbLogger": wandb, "MLFlowLogger": mlflow}
