"""Universal perturbations in a file: what is kept, what is refused, and how it is applied."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from robustseg.attacks import AttackError, ThreatModel, Universal, UniversalDelta
from tests.helpers.nets import HEIGHT, WIDTH, tiny_batch, tiny_net

Patch = pytest.MonkeyPatch


def some_delta(**changes: object) -> UniversalDelta:
    threat = ThreatModel("8/255", bounds=(-1.0, 1.0))
    values = (torch.rand(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1)) - 0.5) * 2 * 0.031
    return replace(UniversalDelta(values, threat, "1/255", 7, "CrossEntropy()", True, "PureClass(0)", 3), **changes)


def test_file_round_trip(tmp_path: Path):
    delta, path = some_delta(), tmp_path / "new" / "folder" / "u.safetensors"
    delta.save(path)
    read = UniversalDelta.load(path)
    assert torch.equal(read.delta, delta.delta)
    for name in ("step_size", "epochs", "loss", "targeted", "target_map", "seed"):
        assert getattr(read, name) == getattr(delta, name)
    assert (read.threat.eps, read.threat.norm) == (delta.threat.eps, "linf")
    none = some_delta(targeted=False, target_map=None, delta=delta.delta.double())
    none.save(path)
    read = UniversalDelta.load(path)
    assert (read.targeted, read.target_map, read.delta.dtype) == (False, None, torch.float64)
    assert [file.name for file in path.parent.iterdir()] == ["u.safetensors"]


def test_saving_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: Patch):
    path = tmp_path / "u.safetensors"
    some_delta().save(path)
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        some_delta(seed=9).save(path)
    assert UniversalDelta.load(path).seed == 3
    assert len([*tmp_path.iterdir()]) == 1


def rewrite(path: Path, tensors: dict[str, Tensor] | None = None, **settings: str | None) -> None:
    """The same file with other tensors or settings; None leaves a setting out."""
    with safe_open(path, framework="pt") as file:
        old, kept = {"delta": file.get_tensor("delta")}, file.metadata()
    metadata = {key: value for key, value in {**kept, **settings}.items() if value is not None}
    save_file(old if tensors is None else tensors, path, metadata)


def cut(path: Path, count: int) -> None:
    path.write_bytes(path.read_bytes()[:count])


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda p: p.unlink(), r"there is no such file"),
    "folder": (lambda p: (p.unlink(), p.mkdir()), r"there is no such file"),
    "empty": (lambda p: cut(p, 0), r"cannot be read as safetensors"),
    "cut in the header": (lambda p: cut(p, 30), r"cannot be read as safetensors"),
    "cut in the numbers": (lambda p: cut(p, p.stat().st_size - 5), r"cannot be read as safetensors"),
    "a text": (lambda p: p.write_text("eps: 8/255"), r"cannot be read as safetensors"),
    "huge header": (lambda p: p.write_bytes(struct.pack("<Q", 2**60) + b"{}"), r"cannot be read as safetensors"),
    "a checkpoint": (lambda p: save_file({"head.weight": torch.zeros(2)}, p), r"no universal perturbation"),
    "no metadata": (lambda p: save_file({"delta": torch.zeros(3, 4, 4)}, p), r"no universal perturbation"),
    "no eps": (lambda p: rewrite(p, eps=None), r"no universal perturbation"),
    "more tensors": (
        lambda p: rewrite(p, {"delta": torch.zeros(3, 7, 6), "other": torch.zeros(1)}),
        r"no universal perturbation",
    ),
    "other version": (lambda p: rewrite(p, version="2"), r"its format has version 2, this package reads 1"),
    "other shape": (lambda p: rewrite(p, shape="3x9x9"), r"settings say linf 3x9x9, it holds 3x7x6"),
    "other norm": (lambda p: rewrite(p, norm="l2"), r"settings say l2 3x7x6"),
    "one channel": (
        lambda p: rewrite(p, {"delta": torch.zeros(1, 7, 6)}, shape="1x7x6"),
        r"delta has the shape 1x7x6, not 3xHxW",
    ),
    "batch": (
        lambda p: rewrite(p, {"delta": torch.zeros(1, 3, 7, 6)}, shape="1x3x7x6"),
        r"the shape 1x3x7x6, not 3xHxW",
    ),
    "nothing": (lambda p: rewrite(p, {"delta": torch.zeros(3, 0, 6)}, shape="3x0x6"), r"the shape 3x0x6"),
    "NaN": (lambda p: rewrite(p, {"delta": torch.full((3, 7, 6), float("nan"))}), r"not finite"),
    "infinite": (lambda p: rewrite(p, {"delta": torch.full((3, 7, 6), float("inf"))}), r"not finite"),
    "integers": (lambda p: rewrite(p, {"delta": torch.zeros(3, 7, 6).byte()}), r"delta is torch.uint8"),
    "larger than its eps": (lambda p: rewrite(p, eps="1/255"), r"delta reaches 0.03\d*, beyond its eps = 1/255"),
    "eps of grey levels": (lambda p: rewrite(p, eps="8"), r"eps = 8 exceeds 1"),
    "eps no number": (lambda p: rewrite(p, eps="much"), r"eps = 'much' is not a number"),
    "seed no number": (lambda p: rewrite(p, seed="x"), r"invalid literal"),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_that_are_no_perturbation(kind: str, tmp_path: Path):
    path = tmp_path / "u.safetensors"
    some_delta().save(path)
    spoil, message = FILES[kind]
    spoil(path)
    with pytest.raises(ValueError, match=message) as caught:
        Universal(path)
    assert str(caught.value).startswith(f"path = {path}: ")
    assert "\n" not in str(caught.value)


def test_what_is_applied(tmp_path: Path):
    delta, (images, targets) = some_delta(), tiny_batch()
    delta.save(tmp_path / "u.safetensors")
    calls: list[Tensor] = []
    result = Universal(tmp_path / "u.safetensors").run(lambda x: calls.append(x), images, targets)
    expected = images.clone()
    for b in range(2):
        for c in range(3):
            for i in range(HEIGHT):
                for j in range(WIDTH):
                    moved = float(images[b, c, i, j]) + float(delta.delta[c, i, j])
                    expected[b, c, i, j] = min(1.0, max(0.0, moved))
    torch.testing.assert_close(result.images_adv, expected, rtol=0, atol=1e-12)
    assert calls == []
    assert not result.forwards.any()


def test_applied_with_a_smaller_eps_it_is_clipped(tmp_path: Path):
    delta, (images, targets) = some_delta(), tiny_batch()
    delta.save(tmp_path / "u.safetensors")
    images_adv = Universal(tmp_path / "u.safetensors", eps="2/255")(tiny_net(), images, targets)
    expected = (images + delta.delta.double().clamp(-2 / 255, 2 / 255)).clamp(0, 1)
    torch.testing.assert_close(images_adv, expected, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r"eps = 9/255 is larger than the 8/255 of .*u.safetensors: fit"):
        Universal(tmp_path / "u.safetensors", eps="9/255")


def test_images_of_another_size(tmp_path: Path):
    delta = some_delta()
    delta.save(tmp_path / "u.safetensors")
    images, targets = torch.full((1, 3, 9, 15), 0.5), torch.zeros(1, 9, 15).long()
    with pytest.raises(AttackError, match=r"perturbation is 3x7x6 but the images are 3x9x15 .*tile: true"):
        Universal(tmp_path / "u.safetensors")(tiny_net(), images, targets)
    moved = Universal(tmp_path / "u.safetensors", tile=True)(tiny_net(), images, targets) - images
    for i in range(9):
        for j in range(15):
            torch.testing.assert_close(moved[0, :, i, j], delta.delta[:, i % 7, j % 6], rtol=0, atol=1e-6)
    smaller = Universal(tmp_path / "u.safetensors", tile=True)(tiny_net(), images[..., :5, :4], targets[..., :5, :4])
    torch.testing.assert_close(smaller[0] - 0.5, delta.delta[:, :5, :4], rtol=0, atol=1e-6)


def test_images_of_other_channels(tmp_path: Path):
    some_delta().save(tmp_path / "u.safetensors")
    images, targets = tiny_batch()
    for tile in (False, True):
        with pytest.raises(AttackError, match=r"images must be B×3×H×W .*expand"):
            Universal(tmp_path / "u.safetensors", tile=tile)(tiny_net(), images[:, :1], targets)


def test_description(tmp_path: Path):
    some_delta().save(tmp_path / "u.safetensors")
    described = Universal(tmp_path / "u.safetensors", eps="4/255").describe()
    assert described["eps"] == "4/255"
    assert described["path"].endswith("u.safetensors")
    assert (described["fitted"]["target_map"], described["fitted"]["eps"]) == ("PureClass(0)", "8/255")
