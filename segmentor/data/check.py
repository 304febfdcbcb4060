"""What would stop or spoil a training, of one picture and its files: the one check, for a run and for any masks.

A label outside the classes ends a training on a GPU with a device assert that names no file; a mask of another size
than its picture ends it in the middle of an epoch. First the headers are read, then the pixels.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from clip_es.config.run import ImageConfig
from clip_es.errors import ClipEsError, DataError
from clip_es.images import look_at
from clip_es.masks import CRF_THRESHOLD, read_confidence, read_mask
from clip_es.segmentor.data.pairs import Pair
from clip_es.store.shards.inner import content_of
from clip_es.types import UNDECIDED

PARTS = ("masks", "labels", "confidence")
"""Folders of a run that a training may read, one PNG for each picture in each."""

_IMAGE = ImageConfig()
"""A training sees pictures as OpenCV reads them: turned as EXIF says."""

AGAIN = "Call the `clip-es masks` that made the run again, with the same --out: it makes what is missing."
KINDS: dict[str, tuple[str, str]] = {
    "missing": ("a picture lacks a file", AGAIN),
    "picture": (
        "a mask has no readable picture",
        "Name the folder of the pictures with --images, or remove the masks.",
    ),
    "damaged": ("a file is damaged", f"Remove it. {AGAIN}"),
    "kind": ("a PNG holds something else than labels or confidence", f"Remove it. {AGAIN}"),
    "size": (
        "sizes differ",
        "Name the folder of the very pictures the masks were made for; or remove the files and make the masks again.",
    ),
    "label": (
        "a label is not a class of the vocabulary",
        "Check with the vocabulary the masks were made with (--vocabulary), or make the masks again with this one.",
    ),
    "undecided": ("labels/ holds 255, which only masks/ may", f"Remove the file. {AGAIN}"),
    "differs": ("masks/ and labels/ disagree where masks/ is decided", f"Remove both files. {AGAIN}"),
}
"""Kind of problem -> (what it is, what to do)."""


class Trouble(NamedTuple):
    """One problem of one file."""

    kind: str
    """A key of KINDS."""
    file: str
    """Below the run's folder."""
    detail: str


@dataclass(frozen=True)
class Files:
    """A picture and what a training reads of it."""

    image_id: str
    parts: Mapping[str, Path]
    """Part of PARTS -> file; the first is what the others are compared with."""
    pictures: Sequence[Path] | None
    """Files of its id among the pictures; None: pictures are not to be looked at."""
    root: Path | None = None
    """Folder that names of files are shortened by."""

    def name(self, part: str) -> str:
        """A part's file in messages."""
        path = self.parts[part]
        return str(path.relative_to(self.root) if self.root is not None else path)


class Counts:
    """What pixels add up to, over pictures."""

    def __init__(self) -> None:
        self.labels: Int64[np.ndarray, 256] = np.zeros(256, dtype=np.int64)
        self.sure: Int64[np.ndarray, 256] = np.zeros(256, dtype=np.int64)
        self.pictures: Int64[np.ndarray, 256] = np.zeros(256, dtype=np.int64)
        self.pixels = self.undecided = 0
        self.blank: list[str] = []
        self.troubles: list[Trouble] = []

    def add(self, other: Counts) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


def check_pairs(pairs: Iterable[Pair], label_count: int) -> list[Trouble]:
    """Every problem of the pairs of a training: headers of all files, pixels of the masks."""
    counts = Counts()
    for pair in pairs:
        sure = {} if pair.confidence is None else {"confidence": pair.confidence}
        files = Files(pair.image_id, {"labels": pair.mask, **sure}, [pair.image])
        found = check_headers(files)
        counts.troubles += found
        if not found:
            check_pixels(Files(pair.image_id, {"labels": pair.mask}, None), label_count, counts)
    return [trouble for trouble in counts.troubles if trouble.kind != "undecided"]  # 255 is left out by every loss.


def refuse(troubles: Sequence[Trouble], root: Path | None = None, next_step: str | None = None) -> None:
    """Do nothing where nothing is wrong. Raises DataError: the first problem, and how many there are."""
    if troubles:
        first = troubles[0]
        what, remedy = KINDS[first.kind]
        count = f"{len(troubles)} problems" if len(troubles) > 1 else "1 problem"
        raise DataError(
            f"{count} would stop or spoil a training; the first: {what}",
            where=first.file if root is None else root / first.file,
            found=first.detail,
            next_step=next_step or remedy,
        )


def check_pixels(files: Files, label_count: int | None, counts: Counts) -> None:
    """Decode the parts of one picture, and add to the counts what they hold and what is wrong.

    `label_count`: labels there may be, background counted; None: any.
    """
    arrays: dict[str, np.ndarray] = {}
    for part, path in files.parts.items():
        try:
            check_crc(path)
            arrays[part] = (read_confidence if part == "confidence" else read_mask)(path)
        except ClipEsError as error:
            counts.troubles.append(Trouble("damaged", files.name(part), error.found or error.what))
    if len(arrays) == len(files.parts):
        _count(counts, files, arrays, label_count)


