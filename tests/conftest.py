"""Settings of the whole suite."""

from __future__ import annotations

import torch

# Small nets gain nothing from more threads, and the suite shall behave on a laptop as on a large machine.
torch.set_num_threads(min(2, torch.get_num_threads()))
# Barely trained nets in eval mode run in denormal numbers, which are several times slower.
torch.set_flush_denormal(True)
