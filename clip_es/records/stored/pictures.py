"""How a picture is fetched that is not a file of this machine: small enough to travel with its record."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from clip_es.decode import PICTURES
from clip_es.errors import DataError
from clip_es.records.file_listing import picture_names
from clip_es.storage import Place, place_of

LARGEST_PICTURE = 2**28
"""Bytes of a picture's file: 256 MiB."""

_LARGEST_GROUP = 2**30
"""Bytes of the pictures of a row group, which is read as a whole."""


@dataclass(frozen=True)
class StoredFile:
    """A file of a place, or a part of one."""

    place: Place
    name: str
    start: int = 0
    length: int | None = None

    def fetch(self) -> bytes:
        """As `clip_es.given.Elsewhere`. Raises DataError."""
        return self.place.read(self.name, self.start, self.length, limit=LARGEST_PICTURE)


@dataclass(frozen=True)
class TableCell:
    """A picture in a column of a Parquet file: bytes, or Hugging Face's pair of bytes and path."""

    place: Place
    name: str
    column: str
    row: int

    def fetch(self) -> bytes:
        """As `clip_es.given.Elsewhere`. Raises DataError."""
        where = f"{self.place.at(self.name)} row {self.row + 1}"
        firsts = _firsts(self.place, self.name, os.getpid())
        group = max((at for at, first in enumerate(firsts) if first <= self.row), default=0)
        values = _pictures(self.place, self.name, self.column, group, os.getpid())
        if self.row - firsts[group] >= len(values):
            raise DataError("has no such row any more", where=where, next_step="Call again.")
        value = values[self.row - firsts[group]]
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise DataError("has no picture", where=where, expected="bytes", found=type(data).__name__)
        return data


@dataclass(frozen=True)
class FilesOf:
    """Pictures by the names of their files below a place."""

    place: Place

    def picture(self, name: str) -> StoredFile:
        """The picture of a row."""
        return StoredFile(self.place, name)


@dataclass(frozen=True)
class PartsOf:
    """Pictures by where they lie in a tar: first byte and length."""

    place: Place
    name: str

    def picture(self, name: str) -> StoredFile:
        """The picture of a row."""
        start, _, length = name.partition("+")
        return StoredFile(self.place, self.name, int(start), int(length))


@dataclass(frozen=True)
class RowsOf:
    """Pictures by their row in a Parquet file."""

    place: Place
    name: str
    column: str

    def picture(self, name: str) -> TableCell:
        """The picture of a row."""
        return TableCell(self.place, self.name, self.column, int(name))


class StoredTree:
    """Which pictures lie below an address, listed once; takes the place of `file_listing.Tree`."""

    def __init__(self, address: str) -> None:
        self.place = place_of(address)
        self._names = [
            file.name
            for file in self.place.files()
            if Path(file.name).suffix.lower() in PICTURES
            and not any(part.startswith(".") for part in file.name.split("/"))
        ]
        self._known = frozenset(self._names)
        if not self._names:
            raise DataError("holds no picture", where=address, next_step="Check the address and the access.")

    def names(self) -> list[str]:
        """The names of the pictures below the address."""
        return self._names

    def has(self, inner: str) -> bool:
        """Whether there is a picture of this name."""
        return inner in self._known

    def by_id(self, image_id: str) -> str | None:
        """The picture whose id this is."""
        if not hasattr(self, "_ids"):
            self._ids = {name.rpartition(".")[0].replace("/", "__"): name for name in reversed(self._names)}
        return self._ids.get(image_id)


def names_below(images: Path, tree: StoredTree | None) -> Any:
    """Names of the pictures in a folder or below an address."""
    return picture_names(images) if tree is None else tree.names()


def parquet_file(place: Place, name: str) -> Any:
    """An opened Parquet file. Raises DataError, ConfigError: pyarrow is missing."""
    from clip_es.store.shards.tables import opened_file

    return opened_file(place.arrow_file(name), place.at(name))


@lru_cache(maxsize=32)
def _opened(place: Place, name: str, process: int) -> Any:
    return parquet_file(place, name)


@lru_cache(maxsize=32)
def _firsts(place: Place, name: str, process: int) -> list[int]:
    """The number of the first row of each group."""
    metadata, firsts = _opened(place, name, process).metadata, [0]
    for group in range(metadata.num_row_groups - 1):
        firsts.append(firsts[-1] + metadata.row_group(group).num_rows)
    return firsts


@lru_cache(maxsize=2)
def _pictures(place: Place, name: str, column: str, group: int, process: int) -> list[Any]:
    """The pictures of a row group; units of work follow the file, so the next one is asked for soon."""
    file, where = _opened(place, name, process), place.at(name)
    try:
        told = file.metadata.row_group(group)
        parts = [told.column(number) for number in range(told.num_columns)]
        size = sum(max(p.total_uncompressed_size, 0) for p in parts if p.path_in_schema.split(".")[0] == column)
    except Exception as error:  # pyarrow raises many kinds for damaged files.
        raise DataError("is damaged", where=where, found=str(error)[:200]) from error
    if size > _LARGEST_GROUP:
        raise DataError(
            "the pictures of a row group do not fit into memory",
            where=where,
            expected=f"at most {_LARGEST_GROUP:,} bytes",
            found=f"{size:,}",
            next_step="Write the file again with a smaller row_group_size.",
        )
    try:
        return file.read_row_group(group, columns=[column]).column(0).to_pylist()
    except Exception as error:
        raise DataError("a row group is damaged", where=where, found=str(error)[:200]) from error
