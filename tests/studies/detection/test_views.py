"""What the views of the study note, each against loops over pixels, pairs or steps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import Tensor

from robustseg.attacks import BIM, DAG, PGD, AttackStep, Targeted
from robustseg.attacks.noise import NoiseSource
from robustseg.detectors import GaussianBlur, ScaleConsistency, SpatialConsistency
from robustseg.evaluation.attacking import Outcome, attack_batch, untouched
from robustseg.studies.detection.views import ConsistencyCurve, EntropyMaps, Parts, SuccessBehindBlur, TargetCounts
from robustseg.types import Batch
from tests.detectors.test_consistency import literal_miou
from tests.detectors.test_entropy import literal_entropy, literal_votes, offsets_of
from tests.studies.detection.tiny import ATTACKS, CLASSES, MAPS, MODELS, answer_of, samples

MODEL, OTHER = MODELS["a"], MODELS["b"]
SEED = 5
PAIRS = SpatialConsistency(12, 3, (2, 4))
DAG_PURE, PGD_STRIP = Targeted(ATTACKS["dag"], MAPS["pure"]), Targeted(ATTACKS["pgd"], MAPS["strip"])
ALL = ["clean", "attack"]


def noted(view, batch, attack=None, scored=None) -> list[Tensor]:
    """What a view notes of a batch, clean or under an attack."""
    look = view.begin(MODEL, batch, scored or {"": MODEL})
    if attack is None:
        return list(look.finish(Outcome(untouched(batch.images), None, 0.0)))
    outcome = attack_batch(MODEL, attack, batch.ids, batch.images, batch.targets, SEED, look.step)
    return list(look.finish(outcome))


def attacked(batch, attack=DAG_PURE, on_step=None) -> Tensor:
    return attack_batch(MODEL, attack, batch.ids, batch.images, batch.targets, SEED, on_step).result.images_adv


def part_of(batch, rows) -> Batch:
    return Batch(batch.images[rows], batch.targets[rows], [batch.ids[row] for row in rows])


def literal_pairs(sample, k, size=12, low=2, high=4, side=32):
    """Corners of the patches of each pair, from the numbers that belong to a sample."""
    noise = NoiseSource.for_samples((SEED, 0, 0x5CA1E), [sample], torch.device("cpu"))
    for _, down, right, top, left in noise.uniform(torch.empty(1, k, 5, dtype=torch.float64))[0].tolist():
        by = [low + int(moved * (high - low + 1)) for moved in (down, right)]
        first = [int(place * (side - size - moved + 1)) for place, moved in zip((top, left), by, strict=True)]
        yield first, [place + moved for place, moved in zip(first, by, strict=True)]


def literal_parts(image, sample, k, size=12) -> list[float]:
    answer, values = answer_of(MODEL), []
    for first, second in literal_pairs(sample, k, size):
        maps = [answer(image[None, :, y : y + size, x : x + size]).argmax(1)[0] for y, x in (first, second)]
        rows, columns = (range(second[axis], first[axis] + size) for axis in (0, 1))
        shown = [
            [[found[row - y, column - x] for column in columns] for row in rows]
            for found, (y, x) in zip(maps, (first, second), strict=True)
        ]
        values.append(literal_miou(*shown))
    return values


@pytest.mark.parametrize("attack", [None, DAG_PURE], ids=["clean", "dag"])
def test_parts_are_the_pairs_of_each_image(attack):
    batch = samples()
    found = noted(Parts(PAIRS, SEED, ALL), batch, attack)
    images = batch.images if attack is None else attacked(batch)
    for row, sample in enumerate(batch.ids):
        assert found[row].dtype == torch.float64
        assert found[row].tolist() == pytest.approx(literal_parts(images[row], sample, 3), abs=1e-12)
    # the first K are the detector with that K, exactly
    for k in (1, 2, 3):
        scores = SpatialConsistency(12, k, (2, 4)).scores(MODEL, images, batch.ids, seed=SEED)
        assert [float(note[:k].mean()) for note in found] == scores.tolist()
    assert len({float(value) for note in found for value in note}) > 3


def test_parts_of_scale_consistency_are_its_score():
    batch = samples()
    found = noted(Parts(ScaleConsistency(1.0), SEED, ALL), batch)
    blurred = scipy.ndimage.gaussian_filter(batch.images.double().numpy(), 1.0, mode="mirror", truncate=4, axes=(2, 3))
    answer = answer_of(MODEL)
    first, second = answer(batch.images).argmax(1), answer(torch.from_numpy(blurred).float()).argmax(1)
    wanted = [[literal_miou(a, b)] for a, b in zip(first, second, strict=True)]
    assert [note.tolist() for note in found] == [pytest.approx(value, abs=1e-12) for value in wanted]


@pytest.mark.parametrize("attack", [DAG_PURE, PGD_STRIP], ids=["dag", "pgd"])
def test_the_curve_is_the_score_of_each_iterate(attack):
    """DAG's images leave at different steps; what is noted from there on is the score of the result."""
    batch, steps = samples(), [1, 2, 11, 12, 40]
    (found,) = torch.stack(noted(ConsistencyCurve(PAIRS, steps, SEED, ALL), batch, attack)).unsqueeze(0)
    seen: dict[tuple[int, int], Tensor] = {}

    def record(step: AttackStep) -> None:
        rows = step.rows.tolist()
        seen.update({(row, step.step): image.clone() for row, image in zip(rows, step.images_adv, strict=True)})

    last = attacked(batch, attack, record)
    for row, sample in enumerate(batch.ids):
        for place, step in enumerate(steps):
            image = seen.get((row, step), last[row])
            assert found[row, place] == pytest.approx(np.mean(literal_parts(image, sample, 3)), abs=1e-12)
    if attack is DAG_PURE:
        assert {row for row, step in seen if step == 11} == {1}
        assert not torch.equal(seen[1, 12], last[1])
        assert len(set(found[1].tolist())) > 2
        assert torch.equal(seen[0, 1], batch.images[0])


