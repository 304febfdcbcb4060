"""Masks that a person has edited come back into their run, where they override what the method made.

A pixel counts as edited where it differs from what was exported. It gets the person's label in masks/ and labels/ and
confidence 1. A pixel set to undecided is 255 in masks/ with confidence 0, and keeps the method's guess in labels/. All
other pixels stay as they are. A person may use any class of the run, also one the picture was not labelled with.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from clip_es.errors import ClipEsError, ConfigError, DataError, ShapeError
from clip_es.formats import FORMATS, Incoming, ReadableName, Source
from clip_es.masks import read_confidence, read_mask, write_confidence, write_mask
from clip_es.pipelines.exchange.history import (
    EXPORTS,
    IMPORTS,
    PARTS,
    Before,
    Seen,
    digest,
    folder_of,
    kept,
    numbers,
)
from clip_es.pipelines.exchange.run_folder import LabelKind, Run
from clip_es.records import Problem
from clip_es.store.disk import Lock, StoreError, drop_torn_line, names_in, write_atomic
from clip_es.store.summary import update_summary
from clip_es.store.tables import append_rows, read_csv
from clip_es.types import UNDECIDED

TABLE = "imported.csv"
"""History of a run's imports; where a picture has several rows, the last one counts."""

RESTORED = "restored"
"""Stands in the place of a format where a picture was brought back; with 0 edited pixels it is the method's own."""

OnConflict = Literal["refuse", "theirs", "ours"]
"""What becomes of a picture that the run has changed since it was exported, and that was edited there too."""

COLUMNS = ("image_id", "format", "compared_with", "edited_pixels", "reviewed", "mask_sha256")


@dataclass(frozen=True)
class Imported:
    """What came of an import."""

    edited: int
    """Pictures with an edited pixel, or vouched for as a whole."""
    unchanged: int
    kept: int
    """Edited pictures that stay as the run has them, because `on_conflict` says so."""
    pixels: int
    """Edited pixels."""
    problems: tuple[Problem, ...]
    """Pictures that were refused, and why; their masks are as before."""


@dataclass(frozen=True)
class Edited:
    """The files of one picture after an edit."""

    masks: UInt8[np.ndarray, "h w"]
    decided: UInt8[np.ndarray, "h w"]
    confidence: Float32[np.ndarray, "h w"]
    changed: Bool[np.ndarray, "h w"]
    """Where the new labels differ from what was exported."""


def import_masks(
    run: Run,
    source: Source,
    name: ReadableName,
    *,
    compared_with: LabelKind = "masks",
    reviewed: bool = False,
    on_conflict: OnConflict = "refuse",
    done: Callable[[], object] = lambda: None,
) -> Imported:
    """Take over every edited picture of the source.

    `compared_with` is what had been exported. With `reviewed` a person vouches for whole pictures: every pixel counts
    as edited. A picture that the run has changed since it was exported is in conflict: refused, or taken from the
    source (theirs) or left as the run has it (ours). What a picture was before stays in RUN/imports. A stopped import
    is completed by the same call, and a second one changes nothing.
    Raises ConfigError: another import into this run is going on. DataError: the source is not of this format, or has no
    picture. StoreError.
    """
    read = FORMATS[name].read
    if read is None:
        raise ConfigError(f"{name} cannot be read back")
    lock = Lock.take(run.folder, "import")
    if lock is None:
        raise ConfigError("another import is going on", where=run.folder, found=Lock.holder(run.folder, "import"))
    known, seen = set(run.image_ids), set()
    problems: list[Problem] = []
    counts: Counter[str] = Counter()
    with lock:
        drop_torn_line(run.folder / TABLE)
        drop_torn_line(run.folder / EXPORTS)
        for part in (".", *PARTS):
            names_in(run.folder / part)  # listing clears what a writer that died has left
        into = _Into(run, name, compared_with, reviewed, on_conflict, Seen(run.folder, source, compared_with))
        for incoming in read(source, run.names):
            try:
                _check(incoming, known, seen)
                counts += into.take(incoming)
            except StoreError:
                raise
            except ClipEsError as error:
                problems.append(Problem.of(incoming.image_id, error, "import"))
            done()
        if not seen and not problems:
            raise DataError(
                f"holds no mask of the format {name}", where=source.path, next_step="Check --from and --format."
            )
        # Also where nothing is new: the call before may have been stopped after its last mask.
        if imported := imported_ids(run.folder):
            update_summary(run.folder, {"imported": len(imported)})
    return Imported(counts["edited"], counts["unchanged"], counts["kept"], counts["pixels"], tuple(problems))


def apply_edit(
    new: UInt8[np.ndarray, "h w"],
    masks: UInt8[np.ndarray, "h w"],
    decided: UInt8[np.ndarray, "h w"],
    confidence: Float32[np.ndarray, "h w"],
    *,
    compared_with: LabelKind,
    reviewed: bool = False,
) -> Edited:
    """The three files of a picture with the labels `new`, as the head of this module says."""
    changed = new != (masks if compared_with == "masks" else decided)
    touched = np.ones_like(changed) if reviewed else changed
    sure = new != UNDECIDED
    return Edited(
        masks=np.where(touched, new, masks),
        decided=np.where(touched & sure, new, decided),
        confidence=np.where(touched, sure.astype(np.float32), confidence),
        changed=changed,
    )


def imported_ids(run: Path) -> set[str]:
    """Ids of the pictures that hold a person's edits. Empty where there are none."""
    last = {row["image_id"]: row for row in read_csv(run / TABLE, COLUMNS)}
    return {k for k, row in last.items() if (row["format"], row["edited_pixels"]) != (RESTORED, "0")}


