"""Segmentation networks over timm backbones, the model around them, and loading of weights. Pure PyTorch."""

from robustseg.models.backbone import Backbone
from robustseg.models.checkpoint import RECORD_FORMAT, RECORD_KEY, WeightsInfo, load_segmentation_weights, read_record
from robustseg.models.errors import ModelError
from robustseg.models.heads import DeepLabV3Head, FCNHead, PooledBatchNorm2d, PSPHead
from robustseg.models.model import SegmentationModel
from robustseg.models.multiscale import MultiScale
from robustseg.models.network import IMAGENET_MEAN, IMAGENET_STD, ExternalNetwork, Network
from robustseg.models.networks import FCN, DeepLabV3, EncoderDecoder, PSPNet
from robustseg.models.window import SlidingWindow

__all__ = [
    "FCN",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "RECORD_FORMAT",
    "RECORD_KEY",
    "Backbone",
    "DeepLabV3",
    "DeepLabV3Head",
    "EncoderDecoder",
    "ExternalNetwork",
    "FCNHead",
    "ModelError",
    "MultiScale",
    "Network",
    "PSPHead",
    "PSPNet",
    "PooledBatchNorm2d",
    "SegmentationModel",
    "SlidingWindow",
    "WeightsInfo",
    "load_segmentation_weights",
    "read_record",
]
