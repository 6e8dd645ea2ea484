"""ALMA-prox, PDGD and PDPGD written out slowly: one image, one pixel, one entry at a time, in float64."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .reference import Kept, best_other, pixel_prediction, valid_pixels

Model = Callable[[Tensor], Tensor]
Pixels = dict[tuple[int, int], float]


class Trace(NamedTuple):
    """What an attack did to one image."""

    images_adv: list[Tensor]
    """Every iterate, the one after the last step included, 3×H×W."""
    losses: list[float]
    result: Tensor


def literal_alma(
    model: Model,
    image: Tensor,
    target: Tensor,
    *,
    steps: int,
    success: float,
    targeted: bool = False,
    drop: str = "gradually",
    step_size: float = 0.001,
    step_decay: float = 0.1,
    mu: float = 1.0,
    rho: float = 0.01,
    check_every: int = 10,
    tau: float = 0.95,
    gamma: float = 2.0,
    alpha: float = 0.8,
    alpha_rms: float = 0.8,
    w_min: float = 0.1,
    w_max: float = 1.0,
    w: float = 1.0,
    w_rate: float = 0.02,
    surplus: float = 1e-4,
) -> Trace:
    pixels = valid_pixels(target)
    delta = torch.zeros_like(image)
    squares = torch.zeros_like(image)
    mus, rhos = dict.fromkeys(pixels, mu), dict.fromkeys(pixels, rho)
    fooled_since = dict.fromkeys(pixels, False)
    before: Pixels = {}
    falls_from, found = steps // 2, False
    watch = Watch(image, len(pixels), success)
    for t in range(steps):
        point = (image + delta).requires_grad_()
        logits = model(point.unsqueeze(0))[0]
        fooled = {i: is_fooled(logits, target, i, targeted) for i in pixels}
        enough = watch.look(point, fooled)
        if enough and not found:
            found = True
            if t < steps // 2:
                falls_from = t
        w = min(max(w / (1 + w_rate if enough else 1 - w_rate), w_min), w_max)
        c = {i: w * ratio(logits, target, i, targeted, surplus) for i in pixels}
        value = {i: float(c[i].detach()) for i in pixels}
        counts = counted(value, success, drop, t, steps)
        for i in pixels:
            fooled_since[i] = fooled_since[i] or fooled[i]
        if t == 0:
            before = value
        elif (t + 1) % check_every == 0:
            for i in pixels:
                rest = value[i] if i in counts else 0.0
                if not fooled_since[i] and not rest <= tau * before[i]:
                    rhos[i] *= gamma
                fooled_since[i] = False
            before = value
        if t:
            for i in pixels:
                slope = 0.0
                if i in counts:
                    at = torch.tensor(value[i], dtype=torch.float64, requires_grad=True)
                    slope = float(torch.autograd.grad(penalty(at, rhos[i], mus[i]), at)[0])
                mus[i] = min(max(alpha * mus[i] + (1 - alpha) * slope, 1e-12), 1.0)
        loss = sum(penalty(c[i], rhos[i], mus[i]) for i in counts)
        watch.losses.append(float(loss.detach()))
        grad = torch.autograd.grad(loss, point)[0]
        size = step_size
        if step_decay < 1:
            bend = step_decay / (1 - step_decay) * max(steps - falls_from, 1)
            size = step_size * bend / (max(t - falls_from, 0) + bend)
        squares = alpha_rms * squares + (1 - alpha_rms) * grad**2
        h = (squares / (1 - alpha_rms ** (t + 1))).sqrt().clamp_min(1e-8)
        delta = prox_linf_by_bisection(delta - size / h * grad, size, h, -image, 1 - image)
    return watch.finish(model, image + delta, target, targeted, pixels)


def literal_primal_dual(
    model: Model,
    image: Tensor,
    target: Tensor,
    *,
    proximal: str | None,
    norm: str,
    steps: int,
    success: float,
    targeted: bool = False,
    drop: str = "never",
    step_size: float = 0.01,
    step_decay: float = 0.01,
    dual_ratio: float = 1.0,
    dual_step: float = 0.1,
    dual_decay: float = 0.1,
    dual_average: float = 0.9,
    dual_floor: float = 1e-6,
    proximal_steps: int = 5,
    tolerance: float = 0.01,
) -> Trace:
    """PDGD where ``proximal`` is None, else PDPGD with the operator of that norm."""
    pixels = valid_pixels(target)
    delta, mean, squares = (torch.zeros_like(image) for _ in range(3))
    ell = {i: -math.log(len(pixels) * dual_ratio) for i in pixels}
    average = softmax_with_zero(ell, set(pixels))
    watch = Watch(image, len(pixels), success, norm)
    for t in range(steps):
        point = (image + delta).requires_grad_()
        logits = model(point.unsqueeze(0))[0]
        watch.look(point, {i: is_fooled(logits, target, i, targeted) for i in pixels})
        m = {i: margin(logits, target, i, targeted) for i in pixels}
        counts = counted({i: float(m[i].detach()) for i in pixels}, success, drop, t, steps)
        if t:
            now = softmax_with_zero(ell, counts)
            average = {i: dual_average * average[i] + (1 - dual_average) * now[i] for i in pixels}
        norm_weight = 1 - sum(average[i] for i in counts)
        loss = sum(average[i] * (1 + m[i].exp()).log() for i in counts)
        watch.losses.append(float(loss.detach()))
        grad = torch.autograd.grad(loss, point)[0]
        length = float(delta.flatten().norm())
        if proximal is None and length > 0:
            grad = grad + norm_weight * delta / length
        mean = 0.9 * mean + 0.1 * grad
        squares = 0.999 * squares + 0.001 * grad**2
        v = (squares / (1 - 0.999 ** (t + 1))).sqrt() + 1e-8
        size = step_size * step_decay ** (t / steps)
        delta = torch.minimum(torch.maximum(delta - size * (mean / (1 - 0.9 ** (t + 1))) / v, -image), 1 - image)
        if proximal is not None:
            h = v / v.max()
            weight = size / float(v.max()) * norm_weight / (1 - norm_weight)
            delta = approached(delta, h, weight, proximal, image, proximal_steps, tolerance)
        rate = dual_step * ((steps - 1 - t) / (steps - 1) * (1 - dual_decay) + dual_decay)
        for i in pixels:
            sign = int(m[i].detach().sign()) if i in counts else 0
            ell[i] = min(max(ell[i] + rate * sign, math.log(dual_floor)), -math.log(dual_floor))
    return watch.finish(model, image + delta, target, targeted, pixels)


def approached(r: Tensor, h: Tensor, weight: float, norm: str, image: Tensor, count: int, tolerance: float) -> Tensor:
    z = r
    for _ in range(count):
        v = z - h * (z - r)
        if norm == "linf":
            far = torch.full_like(v, 1e9)
            new = prox_linf_by_bisection(v, weight, torch.ones_like(v), -far, far)
        else:
            length = float(v.flatten().norm())
            new = v * max(0.0, 1 - weight / length) if length else v
        new = torch.minimum(torch.maximum(new, -image), 1 - image)
        change = float((new - z).flatten().norm())
        z = new
        if change <= tolerance * float(z.flatten().norm()):
            break
    return z


def prox_linf_by_bisection(delta: Tensor, weight: float, h: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """The height t at which lowering the L∞ norm no longer pays, by 200 halvings."""
    entries = [*zip(*(x.flatten().tolist() for x in (delta, h, lower, upper)), strict=True)]

    def slope(t: float) -> float:
        """Derivative of ½·Σ h·(clip(δ) − δ)² + w·t, where clip is to the box and to ±t."""
        total = weight
        for d, metric, low, high in entries:
            if abs(min(max(d, low), high)) > t:
                total -= metric * (abs(d) - t)
        return total

    left, right = 0.0, max(abs(d) for d, *_ in entries) + 1.0
    if slope(0.0) >= 0:
        right = 0.0
    while right - left > 1e-15 * right:
        middle = (left + right) / 2
        if middle in (left, right):
            break
        if slope(middle) >= 0:
            right = middle
        else:
            left = middle
    values = [min(max(min(max(d, low), high), -right), right) for d, _, low, high in entries]
    return torch.tensor(values, dtype=torch.float64).view_as(delta)


def penalty(c: Tensor, rho: float, mu: float) -> Tensor:
    if float(c.detach()) >= 0:
        return mu * c + mu * rho * c**2 + rho**2 * c**3 / 6
    return mu * c / (1 - max(rho, 1.0) * c)


def margin(logits: Tensor, target: Tensor, i: tuple[int, int], targeted: bool) -> Tensor:
    y = int(target[i])
    difference = logits[(y, *i)] - logits[(best_other(logits[:, i[0], i[1]], y), *i)]
    return -difference if targeted else difference


def ratio(logits: Tensor, target: Tensor, i: tuple[int, int], targeted: bool, surplus: float) -> Tensor:
    difference = margin(logits, target, i, targeted) + surplus
    ranked = sorted(
        (logits[(k, *i)] for k in range(len(logits))), key=lambda value: float(value.detach()), reverse=True
    )
    if len(ranked) == 2:
        return difference
    low = (ranked[2] + ranked[3]) / 2 if targeted and len(ranked) > 3 else ranked[2]
    return difference / (ranked[0] - low + 1e-8)


def is_fooled(logits: Tensor, target: Tensor, i: tuple[int, int], targeted: bool) -> bool:
    return (pixel_prediction(logits[:, i[0], i[1]]) == int(target[i])) == targeted


def counted(values: Pixels, success: float, drop: str, t: int, steps: int) -> set[tuple[int, int]]:
    """All pixels but the largest that are dropped."""
    spare = math.floor(len(values) * (1 - success) + 1e-6)
    if drop == "never":
        spare = 0
    if drop == "gradually":
        spare = math.floor(spare * t / (steps - 1) + 1e-6)
    return set(sorted(values, key=lambda i: values[i])[: len(values) - spare])


def softmax_with_zero(ell: Pixels, counts: set[tuple[int, int]]) -> Pixels:
    total = 1 + sum(math.exp(ell[i]) for i in counts)
    return {i: math.exp(ell[i]) / total if i in counts else 0.0 for i in ell}


class Watch(Kept):
    """What is kept, and every iterate."""

    def __init__(self, image: Tensor, pixels: int, success: float, norm: str = "linf"):
        super().__init__(image, math.ceil(pixels * success - 1e-9), norm)
        self.images_adv: list[Tensor] = []
        self.losses: list[float] = []

    def look(self, point: Tensor, fooled: dict[tuple[int, int], bool]) -> bool:
        self.images_adv.append(point.detach().clone())
        return self.offer(self.images_adv[-1], sum(fooled.values()))

    def finish(self, model: Model, last: Tensor, target: Tensor, targeted: bool, pixels: list) -> Trace:
        with torch.no_grad():
            logits = model(last.unsqueeze(0))[0]
        self.look(last, {i: is_fooled(logits, target, i, targeted) for i in pixels})
        return Trace(self.images_adv, self.losses, self.result)
