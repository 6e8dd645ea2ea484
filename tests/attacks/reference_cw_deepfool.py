"""CW and DeepFool written out pixel by pixel, one image at a time, in float64; slow, and without the library.

Targets are one H×W map with NO_LABEL where ignored.
"""

import math

import torch
from torch import Tensor

from .reference import Kept, best_other, pixel_prediction, project, valid_pixels


def margin_loss(logits: Tensor, target: Tensor, kappa: float, targeted: bool) -> tuple[Tensor, int]:
    """Σ max(difference, −κ), and how many pixels are fooled by more than κ (show the target by κ)."""
    total, fooled = torch.zeros((), dtype=torch.float64), 0
    for i, j in valid_pixels(target):
        label = int(target[i, j])
        difference = logits[label, i, j] - logits[best_other(logits[:, i, j], label), i, j]
        if targeted:
            fooled += bool(difference >= kappa)
            difference = -difference
        else:
            fooled += bool(difference < -kappa)
        total = total + (difference if bool(difference > -kappa) else -kappa)
    return total, fooled


def literal_cw_l2(model, image, target, steps, step_size, runs, c, kappa, needed, targeted, reach):
    """Returns the result, per run and step (iterate, objective), and per run (c, whether it fooled enough)."""
    kept, trace, searched = Kept(image, needed, "l2"), [], []
    small, large = 0.0, math.inf
    for _ in range(runs):
        w = torch.atanh((2 * image - 1) * reach).requires_grad_()
        adam = torch.optim.Adam([w], lr=step_size)
        success = False
        for step in range(steps + 1):
            image_adv = 0.5 * (torch.tanh(w) / reach + 1)
            loss, fooled = margin_loss(model(image_adv[None])[0], target, kappa, targeted)
            success = kept.offer(image_adv.detach(), fooled) or success
            if step == steps:
                break
            objective = ((image_adv - image) ** 2).sum() + c * loss
            trace.append((image_adv.detach().clone(), objective.item()))
            adam.zero_grad()
            objective.backward()
            adam.step()
            with torch.no_grad():
                w.clamp_(-math.atanh(reach), math.atanh(reach))
        searched.append((c, success))
        if success:
            large = c
        else:
            small = c
        if small == 0:
            c = c / 10
        elif math.isinf(large):
            c = c * 10
        else:
            c = math.sqrt(small * large)
    return kept.result, trace, searched


def literal_cw_linf(model, image, target, steps, step_size, eps, kappa, needed, targeted):
    """As above with one run, which ends at the first iterate that is fooled enough."""
    kept, trace = Kept(image, needed, "linf"), []
    point = image.clone().requires_grad_()
    adam = torch.optim.Adam([point], lr=step_size)
    for step in range(steps + 1):
        loss, fooled = margin_loss(model(point[None])[0], target, kappa, targeted)
        if kept.offer(point.detach(), fooled) or step == steps:
            break
        trace.append((point.detach().clone(), loss.item()))
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            for index in range(point.numel()):
                clean = float(image.flatten()[index])
                low, high = max(0.0, clean - eps), min(1.0, clean + eps)
                point.view(-1)[index] = min(max(float(point.view(-1)[index]), low), high)
    return kept.result, trace


def literal_deepfool(model, image, target, steps, candidates, overshoot, needed, norm, eps=None):
    """Returns the result and per step (iterate, mean margin of the pixels that are still correct)."""
    kept, trace = Kept(image, needed, norm), []
    pixels = valid_pixels(target)
    current = image.clone()
    for step in range(steps + 1):
        point = current.clone().requires_grad_()
        logits = model(point[None])[0]
        correct = [(i, j) for i, j in pixels if pixel_prediction(logits[:, i, j]) == int(target[i, j])]
        if kept.offer(current, len(pixels) - len(correct)) or step == steps:
            break
        best, move = math.inf, torch.zeros_like(image)
        for rank in range(min(candidates, len(logits) - 1)):
            # The means; the library takes sums, which must not matter.
            mean = torch.zeros((), dtype=torch.float64)
            for i, j in correct:
                label = int(target[i, j])
                wrong = sorted((k for k in range(len(logits)) if k != label), key=lambda k: -logits[k, i, j].item())
                mean = mean + (logits[wrong[rank], i, j] - logits[label, i, j]) / len(correct)
            (w,) = torch.autograd.grad(mean, point, retain_graph=True)
            f = abs(mean.item())
            if rank == 0:
                trace.append((current.clone(), f))
            if norm == "l2":
                size = math.sqrt(sum(v * v for v in w.flatten().tolist()))
                candidate = f / size**2 * w
            else:
                size = sum(abs(v) for v in w.flatten().tolist())
                candidate = f / size * w.sign()
            if f / size < best:
                best, move = f / size, candidate
        current = (current + (1 + overshoot) * move).clamp(0, 1)
        if eps is not None:
            within = project(current.flatten().tolist(), image.flatten().tolist(), eps, norm)
            current = torch.tensor(within, dtype=torch.float64).view_as(image)
    return kept.result, trace
