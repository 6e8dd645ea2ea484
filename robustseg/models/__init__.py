"""Segmentation networks over timm backbones, the model around them, and the loading of weights, in pure PyTorch."""

from robustseg.models.adapters import SMPNetwork, TorchvisionNetwork, TransformersNetwork
from robustseg.models.backbone import Backbone
from robustseg.models.checkpoints.load import WeightsInfo, load_segmentation_weights, read_record
from robustseg.models.checkpoints.record import RECORD_FORMAT, RECORD_KEY
from robustseg.models.compiled import Compile
from robustseg.models.dlaseg import DLASeg
from robustseg.models.drn import DRN
from robustseg.models.drnseg import DRNSeg
from robustseg.models.errors import ModelError
from robustseg.models.espnet import ESPBlock, ESPNet
from robustseg.models.fcn_vgg import FCN8s, FCN16s, FCN32s
from robustseg.models.heads import DeepLabV3Head, FCNHead, PooledBatchNorm2d, PSPHead
from robustseg.models.model import SegmentationModel
from robustseg.models.multiscale import MultiScale
from robustseg.models.network import IMAGENET_MEAN, IMAGENET_STD, ExternalNetwork, Network
from robustseg.models.networks import FCN, DeepLabV3, EncoderDecoder, PSPNet
from robustseg.models.segformer import SegFormer, SegFormerHead
from robustseg.models.segmenter import MaskTransformer, Segmenter
from robustseg.models.upernet import UPerHead, UPerNet
from robustseg.models.window import SlidingWindow

__all__ = [
    "DRN",
    "FCN",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "RECORD_FORMAT",
    "RECORD_KEY",
    "Backbone",
    "Compile",
    "DLASeg",
    "DRNSeg",
    "DeepLabV3",
    "DeepLabV3Head",
    "ESPBlock",
    "ESPNet",
    "EncoderDecoder",
    "ExternalNetwork",
    "FCN8s",
    "FCN16s",
    "FCN32s",
    "FCNHead",
    "MaskTransformer",
    "ModelError",
    "MultiScale",
    "Network",
    "PSPHead",
    "PSPNet",
    "PooledBatchNorm2d",
    "SMPNetwork",
    "SegFormer",
    "SegFormerHead",
    "SegmentationModel",
    "Segmenter",
    "SlidingWindow",
    "TorchvisionNetwork",
    "TransformersNetwork",
    "UPerHead",
    "UPerNet",
    "WeightsInfo",
    "load_segmentation_weights",
    "read_record",
]
