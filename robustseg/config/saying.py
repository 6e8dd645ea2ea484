"""Lines for users, printed once however many processes there are."""

from __future__ import annotations

from lightning_fabric.utilities.rank_zero import rank_zero_only

from robustseg.terminal import note
from robustseg.terminal.text import write


def is_first_process() -> bool:
    """Return whether this is rank 0, also before the ranks have met."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0


def say(line: str) -> None:
    """Print a line, on the first of several processes."""
    if is_first_process():
        write(f"robustseg: {line}")


def tell(line: str) -> None:
    """Print a line that --quiet leaves out, on the first of several processes."""
    if is_first_process():
        note(f"robustseg: {line}")
