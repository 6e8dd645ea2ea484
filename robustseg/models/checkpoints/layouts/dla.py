"""Layout of DLASeg of ucbdrive/dla."""

from __future__ import annotations

from torch import nn

from robustseg.models.checkpoints.layouts.drn import CITYSCAPES_MEAN, CITYSCAPES_STD
from robustseg.models.checkpoints.layouts.layout import Layout, State
from robustseg.models.dlaseg import DLASeg
from robustseg.models.starts import without_unused_projections

_IDA = r"dla_up\.ida_(\d+)\."


def _adapt(state: State, network: nn.Module) -> State:
    """Leave out the projections that no forward pass uses."""
    return without_unused_projections(state)


DLA = Layout(
    name="ucbdrive/dla DLASeg, normalised as for Cityscapes",
    network=DLASeg,
    config="dla34",
    marks=(r"base\.base_layer\.", r"dla_up\.ida_0\.node_1\.", r"fc\.0\."),
    renames=(
        (r"base\.", "backbone.body."),
        # the numbers in the file begin with the fine level's, without a projection or a transposed convolution
        *(
            (rf"{_IDA}{kind}_{number}\.", rf"decoder.steps.\1.{ours}.{number - 1}.")
            for kind, ours in (("proj", "projections"), ("up", "upsamplings"), ("node", "nodes"))
            for number in range(1, 6)
        ),
        (r"fc\.0\.", "classifier."),
        (r"up\.", "upsampling."),
    ),
    dropped=(r"base\.fc\.",),
    adapt=_adapt,
    mean=CITYSCAPES_MEAN,
    std=CITYSCAPES_STD,
)

LAYOUTS = (DLA,)
