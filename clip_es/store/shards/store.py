"""A run whose results go into shards: which units of work are left, and who writes one.

A unit is some pictures that follow each other in the data set; it becomes one shard and one entry of the manifest. Who
does a unit, in what order and how often does not matter: the caller, or processes of a cluster that write by themselves
and hand back a few numbers.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clip_es.errors import ConfigError, DataError
from clip_es.given import stored_bytes
from clip_es.records.dataset import Problem
from clip_es.records.packed_records import Records
from clip_es.storage import Folder, Place, place_of
from clip_es.store.cams import KeepCams
from clip_es.store.disk import Lock
from clip_es.store.failures import COLUMNS as FAILURE_COLUMNS
from clip_es.store.failures import failure_row
from clip_es.store.found_labels import FoundLabels
from clip_es.store.manifest import FILE, SHARDS, Manifest, plain
from clip_es.store.opening import claim, refuse_foreign, refuse_other_settings
from clip_es.store.regions import instances_bytes
from clip_es.store.results import encoded
from clip_es.store.shards import manifest
from clip_es.store.shards.forms import FormName
from clip_es.store.shards.manifest import Entry
from clip_es.store.shards.rows import PICTURE, ShardRow
from clip_es.store.summary import Summary, added_seconds
from clip_es.store.tables import csv_bytes, json_text
from clip_es.types import ImageRecord, PseudoMask

ROWS_PER_SHARD = 256
"""Pictures of a unit; what a machine that dies can lose of its work."""

_NAMES = {"mask.png": "masks", "labels.png": "labels", "confidence.png": "confidence", "cams.npz": "cams"}
"""What the parts of a run are called in a shard, in their order there."""


@dataclass(frozen=True)
class Unit:
    """Pictures that become one shard."""

    number: int
    """Of the unit in the data set."""
    records: Sequence[ImageRecord] = field(repr=False)

    @property
    def name(self) -> str:
        """Of its entry."""
        return manifest.name_of(self.number, (record.image_id for record in self.records))

    def __len__(self) -> int:
        return len(self.records)

    def halves(self) -> tuple[Unit, ...]:
        """Two units with the same pictures; one picture stays one."""
        half = (len(self) + 1) // 2
        parts = (self.records[:half], self.records[half:])
        return tuple(Unit(self.number, part) for part in parts if len(part))


@dataclass(frozen=True)
class Sink:
    """Where shards go and how they look: all that a process needs to write one, so it travels to other machines."""

    place: Place
    form: FormName
    settings_sha256: str
    classes: tuple[str, ...]
    """Names of the classes by id."""
    keep: KeepCams = "none"
    pictures: bool = False
    """Whether shards carry the files of the pictures."""

    def writer(self, unit: Unit) -> UnitWriter:
        """Takes the results of a unit."""
        return UnitWriter(self, unit)


class UnitWriter:
    """Collects the masks of a unit in any order, as `RunStore` takes them, and writes them as one shard."""

    def __init__(self, sink: Sink, unit: Unit) -> None:
        self.keep: KeepCams = sink.keep
        self._sink, self._unit = sink, unit
        self._rows: dict[str, ShardRow] = {}
        self._failed: dict[str, Problem] = {}

    def save(
        self,
        record: ImageRecord,
        mask: PseudoMask,
        cams: Mapping[str, np.ndarray] | None = None,
        found: FoundLabels | None = None,
    ) -> None:
        """As `RunStore.save`; nothing is written yet. Raises ShapeError; DataError: the picture cannot be read."""
        parts = encoded(record, mask, self.keep, cams)
        files = {name: parts[part] for name, part in _NAMES.items() if part in parts}
        if mask.instances is not None:
            files["instances.json"] = instances_bytes(mask.instances)
        if self._sink.pictures:
            files |= _picture_file(record)
        sure = {} if found is None else {"label_confidence": tuple(found.confidence), "sure": found.sure}
        height, width = mask.labels.shape
        self._rows[record.image_id] = ShardRow(
            record.image_id,
            (height, width),
            record.class_ids,
            tuple(self._sink.classes[k] for k in record.class_ids),
            self._sink.settings_sha256,
            files,
            **sure,
        )

    def save_cams(self, record: ImageRecord, cams: Mapping[str, np.ndarray]) -> None:
        """Nothing: a shard holds finished pictures alone."""

    def fail(self, record: ImageRecord | str, stage: str, error: BaseException) -> None:
        """Note a picture that failed."""
        image_id = record if isinstance(record, str) else record.image_id
        self._failed[image_id] = Problem.of(image_id, error, stage)

    def commit(self) -> Entry:
        """Write the shard and its entry, in the order of the unit. Raises StoreError."""
        rows = [self._rows[r.image_id] for r in self._unit.records if r.image_id in self._rows]
        failed = tuple(self._failed[name] for name in sorted(self._failed))
        sink = self._sink
        return manifest.commit(sink.place, self._unit.name, sink.form, rows, sink.settings_sha256, failures=failed)


class ShardStore:
    """The run: `with ShardStore.open(...) as store:`; `units` tells what is left, `sink` writes it, `finish` sums up.

    Several callers may share it, each with its own `shard`. On a disk a second caller on the same shard is refused; on
    object storage two of them do the same work and write the same shards.
    """

    def __init__(self, sink: Sink, lock: Lock | None) -> None:
        self.sink = sink
        self._lock = lock
        self._problems: tuple[Problem, ...] = ()
        self.failed_here = 0
        """Entries this call could not read and pictures that failed in it."""
        self.skipped = 0
        """Pictures that were finished before this call."""
        self.damaged: list[DataError] = []
        """Entries of the manifest that cannot be read; their pictures are done again."""
        self._finished = self._scan()

    @classmethod
    def open(
        cls,
        place: str | Path | Place,
        settings: Mapping[str, Any],
        *,
        classes: Sequence[str],
        form: FormName,
        about: Mapping[str, Any] | None = None,
        keep: KeepCams = "none",
        pictures: bool = False,
        shard: tuple[int, int] = (1, 1),
    ) -> ShardStore:
        """Begin a run, or continue one that has the same settings; as `RunStore.open`.

        Raises ConfigError: the place holds something else, or a run with other settings. StoreError, DataError: it
        cannot be written or read.
        """
        place = place if isinstance(place, Place) else place_of(place)
        where = place.path if isinstance(place, Folder) else Path(str(place))
        wanted = Manifest.of(where, {**settings, "keep_cams": keep, "form": SHARDS}, about or {})
        # Object storage knows no locks.
        lock = claim(place.path, shard) if isinstance(place, Folder) else None
        try:
            _settle(place, wanted)
            sink = Sink(place, form, wanted.settings_sha256, tuple(classes), keep, pictures)
            return cls(sink, lock)
        except BaseException:
            if lock:
                lock.release()
            raise

    def units(self, records: Sequence[ImageRecord], size: int = ROWS_PER_SHARD) -> Iterator[Unit]:
        """What is left of the records, in units that begin at every `size`-th record whatever is finished.

        So a run that is continued makes the shards that it would have made. Raises ConfigError.
        """
        if size < 1:
            raise ConfigError("a shard holds at least one picture", expected="1 or more", found=size)
        self.skipped = 0
        ids = records.ids() if isinstance(records, Records) else (record.image_id for record in records)
        hashes = np.fromiter(map(hash, ids), np.int64, len(records))
        left = ~_among(hashes, self._finished)
        self.skipped = int(len(left) - left.sum())
        return self._cut(records, left, size)

    @staticmethod
    def _cut(records: Sequence[ImageRecord], left: np.ndarray, size: int) -> Iterator[Unit]:
        for number, start in enumerate(range(0, len(records), size)):
            here = start + np.flatnonzero(left[start : start + size])
            if len(here):
                some = records[start : start + size]
                yield Unit(number, some if len(here) == len(some) else [records[int(at)] for at in here])

    def note(self, problems: Iterable[Problem]) -> None:
        """Take over what a reader could not use."""
        self._problems = tuple(problems)
        self.failed_here += len(self._problems)

    def fail(self, unit: Unit, stage: str, error: BaseException) -> None:
        """Note every picture of a unit as failed. Raises StoreError."""
        writer = self.sink.writer(unit)
        for record in unit.records:
            writer.fail(record, stage, error)
        writer.commit()
        self.failed_here += len(unit)

    def finish(self, seconds: Mapping[str, float] | None = None, figures: Mapping[str, Any] | None = None) -> Summary:
        """Write failures.csv and summary.json and close; figures as in `RunStore.finish`. Raises StoreError."""
        place, total = self.sink.place, Totals()
        pieces: list[np.ndarray] = []
        failed: dict[str, Problem] = {}
        for entry in manifest.entries(place):
            if isinstance(entry, Entry):
                total.add(entry)
                pieces.append(_hashes(entry.ids))
                failed.update((one.image_id, one) for one in entry.failures)
        finished = _joined(pieces)
        left = ~_among(_hashes(failed), finished)
        rows = {one for one, counts in zip(failed.values(), left, strict=True) if counts} | set(self._problems)
        ordered = sorted(rows, key=lambda one: (one.image_id, one.stage, one.reason))
        place.write("failures.csv", csv_bytes(FAILURE_COLUMNS, map(failure_row, ordered)))
        summary = Summary(done=len(finished), failed=len(ordered), skipped=self.skipped)
        told = {"images": asdict(summary), "shards": asdict(total), **plain(figures or {}, "figures")}
        told["seconds"] = added_seconds(self._seconds_before(), seconds or {})
        place.write("summary.json", json_text(told).encode())
        self.close()
        return summary

    def _seconds_before(self) -> object:
        try:
            return json.loads(self.sink.place.read("summary.json", limit=2**24))["seconds"]
        except (DataError, ValueError, KeyError, TypeError, RecursionError):
            return None  # There is none yet, or what is none is written anew.

    def close(self) -> None:
        """Let go of the place; a second call does nothing."""
        if self._lock:
            self._lock.release()

    def __enter__(self) -> ShardStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _scan(self) -> np.ndarray:
        """Hashes of the ids that shards hold: eight bytes for each picture."""
        pieces = []
        for entry in manifest.entries(self.sink.place):
            if isinstance(entry, DataError):
                self.damaged.append(entry)
            else:
                pieces.append(_hashes(entry.ids))
        return _joined(pieces)


def _hashes(ids: Collection[str]) -> np.ndarray:
    """Eight bytes for each id, where a set of Python takes seventy."""
    return np.fromiter(map(hash, ids), np.int64, len(ids))


def _joined(pieces: Sequence[np.ndarray]) -> np.ndarray:
    """All of them, ascending, each once."""
    return np.unique(np.concatenate(pieces)) if pieces else np.zeros(0, np.int64)


def _among(hashes: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Whether each stands in an ascending list; `np.isin` would sort both, in five times the memory."""
    if not len(known):
        return np.zeros(len(hashes), bool)
    return known[np.searchsorted(known, hashes).clip(max=len(known) - 1)] == hashes


@dataclass
class Totals:
    """What the shards of a run add up to."""

    shards: int = 0
    rows: int = 0
    bytes: int = 0

    def add(self, entry: Entry) -> None:
        """Count one more."""
        self.shards += bool(entry.file)
        self.rows += len(entry.ids)
        self.bytes += entry.bytes


def _settle(place: Place, wanted: Manifest) -> None:
    """Write run.yaml, or compare the settings with those that are there."""
    if not place.has(FILE):
        refuse_foreign(place, {file.name.split("/")[0] for file in place.files()})
        if place.write(FILE, wanted.text(), replace=False):
            return
    refuse_other_settings(place, Manifest.read(wanted.folder), wanted)


def _picture_file(record: ImageRecord) -> dict[str, bytes]:
    """The file of a picture as it is, under the name that a shard has for it. Raises DataError."""
    suffix = record.path.suffix.lower()
    name = f"picture{suffix}"
    try:
        data = stored_bytes(record.image) if record.image is not None else record.path.read_bytes()
    except OSError as error:
        raise DataError("cannot be read", where=record.path, found=error.strerror) from error
    if data is None:
        raise DataError("is no file, so a shard cannot carry it", where=record.path)
    return {name if PICTURE.fullmatch(name) else "picture": data}