def test_the_curve_is_of_the_first_run_of_an_attack():
    batch, steps = samples(), [1, 2]
    one, two = (
        torch.stack(
            noted(
                ConsistencyCurve(PAIRS, steps, SEED, ALL),
                batch,
                Targeted(PGD(eps="64/255", steps=2, restarts=n, targeted=True), MAPS["strip"]),
            )
        )
        for n in (1, 2)
    )
    assert torch.equal(one, two)


def test_an_image_without_a_target_stays_on_one_level():
    batch = samples()
    batch.targets[1] = 255
    found = noted(
        ConsistencyCurve(PAIRS, [1, 2], SEED, ALL), batch, Targeted(BIM(steps=2, targeted=True), MAPS["strip"])
    )
    clean = PAIRS.scores(MODEL, batch.images, batch.ids, seed=SEED)
    assert found[1].tolist() == [float(clean[1])] * 2
    assert found[2][0] == clean[2] != found[2][1]


def test_entropy_maps_are_votes_of_each_pixel_and_the_clean_image():
    batch = samples()
    view = EntropyMaps([batch.ids[0], batch.ids[2]], 12, 3, SEED, ALL)
    for attack, images in ((None, batch.images), (DAG_PURE, attacked(batch))):
        found = noted(view, batch, attack)
        assert len(found[1]) == 0
        for row in (0, 2):
            votes, _ = literal_votes(MODEL, images[row], offsets_of(batch.ids[row], 3, 12, SEED), 12)
            wanted = [literal_entropy(pixel) for line in votes for pixel in line]
            assert found[row][:2].tolist() == [32, 32]
            assert found[row][2 : 2 + 32 * 32].tolist() == pytest.approx(wanted, abs=1e-6)
            rest = found[row][2 + 32 * 32 :].float()
            assert torch.equal(rest, images[row].flatten()) if attack is None else not len(rest)
        assert sum(wanted) > 0


def literal_counts(model, images, wanted, targets):
    shown, found = answer_of(model)(images[None]).argmax(1)[0], torch.zeros(3, CLASSES, dtype=torch.float64)
    for row in range(32):
        for column in range(32):
            seen, aim, true = (int(each[row, column]) for each in (shown, wanted, targets))
            if true in (aim, 255):
                continue
            found[0, aim] += seen == aim
            found[1, aim] += 1
            found[2, seen] += 1
    return found


