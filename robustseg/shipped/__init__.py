"""Configurations of the package: their names, and the resolution of includes. No heavy imports."""

from robustseg.shipped.includes import complete
from robustseg.shipped.names import ConfigFileError, about, files, find, leading_comment

__all__ = ["ConfigFileError", "about", "complete", "files", "find", "leading_comment"]
