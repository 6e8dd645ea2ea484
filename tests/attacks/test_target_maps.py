"""Target maps: what each one draws, pixel by pixel, what it does to ignored pixels, and the attack that aims at it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from robustseg.attacks import (
    DAG,
    PGD,
    AttackError,
    LabelImage,
    NoiseSource,
    PureClass,
    Remap,
    Scene,
    Strip,
    Targeted,
    TargetMap,
    Text,
)
from robustseg.attacks.targets import scenes as target_scenes
from robustseg.attacks.targets import targeted
from robustseg.attacks.targets.label_files import text_mask
from robustseg.types import Sample
from tests.helpers.nets import CLASSES, HEIGHT, WIDTH, CountingNet, tiny_batch, tiny_net

from .defects import around, found_by, replaced
from .table import build

CPU = torch.device("cpu")


def true_targets(ignore_index: int = 255) -> Tensor:
    return tiny_batch(batch=3, ignore_index=ignore_index)[1]


def save(path: Path, labels: Tensor, mode: str = "L") -> Path:
    """A picture with the given labels."""
    dtype = torch.uint8 if mode in ("L", "P", "1") else torch.uint16 if mode == "I;16" else torch.int32
    data = bytes(labels.to(dtype).contiguous().numpy().tobytes())
    picture = Image.frombytes("L" if mode in ("P", "1") else mode, (labels.shape[1], labels.shape[0]), data)
    if mode == "P":
        picture.putpalette(list(range(255, -1, -1)) * 3)
    if mode == "1":
        picture = picture.point(lambda value: 255 * value).convert("1")
    picture.save(path)
    return path


def scenes(count: int = 4, seed: int = 9) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(CLASSES, (HEIGHT, WIDTH), generator=generator) for _ in range(count)]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    return save(tmp_path / "labels.png", scenes(1)[0])


def every_map(picture: Path, keep_ignored: bool = True) -> list[TargetMap]:
    kept = {"keep_ignored": keep_ignored}
    return [
        PureClass(2, **kept),
        Strip([1, 3], 2, **kept),
        Remap({0: 3, 3: 0}, **kept),
        LabelImage(picture, **kept),
        Scene(scenes(), **kept),
        Text("I", 2, size=6, **kept),
        Text("I", 2, background=1, size=6, **kept),
    ]


@pytest.mark.parametrize("index", range(7))
def test_ignored_pixels(index: int, picture: Path):
    for ignore_index in (255, -1, -100, 77):
        true = true_targets(ignore_index)
        given = true.clone()
        wanted = every_map(picture)[index](true, ignore_index=ignore_index)
        assert torch.equal(true, given)
        assert wanted.dtype == torch.long
        assert wanted.shape == true.shape
        assert torch.equal(wanted == ignore_index, true == ignore_index)
        everywhere = every_map(picture, keep_ignored=False)[index](true, ignore_index=ignore_index)
        assert torch.equal(everywhere[true != ignore_index], wanted[true != ignore_index])
        if index not in (2, 5):
            assert (everywhere != ignore_index).all()
    first = every_map(picture)[index](true_targets(255))
    other = every_map(picture)[index](true_targets(-1), ignore_index=-1)
    assert torch.equal(first.masked_fill(first == 255, -1), other)


@pytest.mark.parametrize("index", range(7))
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_independent_of_the_batch_and_of_the_integer_type(index: int, dtype: torch.dtype, picture: Path):
    true = true_targets()
    target_map = every_map(picture)[index]
    together = target_map(true)
    for row in range(3):
        assert torch.equal(target_map(true[row : row + 1].to(dtype))[0], together[row])
    assert torch.equal(target_map(true.flip(0)), together.flip(0))
    assert torch.equal(every_map(picture)[index](true), together)


def test_pure_class():
    assert PureClass(3)(torch.tensor([[[0, 255, 3]]])).tolist() == [[[3, 255, 3]]]


@pytest.mark.parametrize(
    ("strip", "line"),
    [
        (Strip([4, 1], 2), [4, 4, 1, 1, 4, 4, 1]),
        (Strip([4, 1, 0], 1), [4, 1, 0, 4, 1, 0, 4]),
        (Strip([4, 1, 0]), [4, 4, 4, 1, 1, 0, 0]),
        (Strip([5]), [5] * 7),
        (Strip([1, 2], 100), [1] * 7),
    ],
)
def test_strips(strip: Strip, line: list[int]):
    assert strip(torch.zeros(1, 2, 7).long()).tolist() == [[line, line]]
    lying = Strip(strip.classes, strip.width, "horizontal")
    assert lying(torch.zeros(1, 7, 2).long())[0].tolist() == [[value, value] for value in line]


def test_remap_is_not_chained():
    true = torch.tensor([[[0, 1, 2, 3, 255]]])
    assert Remap({0: 1, 1: 2, 2: 0})(true).tolist() == [[[1, 2, 0, 3, 255]]]


def test_text_on_the_true_labels_and_on_a_background():
    true = torch.zeros(2, 40, 90).long()
    true[:, 20:] = 1
    true[1, :, :45] = 255
    wanted = Text("HELLO", 3)(true)
    letters = wanted[0] == 3
    assert torch.equal(wanted[0][~letters], true[0][~letters])
    assert torch.equal(wanted[1] == 255, true[1] == 255)
    assert torch.equal(wanted[1, :, 45:] == 3, letters[:, 45:])
    assert set(Text("HELLO", 3, background=2)(true)[0].unique().tolist()) == {2, 3}
    # The largest that fits, in the middle: nine tenths of the width, and as much space on the left as on the right.
    columns, rows = letters.any(0).nonzero()[:, 0], letters.any(1).nonzero()[:, 0]
    left, right, top, bottom = int(columns[0]), 89 - int(columns[-1]), int(rows[0]), 39 - int(rows[-1])
    assert abs(left - right) <= 1
    assert abs(top - bottom) <= 1
    assert 0.7 * 90 <= 90 - left - right <= 0.9 * 90


def test_text_of_several_lines_and_of_a_size():
    one, two = text_mask("AA", 100, 200, 20), text_mask("AA\nAA", 100, 200, 20)
    assert int(two.sum()) == 2 * int(one.sum())
    assert text_mask("AA", 100, 200, 40).sum() > 2 * one.sum()
    mirrored = text_mask("H", 60, 60, 50)
    assert (mirrored != mirrored.flip(1)).float().mean() < 0.03


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (Text("HELLO", 1), r"text = 'HELLO' in size any does not fit images of 6x7 pixels .*shorter text"),
        (Text("I", 1, size=30), r"text = 'I' in size 30 does not fit images of 6x7 pixels .*smaller size"),
    ],
)
def test_text_that_does_not_fit(text: Text, message: str):
    with pytest.raises(AttackError, match=message):
        text(true_targets())


@pytest.mark.parametrize("mode", ["L", "P", "1", "I;16", "I"])
def test_label_image_of_every_mode(mode: str, tmp_path: Path):
    labels = scenes(1)[0].clamp_max(1) if mode == "1" else scenes(1)[0]
    if mode != "1":
        labels[0, 0] = 255
    if mode.startswith("I"):
        labels[1, 1] = 1000
    path = save(tmp_path / ("labels.tif" if mode == "I" else "labels.png"), labels, mode)
    wanted = LabelImage(path)(torch.zeros(2, HEIGHT, WIDTH).long())
    assert torch.equal(wanted, labels.expand(2, -1, -1))


def test_ignored_pixels_of_the_label_image_have_another_id_there(tmp_path: Path):
    labels = torch.tensor([[0, 9, 2]])
    wanted = LabelImage(save(tmp_path / "l.png", labels), 3, ignore_index=9)(torch.tensor([[[1, 1, 255]]]))
    assert wanted.tolist() == [[[0, 255, 255]]]


def spoiled(change: Callable[[Path], object]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = save(folder / "labels.png", torch.arange(400).view(20, 20) % CLASSES)
        change(path)
        return path

    return make


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: f / "nothing.png", r"there is no such file"),
        (spoiled(lambda p: p.write_bytes(b"")), r"cannot be read as a picture"),
        (spoiled(lambda p: p.write_text("class 3")), r"cannot be read as a picture"),
        (spoiled(lambda p: p.write_bytes(p.read_bytes()[:-40])), r"cannot be read as a picture .*export it again"),
        (spoiled(lambda p: p.write_bytes(p.read_bytes()[:20])), r"cannot be read as a picture"),
        (spoiled(lambda p: Image.new("RGB", (4, 4)).save(p)), r"its colour mode is RGB; export it with one class id"),
        (spoiled(lambda p: save(p, torch.tensor([[0, 9, 4, 255]]))), r"it holds the ids 4, 9, outside of the 4 class"),
        (spoiled(lambda p: save(p, torch.arange(200).view(1, -1))), r"holds the ids 4, 5, .*, 11 and 188 more"),
    ],
)
def test_files_that_are_no_labels(make: Callable[[Path], Path], message: str, tmp_path: Path):
    path = make(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        LabelImage(path, CLASSES)
    assert str(path) in str(caught.value)
    if path.exists():
        with pytest.raises(ValueError, match=message):
            Scene(tmp_path, CLASSES)(true_targets())


def test_labels_of_another_size(picture: Path):
    message = r"labels.png has 6x7 pixels \(width x height\) but the images have 5x7: resize"
    with pytest.raises(AttackError, match=message):
        LabelImage(picture)(true_targets()[:, :, :5])
    with pytest.raises(AttackError, match=message):
        Scene(picture.parent)(true_targets()[:, :, :5])
    with pytest.raises(AttackError, match=r"scene \d has 6x7 pixels"):
        Scene(scenes())(true_targets()[:, :, :5])


def test_scene_is_another_one_and_never_its_own():
    pool = [*scenes(6), scenes(1, seed=1)[0].masked_fill(torch.eye(HEIGHT, WIDTH).bool(), 255)]
    chosen = set()
    for seed in range(12):
        scene = Scene(pool, seed=seed)
        wanted = scene(torch.stack(pool))
        for row, (own, other) in enumerate(zip(pool, wanted, strict=True)):
            index = next(i for i, labels in enumerate(pool) if torch.equal(labels[other != 255], other[other != 255]))
            assert index != row
            chosen.add((row, index))
            assert not torch.equal(own, other)
    # Every scene is reached, and reaches several others.
    assert all(len({index for row, index in chosen if row == k}) >= 3 for k in range(len(pool)))


def test_scene_by_id():
    scene, true = Scene(scenes(9)), true_targets()
    first = scene(true, ["a", "b", "c"])
    assert torch.equal(scene(true[[1]], ["b"])[0], first[1])
    # The id decides, not what is there; without ids the content does.
    same = scene(true[[0, 0, 0]].masked_fill(true[[0, 0, 0]] == 255, 0), [str(number) for number in range(3)])
    assert len({tuple(labels.flatten().tolist()) for labels in same}) > 1
    alike = scene(true[[0, 0, 0]])
    assert torch.equal(alike[0], alike[1])
    assert not torch.equal(scene(true), Scene(scenes(9), seed=1)(true))
    with pytest.raises(AttackError, match="2 ids were given with 3 targets"):
        scene(true, ["a", "b"])


def test_choice_of_a_scene_is_the_same_in_every_process():
    """Written down once: a hash of Python's own would differ from run to run."""
    pool = [torch.full((1, 1), index) for index in range(10)]
    choice = Scene(pool)(torch.full((3, 1, 1), 77), ["a", "b", "image 3"]).flatten().tolist()
    content = Scene(pool)(torch.tensor([[[20]], [[30]], [[255]]])).flatten().tolist()
    assert (choice, content) == ([3, 3, 1], [6, 4, 255])


