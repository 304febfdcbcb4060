"""A million records in forty bytes each: what differs between them is packed, and a record is built when asked for."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np

from clip_es.errors import DataError
from clip_es.records.file_listing import Place
from clip_es.types import ImageRecord

_PLACE, _SIZE = struct.Struct("<H"), struct.Struct("<ii")
_SIZED = 2**15
"""Set in the number of the place where height and width follow it."""


class Row(NamedTuple):
    """What a reader knows of one picture."""

    image_id: str
    place: int
    """Number of the place among those of the table."""
    class_ids: tuple[int, ...]
    size_hw: tuple[int, int] | None = None
    name: str = ""
    """Path of the file below the folder of its place, without its suffix, where the id does not tell it."""


class Records(Sequence[ImageRecord]):
    """Records by number. A slice is a view, equal to any other sequence of the same records.

    A reader adds rows while it reads; nothing is added afterwards.
    """

    def __init__(self, places: Sequence[Place] = ()) -> None:
        self.places: list[Place] = list(places)
        self._rows = bytearray()
        self._ends = array("Q")
        self._picked: range | np.ndarray | None = None

    def place(self, place: Place) -> int:
        """Number of a place, which becomes known if it is not yet."""
        if place not in self.places:
            if len(self.places) == _SIZED:
                raise DataError("the pictures lie in too many folders", expected=f"at most {_SIZED:,}")
            self.places.append(place)
        return self.places.index(place)

    def add(self, row: Row) -> None:
        """Add a row at the end."""
        self._rows += f"{row.image_id}\0{row.name}\0".encode()
        self._rows += _PLACE.pack(row.place if row.size_hw is None else row.place | _SIZED)
        if row.size_hw is not None:
            self._rows += _SIZE.pack(*row.size_hw)
        self._rows += array("h", row.class_ids).tobytes()
        self._ends.append(len(self._rows))

    def pick(self, numbers: range | np.ndarray) -> Records:
        """A view of some of the records, in the order of the numbers."""
        view = object.__new__(Records)
        view.places, view._rows, view._ends = self.places, self._rows, self._ends
        if self._picked is None:
            view._picked = numbers
        elif isinstance(self._picked, range) and isinstance(numbers, range):
            view._picked = range(0) if not numbers else self._picked[_slice(numbers)]
        else:
            view._picked = np.asarray(self._picked)[np.asarray(numbers, dtype=np.int64)]
        return view

    def row(self, number: int) -> Row:
        """A record as it was added."""
        number = number if self._picked is None else int(self._picked[number])
        start = self._ends[number - 1] if number else 0
        image_id, name, rest = self._rows[start : self._ends[number]].split(b"\0", 2)
        (place,) = _PLACE.unpack_from(rest)
        size = _SIZE.unpack_from(rest, _PLACE.size) if place & _SIZED else None
        ids = array("h", bytes(rest[_PLACE.size + (_SIZE.size if size else 0) :]))
        return Row(image_id.decode(), place & ~_SIZED, tuple(ids), size, name.decode())

    def __len__(self) -> int:
        return len(self._ends) if self._picked is None else len(self._picked)

    @overload
    def __getitem__(self, index: int) -> ImageRecord: ...
    @overload
    def __getitem__(self, index: slice) -> Records: ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.pick(range(*index.indices(len(self))))
        index = int(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        row = self.row(index % len(self))
        place = self.places[row.place]
        if place.origin is not None:
            picture = place.origin.picture(row.name)
            return ImageRecord(row.image_id, place.path(row.image_id), row.class_ids, row.size_hw, picture)
        path = place.folder / (row.name + place.suffix) if row.name else place.path(row.image_id)
        return ImageRecord(row.image_id, path, row.class_ids, row.size_hw)

    def __iter__(self) -> Iterator[ImageRecord]:
        return map(self.__getitem__, range(len(self)))

    def ids(self) -> Iterator[str]:
        """The image ids, in order, without building records."""
        for number in range(len(self)) if self._picked is None else self._picked:
            start = self._ends[number - 1] if number else 0
            yield self._rows[start : self._rows.index(b"\0", start)].decode()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str | bytes):
            return NotImplemented
        return len(self) == len(other) and all(map(_same, self, other))

    __hash__ = None  # type: ignore[assignment]  # as of every sequence that is compared by what it holds

    def __repr__(self) -> str:
        return f"Records({len(self):,})"


class TruthOf(Mapping[str, Path]):
    """Ground-truth masks of records: looked up when asked for, only files that exist."""

    def __init__(self, records: Records, find: Callable[[str], Path | None]) -> None:
        self._records = records
        self._find = find

    def __getitem__(self, image_id: str) -> Path:
        found = self._find(image_id)
        if found is None:
            raise KeyError(image_id)
        return found

    def __contains__(self, image_id: object) -> bool:
        return isinstance(image_id, str) and self._find(image_id) is not None

    def __iter__(self) -> Iterator[str]:
        return (image_id for image_id in self._records.ids() if self._find(image_id) is not None)

    def __len__(self) -> int:
        return sum(map(bool, map(self._find, self._records.ids())))

    def __repr__(self) -> str:
        return f"TruthOf({self._records!r})"


def without_labels(records: Sequence[ImageRecord]) -> Sequence[ImageRecord]:
    """The same pictures with no class known."""
    if not isinstance(records, Records):
        return tuple(ImageRecord(r.image_id, r.path, (), r.size_hw) for r in records)
    bare = Records(records.places)
    for row in map(records.row, range(len(records))):
        bare.add(row._replace(class_ids=()))
    return bare


def _slice(numbers: range) -> slice:
    """What picks these numbers, at least one, out of a sequence."""
    stop = numbers[-1] + (1 if numbers.step > 0 else -1)
    return slice(numbers[0], None if stop < 0 else stop, numbers.step)


def _same(one: ImageRecord, other: object) -> bool:
    return one == other
