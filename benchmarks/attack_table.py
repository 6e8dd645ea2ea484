"""Every attack on one checkpoint: scores, cost and time, image by image.

    python benchmarks/attack_table.py --data data/camvid --images 20 configs/robustness/every_attack_camvid.yaml \\
        runs/camvid/pspnet_small_standard/version_0/checkpoints/last.ckpt --out standard.jsonl

The images are spread evenly over CamVid's validation split (neighbours in it are frames of one video) and attacked in
batches. One line of JSON is appended per attack, with every image's confusion matrix; attacks that are in the file
already are skipped, so that an interrupted run goes on. ``--table`` prints what the files hold as Markdown, for the
images of a file's first line.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser
from torch import Tensor

from robustseg.attacks import Attack
from robustseg.data import CamVid, collate
from robustseg.evaluation import CLEAN, RobustnessEvaluator
from robustseg.metrics import confusion_matrix, miou, pixel_acc
from robustseg.models import PSPNet, SegmentationModel, load_segmentation_weights
from robustseg.types import Batch

SMALL = {"backbone": "resnet10t", "backbone_args": {"channels": [32, 64, 128, 256]}, "channels": 64}
"""The network of configs/experiment/camvid/pspnet_small_*.yaml."""


def attacks_of(path: str) -> dict[str, Attack]:
    """The attacks of a file of configs/robustness, built as the command line builds them."""
    parser = ArgumentParser()
    parser.add_argument("--attacks", type=dict[str, Attack])
    described = yaml.safe_load(Path(path).read_text(encoding="utf-8"))["robustness"]["attacks"]
    built: dict[str, Attack] = parser.instantiate(parser.parse_object({"attacks": described})).attacks
    return built


def evenly_spread(root: str, count: int) -> Batch:
    """``count`` samples of the validation split at 240×180."""
    dataset = CamVid(root=root, image_size=[180, 240], check="none").dataset("val")
    return collate([dataset[round(i * (len(dataset) - 1) / max(1, count - 1))] for i in range(count)])


def measure(model: SegmentationModel, batch: Batch, name: str, attack: Attack | None, size: int) -> dict[str, object]:
    """Scores and costs of one attack, or of the clean images."""
    attacks = {} if attack is None else {name: attack}
    evaluator = RobustnessEvaluator(attacks, model.num_classes)
    confusions: list[Tensor] = []
    start, cpu = time.perf_counter(), time.process_time()
    for first in range(0, len(batch.images), size):
        part = slice(first, first + size)
        targets = batch.targets[part]
        seen = evaluator.update(model, batch.ids[part], batch.images[part], targets)[name]
        confusions.append(confusion_matrix(seen.predictions, targets, model.num_classes))
    scores = {key: value.tolist() for key, value in evaluator.compute()[name].items() if key != "class_iou"}
    settings = None if attack is None else attack.describe()
    times = {"wall_s": time.perf_counter() - start, "cpu_s": (time.process_time() - cpu) / len(batch.images)}
    each = {"ids": batch.ids, "confusions": torch.cat(confusions).tolist()}
    if attack is not None:
        rows = torch.cat(evaluator.records[name].rows)
        each |= {"forwards_each": rows[:, 3].tolist(), "backwards_each": rows[:, 4].tolist()}
    return {"name": name, "settings": settings, **scores, **times, **each}


def run(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(arguments.threads)
    model = SegmentationModel(PSPNet(num_classes=11, pretrained=False, output_stride=8, aux_head=False, **SMALL)).eval()
    loaded = load_segmentation_weights(model, arguments.checkpoint)
    batch = evenly_spread(arguments.data, arguments.images)
    out = Path(arguments.out)
    lines = out.read_text(encoding="utf-8").splitlines() if out.exists() else []
    done = {json.loads(line)["name"] for line in lines}
    attacks: dict[str, Attack | None] = {CLEAN: None, **attacks_of(arguments.attacks)}
    for name, attack in attacks.items():
        if name in done or (arguments.only and name not in arguments.only):
            continue
        row = measure(model, batch, name, attack, arguments.batch_size)
        about = {"checkpoint_sha256": loaded["sha256"], "torch": torch.__version__, "threads": arguments.threads}
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**row, **about}) + "\n")
        print(f"{name}: pixel_acc {100 * float(row['pixel_acc']):.2f}  {row['wall_s']:.0f} s", flush=True)


COLUMNS = {"pixel_acc": 2, "miou": 2, "image_miou": 2, "forwards": 0, "backwards": 0, "cpu_s": 1}
"""``cpu_s`` is processor time per image, scoring included: with one thread it does not depend on what else runs."""


def part(row: dict[str, Any], ids: list[str]) -> dict[str, Any]:
    """The row for some of its images only; processor time stays the mean over all of them."""
    if row["ids"] == ids or "confusions" not in row:
        return row
    chosen = [row["ids"].index(sample) for sample in ids]
    confusions = torch.tensor(row["confusions"])[chosen]
    costs = {key: sum(row[f"{key}_each"][i] for i in chosen) / len(chosen) for key in ("forwards", "backwards")}
    total = confusions.sum(0)
    scores = {"pixel_acc": pixel_acc(total), "miou": miou(total), "image_miou": miou(confusions).mean()}
    return {**row, **costs, **{key: float(value) for key, value in scores.items()}}


def shown(row: dict[str, float], key: str, digits: int) -> str:
    """A figure of a row, scores in percent; empty where the row has none."""
    percent = 100 if key in ("pixel_acc", "miou", "image_miou") else 1
    return f"{percent * row[key]:.{digits}f}" if key in row else ""


def table(paths: list[str]) -> None:
    for path in paths:
        print(f"\n{path}\n\n| attack | {' | '.join(COLUMNS)} |\n|---{'|---' * len(COLUMNS)}|")
        rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
        for row in (part(row, rows[0]["ids"]) for row in rows):
            figures = [shown(row, key, digits) for key, digits in COLUMNS.items()]
            print(f"| {row['name']} | {' | '.join(figures)} |")
        print("\n| no eps | images fooled | median linf | median l2 |\n|---|---|---|---|")
        for row in rows:
            if row["settings"] and row["settings"].get("eps") is None:
                linf = f"{255 * row['fooled_linf']:.2f}/255"
                print(f"| {row['name']} | {100 * row['fooled_share']:.0f} % | {linf} | {row['fooled_l2']:.3f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("attacks", nargs="?", help="a file of configs/robustness")
    parser.add_argument("checkpoint", nargs="?")
    parser.add_argument("--data", default="data/camvid")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--batch_size", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", default="attacks.jsonl")
    parser.add_argument("--only", nargs="*", help="names of attacks")
    parser.add_argument("--table", nargs="*", help="print these files")
    arguments = parser.parse_args()
    if arguments.table:
        table(arguments.table)
    elif arguments.attacks is None or arguments.checkpoint is None:
        parser.error("give a file of attacks and a checkpoint, or --table with files.")
    else:
        run(arguments)


if __name__ == "__main__":
    main()
