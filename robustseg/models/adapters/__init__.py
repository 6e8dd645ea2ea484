"""Networks that other libraries define, built and run by those libraries; none is imported before it is asked for."""

from robustseg.models.adapters.smp import SMPNetwork
from robustseg.models.adapters.torchvision import TorchvisionNetwork
from robustseg.models.adapters.transformers import TransformersNetwork

__all__ = ["SMPNetwork", "TorchvisionNetwork", "TransformersNetwork"]
