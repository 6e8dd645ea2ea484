"""Lines that show the state of a command: a bar for a terminal, and a line for a log file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from robustseg.terminal.text import duration, one_line

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

_BAR = (6, 32)
"""Smallest and largest width of a bar."""
_FIRST = 18
"""Columns that the first part may be cut to."""


class State(NamedTuple):
    """The work of a command at one moment."""

    parts: Sequence[str]
    """Texts from the whole to the detail, with names of users as they are."""
    passed: float
    """Seconds since the beginning."""
    left: float | None
    """Seconds until the end; None while nothing is known."""
    share: float
    """The share that is done, in [0, 1]."""


def log_line(state: State) -> str:
    """Return the line of a log file."""
    left = "" if state.left is None else f", about {duration(state.left)} left"
    return f"robustseg: {', '.join(map(one_line, state.parts))}, {duration(state.passed)} so far{left}"


def bar_line(state: State, width: int) -> tuple[str, int, int, str]:
    """Fit a state into a terminal's line.

    Args:
        state: The state.
        width: Columns of the terminal.

    Returns:
        Text before the bar, its full columns, its empty ones, and the text behind it. Where there is no room for all,
        the first part is cut, then the others are left out, the most detailed ones last, and at last the bar.
    """
    from rich.cells import cell_len, set_cell_size

    first, *details = map(one_line, state.parts)
    times = duration(state.passed) if state.left is None else f"{duration(state.passed)} · {duration(state.left)} left"
    smallest, largest = _BAR
    behind, room = _joined(details, times), width - smallest - 2
    while details and cell_len(behind) > room - min(cell_len(first), _FIRST):
        del details[0]
        behind = _joined(details, times)
    space = room - cell_len(behind)
    if space < min(cell_len(first), _FIRST):
        largest, space = 0, max(1, space + smallest)
    if cell_len(first) > space:
        first = set_cell_size(first, space - 1).rstrip() + "…"
    bar = max(0, min(largest, width - cell_len(first) - cell_len(behind) - 2))
    full = round(bar * min(1.0, max(0.0, state.share)))
    return first, full, bar - full, behind


def _joined(details: Sequence[str], times: str) -> str:
    return " · ".join([*details, times])


class Bar:
    """A renderable of ``rich`` that shows the newest state whenever it is drawn.

    Args:
        states: Yields the state of the moment.
    """

    def __init__(self, states: Iterator[State | None]):
        self._states = states

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw one line."""
        from rich.text import Text

        state = next(self._states)
        if state is None:
            return
        before, full, empty, behind = bar_line(state, options.max_width)
        done, open_ = ("━", "─") if options.encoding.startswith("utf") else ("#", "-")
        bar = Text.assemble((done * full, "green"), (open_ * empty, "bright_black"))
        yield Text.assemble(before, " ", bar, " ", behind, no_wrap=True, overflow="crop")
