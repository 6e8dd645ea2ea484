"""Both detectors: literal reference, closed forms, and what a score may not depend on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustseg.attacks.noise import NoiseSource
from robustseg.detectors import DetectorError, GaussianBlur, ScaleConsistency, SpatialConsistency, spatial
from robustseg.detectors.patches import PairSampler
from tests.detectors.nets import (
    by_pixel,
    check_that_nothing_else_changes,
    constant,
    counting,
    ids_of,
    images_of,
    model,
    upper_half,
)

SMALL = {"patch_size": 12, "k": 3, "displacement": (2, 5)}
DETECTORS = [SpatialConsistency(**SMALL), SpatialConsistency((9, 12), 3, (2, 5)), ScaleConsistency(1.5)]


def literal_miou(first, second, ignored=None):
    """Over the classes that either map shows, pixel by pixel."""
    counts = {}
    for row in range(len(first)):
        for column in range(len(first[0])):
            if ignored is not None and ignored[row][column]:
                continue
            key = int(first[row][column]), int(second[row][column])
            counts[key] = counts.get(key, 0) + 1
    classes = {label for pair in counts for label in pair}
    values = []
    for label in classes:
        both = counts.get((label, label), 0)
        either = sum(count for pair, count in counts.items() if label in pair)
        values.append(both / either)
    return sum(values) / len(values) if values else float("nan")


def literal_spatial(answer, image, pairs, ignored=None):
    values = []
    for pair in pairs:
        maps = []
        for top, left in pair.corners:
            patch = image[:, top : top + pair.size, left : left + pair.size]
            maps.append((top, left, answer(patch[None]).argmax(1)[0]))
        rows = range(max(maps[0][0], maps[1][0]), min(maps[0][0], maps[1][0]) + pair.size)
        columns = range(max(maps[0][1], maps[1][1]), min(maps[0][1], maps[1][1]) + pair.size)
        shown = [[[found[r - top, c - left] for c in columns] for r in rows] for top, left, found in maps]
        out = None if ignored is None else [[ignored[r, c] for c in columns] for r in rows]
        values.append(literal_miou(*shown, out))
    return float(np.nanmean(values))


@pytest.mark.parametrize("detector", DETECTORS[:2], ids=repr)
@pytest.mark.parametrize("with_ignored", [False, True])
def test_spatial_consistency_is_the_papers(detector, with_ignored):
    images, answer = images_of(), model()
    ignored = torch.rand(3, 24, 30, generator=torch.Generator().manual_seed(1)) < 0.3 if with_ignored else None
    noise = NoiseSource.for_samples((7, 0, 0x5CA1E), ids_of(), torch.device("cpu"))
    pairs = detector.sampler.draw(noise, images)
    found = detector.scores(answer, images, ids_of(), seed=7, ignored=ignored)
    with torch.no_grad():
        for row in range(3):
            own = [pair for pair in pairs if pair.image == row]
            assert len(own) == detector.k
            wanted = literal_spatial(answer, images[row], own, None if ignored is None else ignored[row])
            assert found[row] == pytest.approx(wanted, abs=1e-12)
    assert 0.05 < found.min() < found.max() < 0.95


@pytest.mark.parametrize("with_ignored", [False, True])
def test_scale_consistency_is_the_papers(with_ignored):
    images, answer = images_of(), model()
    ignored = torch.rand(3, 24, 30, generator=torch.Generator().manual_seed(1)) < 0.3 if with_ignored else None
    found = ScaleConsistency(1.5).scores(answer, images, ids_of(), ignored=ignored)
    blurred = scipy.ndimage.gaussian_filter(images.double().numpy(), 1.5, mode="mirror", truncate=4.0, axes=(2, 3))
    with torch.no_grad():
        first, second = answer(images).argmax(1), answer(torch.from_numpy(blurred).float()).argmax(1)
    for row in range(3):
        wanted = literal_miou(first[row], second[row], None if ignored is None else ignored[row])
        assert found[row] == pytest.approx(wanted, abs=1e-12)
    assert 0.05 < found.min() < found.max() < 0.95


@pytest.mark.parametrize("sigma", [0.2, 0.5, 1.5, 3.0])
def test_blur_is_scipys_and_can_be_differentiated(sigma):
    images = images_of().double().requires_grad_()
    blurred = GaussianBlur(sigma)(images)
    radius = max(1, round(4 * sigma))
    wanted = scipy.ndimage.gaussian_filter(images.detach().numpy(), sigma, mode="mirror", radius=radius, axes=(2, 3))
    np.testing.assert_allclose(blurred.detach().numpy(), wanted, atol=1e-6)
    (grad,) = torch.autograd.grad(blurred[:, :, 12, 15].sum(), images)
    # the kernel itself, which sums to one
    assert grad[0, 0].sum() == pytest.approx(1, abs=1e-6)
    assert bool((grad[0, 0, 12, 15] >= grad[0, 0]).all())


@pytest.mark.parametrize("answer", [by_pixel, constant])
def test_patches_agree_where_their_place_makes_no_difference(answer):
    for detector in DETECTORS[:2]:
        assert detector.scores(answer, images_of(), ids_of()).tolist() == [1.0] * 3


def test_a_blur_changes_nothing_for_a_constant_model():
    assert ScaleConsistency(1.5).scores(constant, images_of(), ids_of()).tolist() == [1.0] * 3


@pytest.mark.parametrize("moved", [1, 3, 5])
def test_closed_form_of_a_model_that_goes_by_the_place(moved):
    """Patches of 2h rows, h of class 1 above h of class 0, displaced by d: of the 2h − d shared rows the first shows
    class 1 in h − d and the second in h, of which they agree on h − d; class 0 in h and in h − d, likewise."""
    height = 6
    detector = SpatialConsistency(2 * height, 4, (moved, moved))
    found = detector.scores(upper_half, images_of(), ids_of())
    assert found.tolist() == pytest.approx([(height - moved) / height] * 3)


@pytest.mark.parametrize("detector", DETECTORS, ids=repr)
def test_a_score_depends_on_nothing_else_in_its_batch(detector):
    images, answer = images_of(), model()
    together = detector.scores(answer, images, ids_of(), seed=3)
    order = [2, 0, 1]
    mixed = detector.scores(answer, images[order], [ids_of()[row] for row in order], seed=3)
    assert mixed.tolist() == together[order].tolist()
    for row in range(3):
        assert detector.scores(answer, images[row : row + 1], ids_of()[row : row + 1], seed=3)[0] == together[row]


def test_patches_are_a_function_of_seeds_and_ids():
    images, answer = images_of(1).expand(3, -1, -1, -1), model()
    detector = SpatialConsistency(**SMALL)
    first = detector.scores(answer, images, ids_of())
    assert len(set(first.tolist())) == 3
    assert detector.scores(answer, images, ids_of()).tolist() == first.tolist()
    assert detector.scores(answer, images, ids_of(), seed=1).tolist() != first.tolist()
    assert SpatialConsistency(**SMALL, seed=1).scores(answer, images, ids_of()).tolist() != first.tolist()


@pytest.mark.parametrize("detector", DETECTORS, ids=repr)
def test_what_is_ignored_has_no_influence(detector):
    images, answer = images_of(), model()
    ignored = torch.zeros(3, 24, 30, dtype=torch.bool)
    ignored[:, :, 14:] = True
    before = detector.scores(answer, images, ids_of(), ignored=ignored)

    def differently(shown):
        logits = answer(shown)
        if shown.shape[-2:] == (24, 30):
            # other answers under the ignored pixels
            logits = logits.clone()
            logits[..., 14:] = logits[..., 14:].flip(1)
        return logits

    assert detector.scores(differently, images, ids_of(), ignored=ignored).tolist() == before.tolist()
    assert before.tolist() != detector.scores(answer, images, ids_of()).tolist()


def test_pairs_whose_overlap_is_ignored_are_left_out():
    images, answer = images_of(1, (40, 40)), model()
    detector = SpatialConsistency(8, 20, (1, 2))
    ignored = torch.zeros(1, 40, 40, dtype=torch.bool)
    ignored[:, :, 20:] = True
    noise = NoiseSource.for_samples((0, 0, 0x5CA1E), ["x"], torch.device("cpu"))
    pairs = detector.sampler.draw(noise, images)
    values = detector.agreement(answer, images, pairs, ignored)
    hidden = [pair.left + pair.right >= 20 for pair in pairs]
    assert values.isnan().tolist() == hidden
    assert 0 < sum(hidden) < 20
    assert detector.scores(answer, images, ["x"], ignored=ignored)[0] == pytest.approx(float(values.nanmean()))


@pytest.mark.parametrize("detector", DETECTORS, ids=repr)
def test_an_image_without_anything_to_compare(detector):
    ignored = torch.zeros(3, 24, 30, dtype=torch.bool)
    ignored[1:] = True
    with pytest.raises(DetectorError, match=r"^image image 1 and 1 more: .* is ignored"):
        detector.scores(model(), images_of(), ids_of(), ignored=ignored)


@pytest.mark.parametrize("detector", DETECTORS, ids=repr)
def test_nothing_else_changes(detector):
    check_that_nothing_else_changes(lambda answer, images: detector.scores(answer, images, ids_of()))


def test_batches_of_patches_change_nothing_and_shrink_to_what_fits():
    images, sizes, tried = images_of(), [], []

    whole = SpatialConsistency(**SMALL).scores(counting(sizes, tried), images, ids_of())
    assert sizes == [18]
    sizes.clear()
    limited = SpatialConsistency(**SMALL, patches_per_forward=7).scores(counting(sizes, tried), images, ids_of())
    assert sizes == [7, 7, 4]
    sizes.clear()
    tried.clear()
    halved = SpatialConsistency(**SMALL).scores(counting(sizes, tried, 5), images, ids_of())
    assert sizes == [5, 5, 5, 3]
    assert tried[:3] == [18, 9, 5]
    assert whole.tolist() == limited.tolist() == halved.tolist()
    with pytest.raises(torch.OutOfMemoryError):
        SpatialConsistency(**SMALL).scores(counting(sizes, tried, 0), images, ids_of())


@pytest.mark.parametrize("detector", DETECTORS[:2], ids=repr)
def test_pairs_are_compared_together_or_in_parts(detector, monkeypatch):
    """Each comparison makes the host wait for a GPU, so there is one for all pairs unless they take much memory."""
    images, sizes = images_of(), []
    ignored = torch.rand(3, 24, 30, generator=torch.Generator().manual_seed(1)) < 0.3
    compare = spatial.confusion_matrix

    def counted(first, *others):
        sizes.append(len(first))
        return compare(first, *others)

    monkeypatch.setattr(spatial, "confusion_matrix", counted)
    together = detector.scores(model(), images, ids_of(), ignored=ignored)
    assert sizes == [9]
    for pixels, wanted in ((4 * 12**2, [4, 4, 1]), (1, [1] * 9)):
        sizes.clear()
        monkeypatch.setattr(spatial, "_PIXELS_AT_ONCE", pixels)
        assert detector.scores(model(), images, ids_of(), ignored=ignored).tolist() == together.tolist()
        assert sizes == wanted


@given(
    size=st.integers(3, 9), spread=st.integers(0, 3), low=st.integers(0, 2), more=st.integers(0, 3),
    height=st.integers(12, 20), width=st.integers(12, 20), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_pairs_lie_within_the_image(size, spread, low, more, height, width, seed):
    sampler = PairSampler(4, (size, size + spread), (low, low + more))
    images = torch.zeros(2, 3, height, width)
    noise = NoiseSource.for_samples(seed, ["a", "b"], torch.device("cpu"))
    if size + spread + low + more > min(height, width):
        with pytest.raises(DetectorError, match="patch_size"):
            sampler.draw(noise, images)
        return
    pairs = sampler.draw(noise, images)
    assert [pair.image for pair in pairs] == [0] * 4 + [1] * 4
    for pair in pairs:
        assert size <= pair.size <= size + spread
        assert low <= pair.down <= low + more
        assert low <= pair.right <= low + more
        for top, left in pair.corners:
            assert 0 <= top <= height - pair.size
            assert 0 <= left <= width - pair.size


def test_every_place_and_displacement_occurs():
    sampler = PairSampler(3000, (3, 4), (1, 2))
    pairs = sampler.draw(NoiseSource.for_samples(0, ["a"], torch.device("cpu")), torch.zeros(1, 3, 8, 9))
    for name, wanted in (("size", {3, 4}), ("down", {1, 2}), ("right", {1, 2}), ("top", set(range(5)))):
        found = [getattr(pair, name) for pair in pairs]
        assert set(found) == wanted
    share = np.mean([pair.size == 3 for pair in pairs])
    assert share == pytest.approx(0.5, abs=0.04)
    ends = [pair.left for pair in pairs if pair.size == 3 and pair.right == 1]
    assert set(ends) == set(range(6))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: SpatialConsistency(12, 0), ["k = 0"]),
        (lambda: SpatialConsistency(0, 5), ["patch_size = 0"]),
        (lambda: SpatialConsistency((9, 5), 5, (1, 2)), ["patch_size = (9, 5)", "[smallest, largest]"]),
        (lambda: SpatialConsistency(12, 5, (2, 12)), ["displacement = [2, 12]", "12 pixels", "patch_size"]),
        (lambda: SpatialConsistency(12, 5, (-1, 2)), ["displacement = (-1, 2)"]),
        (lambda: SpatialConsistency(12, 5, (5, 2)), ["displacement = (5, 2)"]),
        (lambda: SpatialConsistency(12, 5, (0, 0)), ["displacement = [0, 0]", "with itself"]),
        (lambda: SpatialConsistency(12, 5, (1, 2), 0), ["patches_per_forward = 0"]),
        (lambda: ScaleConsistency(0), ["sigma = 0"]),
        (lambda: ScaleConsistency(float("nan")), ["sigma = nan"]),
        (lambda: score(SpatialConsistency(40, 5, (2, 5))), ["patch_size = 40", "24×30"]),
        (lambda: score(SpatialConsistency(20, 5, (2, 5))), ["takes 25 pixels", "24×30", "19 or less"]),
        (lambda: score(SpatialConsistency(40, 5, (2, 20))), ["patch_size = 40", "about 12, and displacement to 6"]),
        (lambda: score(SpatialConsistency(20, 5, (2, 12))), ["takes 32 pixels", "about 12, and displacement to 6"]),
        (lambda: score(SpatialConsistency(20, 5, (2, 11))), ["takes 31 pixels", "13 or less"]),
        (lambda: score(ScaleConsistency(7)), ["sigma = 7", "24×30"]),
        (lambda: score(ScaleConsistency(6)), ["sigma = 6 reaches 24 pixels", "less than 6"]),
        (lambda: score(ids=["only one"]), ["1 ids for 3 images"]),
        (lambda: score(images=torch.zeros(3, 24, 30)), ["(3, 24, 30)", "B×3×H×W"]),
        (lambda: score(images=torch.zeros(3, 3, 24, 30, dtype=torch.uint8)), ["uint8"]),
        (lambda: score(images=255 * images_of()), ["images have values in [0", "divide 8-bit images by 255"]),
        (lambda: score(images=images_of() - 1), ["images have values in [-0.99"]),
        (lambda: score(images=images_of() * math.nan), ["images have values in [nan, nan]"]),
        (lambda: score(ignored=torch.zeros(3, 24, 30)), ["ignored is torch.float32"]),
        (lambda: score(answer=lambda shown: shown[:, :, ::2]), ["returned (18, 3, 6, 12)", "B×C×H×W"]),
        (lambda: score(answer=lambda shown: {"out": shown}), ["returned a dict"]),
        (lambda: score(answer=lambda shown: shown[:, :1]), ["one output channel"]),
        (lambda: score(answer=lambda shown: shown * math.nan), ["not finite"]),
        (lambda: score(ScaleConsistency(1), answer=lambda shown: shown / 0), ["not finite"]),
    ],
)
def test_bad_input_is_one_clear_message(build, words):
    with pytest.raises(DetectorError) as caught:
        build()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize("detector", DETECTORS, ids=repr)
def test_every_class_counts_also_that_of_the_ignore_index(detector):
    """Of 300 classes, 255 is one; the classes' order makes no difference."""
    images, answer = images_of(), model()
    ignored = torch.zeros(3, 24, 30, dtype=torch.bool)
    ignored[:, :, 14:] = True

    def of_many(shown):
        logits = answer(shown)
        return torch.cat([logits, logits.new_full((len(shown), 296, *shown.shape[-2:]), -99)], 1)

    def renamed(shown):
        return of_many(shown).roll(253, 1)

    assert bool((renamed(images).argmax(1) == 255).any())
    for hidden in (None, ignored):
        wanted = detector.scores(answer, images, ids_of(), ignored=hidden)
        torch.testing.assert_close(detector.scores(renamed, images, ids_of(), ignored=hidden), wanted)


def score(detector=None, images=None, ids=None, answer=None, ignored=None):
    detector = detector or SpatialConsistency(**SMALL)
    images = images_of() if images is None else images
    return detector.scores(answer or model(), images, ids or ids_of(), ignored=ignored)


def test_half_of_the_settings_is_no_description():
    assert SpatialConsistency((9, 12), 3, (2, 5), seed=4).describe() == {
        "detector": "SpatialConsistency", "patch_size": [9, 12], "k": 3, "displacement": [2, 5], "seed": 4,
    }  # fmt: skip
    assert ScaleConsistency(1.5).describe() == {"detector": "ScaleConsistency", "sigma": 1.5}
    assert repr(ScaleConsistency(1.5)) == "ScaleConsistency(sigma=1.5)"
