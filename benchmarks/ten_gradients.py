"""The strength of attacks of ten gradients, against torchattacks' PGD with up to forty.

    python benchmarks/ten_gradients.py runs/camvid/pspnet_small_segpgd3/version_0/checkpoints/last.ckpt \\
        --data data/camvid --images 101

torchattacks' PGD runs with its own defaults (ε = 8/255, α = 2/255, random start) and, for a fair comparison, with α =
0.01 as well. Ignored pixels are passed as -100, which its cross-entropy leaves out.
"""

from __future__ import annotations

import argparse
import time

import torch
import torchattacks
from torch import Tensor

from robustseg.attacks import APGD, PGD, Attack, CosPGD, CosPGDLoss, MaskedCrossEntropy, NoiseSource, SegPGD, TsallisPGD
from robustseg.data import CamVid, collate
from robustseg.metrics import confusion_matrix, miou, pixel_acc
from robustseg.models import PSPNet, SegmentationModel, load_segmentation_weights
from robustseg.types import Batch

SMALL = {"backbone": "resnet10t", "backbone_args": {"channels": [32, 64, 128, 256]}, "channels": 64}
"""The network of configs/experiment/camvid/pspnet_small_*.yaml."""

BALL = {"eps": "8/255", "steps": 10}
OURS: dict[str, Attack] = {
    "PGD10": PGD(**BALL),
    "SegPGD10": SegPGD(**BALL),
    "CosPGD10": CosPGD(**BALL),
    "CosPGD10, keep=best": CosPGD(**BALL, keep="best"),
    "CosPGD10, α = 4/255, keep=best": CosPGD(**BALL, step_size="4/255", keep="best"),
    "TsallisPGD10, keep=best": TsallisPGD(**BALL, keep="best"),
    "APGD10": APGD(**BALL),
    "APGD10 on MCE": APGD(**BALL, loss=MaskedCrossEntropy()),
    "APGD10 on CosPGD's loss": APGD(**BALL, loss=CosPGDLoss()),
}


def evenly_spread(root: str, count: int) -> Batch:
    """Load ``count`` samples of the validation split at 240×180 pixels, evenly spread."""
    dataset = CamVid(root=root, image_size=[180, 240], check="none").dataset("val")
    return collate([dataset[round(i * (len(dataset) - 1) / max(1, count - 1))] for i in range(count)])


def scores(model: SegmentationModel, images_adv: Tensor, targets: Tensor) -> Tensor:
    with torch.no_grad():
        return confusion_matrix(model(images_adv).argmax(1), targets, model.num_classes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--data", default="data/camvid")
    parser.add_argument("--images", type=int, default=101)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = SegmentationModel(PSPNet(num_classes=11, pretrained=False, output_stride=8, aux_head=False, **SMALL)).eval()
    load_segmentation_weights(model, arguments.checkpoint)
    batch = evenly_spread(arguments.data, arguments.images)
    parts = [slice(first, first + 8) for first in range(0, arguments.images, 8)]

    print("| attack | gradients | pixel_acc | miou | seconds per image |\n|---|---|---|---|---|")
    for alpha, name in ((2 / 255, "2/255"), (0.01, "0.01")):
        for steps in (10, 20, 40):
            torch.manual_seed(0)
            peer = torchattacks.PGD(model, eps=8 / 255, alpha=alpha, steps=steps)
            start = time.perf_counter()
            counts = [
                scores(
                    model,
                    peer(batch.images[part], batch.targets[part].masked_fill(batch.targets[part] == 255, -100)),
                    batch.targets[part],
                )
                for part in parts
            ]
            report(f"torchattacks PGD, α = {name}", steps, counts, time.perf_counter() - start)
    for name, attack in OURS.items():
        start = time.perf_counter()
        counts = []
        for part in parts:
            noise = NoiseSource.for_samples(0, batch.ids[part], torch.device("cpu"))
            images_adv = attack(model, batch.images[part], batch.targets[part], generator=noise)
            counts.append(scores(model, images_adv, batch.targets[part]))
        report(name, 10, counts, time.perf_counter() - start)


def report(name: str, gradients: int, counts: list[Tensor], seconds: float) -> None:
    per_image = torch.cat(counts)
    total = per_image.sum(0)
    figures = f"{100 * float(pixel_acc(total)):.2f} | {100 * float(miou(total)):.2f} | {seconds / len(per_image):.2f}"
    print(f"| {name} | {gradients} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
