"""The records of an evaluation on disk: one per (sample, attack), appended as they are measured.

A folder ``records/`` holds Arrow streams (``.arrows``), one per process that ever wrote into it. A stream only grows.
One Arrow record batch holds the records of one batch of images under one attack, and counts as a whole or not at all.
A process that is killed leaves at most an incomplete last batch, which a reader drops; the next process starts a new
stream.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from robustseg.evaluation.errors import EvaluationError
from robustseg.evaluation.record import COLUMNS
from robustseg.files import remedy, sync_file, sync_folder
from robustseg.opening.regular import WEIGHTS, UnfitFile, check_regular, open_regular

RECORDS = "records"

_COLUMNS = ("linf", "l2", "linf_8bit", "l2_8bit", "wrong", "forwards", "backwards", "seconds", "target_success", "rms")
"""Columns of the streams of version 0.1, which do not name them."""


def _schema(figures: int) -> pa.Schema:
    """Return the schema of a stream with this number of figures per image."""
    return pa.schema(
        [
            ("sample", pa.string()),
            ("attack", pa.string()),
            # Most of an image's matrix is zero: positions in the flat C×C matrix and counts of the other entries.
            ("cells", pa.list_(pa.int32())),
            ("counts", pa.list_(pa.int64())),
            ("figures", pa.list_(pa.float64(), figures)),
            ("batch_size", pa.int32()),
            # Only for traced attacks and views.
            ("values", pa.list_(pa.float64())),
            ("crc32", pa.uint32()),
        ]
    )


_DAMAGE = (
    pa.ArrowException,
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    OverflowError,
    MemoryError,
)
"""Errors that damaged bytes cause, in Arrow or in the use of the values that it reads from them."""


class ImageRecord(NamedTuple):
    """The measurements of one image under one attack."""

    sample: str
    """The sample's id."""
    attack: str
    """Name of the attack, or "clean"."""
    confusion: Tensor
    """C×C int64: rows are true classes, columns predicted ones."""
    figures: Tensor
    """K float64, columns :data:`~robustseg.evaluation.record.COLUMNS`."""
    batch_size: int
    """Number of images in the batch that it was computed in; rounding in a model may depend on it."""
    values: Tensor | None = None
    """Further values of the image, a float64 vector: the trace of an attack, or the values of a view."""


class Stream(NamedTuple):
    """A stream's file with the facts in its header."""

    path: Path
    about: dict[str, Any]
    """Facts from the writer, see :class:`RecordWriter`."""
    columns: tuple[str, ...]
    """Names of the figures of each record."""


class RecordWriter:
    """A writer that appends records to a new stream in ``folder/records``; the first record creates the file.

    Args:
        folder: Folder of the evaluation.
        name: First part of the file's name; a number is added.
        about: Facts about these records for every reader, JSON-serialisable: digest of the protocol, settings of the
            attacks, versions.
        num_classes: Number of classes C.

    Raises:
        EvaluationError: The folder cannot be written.
    """

    def __init__(self, folder: Path, name: str, about: Mapping[str, Any], num_classes: int):
        self._folder = folder / RECORDS
        self._name = name
        self._num_classes = num_classes
        header = json.dumps({**about, "num_classes": num_classes, "columns": COLUMNS}, allow_nan=False)
        check = str(zlib.crc32(header.encode()))
        self._schema = _schema(len(COLUMNS)).with_metadata({"robustseg": header, "crc32": check})
        self._file: io.BufferedWriter | None = None
        # Arrow writes into a buffer and this class into the file, to notice and undo a short write to a full disk.
        self._buffer = io.BytesIO()
        self._stream: pa.RecordBatchStreamWriter | None = None

    def append(self, records: Sequence[ImageRecord]) -> None:
        """Write records as one unit; after the return they survive a crash of the process and of the machine.

        Raises:
            EvaluationError: They could not be written (a full disk, a quota); earlier records are intact.
        """
        if not records:
            return
        where = self._folder if self._file is None else self._file.name
        try:
            self._write(records)
        except OSError as error:
            raise EvaluationError(
                f"{where}: cannot write ({error.strerror or error}): everything up to the batch before is kept; "
                f"{remedy(error)} and run the same command again to go on."
            ) from error

    def _write(self, records: Sequence[ImageRecord]) -> None:
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = _create(self._folder, self._name)
        if self._stream is None:
            self._stream = pa.ipc.new_stream(self._buffer, self._schema)
        self._stream.write_batch(_to_arrow(records, self._schema))
        block = self._buffer.getvalue()
        self._buffer.seek(0)
        self._buffer.truncate()
        end = self._file.tell()
        try:
            self._file.write(block)
            sync_file(self._file)
        except OSError:
            _cut(self._file, end)
            self._file = self._stream = None
            raise

    def close(self) -> None:
        """Close the file; more records may not follow."""
        if self._file is not None:
            self._file.close()
            self._file = self._stream = None

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def streams(folder: Path) -> list[Stream]:
    """Find all streams of an evaluation's folder, sorted by name.

    Streams that end before their first record are left out, as are those with a damaged beginning, with a warning.

    Raises:
        EvaluationError: A file cannot be read, or is not a stream of records.
    """
    found = []
    for path in sorted((folder / RECORDS).glob("*.arrows")):
        try:
            if not check_regular(path, WEIGHTS).st_size:
                continue
            with open_regular(path, WEIGHTS) as file:
                schema = pa.ipc.open_stream(file).schema
            metadata, ours = schema.metadata or {}, schema.names == _schema(len(COLUMNS)).names
        except _DAMAGE as error:
            if isinstance(error, PermissionError | IsADirectoryError | UnfitFile):
                raise EvaluationError(f"{path}: cannot be read ({error}): make it readable, or move it out.") from error
            warnings.warn(f"{path}: no record can be read and none is used ({error}).", stacklevel=2)
            continue
        if not ours and b"robustseg" not in metadata:
            raise EvaluationError(f"{path}: not a stream of robustseg's records: move it out of this folder.")
        header = metadata.get(b"robustseg", b"")
        # Without the checksum, a damaged byte in the header could look like another evaluation.
        intact = metadata.get(b"crc32") == str(zlib.crc32(header)).encode()
        about = json.loads(header) if intact else {}
        columns = tuple(about.pop("columns", _COLUMNS))
        if not intact or not schema.equals(_schema(len(columns))):
            warnings.warn(
                f"{path}: the beginning is damaged, or of another version, and none of its records is used.",
                stacklevel=2,
            )
            continue
        found.append(Stream(path, about, columns))
    return found


