"""Experiments with attacks: white-box attacks, accuracy over eps, noise, a black-box search, and a single step."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

import torch
from torch import Tensor

from robustseg.attacks import FGSM, PGD, Attack, CosPGD, NoiseSource, Square, ThreatModel
from robustseg.attacks.losses.base import IGNORED
from robustseg.attacks.threat import per_image
from robustseg.evaluation.checks.subject import Evidence, Subject, number, signs
from robustseg.metrics import pixel_acc_from_counts

Kind = type[PGD] | type[CosPGD]

FACTORS = (Fraction(0), Fraction(1, 4), Fraction(1, 2), Fraction(1), Fraction(2), Fraction(4))
"""Multiples of ε on the curve."""
CURVE_STEPS = 10
STEP_SHARE = Fraction(5, 16)
REFERENCE_STEPS = 20
NOISE_DRAWS = 4
SQUARE_QUERIES = 150
"""Queries of the small black-box search; on a model with usable gradients it is far weaker than 20 gradient steps."""


def probe_attack(kind: Kind, threat: ThreatModel, steps: int) -> Attack:
    """Build an attack of the probe, which returns the iterate with the fewest correct pixels.

    PGD takes steps of about a third of ε, as in the SegPGD paper: on an adversarially trained CamVid model 20 of them
    left 63 % of the pixels correct, and 20 steps of ε/8 left 70 %. CosPGD takes steps of 2.5·ε/T (Madry et al., ICLR
    2018), which also work on a loss with ripples that large steps skip.
    """
    share = STEP_SHARE if kind is PGD else Fraction(5, 2) / steps
    step_size = str(threat.eps * share)
    return kind(
        eps=str(threat.eps), step_size=step_size, steps=steps, norm=threat.norm, keep="best", ignore_index=IGNORED
    )


class WhiteBox:
    """Pixel accuracies of each image under attacks that follow the gradient, and the worst of them and the clean one.

    ``accuracies`` holds N values for each attack that could run, ``errors`` the reasons of the others.
    """

    def __init__(self, subject: Subject, suite: Mapping[str, Tensor]):
        # Prefixed, since a suite may have an attack named pgd too.
        self.accuracies = {f"suite.{name}": pixel_acc_from_counts(counts) for name, counts in suite.items()}
        self.errors: dict[str, str] = {}
        attacks: dict[str, tuple[Kind, bool]] = {
            "pgd": (PGD, False),
            "pgd_rescaled": (PGD, True),
            "cospgd_rescaled": (CosPGD, True),
        }
        for name, (kind, rescaled) in attacks.items():
            attack = probe_attack(kind, subject.threat, REFERENCE_STEPS)
            try:
                self.accuracies[name] = subject.accuracies(subject.attacked(attack, rescaled))
            except torch.cuda.OutOfMemoryError:
                raise
            except RuntimeError as error:
                self.errors[name] = str(error)
        self.worst = torch.stack([subject.clean, *self.accuracies.values()]).amin(0)
        """Worst accuracy of each image, N float64 values."""

    def evidence(self, subject: Subject) -> Evidence:
        """Return the mean pixel accuracy without attack, per attack, and at worst."""
        return {
            "clean": number(subject.clean.mean()),
            "attacks": {name: number(found.mean()) for name, found in self.accuracies.items()},
            "worst": number(self.worst.mean()),
            "errors": self.errors,
        }


def probe_eps_curve(subject: Subject) -> Evidence:
    """Compute the pixel accuracy over ε under the worse of two short attacks, up to an ε that allows every image.

    ``chance`` is the share of the most frequent class, or 1/C if that is larger. A model that always predicts one class
    keeps this accuracy; under an attack with any image allowed, no model needs to keep more.
    """
    threat = subject.threat
    # For l2 the diagonal of the unit cube; for linf its side, which is also the rms of the diagonal.
    everything = Fraction(subject.images[0].numel() ** 0.5) if threat.norm == "l2" else Fraction(1)
    radii = {str(factor): threat.eps * factor for factor in FACTORS}
    radii = {name: eps for name, eps in radii.items() if eps < everything} | {"everything": everything}
    curve = {name: number(_under(subject, eps)) for name, eps in radii.items()}
    return {
        "eps": {name: str(eps) for name, eps in radii.items()},
        "pixel_acc": curve,
        "chance": number(_chance(subject)),
    }


def _under(subject: Subject, eps: Fraction) -> Tensor:
    if not eps:
        return subject.clean.mean()
    threat = ThreatModel(str(eps), subject.threat.norm)
    runs = [subject.attacked(probe_attack(PGD, threat, CURVE_STEPS))]
    runs.append(subject.attacked(probe_attack(CosPGD, threat, CURVE_STEPS), rescaled=True))
    return torch.stack([subject.accuracies(images_adv) for images_adv in runs]).amin(0).mean()


def _chance(subject: Subject) -> float:
    """Compute the accuracy of chance; shares are averaged over images, as the accuracies are."""
    classes = subject.counts(subject.images)[:, 1].double()
    frequent = float((classes / classes.sum(1, keepdim=True)).mean(0).max())
    return max(frequent, 1 / subject.num_classes)


def probe_order(subject: Subject, white: WhiteBox) -> Evidence:
    """Compute the pixel accuracy under attacks without gradient, and under the worst white-box attack."""
    found = {"uniform_noise": _uniform_noise(subject), "sign_noise": _sign_noise(subject)}
    if subject.threat.norm == "linf":
        square = Square(eps=str(subject.threat.eps), steps=SQUARE_QUERIES, ignore_index=IGNORED)
        found["square"] = subject.accuracies(subject.attacked(square))
    return {
        "white_box": number(white.worst.mean()),
        "white_box_attacks": list(white.accuracies),
        "black_box": {name: number(accuracies.mean()) for name, accuracies in found.items()},
    }


def _uniform_noise(subject: Subject) -> Tensor:
    """Compute each image's worst accuracy over several uniform draws from the ball."""
    allowed = subject.threat.around(subject.images)
    draws = []
    for draw in range(NOISE_DRAWS):
        noise = NoiseSource.for_samples((subject.seed, draw), subject.ids, subject.images.device)
        draws.append(subject.accuracies(allowed.finish(allowed.sample(noise))))
    return torch.stack(draws).amin(0)


def _sign_noise(subject: Subject) -> Tensor:
    """Compute each image's worst accuracy over random corners of the ball (for l2 and rms: signs of full length)."""
    allowed, eps = subject.threat.around(subject.images), float(subject.threat.eps)
    draws = []
    for sign in signs(subject.images, subject.seed, NOISE_DRAWS):
        length = sign.flatten(1).norm(dim=1) if subject.threat.norm == "l2" else torch.ones(len(sign))
        step = eps * sign / per_image(length.to(sign), sign)
        draws.append(subject.accuracies(allowed.finish(allowed.project(subject.images + step))))
    return torch.stack(draws).amin(0)


def probe_one_step(subject: Subject, white: WhiteBox) -> Evidence:
    """Compute the pixel accuracy under FGSM at parts of ε, and under many steps at ε."""
    fgsm = {}
    for factor in (Fraction(1, 4), Fraction(1, 2), Fraction(1)):
        attack = FGSM(eps=str(subject.threat.eps * factor), norm=subject.threat.norm, ignore_index=IGNORED)
        fgsm[str(factor)] = number(subject.accuracies(subject.attacked(attack)).mean())
    return {"clean": number(subject.clean.mean()), "fgsm": fgsm, "many_steps": number(white.worst.mean())}
