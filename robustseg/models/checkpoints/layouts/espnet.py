"""Layout of ESPNet of sacmehta/ESPNet."""

from __future__ import annotations

from robustseg.models.checkpoints.layouts.layout import Layout
from robustseg.models.espnet import CAMVID_MEAN, CAMVID_STD, DILATIONS, ESPNet

_BLOCKS = (
    *((rf"encoder\.level{level}_0", f"down{level}") for level in (2, 3)),
    *((rf"encoder\.level{level}\.(\d+)", rf"blocks{level}.\1") for level in (2, 3)),
    (r"combine_l2_l3\.1", "merge2.2"),
)
"""Names of the ESP blocks there and here."""
_IN_BLOCK = (
    (r"c1\.conv", "reduce"),
    *((rf"d{dilation}\.conv", f"branches.{index}") for index, dilation in enumerate(DILATIONS)),
    # a block that halves the size has its BatchNorm and PReLU without a module around them
    (r"(?:bn\.)?act", "activation.1"),
    (r"(?:bn\.)?bn", "activation.0"),
)
_JOINTS = (
    *((rf"encoder\.b{level}", f"joint{level}", 0) for level in (1, 2, 3)),
    *((r"encoder\.level1", "stem", 1), (r"combine_l2_l3\.0", "merge2", 0)),
    *((r"up_l2\.1", "up2", 1), (r"conv", "merge1", 1)),
)
"""Names of modules with a BatchNorm and a PReLU, and the number of the BatchNorm here."""


ESPNET = Layout(
    name="sacmehta/ESPNet ESPNet, normalised as for CamVid",
    network=ESPNet,
    config="espnet_camvid",
    marks=(r"encoder\.level2_0\.c1\.", r"combine_l2_l3\.", r"up_l3\."),
    renames=(
        *(
            (rf"{theirs}\.{inner}\.", f"{ours}.{our_inner}.")
            for theirs, ours in _BLOCKS
            for inner, our_inner in _IN_BLOCK
        ),
        *((rf"{theirs}\.conv\.", f"{ours}.0.") for theirs, ours, number in _JOINTS if number),
        *((rf"{theirs}\.bn\.", f"{ours}.{number}.") for theirs, ours, number in _JOINTS),
        *((rf"{theirs}\.act\.", f"{ours}.{number + 1}.") for theirs, ours, number in _JOINTS),
        (r"encoder\.classifier\.conv\.", "scores3.0."),
        (r"br\.", "scores3.1."),
        (r"level3_C\.conv\.", "scores2."),
        (r"up_l3\.0\.", "up3."),
        (r"up_l2\.0\.", "up2.0."),
    ),
    settings={"normalisation": "camvid"},
    mean=CAMVID_MEAN,
    std=CAMVID_STD,
)

LAYOUTS = (ESPNET,)
