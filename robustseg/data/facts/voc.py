"""PASCAL VOC 2012 with its 21 classes."""

from __future__ import annotations

from robustseg.data.facts.row import DatasetFacts

_NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def voc_colour(index: int) -> tuple[int, int, int]:
    """Return the RGB colour of an index in VOC's masks (the devkit's VOClabelcolormap).

    The lowest three bits of the index are the highest bits of red, green and blue, the next three the bits below.

    Args:
        index: 0 to 255.
    """
    channels = [0, 0, 0]
    for bit in range(8):
        channels[bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
    return channels[0], channels[1], channels[2]


PASCAL_VOC = DatasetFacts(
    name="PascalVOC",
    about="PASCAL VOC 2012 with 21 classes: 1464 training (10582 with SBD) and 1449 validation images.",
    classes=tuple((name, voc_colour(index)) for index, name in enumerate(_NAMES)),
    layout=(
        "VOCdevkit/VOC2012/JPEGImages/*.jpg: the images",
        "VOCdevkit/VOC2012/SegmentationClass/*.png: masks, ids 0 to 20, 255 for void (the rim of objects)",
        "VOCdevkit/VOC2012/ImageSets/Segmentation/{train,val}.txt: names of the samples of each split",
    ),
    more_layout=(
        "SegmentationClassAug/*.png beside SegmentationClass, with or without a list train_aug.txt",
        "below sbd_root: benchmark_RELEASE/dataset/cls/*.mat and train.txt, val.txt beside cls",
    ),
    split_sizes={"train": 1464, "trainaug": 10582, "val": 1449},
    source=(
        "Everingham et al., IJCV 2010; Hariharan et al., ICCV 2011; data.download: true, or "
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/ and http://home.bharathh.info/pubs/codes/SBD/download.html"
    ),
    licence="flickr's terms of use for the images: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
    config="data/voc",
)
