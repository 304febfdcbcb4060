"""What would stop or spoil a training, found before it starts: every file of a run folder, all problems at once.

What is looked for in each picture is the matter of `clip_es.segmentor.data.check`, which a training asks as well.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from clip_es.errors import ConfigError, DataError
from clip_es.pipelines.parallel.pool import Here, ahead
from clip_es.pipelines.parallel.processes import Processes
from clip_es.prompts.vocabulary_files import classes_of_run
from clip_es.records.picture_files import pictures_below
from clip_es.segmentor.data.check import (
    AGAIN,
    PARTS,
    Counts,
    Files,
    Trouble,
    check_headers,
    check_pixels,
    refuse,
)
from clip_es.store.failures import read_failures
from clip_es.store.manifest import Manifest
from clip_es.types import UNDECIDED


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
        refuse(self.troubles, self.run, f"`clip-es check {self.run}` lists all of them.")


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
        files = Files(name, _parts(run, there, name), None if pictures is None else pictures.get(name, []), run)
        found = check_headers(files)
        troubles += found
        if not found:
            sound.append(name)
    notes = list(_notes(run, folders, names))
    if depth == "headers":
        return RunCheck(run, len(ids), tuple(troubles), tuple(notes))
    counts = Counts()
    for part in _all_pixels(run, there, sound, names, workers, progress):
        counts.add(part)
    troubles += counts.troubles
    shares = _shares(counts, names)
    absent = [share.name for share in shares if not share.pictures]
    if absent:
        notes.append(f"no pixel of {', '.join(absent)}: these classes cannot be learnt from this run")
    if counts.blank:
        notes.append(f"{len(counts.blank)} masks are 255 throughout, such as {counts.blank[0]}")
    undecided = counts.undecided / counts.pixels if counts.pixels else float("nan")
    return RunCheck(run, len(ids), tuple(troubles), tuple(notes), shares, undecided)


def _all_pixels(
    run: Path, parts: list[str], ids: list[str], names: tuple[str, ...] | None, workers: int, progress: Progress
) -> Iterator[Counts]:
    """Counts of the pictures in chunks, in their order, however many processes there are."""
    work = partial(_pixels, run, parts, None if names is None else len(names))
    size = 32 if workers else 1
    chunks = (ids[start : start + size] for start in range(0, len(ids), size))
    steps = iter(progress(ids, "pixels", len(ids)))
    with Processes(workers) if workers else Here() as pool:
        for chunk, future in ahead(lambda some: pool.submit(work, some), chunks, pool.most):
            yield future.result()
            for _ in chunk:
                next(steps, None)
    next(steps, None)


def _parts(run: Path, parts: list[str], name: str) -> dict[str, Path]:
    return {part: run / part / f"{name}.png" for part in parts}


def _pixels(run: Path, parts: list[str], labels: int | None, ids: list[str]) -> Counts:
    counts = Counts()
    for name in ids:
        check_pixels(Files(name, _parts(run, parts, name), None, run), labels, counts)
    return counts


def _pngs(folder: Path) -> set[str]:
    """Names of the PNG files of a folder, without what another process is just writing."""
    try:
        with os.scandir(folder) as entries:
            return {e.name[:-4] for e in entries if e.name.endswith(".png") and not e.name.startswith(".")}
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise DataError("cannot be read", where=folder, found=error.strerror) from error


def _shares(counts: Counts, names: tuple[str, ...] | None) -> tuple[ClassShare, ...]:
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
        yield "sizes were not compared with the pictures: run.yaml does not name their folder; pass --images"
    if names is None:
        yield "labels were not compared with a vocabulary: run.yaml does not name its classes; pass --vocabulary"


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