@pytest.mark.parametrize(("key", "model"), [("", MODEL), ("other", OTHER)])
def test_target_counts_leave_out_what_shows_the_target_anyway(key, model):
    batch = samples()
    found = noted(TargetCounts(key, CLASSES, 255, ALL), batch, PGD_STRIP, {"": MODEL, "other": OTHER})
    images, wanted = attacked(batch, PGD_STRIP), PGD_STRIP.wanted(batch.targets)
    left_out = (wanted == batch.targets) & (batch.targets != 255)
    assert left_out.any()
    for row in range(3):
        expected = literal_counts(model, images[row], wanted[row], batch.targets[row])
        assert torch.equal(found[row].view(3, -1), expected)
        counted = (batch.targets[row] != 255).sum() - left_out[row].sum()
        assert expected[1].sum() == expected[2].sum() == counted
        assert expected[0].sum() > 0


def test_success_behind_a_blur():
    batch, blur = samples(), GaussianBlur(1.0)
    batch.targets[2, :20] = 2
    batch.targets[1] = 2
    found = noted(SuccessBehindBlur(blur, 255, ALL), batch, DAG_PURE)
    images = attacked(batch).double().numpy()
    blurred = scipy.ndimage.gaussian_filter(images, 1.0, mode="mirror", truncate=4, axes=(2, 3))
    shown = answer_of(MODEL)(torch.from_numpy(blurred).float()).argmax(1)
    for row in (0, 2):
        counted = [int(s) == 2 for s, true in zip(shown[row].flatten(), batch.targets[row].flatten(), strict=True)
                   if int(true) not in (2, 255)]  # fmt: skip
        assert found[row].tolist() == [sum(counted) / len(counted)]
        assert 0 < sum(counted) < len(counted)
    assert math.isnan(found[1][0])


def views_of(ids):
    return {
        "pairs": Parts(PAIRS, SEED, ALL),
        "random pairs": Parts(SpatialConsistency((8, 12), 3, (2, 4)), SEED, ALL),
        "blur": Parts(ScaleConsistency(1.0), SEED, ALL),
        "curve": ConsistencyCurve(PAIRS, [1, 2, 11, 12], SEED, ALL),
        "entropy": EntropyMaps(ids, 12, 3, SEED, ALL),
        "behind blur": SuccessBehindBlur(GaussianBlur(1.0), 255, ALL),
        "target": TargetCounts("", CLASSES, 255, ALL),
    }


@pytest.mark.parametrize("name", views_of([]))
def test_a_note_does_not_depend_on_the_rest_of_the_batch(name):
    batch = samples()
    view = views_of(batch.ids)[name]
    together = noted(view, batch, DAG_PURE)
    for rows in ([1], [2, 0]):
        alone = noted(view, part_of(batch, rows), DAG_PURE)
        for note, row in zip(alone, rows, strict=True):
            assert note.tolist() == pytest.approx(together[row].tolist(), abs=1e-6)


@pytest.mark.parametrize("name", ["pairs", "random pairs", "blur", "entropy"])
def test_detectors_do_not_know_the_truth(name):
    batch = samples()
    view = views_of(batch.ids)[name]
    blind = Batch(batch.images, torch.full_like(batch.targets, 255), batch.ids)
    for one, other in zip(noted(view, batch), noted(view, blind), strict=True):
        assert torch.equal(one, other)


def test_views_look_at_what_they_were_told_to_and_describe_their_settings():
    views = views_of(["x", "w"])
    for view in views.values():
        assert [view.wants(name) for name in ("clean", "attack", "other")] == [True, True, False]
    assert [name for name, view in views.items() if view.watches] == ["curve"]
    described = {name: view.describe() for name, view in views.items()}
    assert described["pairs"] == {"view": "Parts", **PAIRS.describe()}
    assert described["curve"] == {"view": "ConsistencyCurve", "steps": [1, 2, 11, 12], **PAIRS.describe()}
    entropy = {"view": "EntropyMaps", "patch_size": 12, "k": 3, "samples": ["w", "x"]}
    assert described["entropy"] == entropy
    assert described["behind blur"] == {"view": "SuccessBehindBlur", "sigma": 1.0}


@pytest.mark.parametrize("name", ["behind blur", "target"])
def test_an_attack_without_target_has_no_success(name):
    with pytest.raises(ValueError, match="an attack without a target map"):
        noted(views_of([])[name], samples(), PGD(steps=1))


def test_dag_without_a_target_has_a_curve():
    batch = samples()
    found = noted(ConsistencyCurve(PAIRS, [1], SEED, ALL), batch, DAG(steps=1))
    assert [float(note) for note in found] == PAIRS.scores(MODEL, batch.images, batch.ids, seed=SEED).tolist()
