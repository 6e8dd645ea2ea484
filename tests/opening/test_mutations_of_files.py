"""Mutated cards, checkpoints, masks and records: one error each, or what was written; never a traceback."""

from __future__ import annotations

import json
import random
import shutil
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from robustseg.config.errors import is_expected
from robustseg.evaluation import read_card
from robustseg.evaluation.card import Card
from robustseg.evaluation.card_file import write_card
from robustseg.evaluation.report.leaderboard import build_leaderboard, leaderboard_csv
from robustseg.evaluation.report.page import report_html
from robustseg.evaluation.store import read_records, streams
from robustseg.models.checkpoints.read import read_weights
from robustseg.resume.checkpoint_io import AtomicCheckpointIO
from tests.data import trees
from tests.evaluation.report.cards import make_card, typed
from tests.helpers.paths import ROOT
from tests.opening.readers import mask_format

RUN = ROOT / "tests" / "fixtures" / "v01" / "v01" / "version_0"
BYTES = ("flip", "byte", "cut", "insert", "zeros", "swap")


def mutated(content: bytes, seed: int) -> bytes:
    """Change a few bytes of a file, or its length."""
    rng = random.Random(seed)
    data = bytearray(content)
    kind, place = rng.choice(BYTES), rng.randrange(len(data))
    if kind == "flip":
        for _ in range(rng.choice((1, 1, 3))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "byte":
        data[place] = rng.choice((0, 0xFF, 0x7F, 0x80, rng.randrange(256)))
    elif kind == "cut":
        del data[place:]
    elif kind == "insert":
        data[place:place] = rng.randbytes(rng.randrange(1, 64))
    elif kind == "zeros":
        data[place : place + 16] = bytes(len(data[place : place + 16]))
    else:
        other = rng.randrange(len(data))
        data[place : place + 8], data[other : other + 8] = data[other : other + 8], data[place : place + 8]
    return bytes(data)


STRANGE = (None, [], {}, [[]], "x", "", -1, 0, 1.5, True, "1" * 50, [1, 2], {"a": 1}, 10**25, "a[/b]\x1b[0m")


def restructured(text: str, seed: int) -> str:
    """Change one value or key of a JSON file, whose checksum is removed: a stranger's card has none."""
    rng = random.Random(seed)
    content = json.loads(text)
    content.pop("crc32", None)
    at: Any = content
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        if not keys:
            return json.dumps(content)
        key = rng.choice(keys)
        if isinstance(at[key], (dict, list)) and rng.random() < 0.7:
            at = at[key]
            continue
        if rng.random() < 0.2:
            del at[key]
        elif rng.random() < 0.2 and isinstance(at, dict):
            at["other"] = at.pop(key)
        else:
            at[key] = rng.choice(STRANGE)
        return json.dumps(content)


def attempt(read: Callable[[], object]) -> object:
    """The value that is read; None after an error of one line that users are meant to see."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return read()
        except Exception as caught:
            error = caught
    if not is_expected(error):
        raise error
    assert "\n" not in str(error)
    assert len(str(error)) < 2000
    return None


@cache
def card_text(kind: str) -> str:
    if kind == "v01":
        return (RUN / "evaluation_36426449" / "card.json").read_text()
    return json.dumps(make_card())


def shown(card: Card) -> None:
    """Show a card wherever cards of strangers are."""
    report_html(card, [])
    leaderboard_csv(build_leaderboard({"a": card, "b": typed(make_card())}, group=True))


def card(folder: Path, seed: int) -> None:
    path = folder / "card.json"
    if seed % 3:
        path.write_text(restructured(card_text("v01" if seed % 2 else "new"), seed))
        found = attempt(lambda: read_card(path))
        if found is not None:
            attempt(lambda: shown(found))
        return
    whole = typed(make_card())
    write_card(whole, path)
    path.write_bytes(mutated(path.read_bytes(), seed))
    found = attempt(lambda: read_card(path))
    assert found is None or found.as_dict() == whole.as_dict()


@cache
def checkpoint_bytes() -> tuple[bytes, dict[str, Any]]:
    path = RUN / "checkpoints" / "step_00000002.ckpt"
    return path.read_bytes(), torch.load(path, weights_only=True)


def same(found: Any, whole: Any) -> bool:
    if isinstance(whole, torch.Tensor):
        return torch.equal(found, whole)
    if isinstance(whole, dict):
        return found.keys() == whole.keys() and all(same(found[key], whole[key]) for key in whole)
    if isinstance(whole, list):
        return len(found) == len(whole) and all(map(same, found, whole))
    return bool(found == whole)


def checkpoint(folder: Path, seed: int) -> None:
    content, whole = checkpoint_bytes()
    path = folder / "x.ckpt"
    path.write_bytes(mutated(content, seed))
    found = attempt(lambda: AtomicCheckpointIO().load_checkpoint(path))
    assert found is None or same(found, whole)
    weights = attempt(lambda: read_weights(path))
    assert weights is None or same(weights.tensors, whole["state_dict"])


def mask(folder: Path, seed: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 2, (16, 24)).astype(np.uint8)
    kind = ("png", "tif", "bmp", "gif", "mat")[seed % 5]
    path = folder / f"x.{kind}"
    if kind == "mat":
        trees.save_sbd_mask(path, pixels, compressed=bool(seed % 2))
    else:
        Image.fromarray(pixels).save(path)
    path.write_bytes(mutated(path.read_bytes(), seed))
    found = attempt(lambda: mask_format().read(path))
    # PNG files hold checksums of their parts
    assert found is None or kind != "png" or np.array_equal(found, pixels)


def records(folder: Path, seed: int) -> None:
    source = RUN / "evaluation_36426449" / "records"
    shutil.copytree(source, folder / "records")
    whole = {(each.sample, each.attack): each for stream in streams(source.parent) for each in read_records(stream)}
    path = random.Random(seed).choice(sorted((folder / "records").iterdir()))
    path.write_bytes(mutated(path.read_bytes(), seed))
    found = attempt(lambda: [each for stream in streams(folder) for each in read_records(stream)])
    for each in found or ():
        before = whole[each.sample, each.attack]
        assert torch.equal(each.confusion, before.confusion)
        assert torch.equal(each.figures.nan_to_num(-1), before.figures.nan_to_num(-1))


KINDS = {"card": card, "checkpoint": checkpoint, "mask": mask, "records": records}
QUICK, ALL = 15, 260


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seeds", [range(QUICK), pytest.param(range(QUICK, ALL), marks=pytest.mark.exhaustive)])
def test_mutated(kind, seeds, tmp_path):
    for seed in seeds:
        folder = tmp_path / str(seed)
        folder.mkdir()
        try:
            KINDS[kind](folder, seed)
        except BaseException as error:
            raise AssertionError(f"seed {seed}") from error
        shutil.rmtree(folder)
