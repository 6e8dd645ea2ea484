"""Universal perturbation of a data set, and its file format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor

from robustseg import __version__
from robustseg.attacks.errors import AttackError
from robustseg.attacks.threat import AllowedSet, ThreatModel
from robustseg.devices import on_device
from robustseg.files import write_whole
from robustseg.opening.tensors import load_safetensors_about

_FORMAT = "robustseg.universal"
_VERSION = "1"
_TENSOR = "delta"
_KEYS = ("version", "eps", "norm", "shape", "step_size", "epochs", "loss", "targeted", "target_map", "seed")


@dataclass(frozen=True, eq=False)
class UniversalDelta:
    """One perturbation for all images, with the settings of its fit.

    Args:
        delta: 3×h×w within the L∞ ball, float32 or float64.
        threat: The ball.
        step_size: α of its fit, as a fraction, in units of the [0, 1] pixel range.
        epochs: Passes over the data, all fits together.
        loss: Loss that the fit increased, or decreased if targeted.
        targeted: The fit's targets were the attacker's labels.
        target_map: Map from the true targets to these, or None.
        seed: Seed of the random start.

    Raises:
        ValueError: ``delta`` is not 3×h×w, not finite or outside of the ball.
    """

    delta: Tensor
    threat: ThreatModel
    step_size: str
    epochs: int
    loss: str
    targeted: bool
    target_map: str | None
    seed: int

    def __post_init__(self) -> None:
        if self.delta.ndim != 3 or self.delta.shape[0] != 3 or not self.delta.numel():
            raise ValueError(f"delta has the shape {_size(self.delta)}, not 3xHxW.")
        if self.delta.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"delta is {self.delta.dtype}, not float32 or float64.")
        if not bool(torch.isfinite(self.delta).all()):
            raise ValueError("delta holds numbers that are not finite.")
        largest = float(self.delta.double().abs().max())
        if largest > float(self.threat.eps):
            raise ValueError(f"delta reaches {largest:.6g}, beyond its eps = {self.threat.eps}.")

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with the settings as its metadata; an existing file is replaced atomically."""
        settings = {
            "format": _FORMAT,
            "version": _VERSION,
            "robustseg": __version__,
            "eps": str(self.threat.eps),
            "norm": self.threat.norm,
            "shape": _size(self.delta),
            "step_size": self.step_size,
            "epochs": str(self.epochs),
            "loss": self.loss,
            "targeted": str(self.targeted),
            "target_map": self.target_map or "",
            "seed": str(self.seed),
        }
        write_whole(save({_TENSOR: self.delta.detach().cpu().contiguous()}, settings), path)

    @classmethod
    def load(cls, path: str | Path) -> UniversalDelta:
        """Read a file of :meth:`save`.

        Raises:
            ValueError: The file is not there, cut short, of another kind, or its perturbation contradicts its
                settings; the message names the file.
        """
        tensors, settings = _read(path)
        missing = [key for key in _KEYS if key not in settings]
        if settings.get("format") != _FORMAT or missing or [*tensors] != [_TENSOR]:
            raise _refusal(path, "it is no universal perturbation written by this package")
        if settings["version"] != _VERSION:
            raise _refusal(path, f"its format has version {settings['version']}, this package reads {_VERSION}")
        delta = tensors[_TENSOR]
        if settings["shape"] != _size(delta) or settings["norm"] != "linf":
            raise _refusal(path, f"its settings say {settings['norm']} {settings['shape']}, it holds {_size(delta)}")
        try:
            return cls(
                delta,
                unit_free_threat(settings["eps"]),
                settings["step_size"],
                int(settings["epochs"]),
                settings["loss"],
                settings["targeted"] == "True",
                settings["target_map"] or None,
                int(settings["seed"]),
            )
        except ValueError as error:
            raise _refusal(path, str(error).rstrip(".")) from error

    def over(self, images: Tensor, tile: bool) -> Tensor:
        """Return the perturbation for ``images`` (B×3×H×W): 3×H×W on their device, in float32 at least.

        Raises:
            AttackError: Another number of channels, or another size without ``tile``.
        """
        delta = on_device(self.delta.to(torch.promote_types(images.dtype, torch.float32)), images.device)
        check_fit(delta, images, tile)
        return tiled(delta, *images.shape[-2:])


def unit_free_threat(eps: float | str) -> ThreatModel:
    """Return the L∞ ball of a perturbation without the images' pixel range."""
    return ThreatModel(eps, "linf", bounds=(-1.0, 1.0))


def ball(threat: ThreatModel, delta: Tensor) -> AllowedSet:
    """Return the allowed perturbations of the shape of ``delta`` (1×3×h×w), exact in its dtype."""
    return threat.around(torch.zeros_like(delta))


def tiled(delta: Tensor, height: int, width: int) -> Tensor:
    """Repeat ``delta`` (3×h×w) from the upper left corner, cut off at H×W: 3×H×W."""
    down, right = -(-height // delta.shape[-2]), -(-width // delta.shape[-1])
    return delta.repeat(1, down, right)[:, :height, :width]


def folded(grad: Tensor, height: int, width: int) -> Tensor:
    """Sum the gradient of a tiled perturbation (3×H×W) over the copies that :func:`tiled` makes: 3×h×w."""
    down, right = -(-grad.shape[-2] // height), -(-grad.shape[-1] // width)
    grad = F.pad(grad, (0, right * width - grad.shape[-1], 0, down * height - grad.shape[-2]))
    return grad.view(-1, down, height, right, width).sum((1, 3))


def check_fit(delta: Tensor, images: Tensor, tile: bool) -> None:
    """Refuse images that do not fit a perturbation.

    Raises:
        AttackError: Another number of channels, or another size without ``tile``.
    """
    if images.shape[1] != delta.shape[0] or (not tile and images.shape[-2:] != delta.shape[-2:]):
        raise AttackError(
            f"the universal perturbation is {_size(delta)} but the images are {_size(images[0])} (channels x height x "
            "width): fit one for images of this size, resize the images (data.image_size), or set tile: true, which "
            "repeats it over images of three channels."
        )


def _size(delta: Tensor) -> str:
    return "x".join(map(str, delta.shape))


def _refusal(path: str | Path, reason: str) -> ValueError:
    return ValueError(f"path = {path}: {reason}; fit it again with UniversalPerturbation.")


def _read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not Path(path).is_file():
        raise ValueError(f"path = {path}: there is no such file; UniversalPerturbation makes one.")
    try:
        return load_safetensors_about(path)
    except (SafetensorError, OSError) as error:
        raise _refusal(path, f"it cannot be read as safetensors ({error})") from error
