"""made_from.csv of a run: which labels and which picture file each mask was made from.

`image_id,labels,bytes,mtime_ns,sha256`: class ids separated by `;`, empty where labels were not given; size, time of
change and digest of the picture's file. While a run goes on each shard adds lines to a piece of its own, before the
mask is written; when it closes they are merged. A later call compares size and time, and only where one of them
differs the content.
"""

from __future__ import annotations

import csv
import hashlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clip_es.errors import DataError
from clip_es.records.text_files import read_lines
from clip_es.store.tables import append_rows
from clip_es.types import ImageRecord

PIECE = "made_from-"
TABLE = "made_from.csv"
COLUMNS = ("image_id", "labels", "bytes", "mtime_ns", "sha256")
_CHUNK = 2**20


@dataclass(frozen=True)
class Changed:
    """Finished pictures whose mask was made from something else than the data set now has."""

    labels: tuple[str, ...] = ()
    """Ids of those with other labels."""
    pictures: tuple[str, ...] = ()
    """Ids of those whose file holds something else."""

    @property
    def ids(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.labels, *self.pictures)

    def __str__(self) -> str:
        parts = [
            f"{len(ids)} mask{'s were' if len(ids) != 1 else ' was'} made {what}"
            for ids, what in ((self.labels, "with other labels"), (self.pictures, "from another picture file"))
            if ids
        ]
        return ", ".join(parts)


def note(piece: Path, record: ImageRecord, labels: Sequence[int]) -> None:
    """Add the line of a picture whose file is there. Raises StoreError."""
    try:
        status = record.path.stat()
        known = file_digest(record.path)
    except OSError:
        return
    row = (record.image_id, _text(labels), status.st_size, status.st_mtime_ns, known)
    append_rows(piece, COLUMNS, [row])


def file_digest(path: Path) -> str:
    """Of a file's bytes. Raises OSError."""
    whole = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            whole.update(piece)
    return whole.hexdigest()[:32]


class _Origin(NamedTuple):
    labels: int
    size: int
    mtime_ns: int
    digest: int


class MadeFrom:
    """The lines of some tables by picture, 40 bytes each; of two for one picture the later counts."""

    def __init__(self, tables: Iterable[Path]) -> None:
        keys, values = array("q"), array("q")
        for table in tables:
            for row in _rows(table):
                keys.append(hash(row[0]))
                values.extend((hash(row[1]), int(row[2]), int(row[3]), hash(row[4])))
        order = np.argsort(np.frombuffer(keys, np.int64), kind="stable") if keys else np.zeros(0, np.int64)
        self._keys = np.frombuffer(keys, np.int64)[order] if keys else np.zeros(0, np.int64)
        self._values = np.frombuffer(values, np.int64).reshape(-1, 4)[order] if keys else np.zeros((0, 4), np.int64)

    def __len__(self) -> int:
        return len(self._keys)

    def changed(self, records: Iterable[ImageRecord]) -> Changed:
        """Those of the pictures that are now something else. One without a line, or without a file, is not known."""
        labels, pictures = [], []
        for record in records:
            known = self._of(record.image_id)
            if known is None:
                continue
            if known.labels != hash(_text(record.class_ids)):
                labels.append(record.image_id)
            elif not _same_file(record.path, known):
                pictures.append(record.image_id)
        return Changed(tuple(labels), tuple(pictures))

    def _of(self, image_id: str) -> _Origin | None:
        wanted = hash(image_id)
        after = int(np.searchsorted(self._keys, wanted, side="right"))
        if after == 0 or self._keys[after - 1] != wanted:
            return None
        return _Origin(*self._values[after - 1].tolist())


def _same_file(path: Path, known: _Origin) -> bool:
    try:
        status = path.stat()
        if (status.st_size, status.st_mtime_ns) == (known.size, known.mtime_ns):
            return True
        return status.st_size == known.size and hash(file_digest(path)) == known.digest
    except OSError:
        return True


def _rows(table: Path) -> Iterable[list[str]]:
    if not table.exists():
        return
    lines = (line for _, line in read_lines(table) if not isinstance(line, DataError))
    for row in csv.reader(lines):
        numbers = row[2:4]
        if len(row) == len(COLUMNS) and all(text.isascii() and text.isdigit() and len(text) < 20 for text in numbers):
            yield row


def _text(labels: Sequence[int]) -> str:
    return ";".join(map(str, sorted(labels)))