def _check(incoming: Incoming, known: set[str], seen: set[str]) -> None:
    image_id = incoming.image_id
    if image_id not in known:
        raise DataError(
            "no finished picture of this run has this name",
            where=incoming.where,
            found=repr(image_id[:100]),
            next_step="Keep the names of the export.",
        )
    if image_id in seen:
        raise DataError("occurs twice; the first one counts", where=incoming.where)
    seen.add(image_id)


@dataclass
class _Into:
    """An import that is going on."""

    run: Run
    format: str
    compared_with: LabelKind
    reviewed: bool
    on_conflict: OnConflict
    seen: Seen

    def __post_init__(self) -> None:
        self.before = Before(self.run.folder)
        self.edited_before = imported_ids(self.run.folder)

    def take(self, incoming: Incoming) -> Counter[str]:
        """Write one picture where it was edited; returns what to count."""
        image_id = incoming.image_id
        masks, decided = self.run.labels(image_id, "masks"), self.run.labels(image_id, "decided")
        confidence = read_confidence(self.run.folder / "confidence" / f"{image_id}.png")
        if not masks.shape == decided.shape == confidence.shape:
            raise ShapeError("masks, labels and confidence of the run have different sizes", where=image_id)
        new = incoming.read((masks.shape[0], masks.shape[1]))
        made = apply_edit(new, masks, decided, confidence, compared_with=self.compared_with, reviewed=self.reviewed)
        pixels = int(made.changed.sum())
        if not self.reviewed and not pixels:
            self.seen.stands_for(image_id, digest(new))
            return Counter(unchanged=1)
        if not self.reviewed and self.seen.unedited(image_id, digest(new)):
            return Counter(unchanged=1)
        current = digest(masks if self.compared_with == "masks" else decided)
        if pixels and self._in_conflict(image_id, current):
            if self.on_conflict == "ours":
                return Counter(kept=1)
            if self.on_conflict == "refuse":
                raise DataError(
                    "the run has changed this mask since it was exported, and here it was edited too",
                    where=incoming.where,
                    found=f"{pixels} pixels that differ",
                    next_step="Pass --on-conflict theirs to take this one, or ours to keep the run's.",
                )
        # Killed from here on, the same call finds that this source knew the mask as it was.
        self.seen.note(image_id, current)
        self._write(image_id, made, pixels)
        self.seen.note(image_id, digest(made.masks if self.compared_with == "masks" else made.decided))
        return Counter(edited=1, pixels=pixels)

    def _in_conflict(self, image_id: str, current: str) -> bool:
        """Whether the run has another version than the person saw, or a person's edit and which was seen is unknown."""
        version = self.seen.version(image_id)
        return image_id in self.edited_before if version is None else version != current

    def _write(self, image_id: str, made: Edited, pixels: int) -> None:
        write_edit(self.run, self.before, image_id, made, (self.format, self.compared_with, pixels, self.reviewed))


def write_edit(run: Run, before: Before, image_id: str, made: Edited, told: tuple[str, LabelKind, int, bool]) -> None:
    """Keep the files of a picture as they are, then write those of the edit; the lock `import` must be held.

    `told`: format, what the edit was compared with, edited pixels, and whether the whole picture was reviewed.
    Raises StoreError.
    """
    before.keep(image_id)
    files = {
        run.folder / "confidence" / f"{image_id}.png": _encoded(write_confidence, made.confidence),
        run.path(image_id, "decided"): _encoded(write_mask, made.decided),
        run.path(image_id, "masks"): _encoded(write_mask, made.masks),
    }
    sha256 = hashlib.sha256(files[run.path(image_id, "masks")]).hexdigest()
    append_rows(run.folder / TABLE, COLUMNS, [(image_id, *told, sha256)], durable=True)
    # What the edit is told by comes last: killed in between, the same call finds the same pixels edited.
    last = run.path(image_id, told[1])
    for file in sorted(files, key=lambda file: file == last):
        write_atomic(file, files[file], durable=True)


def restore(run: Run, number: int | None = None, only: Collection[str] | None = None) -> list[str]:
    """Bring pictures back to what they were before import `number`, or the last one; returns their ids.

    What they are now is kept in turn. Raises ConfigError: nothing was imported, or not with this number, or an import
    is going on. StoreError.
    """
    known = numbers(run.folder)
    number = max(known, default=0) if number is None else number
    if number not in known:
        raise ConfigError(
            "there is no such import",
            where=run.folder / IMPORTS,
            expected=", ".join(map(str, known)) or "an import that changed something",
            found=number or "none",
        )
    lock = Lock.take(run.folder, "import")
    if lock is None:
        raise ConfigError("an import is going on", where=run.folder, found=Lock.holder(run.folder, "import"))
    with lock:
        before, first = Before(run.folder), kept(run.folder, 1)
        found = {k: at for k, at in kept(run.folder, number).items() if only is None or k in only}
        for image_id, at in found.items():
            old = folder_of(run.folder, at)
            begun = read_mask(folder_of(run.folder, first[image_id]) / "masks" / f"{image_id}.png")
            pixels = int((read_mask(old / "masks" / f"{image_id}.png") != begun).sum())
            before.keep(image_id)
            content = {part: (old / part / f"{image_id}.png").read_bytes() for part in PARTS}
            row = (image_id, RESTORED, "masks", pixels, False, hashlib.sha256(content["masks"]).hexdigest())
            append_rows(run.folder / TABLE, COLUMNS, [row], durable=True)
            for part in PARTS:
                write_atomic(run.folder / part / f"{image_id}.png", content[part], durable=True)
        update_summary(run.folder, {"imported": len(imported_ids(run.folder))})
    return list(found)


def _encoded(write, array: np.ndarray) -> bytes:
    data = io.BytesIO()
    write(data, array)
    return data.getvalue()
