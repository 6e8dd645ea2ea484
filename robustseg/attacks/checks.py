"""Checks of the tensors that go into an attack, out of the model and out of the attack."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustseg.attacks.errors import AttackError, NoGradientError, NonFiniteError
from robustseg.attacks.gradients import NO_GRADIENT
from robustseg.devices import read

Bounds = tuple[float, float]
UNIT: Bounds = (0.0, 1.0)
"""Smallest and largest value of an image."""


def checked_images(images: Tensor, error: type[Exception] = AttackError, bounds: Bounds = UNIT) -> Tensor:
    """Refuse what is no batch of images, and return a detached copy within ``bounds``.

    Values beyond the bounds by at most 1e-6, or two units of rounding of a half-precision dtype, are set to the bound:
    they come from resizing or undoing a normalisation.

    Args:
        images: B×3×H×W floating point.
        error: Class of the exception.
        bounds: Smallest and largest value.

    Raises:
        AttackError: The images have another type, shape or dtype, values that are not finite or out of range; an
            ``error`` if one is given.
    """
    refuse_no_images(images, error)
    # Inference tensors cannot take part in autograd; their clones can.
    images = plain_tensor(images).detach().clone()
    lowest, highest = read(images.amin(), images.amax())
    return within(images, float(lowest), float(highest), error, bounds)


def within(images: Tensor, lowest: float, highest: float, error: type[Exception], bounds: Bounds) -> Tensor:
    """Return images with these values, set to the bounds where they leave them by rounding, or refuse them."""
    lower, upper = bounds
    slack = max(1e-6, 2 * torch.finfo(images.dtype).eps)
    if not (lowest >= lower - slack and highest <= upper + slack):
        wanted = "[0, 1]" if bounds == UNIT else f"the bounds [{lower:g}, {upper:g}] of the threat model"
        raise error(
            f"images have values in [{lowest:.9g}, {highest:.9g}] but must be in {wanted}: "
            f"{_remedy(lowest, highest, bounds)}."
        )
    return images.clamp(lower, upper) if lowest < lower or highest > upper else images


def _remedy(lowest: float, highest: float, bounds: Bounds) -> str:
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        return "they are not all finite; look for a division by zero or an overflow where they are made"
    if bounds != UNIT:
        return "give images within them, or a threat model with other bounds"
    if lowest < -0.1 and highest > 20:
        return "divide 8-bit images by 255 and put the normalisation into the model (SegmentationModel does)"
    if lowest < -0.1:
        return "they look normalised; undo that and put the normalisation into the model (SegmentationModel does)"
    if highest > 256:
        return "divide 16-bit images by 65535"
    if highest > 2:
        return "divide 8-bit images by 255"
    return "if they only overshoot, as after resizing, cut them off with images.clamp(0, 1)"


def plain_tensor(tensor: Tensor) -> Tensor:
    """Return the same values as a ``torch.Tensor``, if they are of a class of their own, such as torchvision's.

    Classes that change more than torch's functions (DTensor, with its own dispatch) stay.
    """
    kind = type(tensor)
    if kind is Tensor or kind.__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return tensor
    return tensor.as_subclass(Tensor)


def _is_dense(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor.is_nested


def _layout(tensor: Tensor) -> str:
    return "nested" if tensor.is_nested else str(tensor.layout)


def _dense(name: str, tensor: Tensor) -> str:
    """Return the code that makes a tensor of that name dense, for a message."""
    return f"torch.stack({name}.unbind())" if tensor.is_nested else f"{name}.to_dense()"


def refuse_no_images(images: object, error: type[Exception]) -> None:
    """Refuse what does not have the form of a batch of images, without waiting for a device."""
    wanted = "images must be B×3×H×W floating point in [0, 1]"
    if not isinstance(images, Tensor):
        raise error(
            f"{wanted}, not a {type(images).__name__}: make a tensor of them, torch.from_numpy(array) for example, "
            "torch.stack(images) for a list of tensors, or torchvision's to_tensor for a file's image."
        )
    if not _is_dense(images):
        raise error(f"{wanted}, not {_layout(images)}: give {_dense('images', images)}.")
    given = f"{images.dtype} of shape {tuple(images.shape)}"
    if images.is_meta:
        raise error(f"{wanted}, not on meta, where they have no values: give them on the model's device.")
    if not images.is_floating_point():
        raise error(f"{wanted}, not {given}: divide 8-bit images by 255.")
    if images.dtype.itemsize == 1:
        raise error(f"{wanted}, not {given}: nothing computes in it, images.float().")
    remedy = "give RGB images"
    if images.ndim == 3:
        layout = ".permute(2, 0, 1)" if images.shape[0] != 3 and images.shape[-1] == 3 else ""
        remedy = f"one image is a batch of one, images{layout}.unsqueeze(0)"
    elif images.ndim == 4 and images.shape[-1] == 3:
        remedy = "channels come before rows, images.permute(0, 3, 1, 2)"
    elif images.ndim == 4 and images.shape[1] == 1:
        remedy = "repeat the one channel, images.expand(-1, 3, -1, -1)"
    if images.ndim != 4 or images.shape[1] != 3 or not images.numel():
        raise error(f"{wanted}, not {given}: {remedy if images.numel() else 'they hold no pixel'}.")


def refuse_no_targets(targets: object, images: Tensor) -> None:
    """Refuse what does not have the form of the targets of ``images``, without waiting for a device."""
    wanted = f"targets must be B×H×W integers that fit images of shape {tuple(images.shape)}"
    if not isinstance(targets, Tensor):
        remedy = "torch.from_numpy(array) makes one of an array"
        if targets is None:
            remedy = "give the true labels, or the model's own predictions, model(images).argmax(1)"
        raise AttackError(f"{wanted}, not a {type(targets).__name__}: {remedy}.")
    if not _is_dense(targets):
        raise AttackError(f"{wanted}, not {_layout(targets)}: give {_dense('targets', targets)}.")
    given = f"{targets.dtype} of shape {tuple(targets.shape)}"
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise AttackError(f"{wanted}, not {given}: class ids are whole numbers, targets.long().")
    if targets.shape != (len(images), *images.shape[-2:]):
        remedy = "give one label per pixel of the images"
        if targets.shape == (len(images), 1, *images.shape[-2:]):
            remedy = "remove the channel, targets.squeeze(1)"
        raise AttackError(f"{wanted}, not {given}: {remedy}.")
    if targets.device != images.device:
        raise AttackError(f"{wanted}, and lie where they do: targets.to({str(images.device)!r}), not {targets.device}.")


def checked_answer(logits: object, images: Tensor, targets: Tensor | None = None) -> Tensor:
    """Refuse a model output that is no logits of these images, without waiting for the device.

    Args:
        logits: Output of the model.
        images: B×3×H×W, input of the model.
        targets: Targets B×1×N allow for logits B×C×1×N, those of several views of the images side by side.

    Returns:
        The logits as a plain tensor.

    Raises:
        AttackError: Not a dense floating point tensor B×C×H×W of the input's size, on its device.
    """
    if not isinstance(logits, Tensor):
        raise AttackError(
            f"the model returned a {type(logits).__name__}, not a tensor of logits: wrap it so that it returns "
            f"B×C×H×W{_wrapper(logits)}."
        )
    if not _is_dense(logits):
        raise AttackError(f"the model returned {_layout(logits)} logits: return {_dense('logits', logits)}.")
    sizes = [images.shape[-2:]]
    if targets is not None and targets.shape[-2] == 1:
        sizes.append(targets.shape[-2:])
    if logits.ndim != 4 or logits.shape[0] != len(images) or logits.shape[-2:] not in sizes:
        raise AttackError(
            f"the model returned {tuple(logits.shape)} for images {tuple(images.shape)}: logits must be B×C×H×W at "
            "the size of the images (SegmentationModel upsamples them)."
        )
    if not logits.is_floating_point():
        raise AttackError(
            f"the model returned {logits.dtype}, not floating point logits: return the values before the argmax."
        )
    if logits.device != images.device:
        raise AttackError(
            f"the model returned logits on {logits.device} for images on {images.device}: return them where the images "
            "lie, logits.to(images.device)."
        )
    return plain_tensor(logits)


def _wrapper(output: object) -> str:
    """Return the part of a message that shows how to take the logits out of a model's output."""
    if isinstance(getattr(output, "logits", None), Tensor):
        return ", lambda images: model(images).logits"
    if isinstance(output, dict):
        tensors = [key for key, value in output.items() if isinstance(value, Tensor)]
        key = "out" if "out" in tensors or not tensors else tensors[0]
        return f", lambda images: model(images)[{key!r}]"
    return ", lambda images: model(images)[0]" if isinstance(output, (list, tuple)) else ""