def read_records(stream: Stream) -> Iterator[ImageRecord]:
    """Yield the complete records of a stream; an incomplete or damaged end is dropped with a warning.

    The dropped records will be measured again. Figures are found by their names; missing ones are NaN.
    """
    classes, columns = int(stream.about["num_classes"]), stream.columns
    with open_regular(stream.path, WEIGHTS) as file:
        batches = None
        while True:
            try:
                batches = batches or pa.ipc.open_stream(file)
                batch = batches.read_next_batch()
                batch.validate(full=True)
                records = _from_arrow(batch, classes, columns)
            except StopIteration:
                return
            except _DAMAGE as error:
                warnings.warn(
                    f"{stream.path}: the end is incomplete and was dropped, to be measured again ({error}).",
                    stacklevel=2,
                )
                return
            yield from records


def _create(folder: Path, name: str) -> io.BufferedWriter:
    """Create a file of this name with the first free number; safe against other processes that do the same."""
    number = 0
    while True:
        try:
            file = (folder / f"{name}-{number}.arrows").open("xb")
        except FileExistsError:
            number += 1
        else:
            with contextlib.suppress(OSError):  # not every file system can
                sync_folder(folder)
            return file


def _cut(file: io.BufferedWriter, end: int) -> None:
    """Truncate the file at ``end`` and close it, so that no incomplete batch is left for readers to drop."""
    with contextlib.suppress(OSError):
        os.ftruncate(file.fileno(), end)
    try:
        file.close()
    except OSError:
        # what is still in Python's buffer cannot be written either
        file.raw.close()


def _to_arrow(records: Sequence[ImageRecord], schema: pa.Schema) -> pa.RecordBatch:
    cells, counts, figures, values = [], [], [], []
    for record in records:
        flat = record.confusion.cpu().flatten().numpy()
        filled = flat.nonzero()[0].astype(np.int32)
        cells.append(filled)
        counts.append(flat[filled])
        figures.append(record.figures.cpu().numpy())
        values.append(None if record.values is None else record.values.cpu().numpy())
    rows = list(zip(records, cells, counts, figures, values, strict=True))
    columns: list[Any] = [
        [record.sample for record in records],
        [record.attack for record in records],
        cells,
        counts,
        figures,
        [record.batch_size for record in records],
        values,
        [_crc(r.sample, r.attack, where, count, row, r.batch_size, more) for r, where, count, row, more in rows],
    ]
    return pa.record_batch([pa.array(c, field.type) for c, field in zip(columns, schema, strict=True)], schema=schema)


def _from_arrow(batch: pa.RecordBatch, classes: int, columns: Sequence[str]) -> list[ImageRecord]:
    records = []
    for row in batch.to_pylist():
        cells, counts = np.array(row["cells"], np.int32), np.array(row["counts"], np.int64)
        figures = np.array(row["figures"], np.float64)
        values = None if row["values"] is None else np.array(row["values"], np.float64)
        if _crc(row["sample"], row["attack"], cells, counts, figures, row["batch_size"], values) != row["crc32"]:
            raise ValueError(f"checksum of {row['sample']} under {row['attack']}")
        by_name = dict(zip(columns, figures.tolist(), strict=True))
        confusion = torch.zeros(classes * classes, dtype=torch.int64)
        confusion[torch.from_numpy(cells).long()] = torch.from_numpy(counts)
        confusion = confusion.view(classes, classes)
        records.append(
            ImageRecord(
                row["sample"],
                row["attack"],
                confusion,
                torch.tensor([by_name.get(name, math.nan) for name in COLUMNS], dtype=torch.float64),
                row["batch_size"],
                None if values is None else torch.from_numpy(values),
            )
        )
    return records


def _crc(sample: str, attack: str, cells: Any, counts: Any, figures: Any, batch_size: int, values: Any) -> int:
    names = f"{sample}\0{attack}\0{batch_size}\0".encode()
    content = names + cells.tobytes() + counts.tobytes() + figures.tobytes()
    return zlib.crc32(content if values is None else content + values.tobytes())