def test_scene_from_samples_and_from_a_folder(tmp_path: Path):
    pool, true = scenes(5), true_targets()
    expected = Scene(pool)(true)
    samples = [Sample(torch.zeros(3, HEIGHT, WIDTH), labels, str(i)) for i, labels in enumerate(pool)]
    assert torch.equal(Scene(samples)(true), expected)
    for index, labels in enumerate(pool):
        save(tmp_path / f"scene {index}.png", labels)
    (tmp_path / "notes.txt").write_text("not a label")
    assert torch.equal(Scene(tmp_path)(true), expected)
    assert torch.equal(Scene(str(tmp_path), CLASSES)(true), expected)


def test_scene_that_finds_no_other():
    own = scenes(1)
    with pytest.raises(AttackError, match=r"source = 2 scenes holds nothing but an image's own labels: add other"):
        Scene([own[0], own[0].masked_fill(torch.eye(HEIGHT, WIDTH).bool(), 255)])(own[0][None])
    with pytest.raises(AttackError, match=r"scene 0 is no H×W tensor of labels and no sample"):
        Scene([torch.rand(HEIGHT, WIDTH)])(own[0][None])
    with pytest.raises(AttackError, match=r"scene 0 is no H×W tensor of labels and no sample"):
        Scene(["labels"])(own[0][None])


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (lambda: PureClass(-1), r"class_id = -1: a class id is an integer, 0 or more"),
        (lambda: PureClass(1.5), r"class_id = 1.5"),
        (lambda: PureClass(True), r"class_id = True"),
        (lambda: Strip([]), r"classes = \[\]: stripes need at least one class"),
        (lambda: Strip([1, -2]), r"classes = -2"),
        (lambda: Strip([1], 0), r"width = 0: a stripe is at least one pixel wide"),
        (lambda: Strip([1], direction="diagonal"), r"direction = 'diagonal': use vertical or horizontal"),
        (lambda: Remap({}), r"mapping = \{\}: name at least one class"),
        (lambda: Remap({0: -1}), r"mapping = -1"),
        (lambda: Text(" \n", 1), r"text = ' \\n': give a text that can be seen"),
        (lambda: Text("A", 1, size=0), r"size = 0: letters are at least one pixel high"),
        (lambda: Text("A", -1), r"text_class = -1"),
        (lambda: Text("A", 1, background=-3), r"background = -3"),
        (lambda: Scene([]), r"source = \[\]: there is no scene to choose"),
        (lambda: Scene("/nowhere"), r"source = /nowhere: no label picture and no folder of PNG files"),
        (lambda: Targeted(PGD(), PureClass(1)), r"attack = PGD is not targeted: give it targeted: true"),
    ],
)
def test_settings(create: Callable[[], object], message: str):
    with pytest.raises(ValueError, match=message):
        create()


