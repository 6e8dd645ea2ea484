"""Data sets and transforms, all loaded on first access, see ``robustseg.data.public``.

The facts about data sets, for ``robustseg datasets``, can be read without them and so without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustseg.data.public import *  # noqa: F403


def __getattr__(name: str) -> Any:
    """Load all data sets and transforms on first access (PEP 562)."""
    public = None if name.startswith("_") else import_module("robustseg.data.public")
    if public is None or name not in public.__all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(public, name)
