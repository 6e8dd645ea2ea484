"""Square: the literal reference, torchattacks, what is drawn, stopping, and what is refused."""

import math

import pytest
import torch
from torch import Tensor, nn

from robustseg.attacks import Square, correct_pixels
from robustseg.attacks.losses.base import cross_entropy
from robustseg.attacks.presets import square
from tests.helpers.nets import CLASSES, HEIGHT, WIDTH, tiny_batch, tiny_net

from . import reference
from .comparison import assert_allowed
from .comparison_square import EPS, SETTINGS, STEPS, batch, check_square, fixed_noise, literal_runs, run_literally
from .reference_square import LiteralSquare, side_length
from .test_closed_form import IMAGES, LABELS, WEIGHT, linear_model

Patch = pytest.MonkeyPatch


@pytest.mark.parametrize("name", SETTINGS)
def test_whole_attack(name: str):
    check_square(name)
    runs = literal_runs(name)
    lengths = [len(run.queries) for run in runs]
    assert 10 < lengths[1] <= 40 < STEPS
    assert lengths[0] == lengths[2] == STEPS
    assert all(len(runs[b].kept) > 1 for b in (0, 2)), "candidates are kept"
    assert all(len(runs[b].kept) < STEPS - 2 for b in (0, 2)), "candidates are dropped"


class OnePixel(nn.Module):
    """A classifier: the logits of one pixel."""

    def __init__(self, model: nn.Module, i: int, j: int):
        super().__init__()
        self.model, self.i, self.j = model, i, j

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)[:, :, self.i, self.j]
        return logits


class Scripted:
    """Stands in for the peer's draws: what the literal search drew, and nothing for its one query more."""

    def __init__(self, stripes: Tensor, run: LiteralSquare):
        self.signs = [torch.where(stripes < 0.5, -1.0, 1.0).unsqueeze(0)]
        self.signs += [torch.tensor(signs).double().view(3, 1, 1) for *_, signs in run.squares]
        self.places = [torch.tensor([value]) for top, left, *_ in run.squares for value in (top, left)]

    def random_choice(self, shape: list[int]) -> Tensor:
        return self.signs.pop(0) if self.signs else torch.zeros(shape)

    def random_int(self, low: int = 0, high: int = 1, shape: object = None) -> Tensor:
        return self.places.pop(0) if self.places else torch.tensor([0])


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("pixel", [(1, 2), (3, 4), (6, 1)], ids=str)
def test_torchattacks(pixel: tuple[int, int], targeted: bool):
    """Through one valid pixel, on the same draws; the peer's stripes do not count as one of its queries."""
    torchattacks = pytest.importorskip("torchattacks")
    model, (images, _), steps = tiny_net(), tiny_batch(batch=1), 30
    label = model(images)[0, :, pixel[0], pixel[1]].argsort(descending=True)[int(targeted)].view(1)
    targets = torch.full((1, HEIGHT, WIDTH), 255)
    targets[0, pixel[0], pixel[1]] = label
    options = {"p_init": 0.8, "start": "vertical", "objective": "loss", "targeted": targeted}
    actual = Square(eps=EPS, steps=steps, **options)(model, images, targets, generator=fixed_noise())
    (run,) = run_literally(images, targets, steps, options)
    peer = torchattacks.Square(OnePixel(model, *pixel), eps=EPS, n_queries=steps, loss="ce")
    peer.targeted = targeted
    script = Scripted(fixed_noise().uniform(torch.empty(1, 3, 1, WIDTH, dtype=torch.float64))[0], run)
    peer.random_choice, peer.random_int = script.random_choice, script.random_int
    peer.init_hyperparam(images)
    # Its outer loop gives the clean image back where the single run has not fooled the pixel.
    _, expected = peer.attack_single_run(images, label)
    assert not script.signs
    assert not script.places
    # It builds the squares in float32.
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("steps", [100, 1000, 5000, 10000])
@pytest.mark.parametrize("p_init", [0.05, 0.8])
def test_schedule(steps: int, p_init: float):
    torchattacks = pytest.importorskip("torchattacks")
    peer = torchattacks.Square(tiny_net(), n_queries=steps, p_init=p_init)
    attack = Square(steps=steps, p_init=p_init)
    for candidate in range(steps):
        side = attack._side(candidate, 224, 224)
        assert side == side_length(candidate, steps, p_init, 224, 224)
        if candidate * 10_000 % steps == 0:
            # Elsewhere the peer's rounding may be on the other side of a limit.
            assert side == max(round(math.sqrt(peer.p_selection(candidate) * 224**2)), 1)


