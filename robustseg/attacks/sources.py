"""Ensemble of source models, for adversarial examples that transfer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from robustseg.attacks.errors import AttackError, NoGradientError
from robustseg.attacks.gradients import NO_GRADIENT
from robustseg.attacks.guard import Model

Combine = Literal["logits", "probabilities"]


class SourceEnsemble(nn.Module):
    """A model that combines several: ``attack(SourceEnsemble([first, second]), images, targets)``.

    With w the weights, ``"logits"`` gives Σ w_k·u_k (Dong et al., CVPR 2018) and ``"probabilities"`` the logarithm of
    Σ w_k·softmax(u_k) (Liu et al., ICLR 2017), both in float32 at least. An attack restores the state of all models,
    modules or plain functions, as for a single model; its counts treat the ensemble as one model. Wrappers of
    DistributedDataParallel are removed. Building the ensemble does not change its models; calling ``train``, ``eval``
    or ``to`` on it does.

    Args:
        models: At least one; each maps B×3×H×W images in [0, 1] to B×C×H×W logits of the same classes.
        weights: One positive number per model, divided by their sum; equal by default.
        combine: ``"logits"`` or ``"probabilities"``.

    Raises:
        ValueError: No model, weights that are not one positive number per model, unknown ``combine``.
    """

    def __init__(self, models: Sequence[Model], weights: Sequence[float] | None = None, combine: Combine = "logits"):
        super().__init__()
        if not models:
            raise ValueError("models = []: an ensemble has at least one model.")
        if combine not in ("logits", "probabilities"):
            raise ValueError(f"combine = {combine!r}: use logits or probabilities.")
        weights = [1.0] * len(models) if weights is None else list(weights)
        if len(weights) != len(models) or not all(0 < weight < math.inf for weight in weights):
            raise ValueError(f"weights = {weights} for {len(models)} models: give one positive number per model.")
        self.combine: Combine = combine
        self.weights = [weight / math.fsum(weights) for weight in weights]
        self._models = [model.module if isinstance(model, DistributedDataParallel) else model for model in models]
        # Registered, so that loops over all submodules (attack_mode, to) find them; plain functions cannot be.
        self.sources = nn.ModuleList(model for model in self._models if isinstance(model, nn.Module))

    def forward(self, images: Tensor) -> Tensor:
        """Compute the combined logits, B×C×H×W.

        Raises:
            AttackError: A model returned no logits, logits of another shape than the first one, or logits that do not
                depend on ``images`` for autograd.
        """
        combined: Tensor | None = None
        for position, (model, weight) in enumerate(zip(self._models, self.weights, strict=True), start=1):
            logits = _check(model(images.clone()), position, images, combined)
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            if self.combine == "logits":
                part = logits * weight
                combined = part if combined is None else combined + part
            else:
                part = logits.log_softmax(1) + math.log(weight)
                combined = part if combined is None else torch.logaddexp(combined, part)
        assert combined is not None
        return combined

    def extra_repr(self) -> str:  # noqa: D102
        return f"weights={self.weights}, combine={self.combine!r}"


def _check(logits: object, position: int, images: Tensor, before: Tensor | None) -> Tensor:
    """Refuse logits that cannot be combined; the attack itself sees the combination only."""
    if not isinstance(logits, Tensor):
        raise AttackError(
            f"source model {position} returned a {type(logits).__name__}, not a tensor of logits: wrap it so that it "
            "returns B×C×H×W."
        )
    if before is not None and logits.shape != before.shape:
        raise AttackError(
            f"source model {position} returned {tuple(logits.shape)}, those before it {tuple(before.shape)}: the "
            "models of an ensemble have the same classes and give logits at the size of the images."
        )
    if torch.is_grad_enabled() and images.requires_grad and not logits.requires_grad:
        raise NoGradientError(f"source model {position}: {NO_GRADIENT}")
    return logits
