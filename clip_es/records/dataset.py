"""What every reader returns, and the rules they share: one row per entry, the first of two kept, labels looked up."""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np

from clip_es.errors import ClipEsError, DataError
from clip_es.records.file_listing import Listing
from clip_es.records.packed_records import Records, Row, TruthOf
from clip_es.records.packed_records import without_labels as bare
from clip_es.records.text_files import printable, read_lines, unreadable
from clip_es.types import ImageRecord

__all__ = ["Dataset", "Labels", "Listing", "Problem", "collect", "printable", "read_lines", "unreadable"]

ClassId = Callable[[str], int]
"""From a class name to its 0-based id; raises DataError for a name it does not know."""

OnBadLabel = Literal["fail", "skip"]
"""An unknown label fails its picture, or is left out while the picture's other labels are used."""

STAGE = "records"
"""Stage of the rows that readers write; pictures that fail later carry another one."""

Use = Literal["keep", "drop"]
"""Whether objects of some kind count as labels of their picture."""

_PLAIN_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,198}", re.ASCII)
_SPELLINGS = 65536
"""Spellings of labels whose classes are remembered while a table is read."""


@dataclass(frozen=True)
class Problem:
    """One row of failures.csv: an entry or a picture that could not be used, and why."""

    image_id: str
    """The id as far as it is known, shortened, control characters spelled out; not safe as a file name."""
    error: str
    """Class of the error, such as `DataError`."""
    reason: str
    """What is wrong, where, what was expected, what was found and what to do next."""
    stage: str = STAGE

    @classmethod
    def of(cls, image_id: str, error: BaseException, stage: str = STAGE) -> Problem:
        """The row for an error that was met with a picture."""
        reason = str(error) or type(error).__name__
        return cls(printable(image_id), type(error).__name__, printable(reason, 2000), stage)


@dataclass(frozen=True)
class Dataset:
    """The usable pictures of a data set, in its order, and what is wrong with the others."""

    name: str
    records: Sequence[ImageRecord]
    """Those of a reader are built when they are asked for (`Records`), so a million of them take 40 MB."""
    problems: tuple[Problem, ...] = ()
    truth: Mapping[str, Path] = field(default_factory=dict)
    """Ground-truth mask by image id; only files that exist, only for ids of `records`."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Labels that `on_bad_label="skip"` dropped, and how often."""
    notes: tuple[str, ...] = ()
    """What was left out as asked for, such as pictures without any object; a sentence each."""
    truth_table: np.ndarray | None = None
    """uint8 [256]: from a value of the ground truth's files to that of a mask (0 background, k + 1 class k, 255)."""
    has_background: bool = True
    """False where every pixel of the ground truth is a class or ignored: background then takes no part in the mIoU."""

    def __post_init__(self) -> None:
        if isinstance(self.truth, dict):
            object.__setattr__(self, "truth", MappingProxyType(dict(self.truth)))
        object.__setattr__(self, "left_out", MappingProxyType(dict(self.left_out)))

    def read_truth(self, image_id: str) -> np.ndarray:
        """The truth of a picture, uint8 [h w], with the values of our masks. Raises KeyError: none; DataError: bad."""
        from clip_es.masks import read_mask  # which needs torch; a reader does not

        labels = read_mask(self.truth[image_id])
        return labels if self.truth_table is None else self.truth_table[labels]

    def fingerprint(self) -> str:
        """SHA-256 over ids, labels and stated sizes, in order; where the files lie does not matter."""
        digest = hashlib.sha256()
        for record in self.records:
            digest.update(f"{record.image_id}\t{record.class_ids}\t{record.size_hw}\n".encode())
        return digest.hexdigest()

    def without_labels(self) -> Dataset:
        """The same pictures with no class known."""
        return replace(self, records=bare(self.records))


class Labels:
    """Looks labels up, and counts those that were left out. With `wanted=False` no label is asked for."""

    def __init__(self, class_id: ClassId, on_bad_label: OnBadLabel, wanted: bool = True) -> None:
        self._class_id = class_id
        self._skip = on_bad_label == "skip"
        self.wanted = wanted
        self.left_out: dict[str, int] = {}
        self._known: dict[str, int] = {}

    def ids(self, names: Iterable[str], where: object) -> tuple[int, ...]:
        """0-based class ids in the order of the names, each once.

        Raises DataError: a name is unknown (unless it is to be skipped), or no name is left.
        """
        if not self.wanted:
            return ()
        found: dict[int, None] = {}
        for name in names:
            known = self._known.get(name)
            if known is not None:
                found[known] = None
                continue
            try:
                number = self._class_id(name)
            except DataError as error:
                if self._skip:
                    self.left_out[name] = self.left_out.get(name, 0) + 1
                    continue
                step = "Fix the file, or pass --on-bad-label skip."
                if "," in name:
                    step = f"Several labels in one cell? Pass --label-separator ','. {step}"
                raise DataError(
                    error.what,
                    where=where,
                    expected=error.expected,
                    found=error.found,
                    next_step=f"{error.next_step} {step}" if error.next_step else step,
                ) from None
            found[number] = None
            if len(self._known) < _SPELLINGS:
                self._known[name] = number
        if not found:
            raise DataError(
                "lists no object",
                where=where,
                expected="at least one label that the vocabulary knows",
                next_step="Label the picture, or take it out of the list.",
            )
        return tuple(found)