def test_square_fits_into_the_image():
    attack = Square(steps=100)
    assert attack._side(0, 512, 1024) == 512
    assert attack._side(0, 3, 40) == 3
    assert attack._side(99, 3, 40) == 1


@pytest.mark.parametrize("start", ["vertical", "horizontal"])
def test_first_query_shows_stripes(start: str):
    images = torch.full((2, 3, 30, 40), 0.5)
    targets = torch.zeros(2, 30, 40, dtype=torch.long)
    signs = Square(eps="1/8", steps=1, start=start)(lambda x: x, images, targets) * 8 - 4
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    along, across = (2, 3) if start == "vertical" else (3, 2)
    assert torch.equal(signs, signs.narrow(along, 0, 1).expand_as(signs))
    assert not torch.equal(signs, signs.narrow(across, 0, 1).expand_as(signs))
    lines = signs.narrow(along, 0, 1).flatten(2)
    assert not torch.equal(lines[0], lines[1])
    assert not torch.equal(lines[:, 0], lines[:, 1])
    assert abs(float(lines.mean())) < 0.3


def candidates(steps: int, count: int) -> tuple[Tensor, list[Tensor]]:
    """Images and queries of a model that is the same everywhere, so that only the start is kept."""
    images = torch.full((count, 3, HEIGHT, WIDTH), 0.5)
    targets = torch.zeros(count, HEIGHT, WIDTH, dtype=torch.long)
    seen: list[Tensor] = []
    Square(eps="1/8", steps=steps)(
        lambda x: torch.zeros(len(x), 2, HEIGHT, WIDTH), images, targets, on_step=lambda s: seen.append(s.images_adv)
    )
    return seen[0], seen[1:]


def test_each_candidate_is_the_kept_image_with_one_square():
    steps = 300
    start, queries = candidates(steps, 2)
    corners: dict[int, set[tuple[int, int]]] = {}
    extents: dict[int, int] = {}
    for number, query in enumerate(queries):
        side = side_length(number, steps, 0.8, HEIGHT, WIDTH)
        for b in range(2):
            changed = (query[b] != start[b]).any(0).nonzero()
            assert len(changed), "a square that changes nothing is drawn again"
            first, last = changed.amin(0), changed.amax(0)
            extents[side] = max(extents.get(side, 0), int((last - first).max()) + 1)
            window = (..., slice(first[0], last[0] + 1), slice(first[1], last[1] + 1))
            moved = (query[b][window] != start[b][window]).any(0)
            recoloured = query[b][window][:, moved]
            assert torch.equal(recoloured, recoloured[:, :1].expand_as(recoloured))
            corners.setdefault(side, set()).add((int(first[0]), int(first[1])))
    assert sorted(corners) == sorted(extents) == [*extents.values()][::-1], "squares have the side of the schedule"
    # Squares of one pixel are nearly all of them, and reach every place, the last row and column included.
    assert corners[1] == {(i, j) for i in range(HEIGHT) for j in range(WIDTH)}


def test_colours_that_change_something_are_equally_likely():
    """A pixel has eight colours, of which it shows one."""
    start, queries = candidates(400, 30)
    flips = torch.zeros(8, dtype=torch.long)
    for query in queries[50:]:
        for changed in (query != start).flatten(2).any(2).tolist():
            flips[sum(2**c for c in range(3) if changed[c])] += 1
    assert flips[0] == 0
    assert (flips[1:] / flips.sum()).tolist() == pytest.approx([1 / 7] * 7, abs=0.02)


