"""What would stop or spoil a training, found before it starts: every file of a run folder, all problems at once.

A label outside the classes ends a training on a GPU with a device assert that names no file; a mask of another size
than its picture ends it in the middle of an epoch. First the headers are read, then the pixels.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int64

from clip_es.config.run import ImageConfig
from clip_es.errors import ClipEsError, ConfigError, DataError
from clip_es.images import look_at
from clip_es.masks import CRF_THRESHOLD, read_confidence, read_mask
from clip_es.prompts.vocabulary import classes_of_run
from clip_es.records.picture_files import pictures_below
from clip_es.store.manifest import Manifest
from clip_es.store.run import read_failures
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
        "a label is no class of the vocabulary",
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
class ClassShare:
    """How much of a run is one class."""

    name: str
    pictures: int
    """In how many it occurs."""
    share: float
    """Of all pixels of labels/, 0..1."""
    sure: float
    """Share of the class's pixels with a confidence of at least 0.95, 0..1; NaN where there are none."""


@dataclass(frozen=True)
class RunCheck:
    """What a run folder holds and what is wrong with it."""

    run: Path
    pictures: int
    troubles: tuple[Trouble, ...]
    notes: tuple[str, ...]
    """What is no mistake but worth knowing."""
    classes: tuple[ClassShare, ...] = ()
    """Empty when only headers were read."""
    undecided: float = float("nan")
    """Share of the pixels of masks/ that are 255, 0..1."""

    def refuse(self) -> None:
        """Do nothing where nothing is wrong. Raises DataError: the first problem, and how many there are."""
        if self.troubles:
            first = self.troubles[0]
            raise DataError(
                f"{len(self.troubles)} problems would stop or spoil a training; the first: {KINDS[first.kind][0]}",
                where=self.run / first.file,
                found=first.detail,
                next_step=f"`clip-es check {self.run}` lists all of them.",
            )


Progress = Callable[[Iterable[str], str, int], Iterable[str]]
"""Takes items, what is done with them, and their number; returns the items."""


def check_run(
    run: str | Path,
    images: str | Path | Sequence[Path] | None = None,
    *,
    vocabulary: str | Path | None = None,
    depth: Literal["headers", "pixels"] = "pixels",
    workers: int = 0,
    progress: Progress = lambda items, what, total: items,
) -> RunCheck:
    """Look at every picture of a run folder that is about to be trained on.

    `images`: folder or folders of the pictures; None: those that run.yaml names, and where it names none, sizes are
    compared among the run's own files only. `vocabulary`: a name or file in place of the classes that run.yaml names.
    `depth="headers"` reads sizes and kinds alone, some thousand pictures a second; "pixels" decodes everything, with
    `workers` further processes.
    Raises DataError: no run, or one without a single mask. ConfigError: no such vocabulary.
    """
    run = Path(run)
    manifest = Manifest.read(run)
    classes = classes_of_run(manifest, vocabulary)
    names = None if classes is None else ("background", *classes)
    files = {part: _pngs(run / part) for part in PARTS}
    if not files["masks"]:
        raise DataError(
            "the run has no mask, so there is nothing to train on", where=run / "masks", found="no PNG", next_step=AGAIN
        )
    troubles = [Trouble("missing", f"{part}/", "no such folder") for part in PARTS if not (run / part).is_dir()]
    there = [part for part in PARTS if (run / part).is_dir()]
    ids = sorted(set().union(*files.values()))
    whole = [name for name in ids if all(name in files[part] for part in there)]
    troubles += [
        Trouble("missing", f"{part}/{name}.png", "no such file")
        for name in ids
        for part in there
        if name not in files[part]
    ]
    folders = _folders(images, manifest)
    pictures = pictures_below(folders) if folders else None
    sound: list[str] = []
    for name in progress(whole, "headers", len(whole)):
        found = _headers(run, there, name, None if pictures is None else pictures.get(name, []))
        troubles += found
        if not found:
            sound.append(name)
    notes = list(_notes(run, folders, names))
    if depth == "headers":
        return RunCheck(run, len(ids), tuple(troubles), tuple(notes))
    counts = _Counts()
    for part in _all_pixels(run, there, sound, names, workers, progress):
        counts.add(part)
    troubles += counts.troubles
    shares = _shares(counts, names)
    absent = [share.name for share in shares if not share.pictures]
    if absent:
        notes.append(f"no pixel of {', '.join(absent)}: these classes cannot be learnt from this run")
    if counts.blank:
        notes.append(f"{len(counts.blank)} masks are 255 throughout, such as masks/{counts.blank[0]}.png")
    undecided = counts.undecided / counts.pixels if counts.pixels else float("nan")
    return RunCheck(run, len(ids), tuple(troubles), tuple(notes), shares, undecided)


