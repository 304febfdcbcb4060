"""What would stop or spoil a run, found before it starts: every entry, picture and ground-truth mask of a data set.

Pictures are read as a run reads them, one at a time; of a million only sizes and hashes are kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clip_es.config.run import ImageConfig
from clip_es.decode import check_area
from clip_es.errors import ClipEsError, nearest
from clip_es.images import Look, look_at
from clip_es.masks import read_mask
from clip_es.pipelines.parallel.pool import Here, Pool, ahead
from clip_es.pipelines.parallel.processes import Processes, WorkerDied
from clip_es.prompts import Vocabulary
from clip_es.records import Dataset
from clip_es.types import UNDECIDED, ImageRecord

KINDS: dict[str, tuple[str, str]] = {
    "entry": (
        "an entry of the list cannot be used",
        "Each line says what to do. --on-bad-label skip leaves unknown labels out and keeps the picture.",
    ),
    "picture": ("a picture cannot be read", "Copy it again, save it again as PNG or JPEG, or take it out of the list."),
    "large": ("a picture is larger than allowed", "Scale it down, or raise --image.max-megapixels."),
    "annotation": (
        "the annotation states another size than the picture has",
        "Correct the annotation or restore the picture: one of the two was resized or turned afterwards.",
    ),
    "mask": ("a ground-truth mask cannot be read", "Export it again as a palette or 8-bit grey PNG."),
    "mask size": (
        "a ground-truth mask has another size than its picture",
        "Restore the one that was resized or turned. Where masks ignore EXIF as well, pass --image.no-exif.",
    ),
    "values": (
        "a ground-truth mask holds values that are not classes",
        "0 is background, k + 1 class k, 255 ignored: re-index the masks, or name their --vocabulary.",
    ),
    "twice": ("a picture is in the list more than once", "Take all but one out of the list."),
    "contradiction": (
        "the same picture has different labels",
        "Look at it, correct its labels, and take all but one out of the list.",
    ),
    "labels": ("labels and ground truth name different classes", "Correct whichever is wrong."),
    "frames": ("a file has several frames or pages", "The first one is used. Export the others as files of their own."),
    "reduced": ("the encoder sees a picture scaled down", "Masks keep the size. --image.max-patches sets how far."),
    "no row": ("a picture of the folder has no row in the table of labels", "It gets no mask; add a row for it."),
    "tiny": ("a picture has fewer than 16 patches", "Its masks will be coarse; larger versions help."),
    "no truth": ("a picture has no ground truth while others have", "It takes no part in the evaluation."),
    "absent": ("a class of the vocabulary has no picture", "Fine if intended; otherwise check the spelling."),
    "together": (
        "a label never occurs without another",
        "CLIP tells them apart by their words alone, and a segmenter trained on the masks learns what CLIP mixes up. "
        "Add pictures that have only one of the two.",
    ),
}
"""Kind of finding -> (what it is, what to do). From `labels` on they are notes: worth knowing, but nothing fails."""

SERIOUS = tuple(KINDS)[: tuple(KINDS).index("labels")]
"""The kinds that are problems."""

MOST_CLASSES = 2000
"""Classes up to which pairs of labels are counted; more would need too much memory."""

_CHUNK = 16
_FEW_PATCHES = 16
_OFTEN = 3
"""Pictures a label must be in before its company says anything."""


class Finding(NamedTuple):
    """One problem or note."""

    kind: str
    """A key of KINDS."""
    image_id: str
    """Empty where it concerns no single picture."""
    file: str
    detail: str


@dataclass(frozen=True)
class LabelCount:
    """How often a class is a label."""

    name: str
    pictures: int
    alone: int
    """Pictures of which it is the only label."""
    always_with: tuple[str, ...] = ()
    """Labels without which it never occurs."""


@dataclass(frozen=True)
class DataCheck:
    """What a data set holds and what is wrong with it."""

    name: str
    listed: int
    usable: int
    findings: tuple[Finding, ...]
    """Problems first, in the order of KINDS, then notes."""
    labels: tuple[LabelCount, ...]
    unknown_labels: tuple[tuple[str, int, str], ...]
    """Labels the vocabulary does not know: the label, how often, the nearest name."""
    sizes_hw: np.ndarray
    """int32 [picture 2], as masks will have them; 0 where a picture cannot be read."""
    notes: tuple[str, ...] = ()
    """What the reader left out as asked."""

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The findings that are not only notes."""
        return tuple(finding for finding in self.findings if finding.kind in SERIOUS)


