"""Files of other programs in place of a checkpoint: each is named for what it is, with its own remedy."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from robustseg.models.checkpoints.read import read_weights
from robustseg.models.errors import ModelError

STATE = {"weight": torch.ones(2, 3), "bias": torch.ones(2)}


def script(path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 3)), str(path))


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (script, "it is a TorchScript archive: save the state_dict"),
        (lambda path: np.savez(path.open("wb"), weight=np.ones(3)), "it holds arrays of NumPy"),
        (lambda path: path.write_bytes(pickle.dumps(STATE)), "it was written by pickle.dump and not by torch.save"),
        (lambda path: path.write_bytes(pickle.dumps({"a": np.ones(3)}, 2)), "it was written by pickle.dump and not"),
        (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "it is an HDF5 file"),
    ],
)
def test_the_message_says_what_it_is(tmp_path, write, said):
    path = tmp_path / "x.pth"
    write(path)
    with pytest.raises(ModelError, match=rf"x\.pth cannot be loaded: {said}"):
        read_weights(path)


def test_a_damaged_file_of_torchs_former_format_is_none_of_these(tmp_path):
    torch.save(STATE, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    content = (tmp_path / "x.pth").read_bytes()
    (tmp_path / "x.pth").write_bytes(content[:-9])
    with pytest.raises(ModelError, match="truncated"):
        read_weights(tmp_path / "x.pth")
