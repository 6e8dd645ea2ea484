"""Data sets, data modules and transforms."""

from robustseg.data.base import SegmentationDataModule, Split
from robustseg.data.camvid import CamVid
from robustseg.data.dataset import SegmentationDataset
from robustseg.data.errors import DataError
from robustseg.data.files import FilePair, PairedFiles, check_headers, pair_by_stem
from robustseg.data.loading import UnpaddedDistributedSampler, collate
from robustseg.data.order import Fetch, SampleOrder, derived_seed, run_seed
from robustseg.data.scenes import render_scene
from robustseg.data.synthetic import SceneDataset, SyntheticScenes
from robustseg.data.transforms import EvalTransform, TrainTransform

__all__ = [
    "CamVid",
    "DataError",
    "EvalTransform",
    "Fetch",
    "FilePair",
    "PairedFiles",
    "SampleOrder",
    "SceneDataset",
    "SegmentationDataModule",
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