Progress = Callable[[Iterable[int], str, int], Iterable[int]]
"""Takes numbers of pictures, what is done with them, and how many; returns the numbers."""


def check_data(
    dataset: Dataset,
    vocabulary: Vocabulary,
    config: ImageConfig,
    *,
    patch: int = 16,
    pixels: bool = True,
    workers: int = 0,
    skipped: Dataset | None = None,
    unlisted: Iterable[str] = (),
    progress: Progress = lambda items, what, total: items,
) -> DataCheck:
    """Look at every picture and mask of a data set.

    `pixels`: decode pictures and masks; without, only headers are read, so damage, values of masks and pictures that
    stand twice stay unknown. `patch`: side of the encoder's patches in pixels. `workers`: further processes that
    decode. `skipped`: the same data set read with `on_bad_label="skip"`, which tells the unknown labels apart.
    `unlisted`: pictures that are there without being part of the data set.
    """
    count = len(dataset.records)
    findings = [Finding("entry", problem.image_id, "", problem.reason) for problem in dataset.problems]
    sizes = np.zeros((count, 2), dtype=np.int32)
    hashes = np.zeros((count, 4), dtype=np.uint64)  # of the file, then of its pixels; 0 0 where unknown
    work = partial(_look_at_all, config=config, patch=patch, names=vocabulary.names, pixels=pixels)
    steps = iter(progress(range(count), "pixels" if pixels else "headers", count))
    with Processes(workers, tries=1) if workers else Here() as pool:
        for place, one in enumerate(_seen(dataset, work, pool)):
            findings += one.findings
            sizes[place] = one.size_hw
            hashes[place] = np.frombuffer(one.hashes, dtype=np.uint64)
            next(steps, None)
    next(steps, None)
    findings += _twice(dataset.records, hashes, vocabulary.names)
    findings += _without_truth(dataset)
    findings += [Finding("no row", "", name, "") for name in unlisted]
    counts = _label_counts(dataset.records, vocabulary)
    findings += [
        Finding("together", "", "", f"'{label.name}' is in {label.pictures} pictures, always with '{other}'")
        for label in counts
        for other in label.always_with
    ]
    if any(label.pictures for label in counts):  # otherwise no labels were given
        findings += [Finding("absent", "", "", label.name) for label in counts if not label.pictures]
    order = list(KINDS)
    left_out = dict(dataset.left_out if skipped is None else skipped.left_out)
    unknown = [
        (name, times, nearest(name, vocabulary.names))
        for name, times in sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    ]
    return DataCheck(
        name=dataset.name,
        listed=count + len(dataset.problems),
        usable=count,
        findings=tuple(sorted(findings, key=lambda finding: order.index(finding.kind))),
        labels=counts,
        unknown_labels=tuple(unknown),
        sizes_hw=sizes,
        notes=dataset.notes,
    )


class _Job(NamedTuple):
    record: ImageRecord
    truth: Path | None
    table: np.ndarray | None


class _Seen(NamedTuple):
    size_hw: tuple[int, int] = (0, 0)
    hashes: bytes = bytes(32)
    findings: tuple[Finding, ...] = ()


def _seen(dataset: Dataset, work: Callable[[list[_Job]], list[_Seen]], pool: Pool) -> Iterator[_Seen]:
    """What each picture and its files tell, in order."""
    for chunk, future in ahead(lambda jobs: pool.submit(work, jobs), _chunks(dataset), pool.most):
        try:
            yield from future.result()
        except WorkerDied:
            yield from _one_by_one(chunk, work, pool)


