"""Masks that a person has edited come back into their run, where they override what the method made.

A pixel counts as edited where it differs from what was exported. It gets the person's label in masks/ and labels/ and
confidence 1. A pixel set to undecided is 255 in masks/ with confidence 0, and keeps the method's guess in labels/. All
other pixels stay as they are. A person may use any class of the run, also one the picture was not labelled with.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from clip_es.errors import ClipEsError, ConfigError, DataError, ShapeError
from clip_es.formats import FORMATS, Incoming, ReadableName, Source
from clip_es.masks import read_confidence, write_confidence, write_mask
from clip_es.pipelines.exchange.run_folder import LabelKind, Run
from clip_es.records import Problem
from clip_es.store.disk import Lock, StoreError, drop_torn_line, write_atomic
from clip_es.store.run import update_summary
from clip_es.store.tables import append_rows, read_csv
from clip_es.types import UNDECIDED

TABLE = "imported.csv"
"""History of a run's imports; where a picture has several rows, the last one counts."""

COLUMNS = ("image_id", "format", "compared_with", "edited_pixels", "reviewed", "mask_sha256")


@dataclass(frozen=True)
class Imported:
    """What came of an import."""

    edited: int
    """Pictures with an edited pixel, or vouched for as a whole."""
    unchanged: int
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
    done: Callable[[], object] = lambda: None,
) -> Imported:
    """Take over every edited picture of the source.

    `compared_with` is what had been exported. With `reviewed` a person vouches for whole pictures: every pixel counts
    as edited. A stopped import is completed by the same call, and a second one changes nothing.
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
    edited = unchanged = pixels = 0
    with lock:
        drop_torn_line(run.folder / TABLE)
        for incoming in read(source, run.names):
            try:
                _check(incoming, known, seen)
                count = _take(run, incoming, name, compared_with, reviewed)
                edited, unchanged, pixels = (
                    edited + (count is not None),
                    unchanged + (count is None),
                    pixels + (count or 0),
                )
            except StoreError:
                raise
            except ClipEsError as error:
                problems.append(Problem.of(incoming.image_id, error, "import"))
            done()
        if not seen and not problems:
            raise DataError(
                f"holds no mask of the format {name}", where=source.path, next_step="Check --from and --format."
            )
        if edited:
            update_summary(run.folder, {"imported": len(imported_ids(run.folder))})
    return Imported(edited, unchanged, pixels, tuple(problems))


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
    """Ids of the pictures that a person has edited. Empty where there were none."""
    return {row["image_id"] for row in read_csv(run / TABLE, COLUMNS)}


def _check(incoming: Incoming, known: set[str], seen: set[str]) -> None:
    image_id = incoming.image_id
    if image_id not in known:
        raise DataError(
            "no finished picture of this run is called so",
            where=incoming.where,
            found=repr(image_id[:100]),
            next_step="Keep the names of the export.",
        )
    if image_id in seen:
        raise DataError("comes twice; the first one counts", where=incoming.where)
    seen.add(image_id)


def _take(run: Run, incoming: Incoming, name: str, compared_with: LabelKind, reviewed: bool) -> int | None:
    """Write one picture; returns how many pixels were edited, None where the picture stays as it is."""
    image_id = incoming.image_id
    masks, decided = run.labels(image_id, "masks"), run.labels(image_id, "decided")
    path = run.folder / "confidence" / f"{image_id}.png"
    confidence = read_confidence(path)
    if not masks.shape == decided.shape == confidence.shape:
        raise ShapeError("masks, labels and confidence of the run have different sizes", where=image_id)
    new = incoming.read((masks.shape[0], masks.shape[1]))
    made = apply_edit(new, masks, decided, confidence, compared_with=compared_with, reviewed=reviewed)
    count = int(made.changed.sum())
    if not count and not reviewed:
        return None
    files = {
        path: _encoded(write_confidence, made.confidence),
        run.path(image_id, "decided"): _encoded(write_mask, made.decided),
        run.path(image_id, "masks"): _encoded(write_mask, made.masks),
    }
    digest = hashlib.sha256(files[run.path(image_id, "masks")]).hexdigest()
    append_rows(run.folder / TABLE, COLUMNS, [(image_id, name, compared_with, count, reviewed, digest)])
    # What the edit is told by comes last: killed in between, the same call finds the same pixels edited.
    last = run.path(image_id, compared_with)
    for file in sorted(files, key=lambda file: file == last):
        write_atomic(file, files[file])
    return count


def _encoded(write, array: np.ndarray) -> bytes:
    data = io.BytesIO()
    write(data, array)
    return data.getvalue()
