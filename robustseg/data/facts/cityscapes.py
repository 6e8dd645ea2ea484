"""Cityscapes with the 19 classes that are evaluated, and BDD100K, which has the same."""

from __future__ import annotations

from robustseg.data.facts.row import Classes, DatasetFacts

_CLASSES: Classes = (
    ("road", (128, 64, 128)),
    ("sidewalk", (244, 35, 232)),
    ("building", (70, 70, 70)),
    ("wall", (102, 102, 156)),
    ("fence", (190, 153, 153)),
    ("pole", (153, 153, 153)),
    ("traffic light", (250, 170, 30)),
    ("traffic sign", (220, 220, 0)),
    ("vegetation", (107, 142, 35)),
    ("terrain", (152, 251, 152)),
    ("sky", (70, 130, 180)),
    ("person", (220, 20, 60)),
    ("rider", (255, 0, 0)),
    ("car", (0, 0, 142)),
    ("truck", (0, 0, 70)),
    ("bus", (0, 60, 100)),
    ("train", (0, 80, 100)),
    ("motorcycle", (0, 0, 230)),
    ("bicycle", (119, 11, 32)),
)
"""Name and RGB colour of the train ids 0 to 18."""

CITYSCAPES = DatasetFacts(
    name="Cityscapes",
    about="Cityscapes with fine annotations: 2975 training, 500 validation and 1525 test images of 2048×1024 pixels.",
    classes=_CLASSES,
    layout=(
        "leftImg8bit/{train,val,test}/CITY/*_leftImg8bit.png: the images",
        "gtFine/{train,val,test}/CITY/*_gtFine_labelIds.png or *_gtFine_labelTrainIds.png: the masks",
    ),
    split_sizes={"train": 2975, "val": 500, "test": 1525},
    source=(
        "Cordts et al., CVPR 2016; leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip of "
        "https://www.cityscapes-dataset.com/downloads/"
    ),
    licence=(
        "not commercial: https://www.cityscapes-dataset.com/license/ (asks for registration, so nothing is downloaded "
        "here)"
    ),
    config="data/cityscapes",
)

BDD = DatasetFacts(
    name="BDD100K",
    about="BDD100K's 10k images with Cityscapes' 19 classes: 7000 training, 1000 validation and 2000 test images.",
    classes=_CLASSES,
    layout=(
        "bdd100k/images/10k/{train,val,test}/*.jpg: the images",
        "bdd100k/labels/sem_seg/masks/{train,val}/*.png: masks of the same names, train ids 0 to 18, 255 for void",
        "or, as first published, seg/images/{train,val,test}/*.jpg and seg/labels/{train,val}/*_train_id.png",
    ),
    split_sizes={"train": 7000, "val": 1000, "test": 2000},
    source=('Yu et al., CVPR 2020; "10K Images" and "Semantic Segmentation" of http://bdd-data.berkeley.edu/'),
    licence=(
        "education, research and not-for-profit: https://doc.bdd100k.com/license.html (asks for registration, so "
        "nothing is downloaded here)"
    ),
    config="data/bdd100k",
)
