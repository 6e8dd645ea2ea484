"""Seeds of a training step as a function of its position in the run, so that no generator's state needs saving."""

from __future__ import annotations

import random

import numpy as np
import torch

from robustseg.data import derived_seed


def seed_step(*parts: object) -> None:
    """Seed the global generators of torch (all devices), NumPy and Python.

    It is called before each batch, so that random numbers such as dropout's depend neither on earlier batches nor on an
    interruption.

    Args:
        *parts: The seed of the run, the phase, the step, the batch, the rank.
    """
    seed = derived_seed(*parts)
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  other libraries draw from the global generator
    random.seed(seed)
