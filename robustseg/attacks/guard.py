"""Attack mode: the boundary between the attacks and the models that they run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from robustseg.attacks.errors import AttackError, ModelErrors
from robustseg.attacks.precision import Search, Searching
from robustseg.attacks.scaling import wide
from robustseg.attacks.search import is_compiled, modules_of
from robustseg.attacks.state import AttackMode, Hold

Model = Callable[[Tensor], Tensor]
"""Anything that maps images (B×3×H×W in [0, 1]) to logits (B×C×H×W): a module or a plain function."""


class Guarded(nn.Module):
    """A model within :func:`attack_mode`: the modules that it runs are held, its exceptions become AttackErrors.

    Args:
        model: The model.
        hold: Takes the modules that the model runs.
        search: Precision of the forwards that do not judge; None for that of the caller.

    Attributes:
        together: Images of a batch influence one another through its statistics.
    """

    def __init__(self, model: Model, hold: Hold, search: Search | None = None):
        super().__init__()
        self.model = model
        self._hold = hold
        modules = modules_of(model)
        with ModelErrors():
            hold.take(modules)
        # Compiled code keeps no hooks, and torch warns of global ones: what it runs is found by the search.
        self._compiled = is_compiled(model, modules)
        self._watch = nullcontext if self._compiled else hold.watch
        self.changed, self.settle = hold.changed, hold.settle
        self.together = any(isinstance(module, _BatchNorm) and _by_batch(module) for module in modules)
        self._judging = False
        self.searching: Searching | None = None
        if search is not None:
            self.searching = Searching(search, [] if self._compiled else modules)
            hold.override(self.searching.layers)

    @contextmanager
    def judging(self) -> Iterator[None]:
        """Answer in float32 within the block, since what the model says is a verdict on what a search has found."""
        before, self._judging = self._judging, True
        try:
            yield
        finally:
            self._judging = before

    @property
    def float16(self) -> bool:
        """The search is in float16, or some module worked in it in the first forward; or compiled code may."""
        searches = self.searching is not None and self.searching.search.dtype == torch.float16
        return searches or self._compiled or bool(self._hold.float16)

    def forward(self, images: Tensor) -> Tensor:
        """Call the model on a copy of ``images``, since it may change its input; the gradient passes the copy.

        Raises:
            AttackError: The model raised an exception, see :class:`~robustseg.attacks.errors.ModelErrors`.
        """
        if self.searching is None:
            with ModelErrors(), self._watch():
                return self.model(images.clone())
        if self._judging:
            with ModelErrors(), self._watch(), torch.autocast(images.device.type, enabled=False):
                return _plain(self.model(images.clone()))  # a model may have an autocast of its own
        search = self.searching.search
        with self.searching.forward(images), self._watch(), ModelErrors(channels_last=search.channels_last):
            return _plain(self.model(images.clone(memory_format=search.memory_format)))


def _plain(logits: Tensor) -> Tensor:
    """Return logits in float32 and in the usual layout; what is no tensor stays, to be refused."""
    if not isinstance(logits, Tensor) or not logits.is_floating_point() or logits.layout != torch.strided:
        return logits
    return wide(logits).contiguous()


def _by_batch(layer: _BatchNorm) -> bool:
    return layer.training or layer.running_mean is None


@contextmanager
def attack_mode(model: Model, mode: AttackMode = "eval", search: Search | None = None) -> Iterator[Guarded]:
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

    With ``search``, forwards run in its precision and layout, and return float32; those of
    :meth:`Victim.verdict() <robustseg.attacks.Victim.verdict>` run in float32.

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
            yield Guarded(model, hold, search)
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
