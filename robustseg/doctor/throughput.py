"""Throughput of data loading by the number of workers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

from robustseg.data import DataError, SegmentationData
from robustseg.doctor.configuration import Setup, build_data
from robustseg.doctor.findings import Finding, caution, counted, ok, problem

# a number of workers counts as equal to the best if it gives this share of its images per second
_AS_GOOD = 0.9
# a configured number of workers wastes time if it gives less than this share
_WASTEFUL = 0.8


class Speed(NamedTuple):
    """Throughput with one number of workers."""

    workers: int
    first: float
    """Seconds until the first batch."""
    rate: float
    """Images per second after it."""


def check_data(setup: Setup | None, cores: int, gpus: int, seconds: float) -> Iterator[Finding]:
    """Open the training and validation data of a configuration and measure the loading of batches.

    Args:
        setup: The configuration; without it the embedded scenes are measured.
        cores: Number of cores allotted to this process.
        gpus: Number of GPUs that torch sees.
        seconds: Duration of the measurement for each number of workers.
    """
    try:
        data = build_data(setup.data if setup is not None else {"class_path": "SyntheticScenes"})
        cached, data.cache = data.cache, False
        train, val = len(data.dataset("train")), len(data.dataset("val"))
    except (ValueError, OSError) as error:
        yield problem("data", str(error), "robustseg train would end with this message; mend the data or data.* first.")
        return
    text = f"{type(data).__name__}: {train} training and {val} validation images"
    text += "; measured as in a first epoch, without the configured cache" if cached else ""
    yield ok("data", text, train=train, val=val)
    speeds: list[Speed] = []
    cold = None
    for workers in worker_counts(cores, setup.num_workers if setup is not None else 0):
        try:
            if cold is None:
                # The first measurement fills the file system's cache, which would favour all others.
                cold = measure(data, workers, seconds / 2)
            speed = measure(data, workers, seconds)
        except Exception as error:
            yield _failed(workers, error)
            if isinstance(error, ValueError | OSError):
                return
            # More workers would fail as well, and slowly.
            break
        speeds.append(speed)
        text = f"{speed.rate:.0f} images/s, the first batch after {speed.first:.1f} s"
        yield ok(f"{counted(workers, 'worker')}", text, **speed._asdict())
    if cold is not None and speeds and cold.rate < 0.67 * speeds[0].rate:
        yield ok(
            "first reading",
            f"{cold.rate:.0f} images/s: slower than a second one, as files came from the disk",
            **cold._asdict(),
        )
    if speeds:
        yield recommend(speeds, None if setup is None else setup.num_workers, gpus > 0)
    yield from _validation(data)


def worker_counts(cores: int, configured: int) -> list[int]:
    """Return 0, 1, 2, 4, … up to the allotted cores, and the configured number."""
    counts = {0, cores, configured}
    number = 1
    while number < cores:
        counts.add(number)
        number *= 2
    return sorted(counts)


def measure(data: SegmentationData, workers: int, seconds: float, patience: float = 30.0) -> Speed:
    """Measure the loading of training batches, over as many epochs as needed.

    Args:
        data: The opened data set; its number of workers is changed.
        workers: Number of data workers.
        seconds: Duration of the measurement after the first batch.
        patience: Largest number of seconds for a batch.

    Raises:
        RuntimeError: Workers died, or a batch took longer.
    """
    data.num_workers = workers
    loader = data.train_loader()
    # A worker without room in /dev/shm loses its batch, and the loader would wait for it without end.
    loader.timeout = patience if workers else 0
    start = begin = time.perf_counter()
    first = 0.0
    # The workers load their first batches at the same time: counting these would favour many workers.
    skip = max(1, workers)
    images = 0
    while True:
        seen = False
        for batch in loader:
            now, seen = time.perf_counter(), True
            first = first or now - start
            if skip:
                skip, begin = skip - 1, now
                continue
            images += len(batch.images)
            if now - begin > seconds:
                return Speed(workers, first, images / (now - begin))
        if not seen:
            raise DataError("the training split gives no batch: set data.batch_size to fewer images.")


def recommend(speeds: list[Speed], configured: int | None, gpu: bool) -> Finding:
    """Recommend the smallest number of workers that is as fast as the best.

    Args:
        speeds: Measured throughputs.
        configured: Number of workers in the configuration, if one was given.
        gpu: Training runs on a GPU in parallel to the workers; without workers it waits for each batch.
    """
    eligible = [speed for speed in speeds if speed.workers] if gpu and len(speeds) > 1 else speeds
    best = max(speed.rate for speed in eligible)
    choice = next(speed for speed in eligible if speed.rate >= _AS_GOOD * best)
    without = speeds[0]
    gain = (
        f", {choice.rate / without.rate:.1f} times as many as with {without.workers}" if choice is not without else ""
    )
    text = f"{choice.rate:.0f} images/s with {counted(choice.workers, 'worker')}{gain}"
    here = next((speed for speed in speeds if speed.workers == configured), None)
    if here is not None and here not in eligible:
        return caution(
            "recommendation",
            f"{text}; with the configured 0 the GPU waits for every batch.",
            f"--data.num_workers {choice.workers}",
            workers=choice.workers,
        )
    if here is not None and here.rate < _WASTEFUL * best:
        return caution(
            "recommendation",
            f"{text}, {here.rate:.0f} with the configured {configured}.",
            f"--data.num_workers {choice.workers}, if a step of training takes less time than its batch.",
            workers=choice.workers,
        )
    if here is not None:
        return ok("recommendation", f"Keep num_workers at {configured}: {text}.", workers=configured)
    more = "; more bring little" if choice.workers < speeds[-1].workers else ""
    return ok("recommendation", f"num_workers: {choice.workers}. {text}{more}.", workers=choice.workers)


def _failed(workers: int, error: Exception) -> Finding:
    lines = [line for line in str(error).splitlines() if line.strip()]
    said = f"{type(error).__name__}: {lines[-1] if lines else ''}"
    remedy = "robustseg train would end with this message; mend the data or data.* first."
    if any(sign in str(error) for sign in ("Bus error", "shared memory", "timed out")):
        remedy = (
            "Most likely /dev/shm is full, see the section resources: docker run --shm-size=8g or --ipc=host, or "
            "--data.num_workers 0. Else files come too slowly."
        )
    elif "killed" in str(error):
        remedy = "Memory ran out, most likely: fewer workers, cache: false, or ask for more memory."
    return problem(f"{counted(workers, 'worker')}", said, remedy)


def _validation(data: SegmentationData) -> Iterator[Finding]:
    data.num_workers = 0
    try:
        batch = next(iter(data.eval_loader("val")))
    except Exception as error:
        yield _failed(0, error)._replace(name="validation")
    else:
        size = "x".join(map(str, batch.images.shape[-2:]))
        yield ok("validation", f"the first batch has {len(batch.images)} images of {size} pixels")
