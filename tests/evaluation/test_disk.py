"""What is measured, what is not measured again, and what is refused; in one process, on a net of one convolution."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from robustseg.attacks import FGSM, PGD, AttackError, CosPGD, PureClass, Targeted
from robustseg.evaluation import DiskSink, EvaluationError, Evaluator, MemorySink
from robustseg.evaluation.records import measured_with, record_name, refusal
from robustseg.evaluation.store import RECORDS, read_records, streams
from tests.helpers.cases import partly

FACTS = {"seed": 3}
CLASSES = 4


class Counting(PGD):
    """Counts the images that it is given."""

    images = 0

    def perturb(self, victim, images, targets, noise, on_step):
        self.images += len(images)
        return super().perturb(victim, images, targets, noise, on_step)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, CLASSES, 1))


@pytest.fixture
def data(model):
    """Seven images; the fifth has no valid pixel."""
    images = torch.rand(7, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        targets = model(images).argmax(1)
    targets[:, 3] = 0
    targets[:, 0] = 255
    targets[4] = 255
    return [f"id{index}" for index in range(7)], images, targets


def attacks():
    return {"pgd": Counting(steps=3), "cospgd": CosPGD(steps=2)}


def evaluator(folder: Path, chosen=None, facts=FACTS, writer="records", num_pictures=3, **changes) -> Evaluator:
    sink = DiskSink(folder, facts, writer, num_pictures=num_pictures)
    return Evaluator(attacks() if chosen is None else chosen, CLASSES, sink, seed=3, **changes)


def measure(folder: Path, model, data, chosen=None, size: int = 3, **changes) -> Evaluator:
    ids, images, targets = data
    one = evaluator(folder, chosen, **changes)
    for start in range(0, len(ids), size):
        part = slice(start, start + size)
        one.update(model, ids[part], images[part], targets[part])
    one.close()
    return one


def table(folder: Path) -> dict[tuple[str, str], tuple]:
    """All records but for the seconds that they took; fails if one is there twice, or a rounded one is missing."""
    found = {}
    for stream in streams(folder):
        for record in read_records(stream):
            assert (record.sample, record.attack) not in found
            figures = torch.cat([record.figures[:7], record.figures[8:]]).nan_to_num(-1).tolist()
            found[record.sample, record.attack] = (record.confusion.tolist(), figures, record.batch_size)
    rounded = {key: found.pop(key) for key in list(found) if measured_with(key[1]) != key[1]}
    attacks = {key for key in found if key[1] != "clean" and " on " not in key[1] and " seen by " not in key[1]}
    assert {(sample, measured_with(name)) for sample, name in rounded} == attacks
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / RECORDS).iterdir())}


def test_figures_are_those_of_an_evaluation_without_a_folder(tmp_path, model, data):
    ids, images, targets = data
    measure(tmp_path, model, data)
    sink = MemorySink()
    plain = Evaluator(attacks(), CLASSES, sink, seed=3)
    for start in range(0, 7, 3):
        part = slice(start, start + 3)
        plain.update(model, ids[part], images[part], targets[part])
    records = table(tmp_path)
    assert len(records) == 3 * 7
    for name, expected in sink.compute().items():
        matrices = torch.tensor([records[sample, name][0] for sample in ids])
        total = matrices.sum(0)
        assert int(total.sum()) == int((targets != 255).sum())
        assert float(total.diagonal().sum() / total.sum()) == pytest.approx(float(expected["pixel_acc"]))
        if name != "clean":
            assert sum(records[sample, name][1][5] for sample in ids) / 7 == pytest.approx(float(expected["forwards"]))
            assert max(records[sample, name][1][0] for sample in ids) == pytest.approx(float(expected["linf_max"]))


@pytest.mark.parametrize("stop", partly(range(1, 9), (1, 4, 5).__contains__))
def test_a_continued_evaluation_measures_what_is_missing(tmp_path, model, data, stop, monkeypatch):
    """Interrupted before the record of every (batch, attack)."""
    measure(tmp_path / "whole", model, data)
    first = evaluator(tmp_path / "part")
    append, left = first.sink._writer.append, [stop]

    def interrupted(records):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        append(records)

    monkeypatch.setattr(first.sink._writer, "append", interrupted)
    ids, images, targets = data
    with pytest.raises(KeyboardInterrupt):
        for start in range(0, 7, 3):
            first.update(model, ids[start : start + 3], images[start : start + 3], targets[start : start + 3])
    first.close()
    before = contents(tmp_path / "part")
    chosen = attacks()
    measure(tmp_path / "part", model, data, chosen)
    assert table(tmp_path / "part") == table(tmp_path / "whole")
    assert {name: contents(tmp_path / "part")[name] for name in before} == before
    # batches of 3, 3 and 1 image, the second without the one that has no valid pixel; PGD is each batch's second record
    sizes = [3, 2, 1]
    assert chosen["pgd"].images == sum(sizes[(stop + 1) // 3 :])


def test_a_complete_evaluation_measures_nothing(tmp_path, model, data):
    measure(tmp_path, model, data)
    before, chosen = contents(tmp_path), attacks()

    def untouchable(images):
        raise AssertionError("the model was asked")

    again = measure(tmp_path, untouchable, data, chosen)
    assert chosen["pgd"].images == 0
    assert contents(tmp_path) == before
    assert again.missing("id0") == []
    assert again.missing("new") == ["clean", "pgd", "cospgd"]


def test_a_later_attack_is_all_that_is_measured(tmp_path, model, data):
    measure(tmp_path, model, data)
    before, chosen = contents(tmp_path), attacks() | {"fgsm": FGSM()}
    assert evaluator(tmp_path, chosen).missing("id3") == ["fgsm"]
    measure(tmp_path, model, data, chosen)
    assert chosen["pgd"].images == 0
    after = contents(tmp_path)
    assert {name: after[name] for name in before} == before
    (new,) = set(after) - set(before)
    *_, stream = [stream for stream in streams(tmp_path) if stream.path.name == new]
    assert {record.attack for record in read_records(stream)} == {"fgsm", "fgsm in 8 bit"}
    assert len(table(tmp_path)) == 4 * 7


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"pgd": PGD(steps=4)}, "results of pgd with other settings .*steps: 3 there, 4 here"),
        ({"cospgd": CosPGD(steps=2, eps="4/255")}, 'cospgd .*eps: "8/255" there, "4/255" here'),
        ({"fgsm": FGSM(), "pgd": PGD(steps=3, seed=1)}, "pgd .*seed: 0 there, 1 here"),
        ({"pgd": FGSM()}, "pgd with other settings"),
    ],
)
def test_changed_settings_under_the_same_name_are_refused(tmp_path, model, data, chosen, said):
    measure(tmp_path, model, data)
    before = contents(tmp_path)
    with pytest.raises(EvaluationError, match=said) as caught:
        evaluator(tmp_path, chosen)
    assert "another name" in str(caught.value)
    assert contents(tmp_path) == before
    measure(tmp_path, model, data)
    assert contents(tmp_path) == before


def test_other_facts_and_streams_of_other_facts_are_refused(tmp_path, model, data):
    measure(tmp_path / "a", model, data)
    with pytest.raises(EvaluationError, match="seed: 3 there, 4 here"):
        evaluator(tmp_path / "a", facts={"seed": 4})
    measure(tmp_path / "b", model, data, facts={"seed": 4}, writer="foreign")
    foreign = tmp_path / "b" / RECORDS / "foreign-0.arrows"
    foreign.rename(tmp_path / "a" / RECORDS / foreign.name)
    with pytest.raises(EvaluationError, match=r"foreign-0.arrows belongs to another evaluation .*move it out"):
        evaluator(tmp_path / "a")


@pytest.mark.parametrize("keep", [0.05, 0.3, 0.6, 0.95])
def test_what_a_damaged_stream_lost_is_measured_again(tmp_path, model, data, keep):
    measure(tmp_path, model, data)
    whole = table(tmp_path)
    (path,) = (tmp_path / RECORDS).iterdir()
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        measure(tmp_path, model, data)
        assert table(tmp_path) == whole


def test_a_flipped_byte_costs_the_batches_from_there_on(tmp_path, model, data):
    measure(tmp_path, model, data)
    whole = table(tmp_path)
    (path,) = (tmp_path / RECORDS).iterdir()
    content = bytearray(path.read_bytes())
    place = content.rindex(b"id3")
    content[place : place + 3] = b"id9"
    path.write_bytes(bytes(content))
    with pytest.warns(UserWarning, match="measured again .*checksum of id9"):
        measure(tmp_path, model, data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert table(tmp_path) == whole


def test_the_same_measured_twice_counts_once_and_contradictions_are_named(tmp_path, model, data):
    for folder in ("a", "b"):
        measure(tmp_path / folder, model, data, writer=folder)
    torch.manual_seed(5)
    other = nn.Conv2d(3, CLASSES, 1)
    measure(tmp_path / "c", other, data, writer="c")
    (tmp_path / "b" / RECORDS / "b-0.arrows").rename(tmp_path / "a" / RECORDS / "b-0.arrows")
    assert evaluator(tmp_path / "a").missing("id0") == []
    (tmp_path / "c" / RECORDS / "c-0.arrows").rename(tmp_path / "a" / RECORDS / "c-0.arrows")
    with pytest.raises(EvaluationError, match=r"c-0.arrows: sample id0 under clean was .*in a-0.arrows.*move one"):
        evaluator(tmp_path / "a")


class NoGradient(nn.Module):
    """Its answer cannot be differentiated with respect to the image."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, images):
        return self.net(images.detach())


