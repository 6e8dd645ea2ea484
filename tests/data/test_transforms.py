"""Augmentation: aligned, nearest, determined by the seed."""

import pickle

import numpy as np
import pytest

from robustseg.data import EvalTransform, TrainTransform

GREY = (124, 116, 104)


def coordinates(height: int = 40, width: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """A mask of distinct blocks, and an image that shows the same blocks as colours."""
    mask = (np.arange(height)[:, None] // 5 * 12 + np.arange(width) // 5).astype(np.uint8)
    return np.stack([mask, 255 - mask, mask], axis=-1), mask


@pytest.mark.parametrize("crop", [(24, 32), (64, 80), (40, 60)])
def test_image_and_mask_stay_aligned_to_the_pixel(crop):
    image, mask = coordinates()
    for seed in range(8):
        augmented, target = TrainTransform(crop, scale=(1, 1), color=0)(image, mask, seed)
        assert augmented.shape == (*crop, 3)
        padded = target == 255
        assert np.array_equal(augmented[..., 0][~padded], target[~padded])
        assert np.array_equal(augmented[..., 1][~padded], 255 - target[~padded])
        assert (augmented[padded] == GREY).all()
        assert padded.sum() == max(crop[0] - 40, 0) * crop[1] + max(crop[1] - 60, 0) * min(crop[0], 40)


def test_image_and_mask_stay_aligned_when_scaled():
    # two halves: away from the interpolated border, image and mask must agree, and the border must not drift
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 32:] = 1
    image = np.repeat(mask[..., None] * 200, 3, axis=-1)
    for seed in range(20):
        augmented, target = TrainTransform((64, 64), scale=(0.6, 1.9), color=0)(image, mask, seed)
        # exactly between the halves is a tie
        inside = (target != 255) & (augmented[..., 0] != 100)
        assert inside.sum() > 1000
        assert np.array_equal((augmented[..., 0] > 100)[inside], (target == 1)[inside])


@pytest.mark.parametrize("size", [(64, 64), (17, 23), (40, 100)])
def test_resizing_masks_invents_no_ids(size):
    rng = np.random.default_rng(0)
    mask = rng.choice(np.array([0, 7, 200, 255], np.uint8), (31, 45))
    image, resized = EvalTransform(size)(np.repeat(mask[..., None], 3, axis=-1), mask)
    assert image.shape == (*size, 3)
    assert resized.shape == size
    assert set(np.unique(resized)) <= {0, 7, 200, 255}
    assert len(np.unique(image)) > 4, "the image is interpolated"


def test_scaling_masks_invents_no_ids():
    for seed in range(10):
        mask = np.random.default_rng(seed).choice(np.array([0, 7, 200], np.uint8), (31, 45))
        _, scaled = TrainTransform((48, 48))(np.repeat(mask[..., None], 3, axis=-1), mask, seed)
        assert set(np.unique(scaled)) <= {0, 7, 200, 255}


@pytest.mark.parametrize("axis", [0, 1])
def test_masks_take_the_pixel_in_the_middle(axis):
    # of four pixels the third: the first would move the mask by two pixels against the image
    mask = np.broadcast_to(np.arange(60, dtype=np.uint8), (60, 60))
    mask = np.ascontiguousarray(mask if axis else mask.T)
    image = np.repeat(mask[..., None], 3, axis=-1)
    for transform in (
        lambda: EvalTransform((15, 15))(image, mask),
        lambda: TrainTransform((15, 15), scale=(0.25, 0.25), flip=0, color=0)(image, mask, 0),
    ):
        small, resized = transform()
        assert np.array_equal(np.take(resized, 0, 1 - axis), np.arange(2, 60, 4))
        assert np.abs(small[..., 0].astype(int) - resized).max() <= 1


def test_shrinking_averages_areas():
    stripes = np.zeros((40, 40, 3), np.uint8)
    stripes[:, ::2] = 200
    image, _ = EvalTransform((10, 10))(stripes, np.zeros((40, 40), np.uint8))
    assert np.abs(image.astype(int) - 100).max() <= 1


def test_no_size_changes_nothing():
    image, mask = coordinates()
    same_image, same_mask = EvalTransform(None)(image, mask)
    assert np.array_equal(same_image, image)
    assert np.array_equal(same_mask, mask)


def test_seed_determines_the_result():
    image, mask = coordinates()
    transform = TrainTransform((24, 32))
    first = [transform(image, mask, seed) for seed in range(6)]
    other = pickle.loads(pickle.dumps(transform))
    np.random.seed(0)  # noqa: NPY002 - the global generator must have no say
    again = [other(image, mask, seed) for seed in reversed(range(6))][::-1]
    for (image_1, mask_1), (image_2, mask_2) in zip(first, again, strict=True):
        assert np.array_equal(image_1, image_2)
        assert np.array_equal(mask_1, mask_2)
    assert len({image.tobytes() for image, _ in first}) == 6


def test_steps_draw_independently():
    # albumentations' own seeding starts every step alike, which would tie the brightness to the place of the crop
    mask = np.tile(np.arange(200, dtype=np.uint8)[:, None], (1, 200))
    mask[:, 100:] = 220
    image = np.full((200, 200, 3), 120, np.uint8)
    transform = TrainTransform((8, 200), scale=(1, 1))
    draws = []
    for seed in range(300):
        augmented, target = transform(image, mask, seed)
        draws.append((target[0].min(), target[0, 0] == 220, augmented.mean()))
    top, flipped, brightness = np.array(draws, float).T
    assert top.min() < 20
    assert top.max() > 170
    assert 0.4 < flipped.mean() < 0.6
    assert brightness.std() > 5
    assert np.abs(np.corrcoef([top, flipped, brightness]) - np.eye(3)).max() < 0.2


def test_scale_stays_in_its_range():
    # a square of 40x40 pixels in void: its side after scaling is the factor
    mask = np.full((60, 60), 255, np.uint8)
    mask[10:50, 10:50] = 1
    image = np.zeros((60, 60, 3), np.uint8)
    transform = TrainTransform((130, 130), scale=(0.5, 2.0), color=0)
    sides = [np.sqrt((transform(image, mask, seed)[1] == 1).sum()) for seed in range(60)]
    assert min(sides) > 19
    assert max(sides) < 81
    assert min(sides) < 28
    assert max(sides) > 70


def test_colour_jitter_leaves_mask_and_place_alone():
    image, mask = coordinates()
    plain = TrainTransform((24, 32), color=0)
    jittered = TrainTransform((24, 32), color=0.5)
    changed = 0
    for seed in range(5):
        image_1, mask_1 = plain(image, mask, seed)
        image_2, mask_2 = jittered(image, mask, seed)
        assert np.array_equal(mask_1, mask_2)
        changed += not np.array_equal(image_1, image_2)
    assert changed == 5


def test_inputs_are_not_written_to():
    image, mask = coordinates()
    image.flags.writeable = mask.flags.writeable = False
    for seed in range(10):
        TrainTransform((24, 32))(image, mask, seed)
    EvalTransform((24, 32))(image, mask)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"crop_size": (0, 4)}, "crop_size"),
        ({"crop_size": (4, 4), "scale": (2.0, 1.0)}, "scale"),
        ({"crop_size": (4, 4), "scale": (0.0, 1.0)}, "scale"),
        ({"crop_size": (4, 4), "flip": 1.5}, "flip"),
        ({"crop_size": (4, 4), "color": 1.0}, "color"),
    ],
)
def test_bad_arguments_are_named(arguments, name):
    with pytest.raises(ValueError, match=f"{name} = "):
        TrainTransform(**arguments)
