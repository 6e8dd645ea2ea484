"""Layout of DRNSeg of fyu/drn."""

from __future__ import annotations

from robustseg.models.checkpoints.layouts.layout import Layout
from robustseg.models.drnseg import DRNSeg

CITYSCAPES_MEAN = (0.290101, 0.328081, 0.286964)
"""RGB mean of Cityscapes' training images, from the ``info.json`` in fyu/drn's README."""
CITYSCAPES_STD = (0.182954, 0.186566, 0.184475)
"""RGB standard deviation of the same images."""

_HEAD = ((r"seg\.", "classifier."), (r"up\.", "upsampling."))
# names of DRN-C, whose stem is not one module; layer1 follows the stem's ReLU
_STEM_C = ((r"base\.0\.", "backbone.conv1."), (r"base\.1\.", "backbone.bn1."))
_LAYERS_C = tuple((rf"base\.{index + 2}\.", f"backbone.layer{index}.") for index in range(1, 9))

DRN_D = Layout(
    name="fyu/drn DRNSeg with a DRN-D, normalised as for Cityscapes",
    network=DRNSeg,
    config="drn_d_22",
    marks=(r"base\.0\.0\.", r"base\.8\.0\.", r"seg\.weight"),
    renames=((r"base\.([0-8])\.", r"backbone.layer\1."), *_HEAD),
    mean=CITYSCAPES_MEAN,
    std=CITYSCAPES_STD,
)
DRN_C = Layout(
    name="fyu/drn DRNSeg with a DRN-C, normalised as for Cityscapes",
    network=DRNSeg,
    config="drn_d_22 with a backbone such as drn_c_26",
    marks=(r"base\.0\.weight", r"base\.10\.0\.conv1\.", r"seg\.weight"),
    renames=(*_STEM_C, *_LAYERS_C, *_HEAD),
    # an unused shortcut
    dropped=(r"base\.9\.0\.downsample\.",),
    mean=CITYSCAPES_MEAN,
    std=CITYSCAPES_STD,
)

LAYOUTS = (DRN_D, DRN_C)
