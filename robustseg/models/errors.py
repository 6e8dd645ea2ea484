"""The one exception of this folder."""

from __future__ import annotations


class ModelError(ValueError):
    """A network, its weights or its input do not fit; the message is one line and names the key to change."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
