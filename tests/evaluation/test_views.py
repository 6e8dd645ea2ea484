"""Views of an evaluation: what they note is kept, and measured once."""

from __future__ import annotations

import pytest
import torch

from robustseg.evaluation import EvaluationError
from robustseg.evaluation.errors import IncompleteError
from robustseg.evaluation.measurements import read_measurements
from robustseg.evaluation.protocol import claim
from robustseg.evaluation.views import Look, View
from tests.evaluation.test_disk import FACTS, attacks, data, measure, model  # noqa: F401

NAMES = ["clean", "pgd", "cospgd"]


class Distance(View):
    """Notes the largest change of an image, and how often it was called at steps."""

    watches = True

    def __init__(self, number=1, attacks=None):
        self.number, self.attacks, self.begun = number, attacks, []

    def wants(self, attack):
        return self.attacks is None or attack in self.attacks

    def begin(self, model, batch, scored):  # noqa: F811
        self.begun.append(list(batch.ids))
        return DistanceLook(self, batch)

    def look(self, model, batch, scored, outcome):  # noqa: F811
        raise NotImplementedError

    def describe(self):
        return {"view": "Distance", "number": self.number}


class DistanceLook(Look):
    def __init__(self, view, batch):
        self.batch, self.steps = batch, 0

    def step(self, step):
        self.steps += 1

    def finish(self, outcome):
        far = (outcome.result.images_adv - self.batch.images).abs().flatten(1).amax(1).double()
        return [torch.tensor([value, self.steps]).double() for value in far.tolist()]


def read(folder, views, chosen=NAMES[1:]):
    settings = {name: attacks()[name].describe() for name in chosen}
    return read_measurements(folder, claim(folder, FACTS), [f"id{n}" for n in range(7)], settings, 4, views=views)


def test_views_note_their_numbers_of_every_image(tmp_path, model, data):  # noqa: F811
    view = Distance()
    measure(tmp_path, model, data, views={"far": view})
    found = read(tmp_path, {"far": view})
    assert set(found.values) == {f"{name} seen by far" for name in NAMES}
    for name, steps in zip(NAMES, (0, 3, 2), strict=True):
        far = torch.stack(found.values[f"{name} seen by far"])
        # The image without valid pixels is not attacked.
        attacked = torch.arange(7) != 4
        assert ((far[:, 0] > 0) == (attacked & (steps > 0))).all()
        assert (far[:, 0] <= 8 / 255 + 1e-6).all()
        # A batch's steps are those of its attacked images; the batch of the fourth image has others.
        assert (far[:, 1] == steps).all()
    # Views have no scores of their own.
    assert set(found.counts) == set(found.figures) == set(NAMES)


def test_scores_are_those_without_views(tmp_path, model, data):  # noqa: F811
    measure(tmp_path / "with", model, data, views={"far": Distance()})
    measure(tmp_path / "without", model, data)
    one, other = (read(tmp_path / name, {}) for name in ("with", "without"))
    for name in NAMES:
        assert (one.counts[name] == other.counts[name]).all()


def test_a_view_looks_at_what_it_wants(tmp_path, model, data):  # noqa: F811
    view = Distance(attacks=["pgd"])
    measure(tmp_path, model, data, views={"far": view})
    assert set(read(tmp_path, {"far": view}).values) == {"pgd seen by far"}
    assert len(view.begun) == 3


def test_what_was_seen_is_not_measured_again(tmp_path, model, data):  # noqa: F811
    measure(tmp_path, model, data, views={"far": Distance()})
    view, chosen = Distance(), attacks()
    measure(tmp_path, model, data, chosen, views={"far": view})
    assert not view.begun
    assert chosen["pgd"].images == 0


def test_a_view_that_comes_later_has_the_attack_run_again_and_no_score_twice(tmp_path, model, data):  # noqa: F811
    measure(tmp_path, model, data)
    before = read(tmp_path, {})
    view, chosen = Distance(), attacks()
    with pytest.raises(IncompleteError, match="clean seen by far lacks 7"):
        read(tmp_path, {"far": view})
    measure(tmp_path, model, data, chosen, views={"far": view})
    # All that have a valid pixel.
    assert chosen["pgd"].images == 6
    after = read(tmp_path, {"far": view})
    assert len(after.values) == 3
    assert all((before.counts[name] == after.counts[name]).all() for name in NAMES)


def test_a_view_of_other_settings_is_refused(tmp_path, model, data):  # noqa: F811
    measure(tmp_path, model, data, views={"far": Distance(1)})
    with pytest.raises(EvaluationError, match=r"view far with other settings \(number: 1 there, 2 here\)"):
        measure(tmp_path, model, data, views={"far": Distance(2)})
