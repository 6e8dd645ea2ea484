"""Archives read in place: their contents to the bit, and one error for each that cannot be."""

from __future__ import annotations

import gzip
import io
import os
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robustseg.opening import packed, tar_index
from robustseg.opening.packed import entries_of
from robustseg.opening.pictures import open_picture
from robustseg.opening.regular import PICTURE, UnfitFile, open_regular, read_bytes, status_of

from .test_readers import peak

METHODS = {"stored": zipfile.ZIP_STORED, "deflated": zipfile.ZIP_DEFLATED}


@pytest.fixture(autouse=True)
def _caches(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    packed._index.cache_clear()


def zipped(path: Path, members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, members: Mapping[str, bytes], kind: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=kind) as archive:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return path


def content_of(size: int) -> bytes:
    """Half of it noise, half of it zeros."""
    return (random.Random(size).randbytes(size // 2) + bytes(size))[:size]


def pack(kind: str, path: Path, members: Mapping[str, bytes]) -> Path:
    return tarred(path.with_suffix(".tar"), members) if kind == "tar" else zipped(path, members, METHODS[kind])


@pytest.mark.parametrize("kind", ["stored", "deflated", "tar"])
def test_any_way_of_reading_gives_the_bytes(tmp_path, kind):
    members = {f"a/{size}": content_of(size) for size in (0, 1, 511, 512, 2**16, 2**16 + 1, 700_001)}
    archive = pack(kind, tmp_path / "x.zip", members)
    chance = random.Random(0)
    for name, content in members.items():
        assert read_bytes(archive / name, PICTURE) == content
        assert status_of(archive / name).st_size == len(content)
        expected = io.BytesIO(content)
        with open_regular(archive / name, PICTURE) as file:
            for _ in range(60):
                place, whence = chance.randrange(len(content) + 9), chance.choice((io.SEEK_SET, io.SEEK_END))
                place -= len(content) if whence == io.SEEK_END else 0
                place = max(place, -len(content)) if whence == io.SEEK_END else place
                count = chance.choice((0, 1, 100, 9000, 80_000, -1))
                assert file.seek(place, whence) == expected.seek(place, whence)
                assert file.read(count) == expected.read(count)
                assert file.tell() == expected.tell()


def test_a_picture_of_each_format_is_that_of_the_file(tmp_path):
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 9, (60, 90), dtype=np.uint8)
    members = {}
    for suffix, options in [
        *((suffix, {}) for suffix in ("png", "jpg", "bmp", "gif", "pgm", "webp", "tif")),
        *((f"{each}.tif", {"compression": each}) for each in ("tiff_lzw", "tiff_adobe_deflate", "packbits")),
    ]:
        path = tmp_path / f"a.{suffix}"
        Image.fromarray(np.stack([grey * 20] * 3, 2) if suffix in ("jpg", "webp") else grey).save(path, **options)
        members[path.name] = path.read_bytes()
    for kind in ("stored", "deflated", "tar"):
        archive = pack(kind, tmp_path / "x.zip", members)
        for name in members:
            with open_picture(tmp_path / name) as one, open_picture(archive / name) as other:
                assert (one.mode, one.size, one.format, one.tile) == (other.mode, other.size, other.format, other.tile)
                assert np.array_equal(np.array(one), np.array(other)), (kind, name)


def test_the_first_bytes_are_read_alone_and_no_file_stays_open(tmp_path):
    archive = zipped(tmp_path / "x.zip", {"a": content_of(10**6)}, zipfile.ZIP_STORED)
    damaged = bytearray(archive.read_bytes())
    damaged[500_000] ^= 1
    archive.write_bytes(damaged)
    before = len(os.listdir("/proc/self/fd"))
    with open_regular(archive / "a", PICTURE) as file:
        assert file.read(1000) == content_of(10**6)[:1000]
        with pytest.raises(UnfitFile, match=r"x\.zip/a: it does not fit its header or checksum"):
            file.read()
    assert len(os.listdir("/proc/self/fd")) == before


def test_folders_are_those_of_the_unpacked_tree(tmp_path):
    members = {"./b/c/x": b"1", "b/y": b"2", "z": b"3", "é/ü": b"4", "b/c/" + "n" * 150 + "/" + "m" * 150: b"5"}
    for path in (zipped(tmp_path / "x.zip", members), *(tarred(tmp_path / f"{k}.tar", members, k) for k in (1, 2))):
        assert sorted(entries_of(path)) == [("b", True), ("z", False), ("é", True)]
        assert sorted(entries_of(path / "b")) == [("c", True), ("y", False)]
        for name, content in members.items():
            assert read_bytes(path / name, 9) == content
        with pytest.raises(FileNotFoundError):
            status_of(path / "b/c/y")
        with pytest.raises(IsADirectoryError):
            open_regular(path / "b", 9)
        with pytest.raises(NotADirectoryError):
            entries_of(path / "z")
    assert entries_of(tmp_path) is None
    (tmp_path / "folder.zip").mkdir()
    assert entries_of(tmp_path / "folder.zip") is None


def with_bytes(path: Path, change: Callable[[bytearray], bytes | bytearray]) -> None:
    path.write_bytes(change(bytearray(path.read_bytes())))


def patched(mark: bytes, place: int, form: str, value: int) -> Callable[[bytearray], bytearray]:
    """Change a number after each occurrence of a mark."""

    def change(content: bytearray) -> bytearray:
        start = content.find(mark)
        while start >= 0:
            struct.pack_into(form, content, start + place, value)
            start = content.find(mark, start + 1)
        return content

    return change


LOCAL, CENTRAL, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
DAMAGED_ZIPS: dict[str, tuple[Callable[[bytearray], bytes | bytearray], str]] = {
    "truncated": (lambda content: content[:-30], "truncated, damaged or no zip"),
    "without its directory": (lambda content: content[: content.find(CENTRAL)], "truncated, damaged or no zip"),
    "its beginning alone": (lambda content: content[:40], "truncated, damaged or no zip"),
    "without its middle": (lambda content: content[:50] + content[150:], "truncated"),
    "empty": (lambda _: b"", "truncated, damaged or no zip"),
    "a long directory": (patched(END, 12, "<I", 2**31), "truncated, damaged or no zip"),
    "encrypted": (patched(CENTRAL, 8, "<H", 1), "encrypted: unpack the archive with its password"),
    "deflate64": (patched(CENTRAL, 10, "<H", 9), "compressed by deflate64.*unpack"),
    "another method": (patched(CENTRAL, 10, "<H", 77), "compressed by method 77.*unpack"),
    "wrong checksum": (patched(CENTRAL, 16, "<I", 7), "does not fit its header or checksum"),
    "a smaller size": (patched(CENTRAL, 24, "<I", 9), "does not fit its header or checksum"),
    "a larger size": (patched(CENTRAL, 24, "<I", 9000), "does not fit its header or checksum"),
    "a bomb by its size": (patched(CENTRAL, 24, "<I", 2**31 - 9), "unpacking it would make 2.0 GiB of"),
    "more than the limit": (patched(CENTRAL, 24, "<I", 2**31 + 9), "larger than 2 GiB"),
    "no header before": (patched(LOCAL, 0, "<I", 7), "does not fit its header"),
    "a member beyond the end": (patched(CENTRAL, 20, "<I", 2**30), "truncated or damaged at its member a/x"),
    "a link": (patched(CENTRAL, 38, "<I", 0o120777 << 16), "is a link: unpack"),
}


@pytest.mark.parametrize("case", DAMAGED_ZIPS)
def test_a_damaged_zip_is_one_error_with_the_remedy(tmp_path, case):
    change, message = DAMAGED_ZIPS[case]
    archive = zipped(tmp_path / "x.zip", {"a/x": b"content" * 1000})
    with_bytes(archive, change)
    before = peak()
    with pytest.raises(UnfitFile, match=message) as caught:
        read_bytes(archive / "a/x", PICTURE)
    assert "x.zip" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert peak() - before < 200 * 2**20


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("../x",), "not named as a place in it"),
        (("a/../../x",), "not named as a place in it"),
        (("/etc/x",), "not named as a place in it"),
        (("C:/x",), "not named as a place in it"),
        (("a\\x",), "not named as a place in it"),
        (("x", "x"), "two members called x"),
        (("a/x", "./a//x"), "two members called a/x"),
        (("x", "x/y"), "is a file and a folder"),
        (("x/y", "x"), "two members called x"),
        (("a/" * 101 + "x",), "more than 100 deep"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_unpacking_would_not_keep_are_refused(tmp_path, names, message):
    for suffix, opened in ((".zip", zipfile.ZipFile), (".tar", tarfile.open)):
        path = tmp_path / f"x{suffix}"
        with opened(path, "w") as archive:
            for name in names:
                if isinstance(archive, tarfile.TarFile):
                    archive.addfile(tarfile.TarInfo(name))
                else:
                    archive.writestr(name, b"")
        with pytest.raises(UnfitFile, match=message):
            entries_of(path)


def test_a_true_bomb_takes_no_memory(tmp_path):
    archive = zipped(tmp_path / "x.zip", {"a": bytes(2**28)})
    assert archive.stat().st_size < 2**20
    before = peak()
    with pytest.raises(UnfitFile, match="would make 256 MiB of"):
        open_regular(archive / "a", PICTURE)
    with_bytes(archive, patched(CENTRAL, 24, "<I", 2**16))  # and one that lies about it
    with pytest.raises(UnfitFile, match="does not fit"):
        read_bytes(archive / "a", PICTURE)
    assert peak() - before < 50 * 2**20


def test_large_archives_in_the_format_of_64_bits(tmp_path):
    path = tmp_path / "x.zip"
    path.touch()
    os.truncate(path, 2**32 + 5)  # without content, so that it takes no room on the disk
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a/x", b"content")
        with archive.open("a/y", "w", force_zip64=True) as file:
            file.write(b"more")
    assert read_bytes(path / "a/x", 9) == b"content"
    assert read_bytes(path / "a/y", 9) == b"more"


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tgz", "x.tar", "x.zip"])
def test_a_compressed_tar_is_refused_with_the_remedy(tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress(tarred(tmp_path / "plain", {"a": b"1"}).read_bytes()))
    with pytest.raises(UnfitFile, match=r"compressed by gzip.*unpack it"):
        status_of(tmp_path / name / "a")


def test_archives_within_archives_are_refused(tmp_path):
    inner = zipped(tmp_path / "inner.zip", {"x": b"1"})
    for archive in (
        zipped(tmp_path / "x.zip", {"a/i.zip": inner.read_bytes()}),
        tarred(tmp_path / "x.tar", {"a/i.zip": b""}),
    ):
        with pytest.raises(UnfitFile, match="archives within archives"):
            read_bytes(archive / "a/i.zip/x", 9)


def test_a_tar_with_more_than_files(tmp_path):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in {
            "link": tarfile.SYMTYPE,
            "hard": tarfile.LNKTYPE,
            "device": tarfile.CHRTYPE,
            "pipe": tarfile.FIFOTYPE,
            "folder": tarfile.DIRTYPE,
        }.items():
            about = tarfile.TarInfo(name)
            about.type, about.linkname = kind, "/etc/passwd"
            archive.addfile(about)
        about = tarfile.TarInfo("x")
        about.size = 1
        archive.addfile(about, io.BytesIO(b"1"))
    assert read_bytes(path / "x", 9) == b"1"
    assert entries_of(path / "folder") == []
    for name, message in {"link": "is a link", "hard": "is a link", "device": "a device", "pipe": "a pipe"}.items():
        with pytest.raises(UnfitFile, match=message):
            read_bytes(path / name, 9)


def test_a_damaged_tar_is_one_error(tmp_path):
    content = tarred(tmp_path / "x.tar", {"a": content_of(5000), "b": content_of(5000)}).read_bytes()
    at_member = 512 + 5120  # here it looks whole, as no sizes are in a tar's beginning
    for number, cut in enumerate([content[:at_member], content[: at_member + 99], content[:600], content[:100], b""]):
        path = tmp_path / f"{number}.tar"
        path.write_bytes(cut)
        with pytest.raises(UnfitFile, match="truncated"):
            entries_of(path)
    for number, place in enumerate((0, 130, 148)):
        damaged = bytearray(content)
        damaged[at_member + place] ^= 1
        path = tmp_path / f"d{number}.tar"
        path.write_bytes(damaged)
        with pytest.raises(UnfitFile, match=r"damaged or no tar .* at byte 5632"):
            entries_of(path)


def test_an_archive_that_is_replaced_is_read_anew_and_one_that_changes_meanwhile_is_an_error(tmp_path):
    for make in (zipped, tarred):
        path = make(tmp_path / f"x.{make.__name__[:3]}", {"a": b"first" * 20_000})
        assert read_bytes(path / "a", PICTURE)[:5] == b"first"
        make(path, {"a": b"other" * 30_000})
        assert read_bytes(path / "a", PICTURE) == b"other" * 30_000
        with open_regular(path / "a", PICTURE) as file:
            assert file.read(5) == b"other"
            with path.open("ab") as more:
                more.write(b"1")
            with pytest.raises(UnfitFile, match="changed while it was read"):
                file.read()


def test_the_index_of_a_tar_is_built_once(tmp_path, monkeypatch):
    path = tarred(tmp_path / "x.tar", {"a/x": b"1", "y": b"2"})
    place, content = packed.unkept_index(path / "a")
    assert packed.unkept_index(path) is None
    assert place.is_relative_to(tmp_path / "caches")
    place.parent.mkdir(parents=True)
    place.write_text(content)
    built = []

    def walk(*args, plain=tar_index.tar_index):
        built.append(args)
        return plain(*args)

    monkeypatch.setattr(packed, "tar_index", walk)

    def read() -> int:
        packed._index.cache_clear()
        assert (read_bytes(path / "a/x", 9), read_bytes(path / "y", 9)) == (b"1", b"2")
        assert sorted(entries_of(path)) == [("a", True), ("y", False)]
        return len(built)

    assert read() == 0
    for damaged in (
        content[:-9],
        content.replace("1024", "1025"),
        "",
        "[]\n[]",
        "{}\n{}",
        content.replace("x.tar", "z"),
    ):
        place.write_text(damaged)
        before = len(built)
        assert read() == before + 1
    place.write_text(content)
    os.utime(path, ns=(1, 1))
    before = len(built)
    assert read() == before + 1


def test_an_index_that_fits_another_tar_is_noticed(tmp_path):
    path = tarred(tmp_path / "x.tar", {"a": b"1", "b": b"22"})
    place, content = packed.unkept_index(path)
    place.parent.mkdir(parents=True)
    first, rows = content.splitlines()
    rows = rows.replace('["a", 0, 1', '["a", 1024, 1')
    place.write_text(
        f"{first.replace(str(zlib.crc32(content.splitlines()[1].encode())), str(zlib.crc32(rows.encode())))}\n{rows}\n"
    )
    packed._index.cache_clear()
    with pytest.raises(UnfitFile, match="does not fit its header"):
        read_bytes(path / "a", 9)


def test_a_pipe_called_zip_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "x.zip")
    with pytest.raises(NotADirectoryError):
        status_of(tmp_path / "x.zip" / "a")


@pytest.mark.parametrize("kind", ["stored", "deflated", "tar"])
def test_mutated_archives_end_in_an_error_or_in_the_same_bytes(tmp_path, kind):
    members = {f"a/{number}": content_of(number * 50) for number in range(1, 5)}
    sound = pack(kind, tmp_path / "sound.zip", members).read_bytes()
    chance, refused = random.Random(0), []
    for number in range(300):
        content = bytearray(sound)
        for _ in range(chance.choice((1, 1, 3))):
            content[chance.randrange(len(content))] = chance.choice((0, 255, 1, chance.randrange(256)))
        path = tmp_path / f"{number}{'.tar' if kind == 'tar' else '.zip'}"
        path.write_bytes(content)
        for name, expected in members.items():
            try:
                found = read_bytes(path / name, PICTURE)
            except OSError as error:
                refused.append(str(error))
            else:
                # a tar has no checksum of what its files hold
                assert len(found) == len(expected) if kind == "tar" else found == expected
        path.unlink()
    assert len(refused) > 100
    assert not any("\n" in message for message in refused)


def test_directories_and_headers_of_any_length_take_no_memory(tmp_path):
    path = tmp_path / "x.zip"
    path.touch()
    os.truncate(path, 2**31)  # without content, so that it takes no room on the disk
    with path.open("ab") as file:
        file.write(struct.pack("<4s4H2IH", END, 0, 0, 1, 1, 2**30, 2**30, 0))
    before = peak()
    with pytest.raises(UnfitFile, match="its directory has more than 128 MiB"):
        entries_of(path)
    long = tarfile.TarInfo("x")
    long.type, long.size = tarfile.GNUTYPE_LONGNAME, 2**29
    (tmp_path / "x.tar").write_bytes(long.tobuf(tarfile.GNU_FORMAT))
    os.truncate(tmp_path / "x.tar", 2**30)
    with pytest.raises(UnfitFile, match="truncated or damaged at byte 0"):
        entries_of(tmp_path / "x.tar")
    assert peak() - before < 50 * 2**20


def test_a_folder_of_a_tar_may_have_a_size(tmp_path):
    folder, file = tarfile.TarInfo("a"), tarfile.TarInfo("a/x")
    folder.type, folder.size, file.size = tarfile.DIRTYPE, 4096, 1
    (tmp_path / "x.tar").write_bytes(folder.tobuf() + file.tobuf() + b"1".ljust(512, b"\0") + bytes(1024))
    assert read_bytes(tmp_path / "x.tar" / "a/x", 9) == b"1"
