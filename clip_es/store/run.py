"""A run's folder: what is done, what is left, what failed.

Every file appears whole or not at all. A picture is finished when all its files are there, and its mask comes last, so
a run can be killed at any moment and continued by the same call. No file depends on the order of the pictures or on
the number of shards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

import numpy as np

from clip_es.errors import ConfigError, DataError
from clip_es.records.dataset import STAGE, Problem
from clip_es.store import made_from
from clip_es.store.cams import KeepCams, encoded_cams
from clip_es.store.disk import Lock, StoreError, drop_torn_line, make_folder, names_in, write_atomic
from clip_es.store.failures import COLUMNS as FAILURE_COLUMNS
from clip_es.store.failures import failure_row, read_failures
from clip_es.store.found_labels import FOUND_COLUMNS, PIECE, TABLE, FoundLabels, label_figures, note
from clip_es.store.made_from import Changed
from clip_es.store.manifest import Manifest, plain
from clip_es.store.opening import claim, refuse_foreign, refuse_other_settings
from clip_es.store.regions import write_instances
from clip_es.store.results import BESIDE, encoded
from clip_es.store.summary import Summary, add_to_summary, merge_lock
from clip_es.store.tables import append_rows, csv_bytes, merged
from clip_es.store.whole import looks_whole
from clip_es.types import ImageRecord, PseudoMask

_PIECE = "failures-"
"""Failures of one shard while it runs: `failures-2of8.csv`. Merged into failures.csv when it closes."""


class RunStore:
    """The folder of one run, open for writing; `with RunStore.open(...) as store:` closes it.

    One store for each process and shard: a second one on the same shard is refused while the first is open.
    """

    def __init__(self, folder: Path, keep: KeepCams, lock: Lock, piece: Path, beside: tuple[str, ...]) -> None:
        self.folder = folder
        self.keep: KeepCams = keep
        self._beside = beside
        self.failed_here = 0
        """Rows this call has added: entries it could not read and pictures that failed. The exit code follows it."""
        self._lock = lock
        self._piece = piece
        self._problems: tuple[Problem, ...] | None = None
        self._skipped: set[str] = set()
        self._finished = self._scan()
        drop_torn_line(piece)
        self._found_piece = piece.with_name(piece.name.replace(_PIECE, PIECE, 1))
        self._made_piece = piece.with_name(piece.name.replace(_PIECE, made_from.PIECE, 1))
        for growing in (self._found_piece, self._made_piece):
            drop_torn_line(growing)
        self.damaged: set[str] = set()
        """Finished pictures with an empty or torn file; they are done again."""

    @classmethod
    def open(
        cls,
        folder: str | Path,
        settings: Mapping[str, Any],
        *,
        about: Mapping[str, Any] | None = None,
        keep: KeepCams = "none",
        shard: tuple[int, int] = (1, 1),
        beside: tuple[str, ...] = BESIDE,
    ) -> RunStore:
        """Make the folder of a new run, or continue one that has the same settings.

        `settings` is everything that decides the bytes of the masks: config, hashes of weights, vocabulary and data
        set. It must be equal when a run is continued. `about` is written beside it and never compared: versions, date,
        device. Both become run.yaml. `shard` (i, n) names this call's part, 1 <= i <= n. `beside`: which of
        `confidence` and `labels` are written beside the masks; a training needs both.

        Raises ConfigError: the folder holds something else or a run with other settings, or another process writes the
        same shard. StoreError: the disk is full or read-only, or permission is denied.
        """
        folder = Path(folder)
        wanted = Manifest.of(folder, {**settings, "keep_cams": keep}, about or {})
        if folder.exists() and not folder.is_dir():
            raise ConfigError("a run needs a folder", where=folder, found="a file", next_step="Pass another --out.")
        others = names_in(folder)
        # Whoever makes a run writes run.yaml first, so this order never takes a young run for something else.
        if not Manifest.is_in(folder):
            refuse_foreign(folder, others)
        lock = claim(folder, shard)
        try:
            _settle(wanted)
            for part in ("masks", *beside, *(["cams"] if keep != "none" else [])):
                make_folder(folder / part)
            index, count = shard
            return cls(folder, keep, lock, folder / f"{_PIECE}{index}of{count}.csv", beside)
        except BaseException:
            lock.release()
            raise

    def unfinished(self, records: Iterable[ImageRecord]) -> list[ImageRecord]:
        """The records whose files are not all there and whole, in their order; failed pictures are among them.

        Of each file only the beginning and the end are read: a million pictures take a minute.
        """
        left = []
        for record in records:
            if record.image_id in self._finished and not self._is_whole(record.image_id):
                self.damaged.add(record.image_id)
                self._finished.discard(record.image_id)
            if record.image_id in self._finished:
                self._skipped.add(record.image_id)
            else:
                left.append(record)
        return left

    def changed(self, records: Iterable[ImageRecord]) -> Changed:
        """Finished pictures among the records that were made with other labels or from another picture file.

        Masks of earlier versions, which noted neither, count as they are.
        """
        if not self._finished:
            return Changed()
        pieces = sorted(name for name in names_in(self.folder) if name.startswith(made_from.PIECE))
        known = made_from.MadeFrom([self.folder / made_from.TABLE, *(self.folder / name for name in pieces)])
        return known.changed(record for record in records if record.image_id in self._finished)

    def redo(self, image_ids: Iterable[str]) -> None:
        """Take back finished pictures, so that they are done again. Raises StoreError."""
        for image_id in image_ids:
            path = self.folder / f"masks/{image_id}.png"
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise StoreError.of(path, error) from error
            self._finished.discard(image_id)

    @property
    def finished(self) -> frozenset[str]:
        """Ids of the finished pictures, of all shards, as this call found or made them."""
        return frozenset(self._finished)

    def _is_whole(self, image_id: str) -> bool:
        cams = [self.folder / f"cams/{image_id}.npz"] if self.keep != "none" else []
        return all(
            map(looks_whole, [self.folder / f"{part}/{image_id}.png" for part in ("masks", *self._beside)] + cams)
        )

    def save(
        self,
        record: ImageRecord,
        mask: PseudoMask,
        cams: Mapping[str, np.ndarray] | None = None,
        found: FoundLabels | None = None,
    ) -> None:
        """Write the files of one picture, each whole or not at all, the mask last.

        `cams` is written only where the run keeps maps: class_ids int64 [K], scores float32 [K+B], cam and refined
        float32 [K gh gw], and where it keeps all of them probabilities float32 [1+K H W]. `found`: the labels, where
        they were not given; they become a line of labels.csv.

        Raises ShapeError: mask or maps are not those of the record. StoreError: the disk does not take them; the run
        should stop.
        """
        files = encoded(record, mask, self.keep, cams, self._beside)
        if found is not None:
            note(self._found_piece, record.image_id, found)
        made_from.note(self._made_piece, record, record.class_ids if found is None else ())
        if mask.instances is not None:
            write_instances(self.folder / f"instances/{record.image_id}.json", mask.instances)
        for part, data in files.items():
            suffix = "npz" if part == "cams" else "png"
            write_atomic(self.folder / f"{part}/{record.image_id}.{suffix}", data)
        self._finished.add(record.image_id)

    def save_cams(self, record: ImageRecord, cams: Mapping[str, np.ndarray]) -> None:
        """Write the maps of a picture that failed after them; without a mask it stays unfinished.

        Probabilities may be absent. Raises ShapeError: the maps do not fit each other. StoreError.
        """
        write_atomic(self.folder / f"cams/{record.image_id}.npz", encoded_cams(record, cams, "maps"))

    def fail(self, record: ImageRecord | str, stage: str, error: BaseException) -> None:
        """Note a picture that failed. Its row goes when a later call finishes the picture. Raises StoreError."""
        image_id = record if isinstance(record, str) else record.image_id
        append_rows(self._piece, FAILURE_COLUMNS, [failure_row(Problem.of(image_id, error, stage))])
        self.failed_here += 1

    def note(self, problems: Iterable[Problem]) -> None:
        """Take over what a reader could not use; replaces the rows of readers in earlier calls."""
        self._problems = tuple(problems)
        self.failed_here += len(self._problems)

    def finish(self, seconds: Mapping[str, float] | None = None, figures: Mapping[str, Any] | None = None) -> Summary:
        """Write failures.csv and summary.json and close.

        `seconds` by stage are added to those of earlier calls and other shards; `figures`, such as miou, replace
        earlier ones of the same name. Raises StoreError.
        """
        with merge_lock(self.folder):
            rows = self._merge()
            summary = Summary(done=len(self._finished), failed=len(rows), skipped=len(self._skipped))
            told = {"images": asdict(summary), **plain(figures or {}, "figures")}
            if (table := self.folder / TABLE).exists():
                told["labels"] = label_figures(table)
            add_to_summary(self.folder, told, seconds or {})
        self._lock.release()
        return summary

    def close(self) -> None:
        """Write failures.csv and let go of the folder; nothing is left to do after `finish`. Raises StoreError."""
        if not self._lock.held:
            return
        try:
            with merge_lock(self.folder):
                self._merge()
        finally:
            self._lock.release()

    def __enter__(self) -> RunStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except StoreError:
            if kind is None:  # Otherwise the first error says more.
                raise

    def _scan(self) -> set[str]:
        """Ids all of whose files are there, by name alone; removes what dead writers left."""
        parts = {**dict.fromkeys(self._beside, ".png"), **({"cams": ".npz"} if self.keep != "none" else {})}
        finished = {name[:-4] for name in names_in(self.folder / "masks") if name.endswith(".png")}
        for part, suffix in parts.items():
            finished &= {name[: -len(suffix)] for name in names_in(self.folder / part) if name.endswith(suffix)}
        names_in(self.folder / "instances")
        return finished

    def _merge(self) -> list[Problem]:
        """Bring failures.csv up to date from the pieces of this shard and of dead ones. Needs the lock `merge`."""
        self._finished = self._scan()
        table = self.folder / "failures.csv"
        own = self._piece.stem.removeprefix(_PIECE)
        pieces = [name for name in names_in(self.folder) if name.startswith((_PIECE, PIECE, made_from.PIECE))]
        locks: list[Lock] = []
        try:
            shards = [own]
            for shard in sorted({Path(name).stem.partition("-")[2] for name in pieces} - {own}):
                lock = Lock.take(self.folder, shard)
                if lock is not None:  # Otherwise its writer lives and will merge its pieces.
                    locks.append(lock)
                    shards.append(shard)
            done = [self.folder / f"{_PIECE}{shard}.csv" for shard in shards]
            rows = [row for path in (table, *done) for row in read_failures(path)]
            failed = {row.image_id: row for row in rows if row.stage != STAGE and row.image_id not in self._finished}
            unread = [row for row in rows if row.stage == STAGE] if self._problems is None else self._problems
            result = sorted({*failed.values(), *unread}, key=astuple)
            write_atomic(table, csv_bytes(FAILURE_COLUMNS, map(failure_row, result)), durable=True)
            self._merge_pieces(TABLE, [self.folder / f"{PIECE}{shard}.csv" for shard in shards])
            self._merge_pieces(made_from.TABLE, [self.folder / f"{made_from.PIECE}{shard}.csv" for shard in shards])
            for piece in done:
                piece.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError.of(table, error) from error
        finally:
            for lock in locks:
                lock.release()
        return result

    def _merge_pieces(self, name: str, pieces: Sequence[Path]) -> None:
        """Bring a table with a line for each finished picture up to date; without a piece nothing changes."""
        there = [path for path in pieces if path.exists()]
        if there:
            table = self.folder / name
            columns = FOUND_COLUMNS if name == TABLE else made_from.COLUMNS
            texts = [path.read_bytes() for path in (table, *there) if path.exists()]
            write_atomic(table, merged(texts, columns, self._finished), durable=True)
            for path in there:
                path.unlink(missing_ok=True)


def _settle(wanted: Manifest) -> None:
    """Write run.yaml, or compare the settings with those that are there."""
    if wanted.write():
        return
    try:
        there = Manifest.read(wanted.folder)
    except DataError as error:
        raise ConfigError(error.what, where=error.where, found=error.found, next_step="Pass another --out.") from error
    refuse_other_settings(wanted.folder, there, wanted)