def test_an_attack_without_gradient_is_given_up_and_the_others_go_on(tmp_path, model, data):
    class Noise(FGSM):
        """An attack that asks for no gradient."""

        def perturb(self, victim, images, targets, noise, on_step):
            return (images + 0.01).clamp(0, 1)

    chosen = {"pgd": PGD(steps=2), "noise": Noise()}
    one = measure(tmp_path, NoGradient(model), data, chosen)
    assert list(one.refused) == ["pgd"]
    assert refusal(tmp_path, "pgd") == one.refused["pgd"]
    assert "autograd" in one.refused["pgd"]
    assert refusal(tmp_path, "noise") is None
    assert {name for _, name in table(tmp_path)} == {"clean", "noise"}
    assert len(table(tmp_path)) == 14
    # continued: refused again, and nothing else
    before = contents(tmp_path)
    assert list(measure(tmp_path, NoGradient(model), data, chosen).refused) == ["pgd"]
    assert contents(tmp_path) == before


def test_what_is_wrong_with_the_model_itself_ends_the_evaluation(tmp_path, model, data):
    with pytest.raises(AttackError, match="not finite"):
        measure(tmp_path, lambda images: model(images) * float("nan"), data)
    assert not (tmp_path / RECORDS).exists()


def test_adversarial_images_are_shown_to_other_models(tmp_path, model, data):
    ids, images, targets = data
    torch.manual_seed(7)
    scored = {"other": nn.Conv2d(3, CLASSES, 1), "itself": model}
    one = evaluator(tmp_path / "transfer", scored_on=list(scored))
    for start in range(0, 7, 3):
        part = slice(start, start + 3)
        one.update(model, ids[part], images[part], targets[part], scored=scored)
    one.close()
    transfer = table(tmp_path / "transfer")
    names = [record_name(attack, target) for attack in ("clean", "pgd", "cospgd") for target in scored]
    assert {name for _, name in transfer} == set(names)
    assert "pgd on other" in names
    assert one.sink.pictures.load("pgd", "id0") is None
    measure(tmp_path / "own", model, data)
    measure(tmp_path / "other", scored["other"], data)
    own, other = table(tmp_path / "own"), table(tmp_path / "other")
    for sample in ids:
        assert transfer[sample, "pgd on itself"] == own[sample, "pgd"]
        assert transfer[sample, "clean on other"] == other[sample, "clean"]
    # a model that joins later is measured alone, on the same adversarial images
    again = evaluator(tmp_path / "transfer", scored_on=[*scored, "third"])
    assert again.missing("id0") == ["clean on third", "pgd on third", "cospgd on third"]
    again.update(model, ids[:3], images[:3], targets[:3], scored=scored | {"third": model})
    again.close()
    transfer = table(tmp_path / "transfer")
    assert transfer["id1", "pgd on third"] == transfer["id1", "pgd on itself"]
    # in one batch, images that lack a model and images that lack two: table() finds what would be written twice
    last = evaluator(tmp_path / "transfer", scored_on=[*scored, "third", "fourth"])
    last.update(model, ids, images, targets, scored=scored | {"third": model, "fourth": model})
    last.close()
    assert len(table(tmp_path / "transfer")) == 7 * 3 * 4


