"""Adapters for networks of other libraries, which are imported only if one of their networks is built."""

from robustseg.models.adapters.smp import SMPNetwork
from robustseg.models.adapters.torchvision import TorchvisionNetwork
from robustseg.models.adapters.transformers import TransformersNetwork

__all__ = ["SMPNetwork", "TorchvisionNetwork", "TransformersNetwork"]
