"""The bill of an evaluation: what is kept, what is lacking, and the seconds of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch

from robustseg.data import SegmentationData, collate
from robustseg.data.base import Split
from robustseg.evaluation.attacking import CLEAN
from robustseg.evaluation.benchmark import Benchmark
from robustseg.evaluation.benchmark.in_float32 import STAGE, float32_images, float32_steps
from robustseg.evaluation.benchmark.probe import PROBE, PROBE_FORWARDS, PROBE_STEPS
from robustseg.evaluation.build_card import scores
from robustseg.evaluation.protocol import PROTOCOL, claim
from robustseg.evaluation.record import named
from robustseg.evaluation.records import answers_to, refuse_others, unique_records
from robustseg.evaluation.store import streams
from robustseg.evaluation.views import seen_name
from robustseg.numerics.precision import full_precision
from robustseg.planning.bill import Bill, Item
from robustseg.planning.rates import Rate, Rates, Scored, clock_of, device_name, measure_rates, peak_memory
from robustseg.types import Batch

SAMPLES = 24
"""Images of several sizes that are loaded for their sizes."""
LOADING_SECONDS = 6.0
"""Seconds after which no more images are loaded for their sizes."""
WRITING = 1.5
"""Seconds of the report, its plots and files."""


class Kept(NamedTuple):
    """Records in an evaluation's folder."""

    done: set[tuple[str, str]]
    """Samples and names of records."""
    gradients: Mapping[str, float]
    """Forwards and gradients of an image under an attack, on average over its records."""


class Sizes(NamedTuple):
    """Loaded batches of an evaluation."""

    measured: list[Batch]
    """One batch, or a small, a middle and a large one."""
    pixels: float
    """Pixels of an image on average."""
    seconds: float
    """Seconds of loading an image."""


@dataclass
class Part:
    """One evaluation of a bill: a benchmark, its folder, and what it lacks."""

    benchmark: Benchmark
    folder: Path
    name: str = ""
    """Name of the attacked model, where there are several."""
    follows: bool = True
    """True if checks, thresholds and a report follow; a study has its own, small ones."""
    lacking: dict[str, int] = field(default_factory=dict)
    """Images that lack an attack, by its name."""
    batches: list[list[int]] = field(default_factory=list)
    """Batches that lack anything, as indices of samples."""


def kept_in(folder: Path, of: Benchmark) -> Kept:
    """Read the records of an evaluation's folder; nothing is written.

    Raises:
        EvaluationError: The folder holds another evaluation, or records that contradict one another.
    """
    protocol = folder / PROTOCOL
    if not protocol.is_file() or not protocol.stat().st_size:
        return Kept(set(), {})
    found = streams(folder)
    refuse_others(found, claim(folder, of.facts), of.record_settings)  # a claimed folder is not written to
    done, costs, counts = set(), defaultdict[str, float](float), Counter[str]()
    for record in unique_records(found):
        done.add((record.sample, record.attack))
        if record.attack in of.attacks:
            figures = named(record.figures)
            costs[record.attack] += float(figures["forwards"] + figures["backwards"])
            counts[record.attack] += 1
    return Kept(done, {name: costs[name] / counts[name] for name in counts})


def _lacks(of: Benchmark, sample: str, attack: str, kept: Kept) -> bool:
    views = (seen_name(attack, name) for name, view in of.every_view.items() if view.wants(attack))
    return any((sample, name) not in kept.done for name in (*answers_to(attack, of.scored_on, of.for_itself), *views))


def _find_lacking(part: Part, kept: Kept) -> int:
    """Note what a part lacks; return the number of (image, attack) that it does not."""
    of, here = part.benchmark, 0
    dataset, counts = of.data.dataset(of.split), Counter[str]()
    for batch in of.batches():
        missing = 0
        for index in batch:
            sample = dataset.sample_id(index)
            names = [name for name in (CLEAN, *of.attacks) if _lacks(of, sample, name, kept)]
            counts.update(names)
            here += 1 + len(of.attacks) - len(names)
            missing += bool(names)
        if missing:
            part.batches.append(batch)
    part.lacking = dict(counts)
    return here


