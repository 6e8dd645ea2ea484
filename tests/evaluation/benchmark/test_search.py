"""Evaluations that search in low precision: figures, card, checks and identity."""

import json

import pytest
import torch

from robustseg.attacks import PGD, Attack, Search
from robustseg.evaluation import EvaluationError
from robustseg.evaluation.attacking import attack_batch, predict
from robustseg.evaluation.benchmark.in_float32 import float32_images
from robustseg.evaluation.card import SearchFacts
from robustseg.evaluation.card_file import parse_card
from robustseg.evaluation.checks import trust_flags
from robustseg.evaluation.errors import ReportError
from robustseg.evaluation.report import build_leaderboard
from robustseg.evaluation.report.view import facts
from robustseg.evaluation.results import scores_table
from robustseg.evaluation.searched import MeasuredSearch
from tests.evaluation.benchmark.tiny import IMAGES, card_of, measure, tiny_benchmark, without_report

SEARCH = MeasuredSearch(images=4)


@pytest.fixture(autouse=True)
def _quick(monkeypatch) -> None:
    without_report(monkeypatch)


@pytest.fixture
def searches(monkeypatch) -> list[tuple[int, Search | None]]:
    """The images and the search of each call of an attack."""
    calls, run = [], Attack.run

    def noting(self, model, images, *rest, search=None, **options):
        calls.append((len(images), search))
        return run(self, model, images, *rest, search=search, **options)

    monkeypatch.setattr(Attack, "run", noting)
    return calls


def test_the_card_says_how_it_was_searched_and_what_that_cost(tmp_path, searches):
    attacks = {"pgd2": PGD(steps=2)}
    benchmark = tiny_benchmark(attacks=attacks, search=SEARCH)
    measure(benchmark, tmp_path)
    assert searches == [(3, SEARCH)] * 3 + [(2, SEARCH)] + [(3, None), (1, None)]
    card = parse_card(card_of(tmp_path), "card")
    search = card.protocol.search
    assert (search.precision, search.channels_last, search.images, search.limit) == ("bf16", True, 4, 0.3)

    def pixel_acc(search, indices):
        right = pixels = 0
        for index in indices:
            sample = benchmark.data.dataset("test")[index]
            images, targets = sample.image[None], sample.target[None]
            found = attack_batch(benchmark.model, attacks["pgd2"], [sample.id], images, targets, 0, search=search)
            predictions = predict(benchmark.model, found.result.images_adv, targets)
            valid = targets != 255
            right, pixels = right + int((predictions == targets)[valid].sum()), pixels + int(valid.sum())
        return right / pixels

    assert card.attacks["pgd2"]["pixel_acc"] == pytest.approx(pixel_acc(SEARCH, range(IMAGES)), abs=2e-4)
    some = benchmark.float32_indices
    expected = pixel_acc(SEARCH, some) - pixel_acc(None, some)
    assert search.lost["pgd2"]["pixel_acc"] == pytest.approx(expected, abs=2e-4)
    assert "bf16, channels last; results judged in float32; at most" in facts(card)["Search"]
    assert "by a search in float32, on 4 images" in scores_table(card).notes[0]
    assert float32_images(benchmark, tmp_path) == 0
    assert float32_images(benchmark, tmp_path / "elsewhere") == 4
    # A continued evaluation reads what was measured.
    searches.clear()
    written = (tmp_path / "card.json").read_bytes()
    measure(tiny_benchmark(attacks=attacks, search=SEARCH), tmp_path)
    assert not searches
    assert (tmp_path / "card.json").read_bytes() == written


def test_a_search_is_part_of_an_evaluations_identity(tmp_path):
    attacks = {"pgd2": PGD(steps=2)}
    none = tiny_benchmark(attacks=attacks)
    measure(none, tmp_path)
    assert "search" not in json.loads((tmp_path / "protocol.json").read_text())
    assert "search" not in card_of(tmp_path)["protocol"]
    other = tiny_benchmark(attacks=attacks, search=SEARCH)
    assert other.name != none.name
    with pytest.raises(EvaluationError, match=r'search: "float32" there, \{"precision": "bf16", "channels_last": true'):
        measure(other, tmp_path)
    # The images and the limit change no figure.
    same = tiny_benchmark(attacks=attacks, search=MeasuredSearch(images=2, limit=1))
    assert same.name == other.name


def test_a_search_that_loses_more_than_its_limit_is_a_caution(tmp_path):
    measure(tiny_benchmark(attacks={"pgd2": PGD(steps=2)}, search=SEARCH), tmp_path)
    card = parse_card(card_of(tmp_path), "card")

    def flag(**changes):
        search = SearchFacts.model_validate({**card.protocol.search.as_dict(), **changes})
        protocol = card.protocol.model_copy(update={"search": search})
        return trust_flags(card.model_copy(update={"protocol": protocol}))[5]

    lost = {"pgd2": {"pixel_acc": 0.004, "miou": 0.0}, "other": {"pixel_acc": -0.1, "miou": 0.0}}
    assert flag(lost=lost).verdict == "caution"
    assert "pgd2 searched in bf16 leaves 0.4 points of pixel_acc more than in float32" in flag(lost=lost).line
    assert flag(lost=lost, limit=0.5).verdict == "not checked"  # the model was not probed
    assert "set robustness.search.images" in flag(lost={}, images=0).line or flag(lost={}).verdict == "not checked"


def test_nothing_is_measured_without_images(tmp_path, searches):
    measure(tiny_benchmark(attacks={"pgd2": PGD(steps=2)}, search=MeasuredSearch(images=0)), tmp_path)
    assert all(search is not None for _, search in searches)
    card = parse_card(card_of(tmp_path), "card")
    assert "not compared with a search in float32" in facts(card)["Search"]


def test_a_leaderboard_does_not_mix_searches(tmp_path):
    cards = {}
    for name, search in {"float32": None, "bf16": SEARCH, "limit": MeasuredSearch(images=2)}.items():
        checkpoint = {"path": f"{name}.ckpt", "sha256": str(len(cards)) * 64}
        measure(tiny_benchmark(attacks={"pgd2": PGD(steps=2)}, search=search, checkpoint=checkpoint), tmp_path / name)
        cards[name] = parse_card(card_of(tmp_path / name), name)
    with pytest.raises(ReportError, match=r"search"):
        build_leaderboard(cards)
    tables = build_leaderboard(cards, group=True).tables
    assert sorted(len(table.entries) for table in tables) == [1, 2]
    assert sorted("searched in bf16, channels last" in table.below for table in tables) == [False, True]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"limit": -0.1}, r"search\.limit = -0\.1: use points"),
        ({"limit": float("nan")}, r"search\.limit = nan"),
        ({"images": -1}, r"search\.images = -1: use 1 or more"),
        ({"images": True}, r"search\.images = True"),
        ({"precision": "tf32"}, r"search\.precision = 'tf32': use bf16, fp16, float32"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        MeasuredSearch(**settings)


def test_what_cannot_search_is_refused_before_the_first_attack(tmp_path, searches, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", lambda: False, raising=False)
    with pytest.raises(EvaluationError, match=r"robustness\.search\.precision = fp16: this CPU does not compute in it"):
        measure(tiny_benchmark(search=MeasuredSearch("fp16")), tmp_path)
    benchmark = tiny_benchmark(search=SEARCH)
    benchmark.facts["precision"] = "bfloat16"
    with pytest.raises(EvaluationError, match="images and model are in bfloat16"):
        measure(benchmark, tmp_path)
    assert not searches
    assert not list(tmp_path.iterdir())
