"""Estimates of the time that is left, against runs on a clock of our own."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustseg.attacks import CW, FGSM, PGD, SEA, PureClass, Targeted, WorstOf
from robustseg.evaluation.attack_stage import AttackStage, gradient_steps
from robustseg.terminal.costs import Costs, Part
from robustseg.terminal.stages import Count, whole_left


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class FakeStep:
    """Of an attack; its tensors must not be looked at."""

    step, steps, restart = 1, 1, 0

    def __getattr__(self, name):
        raise AssertionError(f"{name} was read, which may wait for the device")


def evaluate(seconds, batches, clock, lacking=None, start=0.0, after=(0, 0.0)):
    """Run an evaluation on the clock; return moments, each with its batch, the estimate, and nothing yet of the truth.

    Args:
        seconds: By attack: steps, and seconds of a step for one image.
        batches: Images of each batch.
        clock: The clock.
        lacking: Names of attacks that each image lacks; by default all.
        start: Seconds that the first batch of clean images takes more.
        after: Images that a probe follows for, and seconds for each.
    """
    attacks = {name: PGD(steps=steps) for name, (steps, _) in seconds.items()}
    stage = AttackStage(attacks, {"probe": (10.0, after[0])}, clock)
    everything = ["clean", *attacks]
    lacking = lacking or [everything] * sum(batches)
    stage.begin(clock.now)
    stage.plan(lacking)
    seen, first = [], 0
    for number, size in enumerate(batches):
        mine = lacking[first : first + size]
        first += size
        if not any(mine):
            continue
        clock.now += 0.01
        stage.batch(sum(map(bool, mine)))
        for name in everything:
            images = sum(name in names for names in mine)
            if not images:
                continue
            stage.attack(name, images)
            if name == "clean":
                clock.now += 0.001 * images + (start if number == 0 else 0)
                continue
            steps, each = seconds[name]
            for _ in range(steps):
                clock.now += each * images
                stage.step(FakeStep())
                seen.append((number, clock.now, stage.left(clock.now), list(stage.parts())))
        stage.batch_done(sum(map(bool, mine)))
    stage.follow("probe", after[0])
    for _ in range(10 * bool(after[0])):
        clock.now += after[0] * after[1] / 10
        stage.follow_step(1.0)
        seen.append((len(batches), clock.now, stage.left(clock.now), []))
    assert stage.left(clock.now) == pytest.approx(0, abs=1e-6)
    return [(number, left, clock.now - now, parts) for number, now, left, parts in seen]


attacks_ = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d"]),
    st.tuples(st.integers(1, 30), st.integers(1, 300).map(lambda hundredths: hundredths / 100)),
    min_size=1,
)


@settings(max_examples=60, deadline=None)
@given(attacks_, st.integers(2, 6), st.integers(1, 4), st.integers(0, 5))
def test_from_the_second_batch_on_the_estimate_is_within_a_factor_of_two(seconds, count, size, start):
    """Whatever the attacks' steps and the costs of a step, and if the first batch starts a device."""
    for number, left, truth, _ in evaluate(seconds, [size] * (count + 1), Clock(), start=start):
        if number and truth > 1:
            assert truth / 2 <= left <= truth * 2


@settings(max_examples=40, deadline=None)
@given(attacks_, st.data())
def test_what_is_on_disk_counts_as_done(seconds, data):
    everything = ["clean", *seconds]
    images = data.draw(
        st.lists(st.sampled_from([everything, [], everything[1:], everything[-1:]]), min_size=6, max_size=6)
    )
    seen = evaluate(seconds, [2] * 3, Clock(), lacking=images)
    assert all(parts[-1].endswith("/6") for *_, parts in seen)
    if seen:
        done = int(seen[0][3][-1].removeprefix("images ").partition("/")[0])
        assert done == sum(not names for names in images)


def test_a_continued_evaluation_is_estimated_by_what_it_still_measures():
    lacking = [[]] * 40 + [["clean", "a"]] * 10 + [["clean", "a", "b"]] * 10
    seen = evaluate({"a": (10, 0.1), "b": (10, 1.0)}, [2] * 30, Clock(), lacking=lacking)
    assert seen[0][3] == ["attack 1/2 a", "step 1/10", "images 40/60"]
    for number, left, truth, _ in seen:
        if number >= 26 and truth > 1:
            assert truth / 2 <= left <= truth * 2


def test_attacks_that_have_not_begun_are_estimated_by_their_steps():
    seen = evaluate({"short": (10, 0.1), "long": (1000, 0.1)}, [2, 2], Clock())
    number, left, truth, parts = seen[3]
    assert (number, parts[0], parts[1]) == (0, "attack 1/2 short", "step 4/10")
    assert left == pytest.approx(truth, rel=0.1)


def test_what_follows_the_attacks_is_part_of_the_whole():
    seen = evaluate({"a": (10, 0.1)}, [2] * 3, Clock(), after=(4, 50.0))
    at_first, at_last = seen[25], seen[-5]
    assert at_first[1] > 4 * 10 * 0.1  # by steps
    assert at_last[1] == pytest.approx(at_last[2], rel=0.01)


def test_an_attack_that_cannot_run_takes_no_time():
    clock = Clock()
    stage = AttackStage({"a": PGD(steps=3), "b": PGD(steps=300)}, clock=clock)
    stage.plan([["clean", "a", "b"]] * 4)
    for name in ("a", "b"):
        stage.batch(2)
        stage.attack(name, 2)
        for _ in range(2):
            clock.now += 1
            stage.step(FakeStep())
    before = stage.left(clock.now)
    stage.refused("b")
    assert stage.left(clock.now) < before / 10


@pytest.mark.parametrize(
    ("attack", "steps"),
    [
        (FGSM(), 1),
        (PGD(steps=7, restarts=3), 21),
        (SEA(steps=10), 30),
        (CW(steps=5, search_steps=4), 20),
        (WorstOf([PGD(steps=3), FGSM()]), 4),
        (Targeted(PGD(steps=6, targeted=True), PureClass(0)), 6),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int) else "",
)
def test_gradient_steps_of_all_members_and_restarts(attack, steps):
    assert gradient_steps(attack.describe()) == steps


@pytest.mark.parametrize("described", [{}, {"steps": "many"}, {"steps": None}, {"steps": -3}, {"members": []}])
def test_attacks_of_others_may_describe_themselves_in_any_way(described):
    assert gradient_steps(described) >= 0


def test_nothing_known_is_no_estimate():
    costs = Costs({"a": Part(5.0, 10)})
    assert costs.left(0.0) is None
    costs.begin("a", 2, 0.0)
    assert costs.left(3.0) is None
    costs.step()
    assert costs.left(3.0) == pytest.approx(12 + 8 * 15 / 2)


def test_a_loop_within_a_loop():
    outer, inner = Count("model", 3), Count("image", 10)
    outer.begin(0.0)
    inner.begin(0.0)
    assert whole_left([outer, inner], 0.0) is None
    inner.advance(1.0)
    assert whole_left([outer, inner], 1.0) == pytest.approx(9 + 2 * 10)
    outer.advance(10.0)
    inner.begin(10.0)
    inner.done = 0
    assert whole_left([outer], 10.0) == pytest.approx(20)
    assert outer.parts() == ["model 2/3"]
