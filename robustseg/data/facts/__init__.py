"""Facts about the data sets: names, classes, layouts, sources. Imports only the standard library."""

from robustseg.data.facts.ade20k import ADE
from robustseg.data.facts.camvid import CAMVID
from robustseg.data.facts.cityscapes import BDD, CITYSCAPES
from robustseg.data.facts.coco import COCO_STUFF
from robustseg.data.facts.context import PASCAL_CONTEXT
from robustseg.data.facts.own import FOLDER_PAIRS, SYNTHETIC_SCENES
from robustseg.data.facts.row import DatasetFacts
from robustseg.data.facts.voc import PASCAL_VOC

DATASETS = (ADE, BDD, COCO_STUFF, CAMVID, CITYSCAPES, FOLDER_PAIRS, PASCAL_CONTEXT, PASCAL_VOC, SYNTHETIC_SCENES)

__all__ = ["DATASETS", "DatasetFacts"]