def test_empty_folder(tmp_path: Path):
    with pytest.raises(ValueError, match=r"no label picture and no folder of PNG files is there"):
        Scene(tmp_path)


def test_repr_tells_the_settings(picture: Path):
    assert repr(Strip([1, 2])) == "Strip(keep_ignored=True, classes=(1, 2), width=None, direction='vertical')"
    assert str(picture) in repr(LabelImage(picture))
    assert "4 scenes" in repr(Scene(scenes()))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_targeted_is_the_inner_attack_on_the_map(norm: str, picture: Path):
    net, (images, targets) = tiny_net(), tiny_batch()
    inner = PGD(eps=0.05, step_size=0.02, steps=3, norm=norm, targeted=True)
    for target_map in every_map(picture):
        expected = inner.run(net, images, target_map(targets))
        actual = Targeted(inner, target_map).run(net, images, targets)
        assert torch.equal(actual.images_adv, expected.images_adv)
        assert torch.equal(actual.forwards, expected.forwards)
        assert torch.equal(actual.backwards, expected.backwards)


def check_that_it_reaches_the_map() -> None:
    net, (images, targets) = tiny_net(), tiny_batch()
    target_map = Strip([0, 2])
    images_adv = Targeted(PGD(eps=0.5, step_size=0.05, steps=20, targeted=True), target_map)(net, images, targets)
    valid, wanted = targets != 255, torch.tensor([0, 0, 0, 2, 2, 2]).expand_as(targets)
    reached = [(net(x).argmax(1) == wanted)[valid].double().mean() for x in (images, images_adv)]
    assert reached[1] > reached[0] + 0.2
    assert torch.equal(target_map(targets)[~valid], targets[~valid])


