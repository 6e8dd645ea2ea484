"""Per-pixel self-entropy: the dependence of a pixel's class on its surroundings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from robustseg.attacks.guard import Model
from robustseg.attacks.noise import NoiseSource
from robustseg.detectors.detector import asked, batch_of
from robustseg.detectors.errors import DetectorError
from robustseg.detectors.patches import integer, predicted_patches

_STREAM = 0xE27209
"""Key of the noise, which keeps these patches independent of a detector's with the same seeds."""
_Span = tuple[int, int, int]
"""Begin and end of a cell along one axis, and the begin of its patch."""


def vote_shares(
    model: Model,
    images: Tensor,
    ids: Sequence[str],
    *,
    patch_size: int,
    k: int,
    seed: int = 0,
    patches_per_forward: int | None = None,
) -> Tensor:
    """Compute for each pixel the share of each class among the predictions in ``k`` random patches around it.

    Source: Xiao et al., ECCV 2018, Sec. 3.1: the normalised V_m. The patches of a pixel are not drawn for it alone:
    ``k`` times, a grid of cells of ``patch_size`` is laid over the image at a random place, and each cell votes on
    its pixels with one patch. A cell that reaches beyond the image takes the nearest patch within it. A pixel that is
    ``patch_size`` or more away from every border is thus equally likely at each place of its patch; for other pixels,
    patches at the border are more frequent. An image costs the forwards of at most ``k``·⌈(H + s)/s⌉·⌈(W + s)/s⌉
    patches of side s.

    Args:
        model: Maps images to logits; normalisation happens inside. A module is called in eval mode.
        images: B×3×H×W floating point in [0, 1].
        ids: B ids of the images; the patches are a function of them and ``seed``.
        patch_size: Side of the patches in pixels.
        k: Number of votes per pixel.
        seed: Seed of the run.
        patches_per_forward: Most patches in one forward; None for all of the batch, halved each time that the GPU runs
            out of memory.

    Returns:
        B×C×H×W float32, multiples of 1/k that sum to 1 over C, on the device of the model's logits.

    Raises:
        DetectorError: The images do not fit the patches, the ids or each other, or a number is below 1.
    """
    images = batch_of(images, ids)
    _check_settings(patch_size, k, patches_per_forward, *images.shape[-2:])
    noise = NoiseSource.for_samples((seed, _STREAM), ids, torch.device("cpu"))
    cells = [*_cells(noise, images, patch_size, k)]
    places = [(row, rows[2], columns[2], patch_size) for row, rows, columns in cells]
    votes, done = None, 0
    with asked(model) as attacked:
        for shown, classes in predicted_patches(attacked, images, places, patches_per_forward):
            if votes is None:
                votes = shown.new_zeros((len(images), classes, *images.shape[-2:]), dtype=torch.float32)
            for (row, rows, columns), patch in zip(cells[done : done + len(shown)], shown, strict=True):
                _vote(votes[row, :, rows[0] : rows[1], columns[0] : columns[1]], patch, rows, columns)
            done += len(shown)
    assert votes is not None  # there is an image, and a cell
    return votes.div_(k)


def self_entropy(
    model: Model,
    images: Tensor,
    ids: Sequence[str],
    *,
    patch_size: int,
    k: int,
    seed: int = 0,
    patches_per_forward: int | None = None,
) -> Tensor:
    """Compute the self-entropy −Σ_j V[j]·log V[j] of each pixel's votes V, see :func:`vote_shares`.

    Source: Xiao et al., ECCV 2018, Sec. 3.1 and Fig. 3. It is high at the borders of objects in benign images, and
    everywhere in adversarial ones.

    Args:
        model: Maps images to logits; all arguments are those of :func:`vote_shares`.
        images: B×3×H×W floating point in [0, 1].
        ids: B ids of the images.
        patch_size: Side of the patches in pixels.
        k: Number of votes per pixel.
        seed: Seed of the run.
        patches_per_forward: Most patches in one forward.

    Returns:
        B×H×W float32 in nats, from 0 to log(min(``k``, C)).

    Raises:
        DetectorError: The images do not fit the patches, the ids or each other, or a number is below 1.
    """
    shares = vote_shares(
        model, images, ids, patch_size=patch_size, k=k, seed=seed, patches_per_forward=patches_per_forward
    )
    entropy: Tensor = torch.special.entr(shares).sum(1)
    return entropy


def _check_settings(patch_size: int, k: int, patches_per_forward: int | None, height: int, width: int) -> None:
    if k < 1:
        raise DetectorError(f"k = {k}: at least one vote of each pixel is counted.")
    if patch_size < 1:
        raise DetectorError(f"patch_size = {patch_size}: a side in pixels expected.")
    if patch_size > min(height, width):
        raise DetectorError(
            f"patch_size = {patch_size} is larger than the images of {height}×{width} pixels: set it to about "
            f"{min(height, width) // 2}."
        )
    if patches_per_forward is not None and patches_per_forward < 1:
        raise DetectorError(f"patches_per_forward = {patches_per_forward}: at least one, or null, expected.")


def _cells(noise: NoiseSource, images: Tensor, size: int, k: int) -> Iterator[tuple[int, _Span, _Span]]:
    """Yield the row in the batch, the rows and the columns of each cell of ``k`` grids on each image."""
    drawn = noise.uniform(torch.empty(len(images), k, 2, dtype=torch.float64))
    for row in range(len(images)):
        for offsets in drawn[row].tolist():
            down, right = (
                _spans(integer(offset, 0, size - 1), size, whole)
                for offset, whole in zip(offsets, images.shape[-2:], strict=True)
            )
            for rows in down:
                for columns in right:
                    yield row, rows, columns


def _spans(offset: int, size: int, whole: int) -> list[_Span]:
    """Return the cells of a grid along one axis of ``whole`` pixels; one cell begins at ``offset``."""
    begins = range(offset - size if offset else 0, whole, size)
    return [(max(begin, 0), min(begin + size, whole), min(max(begin, 0), whole - size)) for begin in begins]


def _vote(votes: Tensor, patch: Tensor, rows: _Span, columns: _Span) -> None:
    """Add one vote of a patch to each pixel of a cell: s×s class ids to C×h×w."""
    (top, bottom, down), (left, right, across) = rows, columns
    shown = patch[top - down : bottom - down, left - across : right - across]
    votes.scatter_add_(0, shown[None], torch.ones_like(votes[:1]))
