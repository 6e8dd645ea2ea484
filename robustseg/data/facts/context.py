"""PASCAL Context with its 59 classes, or 60 with the background."""

from __future__ import annotations

from robustseg.data.facts.row import DatasetFacts
from robustseg.data.facts.voc import voc_colour

_NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "table", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor", "bag", "bed", "bench", "book",
    "building", "cabinet", "ceiling", "cloth", "computer", "cup", "door", "fence", "floor", "flower", "food", "grass",
    "ground", "keyboard", "light", "mountain", "mouse", "curtain", "platform", "sign", "plate", "road", "rock",
    "shelves", "sidewalk", "sky", "snow", "bedclothes", "track", "tree", "truck", "wall", "water", "window", "wood",
)  # fmt: skip

PASCAL_CONTEXT = DatasetFacts(
    name="PascalContext",
    about="PASCAL Context with 59 classes, or 60 with the background: 4996 training and 5104 validation images.",
    classes=tuple((name, voc_colour(number)) for number, name in enumerate(_NAMES, start=1)),
    layout=(
        "VOCdevkit/VOC2010/JPEGImages/*.jpg: the images",
        "VOCdevkit/VOC2010/SegmentationClassContext/*.png: masks, ids 1 to 59, 0 for the background, as mmsegmentation "
        "writes them",
        "VOCdevkit/VOC2010/ImageSets/SegmentationContext/{train,val}.txt: names of the samples of each split",
    ),
    split_sizes={"train": 4996, "val": 5104},
    source=(
        "Mottaghi et al., CVPR 2014; VOC2010's images, and trainval_merged.json converted by mmsegmentation's "
        "tools/dataset_converters/pascal_context.py; https://cs.stanford.edu/~roozbeh/pascal-context/"
    ),
    licence="flickr's terms of use for the images: http://host.robots.ox.ac.uk/pascal/VOC/voc2010/",
    config="data/pascal_context",
)
