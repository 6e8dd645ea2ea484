"""Public names of ``robustseg.data``, loaded as a whole, so that a configuration can name each data set."""

from robustseg.data.ade20k import ADE20K
from robustseg.data.base import SegmentationData, Split
from robustseg.data.bdd100k import BDD100K
from robustseg.data.camvid import CamVid
from robustseg.data.cityscapes import Cityscapes
from robustseg.data.coco_stuff import COCOStuff
from robustseg.data.context import PascalContext
from robustseg.data.dataset import SegmentationDataset
from robustseg.data.errors import DataError
from robustseg.data.file_data import FileData
from robustseg.data.files import PairedFiles, check_headers
from robustseg.data.folder_pairs import FolderPairs
from robustseg.data.loading import UnpaddedDistributedSampler, collate
from robustseg.data.masks import MaskFormat
from robustseg.data.order import Fetch, SampleOrder, derived_seed, run_seed
from robustseg.data.pairing import FilePair, pair_by_stem
from robustseg.data.scenes import render_scene
from robustseg.data.synthetic import SceneDataset, SyntheticScenes
from robustseg.data.transforms import EvalTransform, TrainTransform
from robustseg.data.voc import PascalVOC

__all__ = [
    "ADE20K",
    "BDD100K",
    "COCOStuff",
    "CamVid",
    "Cityscapes",
    "DataError",
    "EvalTransform",
    "Fetch",
    "FileData",
    "FilePair",
    "FolderPairs",
    "MaskFormat",
    "PairedFiles",
    "PascalContext",
    "PascalVOC",
    "SampleOrder",
    "SceneDataset",
    "SegmentationData",
    "SegmentationDataset",
    "Split",
    "SyntheticScenes",
    "TrainTransform",
    "UnpaddedDistributedSampler",
    "check_headers",
    "collate",
    "derived_seed",
    "pair_by_stem",
    "render_scene",
    "run_seed",
]
