"""The terminal: text that is safe to print, and the progress of a command."""

from robustseg.terminal.display import Display, note, showing, shown, track
from robustseg.terminal.stages import Count, Stage

__all__ = ["Count", "Display", "Stage", "note", "showing", "shown", "track"]
