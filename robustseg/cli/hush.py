"""The noise of libraries at the start of a command: what it is, and how it is left out. Real warnings stay."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path

from robustseg.terminal.text import one_line

_NOISE = (
    # caused by Lightning itself, at every start with the torch releases of 2026
    ".*isinstance\\(treespec, LeafSpec\\).*",
    # false here: the sampler continues the order of the data, and scores already cover all ranks
    ".*your dataloader is not resumable.*",
    ".*It is recommended to use `self.log.*sync_dist=True.*",
    # the doctor measures data workers; TensorBoard's curves of short epochs are as they should be
    ".*does not have many workers which may be a bottleneck.*",
    ".*is smaller than the logging interval.*",
    # a complete evaluation has nothing to load
    ".*Total length of `.*` across ranks is zero.*",
    # written into a run's folder on purpose
    ".*Checkpoint directory .* exists and is not empty.*",
)
_LIBRARIES = r"(torch|torchvision|torchmetrics|pytorch_lightning|lightning_\w+|lightning|timm|tensorboard)(\.|$)"


def hush() -> None:
    """Leave out advertisements, absent hardware and what only a library's authors can mend."""
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=message)
    if not os.environ.get("SLURM_JOB_ID"):  # a machine that can submit jobs, and nothing is said about one
        warnings.filterwarnings("ignore", message=".*`srun` command is available on your system but is not used.*")
    for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
        warnings.filterwarnings("ignore", category=category, module=_LIBRARIES)
    if not os.environ.get("ROBUSTSEG_TRACEBACK"):
        warnings.formatwarning = _format
    for name in ("pytorch_lightning", "lightning_fabric"):
        for handler in logging.getLogger(name).handlers:
            if _asked_for not in handler.filters:
                handler.addFilter(_asked_for)


def _format(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Format a warning for a user: what it says, and which library says it."""
    path = Path(filename)
    source = "" if "robustseg" in path.parts else f" ({path.stem}, line {lineno})"
    return f"robustseg: warning: {one_line(str(message))}{source}\n"


def _asked_for(record: logging.LogRecord) -> bool:
    """Return whether to log a line of Lightning: warnings, and what callbacks were configured to say."""
    return record.levelno > logging.INFO or "callbacks" in Path(record.pathname).parts