def _count(counts: Counts, files: Files, arrays: Mapping[str, np.ndarray], labels: int | None) -> None:
    masks, decided, confidence = (arrays.get(part) for part in PARTS)
    if masks is None:
        masks, decided = decided, None  # A training reads labels/ alone.
    if masks is None:
        return
    own = "masks" if "masks" in arrays else "labels"
    decided = masks if decided is None else decided
    histogram = np.bincount(decided.ravel(), minlength=256)
    for part, array in {own: masks, "labels": decided}.items():
        if labels is None or (part != own and decided is masks):
            continue
        held = np.flatnonzero(np.bincount(array.ravel(), minlength=256)[:UNDECIDED])
        if len(wrong := held[held >= labels]):
            detail = f"label {', '.join(map(str, wrong[:5]))}; expected 0..{labels - 1}"
            counts.troubles.append(Trouble("label", files.name(part), detail))
    if decided is not masks:
        if histogram[UNDECIDED]:
            detail = f"255 at {histogram[UNDECIDED]} of {decided.size} pixels"
            counts.troubles.append(Trouble("undecided", files.name("labels"), detail))
        if other := int(((masks != decided) & (masks != UNDECIDED) & (decided != UNDECIDED)).sum()):
            counts.troubles.append(Trouble("differs", files.name("masks"), f"{other} pixels differ"))
    left = int((masks == UNDECIDED).sum())
    counts.labels += histogram
    counts.pictures += histogram > 0
    counts.pixels += masks.size
    counts.undecided += left
    if confidence is not None:
        counts.sure += np.bincount(decided[confidence >= np.float32(CRF_THRESHOLD)], minlength=256)
    if left == masks.size:
        counts.blank.append(files.name(own))


def check_headers(files: Files) -> list[Trouble]:
    """What the headers of one picture's files tell: kinds and sizes."""
    troubles: list[Trouble] = []
    sizes: dict[str, tuple[int, int]] = {}
    pictures, first = files.pictures, next(iter(files.parts))
    for part, path in files.parts.items():
        try:
            height, width, bits, colours = png_header(path)
        except ClipEsError as error:
            troubles.append(Trouble("damaged", files.name(part), error.found or error.what))
            continue
        if (bits, colours) != (8, 0) and (part == "confidence" or colours != 3):
            found = f"{bits} bits, PNG colour type {colours}"
            troubles.append(Trouble("kind", files.name(part), found))
        sizes[part] = height, width
    own = sizes.get(first)
    for part, size in sizes.items():
        if own and size != own:
            troubles.append(Trouble("size", files.name(part), f"{_by(size)}, {first}/ {_by(own)}"))
    if pictures is None:
        return troubles
    if not pictures:
        troubles.append(Trouble("picture", files.name(first), "no picture of this name"))
    elif len(pictures) > 1:
        two = f"{pictures[0]} and {pictures[1]}"
        troubles.append(Trouble("picture", files.name(first), f"several pictures of this name: {two}"))
    else:
        try:
            size = look_at(pictures[0], _IMAGE, pixels=False, content=content_of(pictures[0])).size_hw
        except ClipEsError as error:
            troubles.append(Trouble("picture", files.name(first), str(error)))
        else:
            if own and size != own:
                turned = "; the picture is turned by its EXIF orientation" if size[::-1] == own else ""
                detail = f"{_by(own)}, its picture {pictures[0]} {_by(size)}{turned}"
                troubles.append(Trouble("size", files.name(first), detail))
    return troubles


def png_header(path: Path) -> tuple[int, int, int, int]:
    """Height, width, bits and colour type of a PNG file. Raises DataError: it is none, or cannot be read."""
    content = content_of(path)
    try:
        with path.open("rb") if content is None else BytesIO(content) as file:
            start = file.read(33)
    except OSError as error:
        raise DataError("cannot be read", where=path, found=error.strerror) from error
    if start[:8] != b"\x89PNG\r\n\x1a\n" or start[12:16] != b"IHDR" or len(start) < 33:
        found = f"a file that starts with {start[:8]!r}" if start else "0 bytes"
        raise DataError("is not a PNG file", where=path, found=found)
    return int.from_bytes(start[20:24], "big"), int.from_bytes(start[16:20], "big"), start[24], start[25]


def check_crc(path: Path) -> None:
    """Compare every chunk of a PNG with its checksum, which Pillow does not do for pixels. Raises DataError."""
    data = content_of(path)
    try:
        data = path.read_bytes() if data is None else data
    except OSError as error:
        raise DataError("cannot be read", where=path, found=error.strerror) from error
    place = 8
    while place + 12 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        if end > len(data):
            break
        if zlib.crc32(data[place + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise DataError("is damaged", where=path, found=f"a wrong checksum near byte {place}")
        if data[place + 4 : place + 8] == b"IEND":
            return
        place = end
    raise DataError("is damaged", where=path, found=f"its end is missing after {len(data)} bytes")


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