class LeftOut(NamedTuple):
    """A picture that is not used because the user asked for it, and why."""

    why: str


class At(NamedTuple):
    """Where an entry stands, put into words only when somebody reads them."""

    source: str
    unit: str
    number: int

    def __str__(self) -> str:
        return f"{self.source} {self.unit} {self.number}"


class Entry(NamedTuple):
    """One entry of a list: what it calls the picture, its number, and how it becomes a row."""

    image_id: str
    number: int
    read: Callable[[], Row | LeftOut]


def check_id(image_id: str, where: object) -> None:
    """Raises DataError: not a plain file name. It comes before any path is made of the id."""
    if not _PLAIN_ID.fullmatch(image_id):
        ImageRecord(image_id, Path(str(where)), ())


def collect(
    name: str,
    entries: Iterable[Entry],
    labels: Labels,
    records: Records,
    find_truth: Callable[[str], Path | None] | None,
    source: object,
    where: Callable[[int], object],
) -> Dataset:
    """Read every entry into `records`, keep the first of two with one id, and note what could not be read.

    `where` says where the entry of a number stands. Memory: what `records` takes, and 24 bytes for each entry.
    Raises DataError: the source holds no entry at all.
    """
    hashes, numbers = array("q"), array("q")
    failed: dict[int, Problem] = {}
    reasons: dict[str, int] = {}
    unused = array("Q")
    for at, entry in enumerate(entries):
        hashes.append(hash(entry.image_id))
        numbers.append(entry.number)
        try:
            row = entry.read()
            if isinstance(row, LeftOut):
                reasons[row.why] = reasons.get(row.why, 0) + 1
            else:
                records.add(row)
                continue
        except ClipEsError as error:
            failed[at] = Problem.of(entry.image_id, error)
        except OSError as error:
            failed[at] = Problem.of(entry.image_id, unreadable(where(entry.number), error))
        unused.append(at)
    if not hashes:
        raise DataError("lists no picture", where=source, expected="at least one entry", found="none")
    used = np.ones(len(hashes), bool)
    used[np.frombuffer(unused, np.uint64).astype(np.int64)] = False
    repeated = _repeats(np.frombuffer(hashes, np.int64))
    if repeated:
        row_of = np.cumsum(used) - 1
        dropped = [at for at in repeated if used[at]]
        for at in dropped:
            image_id = records.row(int(row_of[at])).image_id
            error = DataError(
                f"{printable(image_id)!r} is listed twice; the first entry counts",
                where=where(numbers[at]),
                found=f"the same id at {where(numbers[repeated[at]])}",
                next_step="Take one of the two out, or rename the picture.",
            )
            failed[at] = Problem.of(image_id, error)
        kept = np.ones(len(records), bool)
        kept[row_of[dropped]] = False
        records = records.pick(np.flatnonzero(kept))
    return Dataset(
        name,
        records,
        tuple(failed[at] for at in sorted(failed)),
        TruthOf(records, find_truth) if find_truth else {},
        labels.left_out,
        tuple(f"{count:,} picture{'s' * (count > 1)} left out: {why}." for why, count in reasons.items()),
    )


def _repeats(hashes: np.ndarray) -> dict[int, int]:
    """Entries whose id an earlier one has, and the first with it."""
    in_order = np.sort(hashes)
    twice = in_order[1:][in_order[1:] == in_order[:-1]]
    first: dict[int, int] = {}
    seen: dict[int, int] = {}
    for at in np.flatnonzero(np.isin(hashes, twice)).tolist() if len(twice) else ():
        one = seen.setdefault(int(hashes[at]), at)
        if one != at:
            first[at] = one
    return first


def refuse(error: DataError) -> Callable[[], Row]:
    """The reading of an entry that is already known to be bad."""

    def read() -> Row:
        raise error

    return read
