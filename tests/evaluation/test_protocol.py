"""What may not change between the parts of one evaluation."""

from __future__ import annotations

import json
import os
import threading

import pytest

from robustseg.evaluation import EvaluationError
from robustseg.evaluation import protocol as module
from robustseg.evaluation.protocol import FORMAT, PROTOCOL, claim, differences, digest, read

FACTS = {"model": {"network": "PSPNet", "sha256": "a" * 64, "mean": [0.5, 0.5, 0.5]}, "data": {"name": "D"}, "seed": 0}


def changed(**changes):
    return {**FACTS, **changes}


def test_a_claimed_folder_can_be_claimed_again_by_the_same_facts_only(tmp_path):
    first = claim(tmp_path / "deep" / "run", FACTS)
    path = tmp_path / "deep" / "run" / PROTOCOL
    written = path.read_bytes()
    # another order of keys, and tuples for lists, are the same facts
    again = {"seed": 0, "data": {"name": "D"}, "model": dict(reversed(FACTS["model"].items())) | {"mean": (0.5,) * 3}}
    assert claim(path.parent, again) == first
    assert read(path.parent) == FACTS | {"format": FORMAT}
    assert path.read_bytes() == written
    assert [entry.name for entry in path.parent.iterdir()] == [PROTOCOL]


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (changed(seed=1), r"seed: 0 there, 1 here"),
        (changed(data={"name": "E"}), r'data\.name: "D" there, "E" here'),
        (changed(model=FACTS["model"] | {"sha256": "b" * 64}), r'model\.sha256: "a{56}… there, "b{56}… here'),
        (changed(more=[1]), r"more: null there, \[1\] here"),
        ({"seed": 0, "data": {"name": "D"}}, r"model: .* there, null here"),
    ],
)
def test_other_facts_are_refused_by_what_differs(tmp_path, facts, said):
    claim(tmp_path, FACTS)
    before = (tmp_path / PROTOCOL).read_bytes()
    with pytest.raises(EvaluationError, match=said) as caught:
        claim(tmp_path, facts)
    assert str(tmp_path) in str(caught.value)
    assert "--output" in str(caught.value)
    assert (tmp_path / PROTOCOL).read_bytes() == before


def test_digest_is_of_the_facts_and_not_of_their_order():
    assert digest({"a": 1, "b": {"c": 2, "d": 3}}) == digest({"b": {"d": 3, "c": 2}, "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert digest({"a": 1}) != digest({"a": "1"})
    with pytest.raises(ValueError, match="JSON"):
        digest({"a": float("nan")})


def test_differences_are_named_by_their_nested_keys():
    assert differences({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}, "d": 3}) == ["a.c: 2 there, 4 here"]
    assert differences({"a": {"b": 1}}, {"a": {"b": 1}}) == []
    assert differences({}, {"a": 1}, "settings.") == ["settings.a: null there, 1 here"]


def test_a_newer_format_is_said_to_be_one(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FORMAT", FORMAT + 1)
    claim(tmp_path, FACTS)
    monkeypatch.undo()
    with pytest.raises(EvaluationError, match=f"another version of robustseg .format {FORMAT + 1}, this one"):
        claim(tmp_path, FACTS)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1, 2]", b"3"])
def test_an_unreadable_protocol_is_refused(tmp_path, content):
    (tmp_path / PROTOCOL).write_bytes(content)
    with pytest.raises(EvaluationError, match=PROTOCOL):
        claim(tmp_path, FACTS)
    assert (tmp_path / PROTOCOL).read_bytes() == content


def test_a_folder_without_a_protocol_is_no_evaluation(tmp_path):
    with pytest.raises(EvaluationError, match="not the folder of an evaluation"):
        read(tmp_path)


def test_results_of_an_older_version_are_left_alone(tmp_path):
    (tmp_path / "robustness.json").write_text("{}")
    with pytest.raises(EvaluationError, match=r"older version .robustness.json.*--output"):
        claim(tmp_path, FACTS)
    assert [path.name for path in tmp_path.iterdir()] == ["robustness.json"]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(EvaluationError, match="cannot be written"):
        claim(tmp_path / "file", FACTS)


def test_a_full_disk_leaves_no_half_protocol(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(EvaluationError, match="No space left on device"):
        claim(tmp_path, FACTS)
    assert not any(tmp_path.iterdir())
    monkeypatch.undo()
    claim(tmp_path, FACTS)
    monkeypatch.setattr("os.fsync", full)
    # a claimed folder can be read without room for another file
    assert claim(tmp_path, FACTS) == digest(FACTS | {"format": FORMAT})


def test_of_many_that_claim_at_once_one_wins_and_the_others_compare(tmp_path):
    barrier = threading.Barrier(8)
    outcomes = []

    def run(seed: int) -> None:
        barrier.wait()
        try:
            outcomes.append(claim(tmp_path, changed(seed=seed % 2)))
        except EvaluationError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seed = json.loads((tmp_path / PROTOCOL).read_text())["seed"]
    winner = digest({"format": FORMAT, **changed(seed=seed)})
    assert sum(outcome == winner for outcome in outcomes) == 4
    assert sum("seed:" in outcome for outcome in outcomes) == 4
    assert os.listdir(tmp_path) == [PROTOCOL]
