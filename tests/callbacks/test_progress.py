"""Lines and time left of a training run, on a clock of our own."""

from __future__ import annotations

import pytest

from robustseg.callbacks.progress import TrainingStage


def test_the_time_left_counts_batches_and_validations():
    stage = TrainingStage(epochs=2, updates=8, validations=2, cost=1.0)
    now = 0.0
    stage.begin(now)
    assert stage.left(now) is None
    seen = []
    for epoch in range(2):
        stage.epoch = epoch + 1
        stage.begin_batches(now)
        for batch in range(4):
            now += 1.0
            stage.batch_done(batch + 1, 4, now)
            seen.append((now, stage.left(now)))
        stage.begin_validation(now)
        for second in range(10):
            seen.append((now, stage.left(now, (float(second), 10.0 - second))))
            now += 1.0
        stage.end_validation(now)
    assert stage.parts() == ["epoch 2/2", "validation"]
    for moment, left in seen[5:]:  # the validation is known by its attacks once it has begun
        assert left == pytest.approx(28 - moment)


def test_a_training_without_an_end_shows_no_time():
    stage = TrainingStage(None, None, 0, 1.0)
    stage.epoch = 3
    stage.begin_batches(0.0)
    stage.batch_done(1, 4, 1.0)
    assert stage.left(1.0) is None
    assert stage.parts() == ["epoch 3", "batch 1/4"]