def load_sizes(
    data: SegmentationData, split: Split, chosen: Sequence[Sequence[int]], now: Callable[[], float]
) -> Sizes:
    """Load batches, evenly spread; of images of several sizes enough to know how large they are.

    Args:
        data: The data.
        split: The split.
        chosen: Indices of the samples of all batches.
        now: Time in seconds.

    Raises:
        DataError: A sample cannot be read.
    """
    dataset = data.dataset(split).as_deployed()
    wanted = 2 if data.image_size is not None else max(2, SAMPLES // max(1, data.val_batch_size))
    places = [(2 * k + 1) * len(chosen) // (2 * min(wanted, len(chosen))) for k in range(min(wanted, len(chosen)))]
    loaded, taken, began = [], [], now()
    for place in places:
        start = now()
        loaded.append(collate([dataset[index] for index in chosen[place]]))
        taken.append((now() - start, len(chosen[place])))
        if now() - began > LOADING_SECONDS:
            break
    full = max(len(batch.ids) for batch in loaded)
    ordered = sorted((batch for batch in loaded if len(batch.ids) == full), key=lambda batch: batch.targets.numel())
    several = len({batch.targets.numel() for batch in ordered}) > 1
    few = [ordered[0], ordered[len(ordered) // 2], ordered[-1]] if several and len(ordered) > 2 else ordered[:2]
    counted = taken[1:] or taken  # the first one opens files
    return Sizes(
        few if several else ordered[:1],
        sum(batch.targets.numel() for batch in loaded) / sum(len(batch.ids) for batch in loaded),
        sum(seconds for seconds, _ in counted) / sum(images for _, images in counted),
    )


def bill_of_evaluation(parts: Sequence[Part], device: torch.device, start: float, seconds: float = 15.0) -> Bill:
    """Measure a few steps of each attack that is lacking, and extend them to all images; nothing is written.

    Args:
        parts: The evaluations; those of several models follow one another.
        device: Device to measure on.
        start: Seconds that the start of the command took.
        seconds: Seconds to spend on the measurement, about.

    Raises:
        EvaluationError: A folder holds another evaluation.
        AttackError: An attack cannot be run on these images.
        DataError: A sample cannot be read.
    """
    now = clock_of(device)
    began = now()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    items: list[Item] = []
    kept, batches = 0, 0
    for part in parts:
        found, there = items_of(part, device, now, seconds / len(parts))
        items, kept, batches = [*items, *found], kept + there, max(batches, len(part.batches))
    return Bill(items, start, batches, device_name(device), peak_memory(device), kept, now() - began)


def items_of(part: Part, device: torch.device, now: Callable[[], float], seconds: float) -> tuple[list[Item], int]:
    """Measure one evaluation; return its items, and how many scores of (image, attack) are kept.

    Arguments and errors as of :func:`bill_of_evaluation`.
    """
    kept = kept_in(part.folder, part.benchmark)
    there = _find_lacking(part, kept)
    prefix = f"{part.name}: " if part.name else ""
    items = _items(part, kept, device, now, seconds)
    return [replace(item, name=f"{prefix}{item.name}") for item in items], there


def _items(part: Part, kept: Kept, device: torch.device, now: Callable[[], float], seconds: float) -> list[Item]:
    of = part.benchmark
    of.refuse_search(device)
    model = of.model.to(device)
    probed = 0 if not part.follows or of.checks_file(part.folder).exists() else len(of.probe_indices)
    items: list[Item] = []
    compared = float32_images(of, part.folder) if part.follows and of.search is not None else 0
    if part.batches or probed or compared:
        sizes = load_sizes(of.data, of.split, part.batches or of.batches(), now)
        attacks = {name: attack for name, attack in of.attacks.items() if part.lacking.get(name)}
        data = of.data
        scored = Scored(
            of.model.num_classes,
            data.ignore_index,
            of.seed,
            of.scored,
            of.every_view,
            of.for_itself,
            of.targets,
            search=of.search,
        )
        rates = measure_rates(model, attacks, sizes.measured, scored, device, seconds)
        items = attack_items(rates, part.lacking, sizes, data.val_batch_size, kept.gradients)
        items += _shared_items(part, sizes, items, rates) if part.batches else []
        if compared:
            items.append(_in_float32(part, rates, sizes))
        if probed:
            steps = rates.gradient.of(-(-probed // data.val_batch_size), probed * sizes.pixels)
            items.append(Item(PROBE, PROBE_STEPS * steps, probed, PROBE_STEPS, PROBE_FORWARDS, shared=False))
    if part.follows:
        items += _following(of, device, now)
    return items


def attack_items(
    rates: Rates,
    lacking: Mapping[str, int],
    sizes: Sizes,
    batch_size: int,
    known: Mapping[str, float] | None = None,
) -> list[Item]:
    """Return the items of attacks, the clean images first.

    Args:
        rates: Speed of the device.
        lacking: Images by name of the attack.
        sizes: Sizes of the images.
        batch_size: Images of a batch.
        known: Forwards and gradients of an image on average, by name, where they were measured before.
    """
    items = []
    for name, images in lacking.items():
        if name in rates.refused:
            items.append(Item(name, 0.0, images, error=rates.refused[name]))
            continue
        rate = rates.attacks[name]
        calls = -(-images // batch_size)
        if name == CLEAN:  # its scores are all of its cost
            items.append(Item(name, rate.scoring.of(calls, images * sizes.pixels), images, forwards=1.0))
            continue
        cost, likely = rate.gradients + rate.forwards, None
        if rate.early and known and name in known and cost:
            likely = min(1.0, known[name] / cost)
        items.append(
            Item(
                name,
                rate.attack.of(calls, images * sizes.pixels),
                images,
                rate.gradients,
                rate.forwards,
                likely,
                rate.early,
            )
        )
    return items


def scoring_seconds(rates: Rates, lacking: Mapping[str, int], sizes: Sizes, batch_size: int) -> float:
    """Return the seconds of the scores and views of all adversarial images."""
    measured: dict[str, Rate] = rates.attacks
    return sum(
        measured[name].scoring.of(-(-images // batch_size), images * sizes.pixels)
        for name, images in lacking.items()
        if name in measured and name != CLEAN
    )


def _shared_items(part: Part, sizes: Sizes, items: Sequence[Item], rates: Rates) -> list[Item]:
    of = part.benchmark
    images = sum(map(len, part.batches))
    scoring = scoring_seconds(rates, part.lacking, sizes, of.data.val_batch_size)
    # workers load while the device computes; the first batch is waited for
    computing = (scoring + sum(item.expected for item in items)) / images
    waiting = sizes.seconds if not of.data.num_workers else max(0.0, sizes.seconds / of.data.num_workers - computing)
    first = sizes.seconds * of.data.val_batch_size if of.data.num_workers else 0.0
    views = f", {len(of.every_view)} views" if of.every_view else ""
    return [
        Item(f"8-bit scores{views}", scoring, images),
        Item("loading images", waiting * images + first, images),
    ]


def _in_float32(part: Part, rates: Rates, sizes: Sizes) -> Item:
    """Return the search of some images in float32 beside that in low precision, at the speed of plain gradients."""
    of, images = part.benchmark, len(part.benchmark.float32_indices)
    there = len([*part.folder.glob("checks-float32-*.json")]) / max(1, len(of.attacks))
    steps = float32_steps(of) * max(0.0, 1.0 - there)
    seconds = steps * rates.gradient.of(-(-images // of.data.val_batch_size), images * sizes.pixels)
    return Item(STAGE, seconds, images, steps, steps, early=True, shared=False)


def _following(of: Benchmark, device: torch.device, now: Callable[[], float]) -> list[Item]:
    """Return what one process does when all is measured and the model is probed."""
    items = []
    for name, detector in of.detectors.items():
        benign = of.data.dataset("train").as_deployed()
        few = of.benign_indices[: of.data.val_batch_size]
        began = now()
        batch = collate([benign[index] for index in few])
        with full_precision():
            detector.scores(of.model, batch.images.to(device), batch.ids, seed=of.seed)
        count = len(of.benign_indices)
        items.append(Item(f"threshold of {name}", (now() - began) * count / len(few), count, shared=False))
    began = now()
    numbers = torch.arange(len(of.samples) * of.model.num_scored) % 997
    counts = numbers.view(len(of.samples), 1, -1).expand(-1, 3, -1).contiguous()
    scores(counts, of.data.class_names)
    items.append(Item("intervals, report", WRITING + (now() - began) * (2 + len(of.attacks)), shared=False))
    return items
