"""What left a run and what came back: which version of a mask a person saw, and how each mask was before an import.

RUN/exports.csv says of every exported mask which labels left; an import adds what its source now stands for. So an edit
is told from a mask that somebody else has changed since. RUN/imports/0001/masks, labels and confidence hold the files
of the pictures that the first import changed, as they were before it.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from clip_es.errors import ConfigError, DataError
from clip_es.formats import Source
from clip_es.formats.folder import MARK, read_mark
from clip_es.pipelines.exchange.run_folder import FOLDERS, LabelKind
from clip_es.store.disk import make_folder, names_in, write_atomic
from clip_es.store.tables import append_rows, read_csv

EXPORTS = "exports.csv"
"""Table of a run: what left it."""

COLUMNS = ("export", "source", "image_id", "labels", "labels_sha256")
"""Id of the export; empty for one, or the file or folder that was imported; picture; masks or decided; digest."""

IMPORTS = "imports"
"""Folder of a run: what its pictures were before each import."""

PARTS = ("confidence", "labels", "masks")
"""The files of a picture; the mask is written last."""


def digest(labels: UInt8[np.ndarray, "h w"]) -> str:
    """Of the labels of a picture, whatever file they are in."""
    return hashlib.sha256(repr(labels.shape).encode() + np.ascontiguousarray(labels).tobytes()).hexdigest()[:32]


def note_exports(run: Path, export: str, kind: str, digests: Iterable[tuple[str, str]]) -> None:
    """Add ids and digests of exported labels. Raises StoreError."""
    append_rows(
        run / EXPORTS, COLUMNS, [(export, "", image_id, kind, known) for image_id, known in digests], durable=True
    )


class Seen:
    """Which labels of each picture the person saw whose edits come from a source."""

    def __init__(self, run: Path, source: Source, kind: str) -> None:
        self._run, self._kind = run, kind
        self._source = str(source.path.resolve())
        self.export = export_id(source)
        self._own: dict[str, str] = {}
        self._exported: defaultdict[str, set[str]] = defaultdict(set)
        for row in read_csv(run / EXPORTS, COLUMNS):
            if row["labels"] != kind:
                continue
            image_id, known = row["image_id"], row["labels_sha256"]
            if not row["source"]:
                self._exported[image_id].add(known)
            ours = row["export"] == self.export and row["source"] in ("", self._source)
            if ours and (self.export or row["source"]):
                self._own[image_id] = known

    def unedited(self, image_id: str, labels: str) -> bool:
        """Whether labels with this digest are what was exported, so that nobody has edited them."""
        own = self._own.get(image_id)
        return labels == own if own is not None else labels in self._exported.get(image_id, ())

    def version(self, image_id: str) -> str | None:
        """Digest of the labels that the person saw; None where that cannot be known."""
        if image_id in self._own:
            return self._own[image_id]
        exported = self._exported.get(image_id, set())
        return next(iter(exported)) if len(exported) == 1 and not self.export else None

    def stands_for(self, image_id: str, labels: str) -> None:
        """The run has the labels of the source, which a kill may have kept from being noted. Raises StoreError."""
        if self._own.get(image_id, labels) != labels:
            self.note(image_id, labels)

    def note(self, image_id: str, labels: str) -> None:
        """From now on the source stands for these labels. Raises StoreError."""
        append_rows(
            self._run / EXPORTS, COLUMNS, [(self.export, self._source, image_id, self._kind, labels)], durable=True
        )


def mark_of(source: Source) -> dict[str, Any]:
    """What the mark of an export says, in a folder or an archive; empty where it is missing, as after another tool."""
    if source.path.is_dir():
        return read_mark(source.path)
    name = source.find(MARK)
    try:
        return source.json(name) if name else {}
    except DataError:
        return {}


def export_id(source: Source) -> str:
    """Of the export that a source is the edited form of; empty where its mark is missing."""
    found = mark_of(source).get("export")
    return found if isinstance(found, str) else ""


def exported_as(run: Path, source: Source, format: str) -> LabelKind:
    """Which labels of the run a source began as: what its mark says, or else what alone has left the run.

    Raises ConfigError: both have, or the mark says another format.
    """
    mark = mark_of(source)
    stated = str(mark.get("format", format))[:40]
    if stated != format:
        raise ConfigError(
            f"was exported as {stated}, not {format}", where=source.path, next_step=f"Pass --format {stated}."
        )
    kinds = {row["labels"] for row in read_csv(run / EXPORTS, COLUMNS) if not row["source"]}
    known = {str(mark.get("labels"))} & set(FOLDERS) or kinds & set(FOLDERS)
    if len(known) > 1:
        raise ConfigError(
            "does not say which labels of the run it began as, and both have been exported",
            where=source.path,
            next_step="Pass --labels decided for what `worst` exported, --labels masks for `export`, unless you chose.",
        )
    return "decided" if known == {"decided"} else "masks"


class Before:
    """Keeps the files of pictures as they are before an import changes them."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self.number = max(numbers(run), default=0) + 1

    def keep(self, image_id: str) -> None:
        """Copy the files of a picture. Raises StoreError, OSError."""
        for part in PARTS:
            target = folder_of(self._run, self.number) / part / f"{image_id}.png"
            make_folder(target.parent)
            write_atomic(target, (self._run / part / f"{image_id}.png").read_bytes(), durable=True)


def numbers(run: Path) -> list[int]:
    """Of the imports that changed something, in order; one that was stopped before has kept no mask."""
    found = []
    for name in names_in(run / IMPORTS):
        if name.isascii() and name.isdigit():
            # Each part is listed, since listing clears what a writer that died has left.
            parts = {part: names_in(run / IMPORTS / name / part) for part in PARTS}
            if parts["masks"]:
                found.append(int(name))
    return sorted(found)


def folder_of(run: Path, number: int) -> Path:
    """Where the files lie as they were before an import."""
    return run / IMPORTS / f"{number:04d}"


def kept(run: Path, number: int) -> dict[str, int]:
    """The pictures that import `number` or a later one changed, each with the first import since then that did."""
    found: dict[str, int] = {}
    for known in numbers(run):
        if known >= number:
            for name in names_in(folder_of(run, known) / "masks"):
                found.setdefault(name.removesuffix(".png"), known)
    return found
