"""The promise of ``keep="best"``, as a check that must pass and that defects must fail."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustseg.attacks import DIFGSM, DS, MIFGSM, NIFGSM, PGD, TIFGSM, Attack, SegPGD, TransferAttack
from tests.helpers.nets import tiny_batch, tiny_net

BALL = {"eps": 0.1, "step_size": 0.06, "steps": 6}
BEST: dict[str, Callable[..., Attack]] = {
    "PGD": lambda **kw: PGD(**BALL, **kw),
    "SegPGD": lambda **kw: SegPGD(**BALL, **kw),
    "MIFGSM l2": lambda **kw: MIFGSM(eps=1.0, step_size=0.5, steps=6, norm="l2", **kw),
    "DS": lambda **kw: DS(**BALL, random_start=True, **kw),
    "Nesterov": lambda **kw: NIFGSM(**BALL, **kw),
    "translation-invariant Nesterov": lambda **kw: TransferAttack(**BALL, diversity_prob=0, kernel_size=3, **kw),
    "translation-invariant": lambda **kw: TIFGSM(**BALL, kernel_size=3, **kw),
    "diverse": lambda **kw: DIFGSM(**BALL, **kw),
}


def correct_share(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Share of the valid pixels whose argmax is the target, B values."""
    with torch.no_grad():
        hits = (model(images).argmax(1) == targets) & (targets != 255)
    return hits.flatten(1).sum(1) / (targets != 255).flatten(1).sum(1)


def check_best(name: str, targeted: bool) -> None:
    """The earliest of start, iterates and last with the fewest correct pixels; points of a look-ahead are none."""
    model, worse = tiny_net(), 0
    for seed in range(6):
        images, targets = tiny_batch(seed=seed, batch=3)
        iterates: list[Tensor] = []
        best = BEST[name](keep="best", targeted=targeted)(
            model, images, targets, on_step=lambda step, kept=iterates: kept.append(step.images_adv)
        )
        iterates.append(BEST[name](targeted=targeted)(model, images, targets))
        shares = torch.stack([correct_share(model, x, targets) for x in iterates])
        expected = shares.amax(0) if targeted else shares.amin(0)
        chosen = torch.stack(iterates)[(shares == expected).int().argmax(0), range(3)]
        torch.testing.assert_close(best, chosen, rtol=0, atol=1e-9)
        worse += int((shares[-1] != expected).sum())
    assert worse > 0, "some last iterate is not the best, or this tests nothing"
