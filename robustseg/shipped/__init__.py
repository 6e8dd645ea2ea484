"""Configurations that come with the package: their names, and how files include others; imports nothing heavy."""

from robustseg.shipped.includes import complete
from robustseg.shipped.names import ConfigFileError, about, files, find, leading_comment

__all__ = ["ConfigFileError", "about", "complete", "files", "find", "leading_comment"]