def test_it_reaches_the_map():
    check_that_it_reaches_the_map()


def away_from_the_map(original: Callable, self: Targeted, attack: PGD, target_map: TargetMap) -> None:
    original(self, attack, target_map)
    attack.targeted = False


test_defect_of_the_aim_is_found = found_by(
    check_that_it_reaches_the_map,
    {
        "aim at the truth": (
            replaced(TargetMap, "__call__", lambda self, targets, ids=None, ignore_index=255: targets),
        ),
        "away from the map": (
            around(
                targeted.Targeted,
                "__init__",
                away_from_the_map,
            ),
        ),
        "forget what is ignored": (
            around(TargetMap, "__init__", lambda original, self, keep_ignored=True: original(self, False)),
        ),
    },
)
test_defect_of_the_choice_is_found = found_by(
    lambda: (
        test_scene_is_another_one_and_never_its_own(),
        test_choice_of_a_scene_is_the_same_in_every_process(),
    ),
    {
        "its own scene": (replaced(target_scenes.Scene, "_choose", lambda self, true, sample: true),),
        "scene by the row": (replaced(target_scenes, "_content", lambda targets: b""),),
        "scene by Python's hash": (
            replaced(target_scenes, "_content", lambda targets: str(hash(str(targets))).encode()),
        ),
    },
    (AssertionError, StopIteration),
)


