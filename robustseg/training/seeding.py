"""Random numbers of a step as a function of where in training it stands, so that no generator's state need be saved."""

from __future__ import annotations

import random

import numpy as np
import torch

from robustseg.data import derived_seed


def seed_step(*parts: object) -> None:
    """Seed the global generators of torch (all devices), NumPy and Python.

    Called before each batch: what dropout and whatever else draws then depends neither on the batches before it nor on
    an interruption.

    Args:
        *parts: The seed of the run, the phase, the step, the batch, the rank.
    """
    seed = derived_seed(*parts)
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  the global one is what others draw from
    random.seed(seed)