@pytest.mark.parametrize("targeted", [False, True])
def test_linear_model_is_solved(targeted: bool):
    """Each pixel has eight colours and its own loss: enough queries find the best of all, x ± ε·sign(w)."""
    # At ε = 1/8 no pixel crosses the boundary.
    images_adv = Square(eps="1/8", steps=600, targeted=targeted)(linear_model(), IMAGES, LABELS)
    uphill = ((LABELS == 0).double() - (LABELS == 1).double()).unsqueeze(1) * WEIGHT.sign().view(1, 3, 1, 1)
    best = IMAGES + (-uphill if targeted else uphill) / 8
    valid = (LABELS != 255).unsqueeze(1).expand_as(best)
    assert torch.equal(images_adv[valid], best[valid])


@pytest.mark.parametrize("objective", ["loss", "accuracy"])
def test_longer_search_is_worse_for_the_model(objective: str):
    model, (images, targets) = tiny_net(), tiny_batch()
    attack = Square(eps=0.1, steps=200, objective=objective)
    images_adv = attack(model, images, targets)
    assert_allowed(images_adv, images, 0.1, "linf")

    def judge(x: Tensor) -> Tensor:
        logits = model(x)
        mapped = targets.masked_fill(targets == 255, reference.NO_LABEL)
        if objective == "loss":
            return cross_entropy(logits, mapped).flatten(1).sum(1)
        return -correct_pixels(logits, mapped).flatten(1).sum(1).double()

    start = Square(eps=0.1, steps=1)(model, images, targets)
    assert (judge(images_adv) > judge(start)).all()
    assert (judge(images_adv) > judge(images)).all()


@pytest.mark.parametrize("objective", ["loss", "accuracy"])
def test_models_without_gradient(objective: str):
    """One-hot answers have steps but no slope."""
    model, (images, targets) = tiny_net(), tiny_batch()

    def answer(x: Tensor) -> Tensor:
        with torch.no_grad():
            return nn.functional.one_hot(model(x).argmax(1), CLASSES).movedim(3, 1).double()

    images_adv = Square(eps=0.1, steps=200, objective=objective)(answer, images, targets)

    def correct(x: Tensor) -> int:
        return int((answer(x).argmax(1) == targets).sum())

    assert correct(images_adv) < correct(images) - 2


@pytest.mark.parametrize("name", SETTINGS)
def test_looking_for_finished_images_changes_nothing(name: str, monkeypatch: Patch):
    images, targets = batch(SETTINGS[name].get("targeted", False))
    results, shown = [], []
    for every in (1, 10, 1000):
        monkeypatch.setattr(square, "LEAVE_EVERY", every)
        result = Square(eps=EPS, steps=STEPS, **SETTINGS[name]).run(
            tiny_net(), images, targets, generator=fixed_noise()
        )
        results.append(result.images_adv)
        shown.append(int(result.forwards.sum()))
        assert not result.backwards.any()
    assert shown[0] < shown[1] < shown[2] == 3 * STEPS
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=1e-12)


def test_no_image_left_ends_the_search():
    images, targets = batch()
    result = Square(eps=0.2, steps=STEPS).run(tiny_net(), images[1:2], targets[1:2])
    assert 0 < int(result.forwards) < STEPS
    assert int(result.forwards) % 10 == 0
    assert not (tiny_net()(result.images_adv).argmax(1) == targets[1:2]).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "l2"}, r"norm = 'l2': Square is made for linf"),
        ({"norm": "l1"}, r"norm = 'l1': Square is made for linf"),
        ({"p_init": 0}, r"p_init = 0 is outside of \(0, 1\]"),
        ({"p_init": 80}, r"p_init = 80 is outside of \(0, 1\]"),
        ({"p_init": float("nan")}, r"p_init = nan is outside"),
        ({"start": "diagonal"}, r"start = 'diagonal': use vertical or horizontal"),
        ({"objective": "miou"}, r"objective = 'miou': use loss or accuracy"),
    ],
    ids=str,
)
def test_settings(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Square(**settings)
