"""The display of a command's progress: a bar in a terminal, a line per minute elsewhere."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, TypeVar

from robustseg.terminal.bar import Bar, State, log_line
from robustseg.terminal.stages import Count, Stage, whole_left
from robustseg.terminal.text import write

FIRST = 5.0
"""Seconds until the first line in a log file."""
EVERY = 60.0
"""Seconds between lines in a log file."""
REFRESHES = 4
"""States of a bar per second."""

Item = TypeVar("Item")


class Display:
    """The progress of a command, in its terminal or its log file.

    Stages begin within one another. The first of them is the whole, whose time is shown. Nothing is drawn by the thread
    that computes: it changes numbers, and a thread of the display reads them.

    Args:
        visible: Whether anything is drawn.
        quiet: Whether lines such as those of epochs are left out as well.
        bar: Draw a bar; by default in a terminal only.
        clock: Time in seconds.
    """

    def __init__(
        self,
        visible: bool = True,
        quiet: bool = False,
        bar: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.visible = visible and not quiet
        self.quiet = quiet
        self.bar = bar
        self.clock = clock
        self.created = clock()
        """Time at which the command began."""
        self._stages: list[Stage] = []
        self._phase = ""
        self._drawing: _Drawing | None = None
        self._since: float | None = None
        self._next_line = FIRST

    def begin(self, stage: Stage) -> None:
        """Begin a stage, within those that have not ended."""
        stage.begin(self.clock())
        if self.visible:
            self._phase = ""
            self._stages.append(stage)
            self._draw()

    def prepare(self, phase: str) -> None:
        """Show what is done before the first stage begins."""
        if self.visible:
            self._phase = phase
            self._draw()

    def _draw(self) -> None:
        self._since = self.clock() if self._since is None else self._since
        if self._drawing is None:
            self._drawing = _Live(self) if self._has_bar() else _Lines(self)
            self._drawing.start()

    def end(self, stage: Stage) -> None:
        """End a stage and those within it; nothing if it has ended."""
        if stage in self._stages:
            del self._stages[self._stages.index(stage) :]
        if not self._stages:
            self.stop()

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """Show a stage while a block runs."""
        self.begin(stage)
        try:
            yield
        finally:
            self.end(stage)

    def hide(self) -> None:
        """Draw nothing any more."""
        self.visible = False
        self.stop()

    def stop(self) -> None:
        """End all stages, and leave the terminal as it was."""
        self._stages, self._phase = [], ""
        drawing, self._drawing = self._drawing, None
        if drawing is not None:
            drawing.stop()

    def state(self) -> State | None:
        """Return the state of the moment; None without a stage."""
        stages, now = list(self._stages), self.clock()
        if not stages:
            return State([self._phase], now - (self._since or now), None, 0.0) if self._phase else None
        parts = [part for stage in stages for part in stage.parts()]
        left = whole_left(stages, now)
        share = 0.0 if left is None else stages[0].share(now, left)
        return State(parts, now - stages[0].started, left, share)

    def due_line(self) -> str | None:
        """Return the line of a log file if one is due: some seconds after the first stage began, and every minute."""
        passed = 0.0 if self._since is None else self.clock() - self._since
        if passed < self._next_line or (state := self.state()) is None:
            return None
        self._next_line = (passed // EVERY + 1) * EVERY
        return log_line(state)

    def _has_bar(self) -> bool:
        if self.bar is not None:
            return self.bar
        return sys.stdout.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


class _Drawing:
    """A thread that draws a display."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


class _Live(_Drawing):
    """A bar; what is printed meanwhile appears above it."""

    def __init__(self, display: Display):
        from rich.console import Console
        from rich.live import Live

        self._live = Live(
            Bar(iter(display.state, "never")),
            # what others print is no markup
            console=Console(markup=False, emoji=False, highlight=False),
            refresh_per_second=REFRESHES,
            transient=True,
            # what goes to a file stays there
            redirect_stderr=sys.stderr.isatty(),
        )

    def start(self) -> None:
        self._live.start()

    def stop(self) -> None:
        with suppress(BrokenPipeError):
            self._live.stop()


class _Lines(_Drawing):
    """A thread that prints a line per minute."""

    def __init__(self, display: Display):
        self._display = display
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._print, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()

    def _print(self) -> None:
        # a reader that has left, or a file that was closed, ends no computation
        with suppress(OSError, ValueError):
            while not self._ended.wait(0.5):
                line = self._display.due_line()
                if line is not None:
                    write(line)


_HIDDEN = Display(visible=False)
_CURRENT: ContextVar[Display] = ContextVar("display", default=_HIDDEN)


def shown() -> Display:
    """Return the display of the running command; outside of commands, one that draws nothing."""
    return _CURRENT.get()


@contextmanager
def showing(display: Display) -> Iterator[Display]:
    """Make a display that of the running command, for a block."""
    token = _CURRENT.set(display)
    try:
        yield display
    finally:
        display.stop()
        _CURRENT.reset(token)


def track(items: Iterable[Item], what: str) -> Iterator[Item]:
    """Iterate over items, and show how many are done.

    Args:
        items: The items; how many there are is shown if they have a length.
        what: Text in front of the numbers.
    """
    display = shown()
    stage = Count(what, len(items) if isinstance(items, Sized) else None)
    with display.stage(stage):
        for item in items:
            yield item
            stage.advance(display.clock())


def note(line: str) -> None:
    """Print a line that --quiet leaves out."""
    if not shown().quiet:
        write(line)


def _as_before() -> None:
    """Let a forked process, such as a data worker, print past the bar: a lock of the bar may be held for ever there."""
    _HIDDEN.stop()
    _CURRENT.set(_HIDDEN)
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name)
        if hasattr(stream, "rich_proxied_file"):
            setattr(sys, name, stream.rich_proxied_file)


if hasattr(os, "register_at_fork"):  # not on Windows, which forks nothing
    os.register_at_fork(after_in_child=_as_before)