class _Counts:
    """What pixels add up to, over pictures."""

    def __init__(self) -> None:
        self.labels: Int64[np.ndarray, 256] = np.zeros(256, dtype=np.int64)
        self.sure: Int64[np.ndarray, 256] = np.zeros(256, dtype=np.int64)
        self.pictures: Int64[np.ndarray, 256] = np.zeros(256, dtype=np.int64)
        self.pixels = self.undecided = 0
        self.blank: list[str] = []
        self.troubles: list[Trouble] = []

    def add(self, other: _Counts) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


def _all_pixels(
    run: Path, parts: list[str], ids: list[str], names: tuple[str, ...] | None, workers: int, progress: Progress
) -> Iterator[_Counts]:
    """Counts of the pictures in chunks, in their order, however many processes there are."""
    work = partial(_pixels, run, parts, None if names is None else len(names))
    if not workers:
        yield from (work([name]) for name in progress(ids, "pixels", len(ids)))
        return
    chunks = [ids[start : start + 32] for start in range(0, len(ids), 32)]
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        steps = iter(progress(ids, "pixels", len(ids)))
        for chunk, counts in zip(chunks, pool.map(work, chunks), strict=True):
            for _ in chunk:
                next(steps, None)
            yield counts
        next(steps, None)


def _pixels(run: Path, parts: list[str], labels: int | None, ids: list[str]) -> _Counts:
    counts = _Counts()
    for name in ids:
        arrays: dict[str, np.ndarray] = {}
        for part in parts:
            path = run / part / f"{name}.png"
            try:
                check_crc(path)
                arrays[part] = (read_confidence if part == "confidence" else read_mask)(path)
            except ClipEsError as error:
                counts.troubles.append(Trouble("damaged", f"{part}/{name}.png", error.found or error.what))
        if len(arrays) == len(parts):
            _count(counts, name, arrays, labels)
    return counts


def _count(counts: _Counts, name: str, arrays: Mapping[str, np.ndarray], labels: int | None) -> None:
    masks, decided, confidence = (arrays.get(part) for part in PARTS)
    if masks is None:
        return
    decided = masks if decided is None else decided
    histogram = np.bincount(decided.ravel(), minlength=256)
    for part, array in (("masks", masks), ("labels", decided)):
        if labels is None or (part == "labels" and decided is masks):
            continue
        held = np.flatnonzero(np.bincount(array.ravel(), minlength=256)[:UNDECIDED])
        if len(wrong := held[held >= labels]):
            detail = f"label {', '.join(map(str, wrong[:5]))}; expected 0..{labels - 1}"
            counts.troubles.append(Trouble("label", f"{part}/{name}.png", detail))
    if decided is not masks:
        if histogram[UNDECIDED]:
            detail = f"255 at {histogram[UNDECIDED]} of {decided.size} pixels"
            counts.troubles.append(Trouble("undecided", f"labels/{name}.png", detail))
        if other := int(((masks != decided) & (masks != UNDECIDED) & (decided != UNDECIDED)).sum()):
            counts.troubles.append(Trouble("differs", f"masks/{name}.png", f"{other} pixels differ"))
    left = int((masks == UNDECIDED).sum())
    counts.labels += histogram
    counts.pictures += histogram > 0
    counts.pixels += masks.size
    counts.undecided += left
    if confidence is not None:
        counts.sure += np.bincount(decided[confidence >= np.float32(CRF_THRESHOLD)], minlength=256)
    if left == masks.size:
        counts.blank.append(name)


