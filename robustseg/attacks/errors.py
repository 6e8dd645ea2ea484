"""Errors of the attacks, and the translation of what a model raises into one of them."""

from __future__ import annotations

import os
import traceback
from types import TracebackType

import torch


class AttackError(RuntimeError):
    """Error of an attack that cannot run on this model or these tensors; the message names the remedy."""


class NoGradientError(AttackError):
    """Error of a gradient attack on a model without an input gradient, or with one that is not finite."""


class NonFiniteError(AttackError):
    """Error of an attack whose model overflows or divides by zero on these images; other images may be fine."""


class NonFiniteGradientError(NonFiniteError, NoGradientError):
    """Error of an attack whose model gives gradients that are not finite."""


_REMEDIES = {
    "Checkpointing is not compatible": (
        "the model saves memory by torch.utils.checkpoint with use_reentrant=True, which has no gradient with respect "
        "to the images alone: call checkpoint with use_reentrant=False (transformers: gradient_checkpointing_enable("
        '{"use_reentrant": False})), or switch checkpointing off for the attack'
    ),
    "different number of tensors was saved": (
        "the model saves memory by torch.utils.checkpoint, and computes something else the second time, or the attack "
        "reads layers inside of it: switch checkpointing off for the attack"
    ),
    "nference tensor": (
        "weights or buffers were made under torch.inference_mode: attack copy.deepcopy(model), made outside of it, or "
        "build and load the model outside of it"
    ),
    "in-place operation": "use the operation that is not in place (x = x - mean instead of x -= mean; inplace=False)",
    "inplace operation": "use the operation that is not in place (x = x - mean instead of x -= mean; inplace=False)",
    "modified inplace": "use the operation that is not in place (x = x - mean instead of x -= mean; inplace=False)",
    "backward through the graph a second time": (
        "the model keeps a tensor of an earlier forward: detach what it keeps, or compute it anew in each forward"
    ),
    "view size is not compatible": (
        "the model needs another layout than that of its features: call reshape in place of view, or leave "
        "model.channels_last out"
    ),
    "RNN backward": "run the attack with torch.backends.cudnn.flags(enabled=False)",
    "uninitialized parameter": "call the model once on a batch, so that its lazy modules are initialised",
}
"""Remedies by a part of the message of torch's error."""


class ModelErrors:
    """A ``with`` block that translates an exception of a model into one AttackError with cause, place and remedy.

    Four kinds pass unchanged, since others handle them: errors of this package, which name their remedy, memory that is
    exhausted, a collective that another rank has left, and what is no ``Exception`` (Ctrl-C). It is a class since
    contextlib's own form would let StopIteration through.

    Args:
        what: Subject of the message.
        channels_last: The model was given images with the channels last.

    Raises:
        AttackError: The block raised; the original is chained.
    """

    def __init__(self, what: str = "the model", channels_last: bool = False):
        self._what = what
        self._channels_last = channels_last

    def __enter__(self) -> None:
        """Enter the block."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Translate the exception that ended the block, if any."""
        if not isinstance(error, Exception) or _passes(error):
            return
        text = _text(error).strip().partition("\n\n")[0] or "no message"
        remedy = _remedy(text, self._channels_last)
        raise AttackError(
            f"{self._what} raised {type(error).__name__}{_place(error)}: {text.rstrip('.')}. Remedy: {remedy}."
        ) from error


def _text(error: Exception) -> str:
    try:
        return str(error)
    except Exception:  # a stranger's exception that cannot be written
        return ""


def _passes(error: Exception) -> bool:
    own = isinstance(error, AttackError) or type(error).__module__.partition(".")[0] == __name__.partition(".")[0]
    if own or isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if not isinstance(error, RuntimeError):
        return False
    text = _text(error).lower()
    if "out of memory" in text or "can't allocate memory" in text:
        return True
    lost = ("gloo", "nccl", "by peer")
    return isinstance(error, torch.distributed.DistError) or any(word in text for word in lost)


def _remedy(text: str, channels_last: bool) -> str:
    if channels_last and "view size is not compatible" in text:
        return "set search.channels_last to false, or use reshape in place of view in the model"
    found = (remedy for part, remedy in _REMEDIES.items() if part in text)
    return next(
        found, "call the model on these images by itself, in the attack's mode and dtype, and mend what it raises"
    )


def _place(error: Exception) -> str:
    """Return file and line of the innermost frame that is neither torch's nor this package's attacks'."""
    known = (os.path.dirname(torch.__file__), os.path.dirname(__file__), "<")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(known)]
    return f" ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})" if frames else ""
