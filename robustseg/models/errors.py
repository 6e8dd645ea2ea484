"""The exception of the models."""

from __future__ import annotations


class ModelError(ValueError):
    """An error in a network, its weights or its input; the message is one line and names the key to change."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