def check_logits(logits: object, images: Tensor, targets: Tensor, differentiable: bool = True) -> Tensor:
    """Refuse a model output that no attack accepts; waits for the device once.

    Args:
        logits: Output of the model.
        images: B×3×H×W, input of the model.
        targets: B×H×W, of any size; with targets B×1×N the logits may be B×C×1×N, those of several views of the
            images side by side.
        differentiable: The attack needs the gradient to the input.

    Raises:
        AttackError: Not a tensor B×C×H×W of the input's size, values that are not finite, a label beyond C, or no
            gradient to the input.
    """
    logits = checked_answer(logits, images, targets)
    if differentiable and not logits.requires_grad:
        raise NoGradientError(NO_GRADIENT)
    doubt, highest = read(doubt_of(logits), targets.amax())
    check_first(doubt, logits.shape[1])
    if int(highest) >= logits.shape[1]:
        raise AttackError(unknown_class(int(highest), logits.shape[1]))
    return logits


def doubt_of(logits: Tensor) -> Tensor:
    """Compute a value on the device of the logits that is not finite if any of them is not."""
    # Not the sum of all, which overflows where a model masks classes by the lowest number of its dtype.
    logits = logits.detach()
    return logits.amin() + logits.amax()


def check_first(doubt: Tensor, classes: int) -> None:
    """Refuse the logits of a first forward, of which :func:`doubt_of` was read.

    Raises:
        AttackError: They are not finite, or of one class.
    """
    if not math.isfinite(doubt):
        raise NonFiniteError(
            "the model returned logits that are not finite: it overflows or divides by zero on these images; run it in "
            "float32 and look for non-finite weights."
        )
    if classes < 2:
        raise AttackError(
            "the model has one output channel, by which no pixel can be classified: for the logit u of a model of two "
            "classes return torch.cat([torch.zeros_like(u), u], 1)."
        )


def unknown_class(highest: int, classes: int) -> str:
    """Return the message of an error for targets with a class that the model does not have."""
    return (
        f"targets hold class {highest} but the model has {classes} classes: give the attack the data's "
        "ignore_index, or use a model of these classes."
    )


def check_form(images_adv: object, images: Tensor, attack: str) -> Tensor:
    """Refuse adversarial images that do not have the form of the images.

    Args:
        images_adv: Result of the attack.
        images: The images that it was given.
        attack: Name of the attack, for the message.

    Raises:
        AttackError: Another type, shape, dtype or device.
    """
    if isinstance(images_adv, Tensor):
        if (images_adv.shape, images_adv.dtype, images_adv.device) == (images.shape, images.dtype, images.device):
            return images_adv.detach()
        given = _form(images_adv)
    else:
        given = f"a {type(images_adv).__name__}"
    raise AttackError(
        f"{attack} returned {given} for images of {_form(images)}: this is an error of the attack, whose perturb() "
        "must return a tensor like the images."
    )


def _form(images: Tensor) -> str:
    return f"{images.dtype} {tuple(images.shape)} on {images.device}"