def _one_by_one(jobs: list[_Job], work: Callable[[list[_Job]], list[_Seen]], pool: Pool) -> Iterator[_Seen]:
    """A process has died over these; find out over which."""
    for job in jobs:
        try:
            yield from pool.submit(work, [job]).result()
        except WorkerDied:
            detail = "the process that read it was killed: out of memory, or a fault in the decoder"
            yield _Seen(findings=(Finding("picture", job.record.image_id, str(job.record.path), detail),))


def _chunks(dataset: Dataset) -> Iterator[list[_Job]]:
    for start in range(0, len(dataset.records), _CHUNK):
        records = dataset.records[start : start + _CHUNK]
        yield [_Job(r, dataset.truth.get(r.image_id), dataset.truth_table) for r in records]


def _look_at_all(
    jobs: list[_Job], *, config: ImageConfig, patch: int, names: Sequence[str], pixels: bool
) -> list[_Seen]:
    return [_look(job, config, patch, names, pixels) for job in jobs]


def _look(job: _Job, config: ImageConfig, patch: int, names: Sequence[str], pixels: bool) -> _Seen:
    """Everything that one picture and its files tell."""
    record, path = job.record, job.record.path
    findings: list[Finding] = []

    def note(kind: str, file: Path, detail: object) -> None:
        findings.append(Finding(kind, record.image_id, str(file), str(detail)))

    look = None
    try:
        look = look_at(path, config, pixels)
        if record.size_hw is not None and config.size_from == "annotation":
            check_area(path, "the size stated in the annotation", *record.size_hw, config.max_megapixels)
    except ClipEsError as error:
        large = "--image.max-megapixels" in (error.next_step or "")
        note("large" if large else "picture", path, _short(error))
    if look is not None:
        _compare_size(record, look, note)
        if look.more_frames:
            note("frames", path, f"{look.format}, mode {look.mode}")
        patches = -(-look.size_hw[0] // patch) * -(-look.size_hw[1] // patch)
        if config.max_patches is not None and patches > config.max_patches:
            note("reduced", path, f"{_by(look.size_hw)}: {patches} patches, {config.max_patches} allowed")
        elif patches < _FEW_PATCHES:
            note("tiny", path, f"{_by(look.size_hw)}: {patches} patches")
    if job.truth is not None and pixels:
        _compare_truth(job, look, names, note)
    if look is None:
        return _Seen(findings=tuple(findings))
    return _Seen(look.size_hw, _hashes(path, look), tuple(findings))


def _compare_size(record: ImageRecord, look: Look, note: Callable[[str, Path, object], None]) -> None:
    if record.size_hw is None or record.size_hw == look.size_hw:
        return
    swapped = record.size_hw[::-1] == look.size_hw
    turned = "; one of the two is turned by 90 degrees, as EXIF orientation does" if swapped else ""
    note("annotation", record.path, f"{_by(record.size_hw)} stated, the picture has {_by(look.size_hw)}{turned}")


def _compare_truth(
    job: _Job, look: Look | None, names: Sequence[str], note: Callable[[str, Path, object], None]
) -> None:
    path, classes = job.truth, len(names)
    assert path is not None
    try:
        mask = read_mask(path)
    except ClipEsError as error:
        note("mask", path, _short(error))
        return
    if look is not None and mask.shape != look.size_hw:
        swapped = "; one of the two is turned by 90 degrees" if mask.shape[::-1] == look.size_hw else ""
        note("mask size", path, f"{_by(mask.shape)}, its picture has {_by(look.size_hw)}{swapped}")
    values = np.bincount(mask.ravel(), minlength=256)
    if job.table is not None:
        values = np.bincount(job.table, weights=values, minlength=256)
    held = set(np.flatnonzero(values[:UNDECIDED]).tolist()) - {0}
    if wrong := sorted(value for value in held if value > classes):
        more = ", ..." if len(wrong) > 8 else ""
        shown = ", ".join(map(str, wrong[:8]))
        note("values", path, f"{shown}{more}; {classes} classes make 0..{classes} and 255")
        return
    labels, shown = set(job.record.class_ids), {value - 1 for value in held}
    if labels and labels != shown:
        parts = [f"only the mask has {_names(shown - labels, names)}"] if shown - labels else []
        parts += [f"only the labels have {_names(labels - shown, names)}"] if labels - shown else []
        note("labels", path, "; ".join(parts))


def _hashes(path: Path, look: Look) -> bytes:
    """16 bytes for the file, 16 for what it shows; zeros where the pixels were not read."""
    if look.rgb is None:
        return bytes(32)
    whole = hashlib.blake2b(digest_size=16)
    try:
        with path.open("rb") as file:
            while piece := file.read(2**20):
                whole.update(piece)
    except OSError:  # it could be read a moment ago
        return bytes(32)
    shown = hashlib.blake2b(repr(look.rgb.shape).encode(), digest_size=16)
    shown.update(np.ascontiguousarray(look.rgb).data)
    return whole.digest() + shown.digest()


def _twice(records: Sequence[ImageRecord], hashes: np.ndarray, names: Sequence[str]) -> Iterator[Finding]:
    """Pictures that show the same, pixel by pixel, as an earlier one of the list."""
    known = np.flatnonzero(hashes.any(axis=1))
    ordered = known[np.lexsort((known, hashes[known, 3], hashes[known, 2]))]
    same = (hashes[ordered[1:], 2:] == hashes[ordered[:-1], 2:]).all(axis=1)
    first = -1
    for before, this, is_same in zip(ordered[:-1].tolist(), ordered[1:].tolist(), same.tolist(), strict=True):
        if not is_same:
            first = -1
            continue
        first = before if first < 0 else first
        one, other = records[first], records[this]
        how = "the same bytes" if (hashes[first, :2] == hashes[this, :2]).all() else "the same pixels in another file"
        if set(one.class_ids) == set(other.class_ids):
            yield Finding("twice", other.image_id, str(other.path), f"{how} as {one.path}")
        else:
            labels = f"{_names(one.class_ids, names)} there, {_names(other.class_ids, names)} here"
            yield Finding("contradiction", other.image_id, str(other.path), f"{how} as {one.path}; {labels}")


def _without_truth(dataset: Dataset) -> Iterator[Finding]:
    if not dataset.truth or len(dataset.truth) == len(dataset.records):
        return
    for record in dataset.records:
        if record.image_id not in dataset.truth:
            yield Finding("no truth", record.image_id, str(record.path), "no ground-truth mask of this name")


def _label_counts(records: Sequence[ImageRecord], vocabulary: Vocabulary) -> tuple[LabelCount, ...]:
    names = vocabulary.names
    pictures, alone = (np.zeros(len(names), dtype=np.int64) for _ in range(2))
    paired = len(names) <= MOST_CLASSES
    together = np.zeros((len(names), len(names)) if paired else (0, 0), dtype=np.int32)
    for record in records:
        ids = np.array([k for k in record.class_ids if k < len(names)], dtype=np.int64)
        pictures[ids] += 1
        if len(ids) == 1:
            alone[ids] += 1
        elif paired:
            together[np.ix_(ids, ids)] += 1
    always = (together == pictures[:, None]) & (pictures[:, None] >= _OFTEN) if paired else together
    if paired:
        np.fill_diagonal(always, False)
    return tuple(
        LabelCount(
            name,
            int(pictures[k]),
            int(alone[k]),
            tuple(names[other] for other in np.flatnonzero(always[k])) if paired else (),
        )
        for k, name in enumerate(names)
    )


def _names(ids: Iterable[int], names: Sequence[str]) -> str:
    return ", ".join(names[k] if k < len(names) else f"class {k}" for k in sorted(ids)) or "none"


def _short(error: ClipEsError) -> str:
    """What and found, without the file, which stands in its own column, and the remedy, which the kind has."""
    return f"{error.what}; found {error.found}" if error.found else error.what


def _by(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]}"
