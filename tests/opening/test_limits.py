"""Limits: formats, pixels, sizes that headers claim, trees and folders that refer to themselves."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import struct
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from robustseg.attacks.targets.label_files import read_labels
from robustseg.data import DataError
from robustseg.data.class_table import read_class_table
from robustseg.data.folders import files_below
from robustseg.data.loading import make_loader
from robustseg.data.pictures import decode_image
from robustseg.data.sbd import read_sbd_mask
from robustseg.evaluation.errors import ReportError
from robustseg.evaluation.report.pictures import PanelPicture, data_uri
from robustseg.models.checkpoints.read import read_weights
from robustseg.models.errors import ModelError
from robustseg.opening import pictures
from robustseg.opening.archives import read_arrays
from robustseg.opening.plain import TreeError, check_tree, load_yaml, read_json
from robustseg.resume.checkpoint_reading import damage
from robustseg.shipped import ConfigFileError, complete
from tests.data import trees
from tests.data.published import module
from tests.opening.readers import mask_format
from tests.opening.test_readers import forget_peak, peak

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
OTHERS = {
    "EPS": EPS,
    "PSD": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 8, 8, 8, 3) + bytes(600),
    "PDF": b"%PDF-1.4\n",
    "SGI": b"\x01\xda\0\1\0\3\0\x08\0\x08\0\3" + bytes(600),
    "ICO": b"\0\0\1\0\1\0\x08\x08\0\0\1\0\x18\0\x50\0\0\0\x16\0\0\0" + bytes(100),
    "PCX": b"\x0a\5\1\x08" + bytes(200),
}


@pytest.fixture
def lean():
    """At most 200 MB more than at the start."""
    before = forget_peak()
    yield
    assert peak() - before < 200 * 2**20


def png(width: int, height: int, colours: int = 0, content: bytes = b"", before: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colours, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + before + chunk(b"IDAT", content) + chunk(b"IEND", b"")


class TestFormats:
    """The content of a file does not pick its decoder among all that Pillow has."""

    @pytest.mark.parametrize("kind", OTHERS)
    def test_other_formats_are_not_decoded(self, tmp_path, kind, monkeypatch):
        path = tmp_path / "x.png"
        path.write_bytes(OTHERS[kind])
        monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("another program is started"))
        for read in (decode_image, mask_format().read, lambda path: read_labels(path, 2, 255)):
            with pytest.raises(ValueError, match=r"x\.png.*none of PNG, JPEG, TIFF, BMP, GIF, PPM, WEBP"):
                read(path)
        with pytest.raises(ReportError, match="is not a PNG file"):
            data_uri(PanelPicture("worst", "a", "pgd", 0.5, 0.5, OTHERS[kind]))

    @pytest.mark.parametrize("kind", pictures.FORMATS)
    def test_those_of_data_sets_are(self, tmp_path, kind):
        pixels = np.full((5, 7, 3), 90, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "x", kind)
        assert abs(decode_image(tmp_path / "x").astype(int) - 90).max() <= 3


class TestPixels:
    """Images over a limit, which an option lifts, and headers that lie."""

    def test_a_sound_image_above_the_limit(self, tmp_path, monkeypatch):
        trees.camvid_tree(tmp_path)
        monkeypatch.setattr(pictures, "MAX_PIXELS", 3000)
        height, width = module("CamVid", tmp_path).dataset("train")[0].target.shape
        settings = {"max_pixels": height * width - 1}
        with pytest.raises(DataError, match=r"In every data worker it takes about 0\.0 GB: set data\.max_pixels: \d+"):
            module("CamVid", tmp_path, **settings).dataset("train")
        with pytest.raises(DataError, match=rf"{width}x{height} = {height * width:,} pixels .* more than"):
            module("CamVid", tmp_path, check="none", **settings).dataset("train")[0]
        lifted = module("CamVid", tmp_path, max_pixels=height * width).dataset("train")
        assert len(list(make_loader(lifted, 1, 2))) == len(lifted)
        with pytest.raises(ValueError, match=r"data\.max_pixels"):
            module("CamVid", tmp_path, max_pixels=0)

    @pytest.mark.slow
    def test_one_above_pillow_s_limit_is_read_with_the_option(self, tmp_path):
        side = 13400  # 179.56 million
        Image.fromarray(np.tile(np.arange(side, dtype=np.uint8), (side, 1))).save(tmp_path / "x.png")
        with pytest.raises(DataError, match=r"about 1\.8 GB: set data\.max_pixels: 179560000 if that is right"):
            decode_image(tmp_path / "x.png")
        assert decode_image(tmp_path / "x.png", max_pixels=179_560_000).shape == (side, side, 3)

    @pytest.mark.parametrize("colours", [0, 2, 6])
    def test_a_header_that_claims_too_much(self, tmp_path, colours, lean):
        (tmp_path / "x.png").write_bytes(png(13000, 13000, colours, zlib.compress(bytes(10**6))))
        with pytest.raises(DataError, match=r"169,000,000 pixels by its header, in a file of"):
            decode_image(tmp_path / "x.png")

    def test_a_mask_is_compared_with_its_image_before_it_is_decoded(self, tmp_path, lean):
        trees.camvid_tree(tmp_path)
        dataset = module("CamVid", tmp_path, check="none").dataset("train")
        dataset.pairs[0].mask.write_bytes(png(13000, 13000, 0, zlib.compress(bytes(10**6))))
        with pytest.raises(DataError, match="is 13000x13000 pixels but image"):
            dataset[0]

    @pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
    def test_text_that_grows(self, tmp_path, kind, lean):
        text = zlib.compress(bytes(10**8))
        data = b"k\0" + (b"\1\0\0\0" if kind == b"iTXt" else b"\0") + text
        chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        (tmp_path / "x.png").write_bytes(png(4, 4, 0, zlib.compress(bytes(20)), chunk))
        with pytest.raises(DataError, match=r"x\.png cannot be opened"):
            decode_image(tmp_path / "x.png")

    def test_a_long_part_that_is_no_pixels(self, tmp_path, lean):
        path = tmp_path / "x.png"
        path.write_bytes(png(4, 4)[:33] + struct.pack(">I4s", 2**30, b"juNk"))
        os.truncate(path, 2**30 + 100)
        with pytest.raises(DataError, match=r"its part b'juNk' has 1 GiB"):
            decode_image(path)

    @pytest.mark.parametrize("tile", [(65536, 65536), (2**20, 2**12)])
    def test_a_tile_that_is_larger_than_its_picture(self, tmp_path, tile, lean):
        tags = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: tile[0], 323: tile[1], 324: 300, 325: 9}
        rows = b"".join(struct.pack("<HHII", key, 4, 1, value) for key, value in tags.items())
        (tmp_path / "x.tif").write_bytes(b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + rows + bytes(300))
        with pytest.raises(DataError, match="and a tile of"):
            decode_image(tmp_path / "x.tif")


def changed(path: Path, place: int, value: int) -> None:
    content = bytearray(path.read_bytes())
    content[place : place + 4] = struct.pack("<I", value)
    path.write_bytes(content)


class TestMatlab:
    """Every size in a .mat file."""

    @pytest.mark.parametrize("value", [2**31 - 1, 3 * 10**9, 2**32 - 1, 0, 1])
    def test_each_word_changed(self, tmp_path, value, lean):
        path = tmp_path / "x.mat"
        for place in range(128, 700, 4):
            trees.save_sbd_mask(path, np.ones((2, 2), np.uint8), compressed=False)
            changed(path, place, value)
            with contextlib.suppress(DataError):
                assert read_sbd_mask(path).size <= 100

    def test_compressed_zeros(self, tmp_path, lean):
        path = tmp_path / "x.mat"
        trees.save_sbd_mask(path, np.ones((2, 2), np.uint8))
        zeros = zlib.compress(struct.pack("<II", 14, 10**9) + bytes(10**8))
        path.write_bytes(path.read_bytes()[:128] + struct.pack("<II", 15, len(zeros)) + zeros)
        with pytest.raises(DataError, match="bytes, unpacked"):
            read_sbd_mask(path)


def archive(path: Path, compression: int, **records: bytes) -> None:
    with zipfile.ZipFile(path, "w", compression) as out:
        for name, content in records.items():
            out.writestr(name, content)


class TestArchives:
    """Checkpoints and arrays."""

    @pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_compressed_storages(self, tmp_path, compression, lean):
        torch.save({"w": torch.zeros(10**6)}, tmp_path / "whole.pt")
        with zipfile.ZipFile(tmp_path / "whole.pt") as whole:
            records = {record.filename: whole.read(record) for record in whole.infolist()}
        archive(tmp_path / "x.pt", compression, **records)
        assert "compressed archive" in str(damage(tmp_path / "x.pt"))
        with pytest.raises(ModelError, match=r"x\.pt cannot be loaded: it is a compressed archive"):
            read_weights(tmp_path / "x.pt")

    def test_a_flipped_bit_in_a_stranger_s_weights(self, tmp_path):
        torch.save({"w": torch.zeros(1000)}, tmp_path / "x.pt")
        content = bytearray((tmp_path / "x.pt").read_bytes())
        content[content.index(bytes(3000)) + 1500] ^= 1
        (tmp_path / "x.pt").write_bytes(content)
        with pytest.raises(ModelError, match="is damaged"):
            read_weights(tmp_path / "x.pt")

    def test_without_checksums_as_torch_can_write(self, tmp_path):
        before = torch.serialization.get_crc32_options()
        torch.serialization.set_crc32_options(False)
        try:
            torch.save({"w": torch.ones(3)}, tmp_path / "x.pt")
        finally:
            torch.serialization.set_crc32_options(before)
        assert read_weights(tmp_path / "x.pt").tensors["w"].tolist() == [1, 1, 1]

    def test_a_tensor_beyond_its_record(self, tmp_path):
        torch.save({"w": torch.zeros(1000)}, tmp_path / "x.pt")
        with zipfile.ZipFile(tmp_path / "x.pt") as whole:
            records = {record.filename: whole.read(record) for record in whole.infolist()}
        records["x/data/0"] = records["x/data/0"][:400]
        archive(tmp_path / "x.pt", zipfile.ZIP_STORED, **records)
        with pytest.raises(ModelError, match="cannot be loaded"):
            read_weights(tmp_path / "x.pt")

    def test_arrays_that_claim_too_much(self, tmp_path, lean):
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**6, 10**6)})
        archive(tmp_path / "claim.npz", zipfile.ZIP_DEFLATED, **{"a.npy": header.getvalue() + bytes(10)})
        with pytest.raises(ValueError, match="does not hold the numbers"):
            read_arrays(tmp_path / "claim.npz")
        archive(tmp_path / "bomb.npz", zipfile.ZIP_DEFLATED, **{"a.npy": bytes(5 * 10**7)})
        with pytest.raises(ValueError, match="its arrays have more than"):
            read_arrays(tmp_path / "bomb.npz", 10**7)
        np.savez(tmp_path / "objects.npz", a=np.array([{}], dtype=object))
        with pytest.raises(ValueError, match="does not hold the numbers"):
            read_arrays(tmp_path / "objects.npz")
        np.savez(tmp_path / "whole.npz", a=np.arange(6).reshape(2, 3), b=np.asfortranarray(np.ones((2, 3))))
        assert read_arrays(tmp_path / "whole.npz")["a"].tolist() == [[0, 1, 2], [3, 4, 5]]


def laughs(levels: int = 30) -> str:
    lines = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else 'x'] * 9)}]" for n in range(levels)]
    return "\n".join(lines) + "\n"


class TestTrees:
    """Walks count, and remember what they visited."""

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (laughs(), "holds more than"),
            ("a: &a [*a]", "holds itself"),
            ("a: &a {b: *a}", "holds itself"),
            ("[" * 5000 + "]" * 5000, "too deeply"),
            ("[" * 10**6, "too deeply"),
            ("- " * 5000, "too deeply"),
            ("classes:\n" + "- {name: a, id: 0, colour: [0, 0, 0]}\n" * 15_000, "more than 16,384 values"),
            ("a: [" + "1," * 400_000 + "]", "more than 16,384 values"),
            ("a: 1" + ":1" * 400_000, "a number of 800,001 signs"),
            ('a: !!float "1' + ":1" * 400_000 + '.5"', "a number of 800,003 signs"),
            ("a: 0" + "7" * 10**6, "a number of 1,000,001 signs"),
            ("{a: " * 200 + "1" + "}" * 200, "too deeply"),
            ("classes: &c\n- {name: a, id: 0, colour: [0, 0, 0], x: *c}", "holds itself"),
        ],
        ids=[
            *(
                "laughs",
                "list",
                "mapping",
                "deep",
                "endless",
                "block",
                "rows",
                "values",
                "by 60s",
                "by 60s, a fraction",
            ),
            *("octal", "less deep", "table"),
        ],
    )
    def test_yaml(self, tmp_path, text, message, lean):
        path = tmp_path / "x.yaml"
        path.write_text(text)
        for read, kind in ((complete, ConfigFileError), (read_class_table, DataError)):
            start = time.process_time()
            with pytest.raises(kind, match=rf"x\.yaml.*{message}"):
                read(path)
            assert time.process_time() - start < 1

    def test_a_long_table_is_read_in_time(self, tmp_path):
        path = tmp_path / "x.yaml"
        ids = list(range(16_000))
        path.write_text(f"classes:\n- {{name: a, id: {ids}, colour: [0, 0, 0]}}\n")
        start = time.process_time()
        assert read_class_table(path)[0].ids == tuple(ids)
        assert time.process_time() - start < 1
        path.write_text(f"classes:\n- {{name: a, id: {[*ids, 7]}, colour: [0, 0, 0]}}\n")
        with pytest.raises(DataError, match="row 1 has twice the id 7"):
            read_class_table(path)

    def test_honest_aliases(self):
        text = "a: &a {x: [1, 2]}\nb: *a\nc: {<<: *a, y: 3}\n"
        assert load_yaml(text) == yaml.safe_load(text)

    def test_json(self, tmp_path):
        for text in ("[" * 10**6, '{"a":' * 200 + "1" + "}" * 200):
            (tmp_path / "x.json").write_text(text)
            with pytest.raises(TreeError, match="too deeply"):
                read_json(tmp_path / "x.json")

    def test_pickles(self, tmp_path, lean):
        deep: list[object] = []
        for _ in range(2000):
            deep = [deep]
        many: list[object] = [torch.zeros(1)]
        for _ in range(30):
            many = [many] * 9
        cyclic: dict[str, object] = {}
        cyclic["x"] = cyclic
        for name, beside in {"deep": deep, "many": many, "cyclic": cyclic}.items():
            for legacy in (False, True):
                path = tmp_path / f"{name}.pt"
                try:
                    torch.save({"w": torch.ones(1), "x": beside}, path, _use_new_zipfile_serialization=not legacy)
                except RecursionError:
                    path.write_bytes(pickle.dumps(1))
                with pytest.raises(ModelError, match=rf"{name}\.pt cannot be loaded"):
                    read_weights(path)

    def test_includes_that_multiply(self, tmp_path):
        for number in range(12):
            names = ", ".join([f"{number + 1}.yaml"] * 6)
            (tmp_path / f"{number}.yaml").write_text(f"include: [{names}]\n")
        (tmp_path / "12.yaml").write_text("seed_everything: 1\n")
        with pytest.raises(ConfigFileError, match=r"0\.yaml: include leads to more than 1000 files"):
            complete(tmp_path / "0.yaml")

    def test_linked_folders_that_multiply(self, tmp_path):
        for number in range(30):
            (tmp_path / "all" / str(number)).mkdir(parents=True)
        for number in range(29):
            for name in "abc":
                (tmp_path / "all" / str(number) / name).symlink_to(tmp_path / "all" / str(number + 1))
        start = time.process_time()
        with pytest.raises(DataError, match="links lead to this folder in more than 100 ways"):
            files_below(tmp_path / "all" / "0")
        assert time.process_time() - start < 2

    def test_what_is_shared_is_visited_once(self):
        shared: object = "x"
        for _ in range(60):
            shared = [shared, shared]
        with pytest.raises(TreeError, match="holds more than"):
            check_tree(shared)
        check_tree({"a": [1, 2, {"b": (3, None)}], "c": json.loads("[[[]]]")})