def test_targeted_with_an_attack_of_its_own_loop_and_with_best():
    net, (images, targets) = tiny_net(), tiny_batch()
    for inner in (DAG(eps=0.05, step_size=0.02, steps=2, targeted=True), build("PGD restarts best", targeted=True)):
        assert Targeted(inner, PureClass(1))(net, images, targets).shape == images.shape


def test_image_of_which_nothing_is_wanted_comes_back_unchanged(tmp_path: Path):
    labels = torch.full((HEIGHT, WIDTH), 255)
    labels[0, 0] = 1
    net, (images, targets) = CountingNet(tiny_net()), tiny_batch(batch=3)
    targets[:, 0, 0] = torch.tensor([0, 255, 2])
    attack = Targeted(
        PGD(eps=0.05, step_size=0.02, steps=2, targeted=True), LabelImage(save(tmp_path / "l.png", labels))
    )
    noise = NoiseSource.for_samples(0, ["a", "b", "c"], CPU)
    seen: list[list[int]] = []
    result = attack.run(net, images, targets, generator=noise, on_step=lambda step: seen.append(step.rows.tolist()))
    assert torch.equal(result.images_adv[1], images[1])
    assert result.forwards.tolist() == [2, 0, 2]
    assert seen == [[0, 2], [0, 2]]
    alone = attack(net, images[2:], targets[2:], generator=NoiseSource.for_samples(0, ["c"], CPU))
    torch.testing.assert_close(result.images_adv[2:], alone, rtol=0, atol=1e-9)


def test_map_with_classes_that_the_model_does_not_have():
    with pytest.raises(AttackError, match="class 9 but the model has 4 classes"):
        Targeted(PGD(steps=1, targeted=True), PureClass(9))(tiny_net(), *tiny_batch())


def test_description_holds_map_and_inner_attack():
    described = Targeted(PGD(eps="4/255", seed=3, targeted=True, ignore_index=-1), PureClass(2)).describe()
    assert described["attack"] == "Targeted"
    assert (described["eps"], described["inner"]["attack"], described["inner"]["seed"]) == ("4/255", "PGD", 3)
    assert described["target_map"] == {"class": "PureClass", "keep_ignored": True, "class_id": 2}


def test_threat_ignore_index_and_seed_are_those_of_the_inner_attack():
    inner = PGD(eps="4/255", seed=3, targeted=True, ignore_index=-1)
    attack = Targeted(inner, PureClass(2))
    assert (attack.threat, attack.ignore_index, attack.seed, attack.targeted) == (inner.threat, -1, 3, False)