def test_a_target_map_has_its_success_in_the_record(tmp_path, model, data):
    common = int(data[2][data[2] != 255].bincount().argmax())
    aimed = Targeted(PGD(eps=1, step_size="1/8", steps=20, targeted=True), PureClass(common))
    measure(tmp_path, model, data, {"aimed": aimed, "pgd": PGD(steps=1)})
    records = table(tmp_path)
    assert all((records[sample, "pgd"][1][7] == -1) for sample in data[0])
    assert max(records[sample, "aimed"][1][7] for sample in data[0]) > 0


def test_pictures_are_of_the_extremes(tmp_path, model, data):
    one = measure(tmp_path, model, data, num_pictures=1)
    records = table(tmp_path)
    ranked = []
    for sample in data[0]:
        matrix = torch.tensor(records[sample, "pgd"][0])
        if int(matrix.sum()):
            ranked.append((int(matrix.diagonal().sum()) / int(matrix.sum()), sample))
    ranked.sort()
    there = [sample for sample in data[0] if one.sink.pictures.load("pgd", sample) is not None]
    assert set(there) == {ranked[0][1], ranked[-1][1]}
    example = one.sink.pictures.load("pgd", ranked[0][1])
    row = data[0].index(ranked[0][1])
    with torch.no_grad():
        assert torch.equal(example.prediction, model(data[1][row : row + 1]).argmax(1)[0])
    valid = example.target != 255
    assert int((example.prediction_adv == example.target)[valid].sum()) / int(valid.sum()) == pytest.approx(
        ranked[0][0]
    )
