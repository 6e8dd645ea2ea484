"""Objects beside the weights in a training script's file: passed over, and never called."""

import pytest
import torch

from robustseg.models import ModelError
from robustseg.models.checkpoints.read import read_state_dict

TENSORS = {"head.weight": torch.ones(2)}


class Attribute:
    """Pickled as ``getattr("abc", "upper")``, as mmengine's buffers of logged values refer to their methods."""

    def __reduce__(self):
        return getattr, ("abc", "upper")

    def __call__(self):
        raise AssertionError("only what is pickled matters")


class Call:
    """Pickled as a call of that attribute."""

    def __reduce__(self):
        return Attribute(), ()


def test_an_attribute_beside_the_tensors_is_passed_over(tmp_path):
    torch.save({"state_dict": TENSORS, "message_hub": {"method": Attribute()}}, tmp_path / "iter_1.pth")
    assert torch.load(tmp_path / "iter_1.pth", weights_only=False)["message_hub"]["method"]() == "ABC"
    assert read_state_dict(tmp_path / "iter_1.pth").keys() == TENSORS.keys()


def test_a_call_of_an_attribute_is_refused(tmp_path):
    torch.save({"state_dict": TENSORS, "message_hub": Call()}, tmp_path / "iter_1.pth")
    assert torch.load(tmp_path / "iter_1.pth", weights_only=False)["message_hub"] == "ABC"
    with pytest.raises(ModelError, match=r"iter_1\.pth cannot be loaded"):
        read_state_dict(tmp_path / "iter_1.pth")