def _headers(run: Path, parts: list[str], name: str, pictures: list[Path] | None) -> list[Trouble]:
    """What the headers of one picture's files tell; `pictures` are the files of its id, None: not to be looked at."""
    troubles, sizes = [], {}
    for part in parts:
        path = run / part / f"{name}.png"
        try:
            height, width, bits, colours = png_header(path)
        except ClipEsError as error:
            troubles.append(Trouble("damaged", f"{part}/{name}.png", error.found or error.what))
            continue
        if (bits, colours) != (8, 0) and (part == "confidence" or colours != 3):
            found = f"{bits} bits, PNG colour type {colours}"
            troubles.append(Trouble("kind", f"{part}/{name}.png", found))
        sizes[part] = height, width
    own = sizes.get("masks")
    for part, size in sizes.items():
        if own and size != own:
            troubles.append(Trouble("size", f"{part}/{name}.png", f"{_by(size)}, masks/ {_by(own)}"))
    if pictures is None:
        return troubles
    if not pictures:
        troubles.append(Trouble("picture", f"masks/{name}.png", "no picture of this name"))
    elif len(pictures) > 1:
        two = f"{pictures[0]} and {pictures[1]}"
        troubles.append(Trouble("picture", f"masks/{name}.png", f"several pictures of this name: {two}"))
    else:
        try:
            size = look_at(pictures[0], _IMAGE, pixels=False).size_hw
        except ClipEsError as error:
            troubles.append(Trouble("picture", f"masks/{name}.png", str(error)))
        else:
            if own and size != own:
                turned = "; the picture is turned by its EXIF orientation" if size[::-1] == own else ""
                detail = f"{_by(own)}, its picture {pictures[0]} {_by(size)}{turned}"
                troubles.append(Trouble("size", f"masks/{name}.png", detail))
    return troubles


def png_header(path: Path) -> tuple[int, int, int, int]:
    """Height, width, bits and colour type of a PNG file. Raises DataError: it is none, or cannot be read."""
    try:
        with path.open("rb") as file:
            start = file.read(33)
    except OSError as error:
        raise DataError("cannot be read", where=path, found=error.strerror) from error
    if start[:8] != b"\x89PNG\r\n\x1a\n" or start[12:16] != b"IHDR" or len(start) < 33:
        found = f"a file that starts with {start[:8]!r}" if start else "0 bytes"
        raise DataError("is no PNG file", where=path, found=found)
    return int.from_bytes(start[20:24], "big"), int.from_bytes(start[16:20], "big"), start[24], start[25]


def check_crc(path: Path) -> None:
    """Hold every chunk of a PNG against its checksum, which Pillow does not do for pixels. Raises DataError."""
    try:
        data = path.read_bytes()
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


def _pngs(folder: Path) -> set[str]:
    """Names of the PNG files of a folder, without what another process is just writing."""
    try:
        with os.scandir(folder) as entries:
            return {e.name[:-4] for e in entries if e.name.endswith(".png") and not e.name.startswith(".")}
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise DataError("cannot be read", where=folder, found=error.strerror) from error


def _shares(counts: _Counts, names: tuple[str, ...] | None) -> tuple[ClassShare, ...]:
    if names is None:
        used = np.flatnonzero(counts.labels[:UNDECIDED])
        names = tuple(f"label {label}" for label in range(int(used[-1]) + 1 if len(used) else 0))
    total = max(int(counts.labels.sum()), 1)
    return tuple(
        ClassShare(
            name,
            int(counts.pictures[label]),
            float(counts.labels[label] / total),
            float(counts.sure[label] / counts.labels[label]) if counts.labels[label] else float("nan"),
        )
        for label, name in enumerate(names)
    )


def _notes(run: Path, folders: list[Path] | None, names: tuple[str, ...] | None) -> Iterator[str]:
    if failed := read_failures(run / "failures.csv"):
        yield f"{len(failed)} rows in failures.csv: these pictures have no mask and will not be trained on"
    if folders is None:
        yield "sizes were not held against the pictures: run.yaml does not name their folder; pass --images"
    if names is None:
        yield "labels were not held against a vocabulary: run.yaml does not name its classes; pass --vocabulary"


def _folders(images: str | Path | Sequence[Path] | None, run: Manifest) -> list[Path] | None:
    if images is not None:
        return [Path(images)] if isinstance(images, (str, os.PathLike)) else [Path(folder) for folder in images]
    folders = list(run.picture_folders) or None
    if folders is None:
        return None
    if gone := [folder for folder in folders if not folder.is_dir()]:
        raise ConfigError(
            "the pictures are no longer where run.yaml says",
            where=gone[0],
            found="no such folder",
            next_step="Name their folder with --images.",
        )
    return folders


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
