"""Attack mode: the boundary between the attacks and the models that they run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from robustseg.attacks.errors import AttackError, ModelErrors
from robustseg.attacks.search import is_compiled, modules_of
from robustseg.attacks.state import AttackMode, Hold

Model = Callable[[Tensor], Tensor]
"""Anything that maps images (B×3×H×W in [0, 1]) to logits (B×C×H×W): a module or a plain function."""


class Guarded(nn.Module):
    """A model within :func:`attack_mode`: the modules that it runs are held, its exceptions become AttackErrors.

    Args:
        model: The model.
        hold: Takes the modules that the model runs.
    """

    def __init__(self, model: Model, hold: Hold):
        super().__init__()
        self.model = model
        self._hold = hold
        modules = modules_of(model)
        with ModelErrors():
            hold.take(modules)
        # Compiled code keeps no hooks, and torch warns of global ones: what it runs is found by the search.
        self._watch = nullcontext if is_compiled(model, modules) else hold.watch

    def forward(self, images: Tensor) -> Tensor:
        """Call the model on a copy of ``images``, since it may change its input; the gradient passes the copy.

        Raises:
            AttackError: The model raised an exception, see :class:`~robustseg.attacks.errors.ModelErrors`.
        """
        with ModelErrors(), self._watch():
            return self.model(images.clone())


@contextmanager
def attack_mode(model: Model, mode: AttackMode = "eval") -> Iterator[Model]:
    """Prepare ``model`` for an attack and restore its state afterwards, also after an exception.

    Parameters are frozen, so that no weight gradients are computed; autograd is on, also inside
    ``torch.no_grad()`` and ``torch.inference_mode()``. With ``"eval"`` every module is in eval mode for the
    duration. With ``"train"`` the modules stay as they are (batch statistics, dropout); images of a batch then
    influence one another. Afterwards training flags, ``requires_grad``, buffers (such as BatchNorm's running
    statistics) and torch's global random state (dropout draws from it) are as before, each of them whatever fails.

    The modules are those that a search of the model's object finds, see
    :func:`~robustseg.attacks.search.modules_of`, and those that run in a forward, which are held before they run.
    Not found is a module that was compiled, whose ``forward`` is called directly, or that the model runs in another
    thread, unless the search finds it.

    The wrapper of DistributedDataParallel is removed: attack forwards must not arm its reducer or start
    collectives.

    Yields:
        The model to call; an exception that it raises is an :class:`AttackError` with the original chained.

    Raises:
        AttackError: ``"train"`` with synchronised BatchNorm on several ranks, which would deadlock as soon as two
            ranks take a different number of forwards; another thread attacks the model in the other mode; or some of
            the state cannot be restored.
        ValueError: Unknown ``mode``.
    """
    if mode not in ("eval", "train"):
        raise ValueError(f"attack mode = {mode!r}: use eval or train.")
    if isinstance(model, DistributedDataParallel):
        model = model.module
    with torch.inference_mode(False), torch.enable_grad():
        hold = Hold(mode)
        try:
            yield Guarded(model, hold)
        except BaseException:
            hold.release()  # its failures must not hide this error
            raise
        failures = hold.release()
    for failure in failures:
        if not isinstance(failure, Exception):
            raise failure
    if failures:
        raise AttackError(
            f"the model's state could not be restored: {failures[0]}. {len(failures)} parts of it may have changed: "
            "load the model again."
        ) from failures[0]
