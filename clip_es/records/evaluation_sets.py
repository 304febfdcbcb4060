"""Sets that state a class for every pixel, for evaluation: ADE20K, Cityscapes, Pascal Context.

Their masks number the classes in their own ways; a table of 256 values brings them to ours: 0 background, k + 1 class
k, 255 ignored. The labels of a picture are the classes of its mask, so every mask is read once when a set is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from clip_es.errors import ConfigError, DataError
from clip_es.masks import read_mask
from clip_es.records.dataset import Dataset, Entry, Labels, LeftOut, check_id, collect, refuse
from clip_es.records.file_listing import MASKS, PICTURES, Listing, Place
from clip_es.records.packed_records import Records, Row
from clip_es.records.text_files import printable, read_lines
from clip_es.types import UNDECIDED

ADE20K_CLASSES = 150
CONTEXT_CLASSES = 59

CITYSCAPES_TRAIN_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The label id of each of the 19 classes; the other labels of 0..33 are not evaluated. Source: Cityscapes, labels."""


@dataclass(frozen=True)
class _Set:
    """Where a set's files lie, and what the values of its masks mean."""

    name: str
    records: Records
    entries: Iterable[tuple[str, int, int] | tuple[int, DataError]]
    """Id, place of the picture and number in the list; or a line that is none."""
    mask: Callable[[str], Path | None]
    table: np.ndarray
    known: np.ndarray
    """Which of the 256 values may occur in a mask."""
    background: bool
    where: Callable[[int], str]
    source: Path
    class_count: int


def ade20k(
    root: str | Path, split: str = "val", *, class_count: int = ADE20K_CLASSES, min_area: int = 1, labelled: bool = True
) -> Dataset:
    """Read ADE20K's scene parsing set (ADEChallengeData2016): images/validation and annotations/validation.

    In its masks 0 is `other` and 1..150 are the classes, so 0 becomes 255 (as `reduce_zero_label` elsewhere) and the
    classes already have our numbers; there is no background. `split` is train or val. `min_area`: pixels from which on
    a class of the mask is a label; a picture without any label is left out. Without `labelled` no mask is read and no
    class known.

    Raises ConfigError: a vocabulary of another number of classes. Raises DataError: a folder is missing or empty. What
    is wrong with one mask becomes a row of `Dataset.problems`.
    """
    root = Path(root)
    part = {"train": "training", "val": "validation"}.get(split, split)
    images, masks = root / "images" / part, root / "annotations" / part
    _need_folders("ADE20K (ADEChallengeData2016)", root, images, masks)
    pictures, truths = Listing(images, suffixes=PICTURES), Listing(masks, suffixes=MASKS)
    table = np.full(256, UNDECIDED, np.uint8)
    table[1 : ADE20K_CLASSES + 1] = np.arange(1, ADE20K_CLASSES + 1)
    return _read(
        _Set(
            name=f"ade20k {split}",
            records=Records(pictures.places),
            entries=_all(pictures),
            mask=truths.find,
            table=table,
            known=np.arange(256) <= ADE20K_CLASSES,
            background=False,
            where=lambda number: f"{images.name} picture {number}",
            source=images,
            class_count=ADE20K_CLASSES,
        ),
        class_count,
        min_area,
        labelled,
    )


def cityscapes(
    root: str | Path,
    split: str = "val",
    *,
    class_count: int = len(CITYSCAPES_TRAIN_IDS),
    min_area: int = 1,
    labelled: bool = True,
) -> Dataset:
    """Read Cityscapes: leftImg8bit/<split>/<city> and gtFine/<split>/<city>.

    Masks are `*_gtFine_labelIds.png`, as they come, or `*_gtFine_labelTrainIds.png` where there are none of these.
    Train id k becomes k + 1; labels without a train id, and 255, become 255; there is no background. Ids are such as
    `frankfurt_000000_000294`. The options are those of `ade20k`, and so are the errors.
    """
    root = Path(root)
    images, masks = root / "leftImg8bit" / split, root / "gtFine" / split
    _need_folders("Cityscapes", root, images, masks)
    pictures, truths = (Listing(*_inner_folders(top), suffixes=MASKS) for top in (images, masks))
    kind = "_gtFine_labelIds"
    table, known = np.full(256, UNDECIDED, np.uint8), np.zeros(256, bool)
    known[UNDECIDED] = True
    if any(name.endswith(kind) for name in truths.ids()):
        table[list(CITYSCAPES_TRAIN_IDS)] = np.arange(1, 20)
        known[:34] = True
    else:
        kind = "_gtFine_labelTrainIds"
        table[:19] = np.arange(1, 20)
        known[:19] = True
    end = "_leftImg8bit"
    listed = [name.removesuffix(end) for name in pictures.ids() if name.endswith(end)]
    places = [replace_end(place, end) for place in pictures.places]
    return _read(
        _Set(
            name=f"cityscapes {split}",
            records=Records(places),
            entries=((name, pictures.place(name + end) or 0, n) for n, name in enumerate(listed, start=1)),
            mask=lambda image_id: truths.find(image_id + kind),
            table=table,
            known=known,
            background=False,
            where=lambda number: f"leftImg8bit/{split} picture {number}",
            source=images,
            class_count=len(CITYSCAPES_TRAIN_IDS),
        ),
        class_count,
        min_area,
        labelled,
    )


def context(
    root: str | Path,
    split: str = "val",
    *,
    background: Literal["ignore", "class"] = "ignore",
    class_count: int = CONTEXT_CLASSES,
    min_area: int = 1,
    labelled: bool = True,
) -> Dataset:
    """Read Pascal Context with 59 classes: JPEGImages and SegmentationClassContext in the folder of VOC 2010.

    In the masks (PNG, as they are usually made of trainval_merged.json) 0 is everything else and 1..59 are the classes.
    `background="ignore"` makes 255 of 0, the measure of 59 classes; `"class"` keeps it as background, the measure of
    60. The list is ImageSets/SegmentationContext/<split>.txt where it is there, else every mask. The other options are
    those of `ade20k`, and so are the errors.
    """
    root = Path(root)
    images, masks = root / "JPEGImages", root / "SegmentationClassContext"
    _need_folders("Pascal Context", root, images, masks)
    pictures, truths = Listing(images, suffixes=PICTURES), Listing(masks, suffixes=MASKS)
    source = root / "ImageSets" / "SegmentationContext" / f"{split}.txt"
    table = np.full(256, UNDECIDED, np.uint8)
    table[: CONTEXT_CLASSES + 1] = np.arange(CONTEXT_CLASSES + 1)
    if background == "ignore":
        table[0] = UNDECIDED

    def listed() -> Iterator[tuple[str, int, int] | tuple[int, DataError]]:
        for number, line in read_lines(source):
            if isinstance(line, DataError):
                yield number, line
                continue
            image_id = line.split()[0]
            place = pictures.place(image_id)
            if place is None:
                yield number, _no_picture(image_id, f"{source.name} line {number}", images)
            else:
                yield image_id, place, number

    def every() -> Iterator[tuple[str, int, int] | tuple[int, DataError]]:
        for number, image_id in enumerate(truths.ids(), start=1):
            place = pictures.place(image_id)
            if place is None:
                yield number, _no_picture(image_id, f"{masks.name} mask {number}", images)
            else:
                yield image_id, place, number

    return _read(
        _Set(
            name=f"context {split}" if source.is_file() else "context",
            records=Records(pictures.places),
            entries=listed() if source.is_file() else every(),
            mask=truths.find,
            table=table,
            known=(np.arange(256) <= CONTEXT_CLASSES) | (np.arange(256) == UNDECIDED),
            background=background == "class",
            where=lambda n: f"{source.name} line {n}" if source.is_file() else f"{masks.name} mask {n}",
            source=source if source.is_file() else masks,
            class_count=CONTEXT_CLASSES,
        ),
        class_count,
        min_area,
        labelled,
    )


def _read(files: _Set, class_count: int, min_area: int, labelled: bool) -> Dataset:
    if class_count != files.class_count:
        raise ConfigError(
            f"{files.name} and the vocabulary have different classes",
            expected=f"{files.class_count} classes in the set's own order",
            found=class_count,
            next_step=f"Pass --vocabulary {files.name.split()[0]}, or a copy of it with other prompts.",
        )

    def read(image_id: str, place: int, number: int) -> Row | LeftOut:
        check_id(image_id, files.where(number))
        if not labelled:
            return Row(image_id, place, ())
        mask = files.mask(image_id)
        if mask is None:
            raise DataError(
                f"{image_id!r} has no mask, so its labels are not known",
                where=files.where(number),
                next_step="Add the mask, or pass --labels auto.",
            )
        counts = np.bincount(read_mask(mask).ravel(), minlength=256)
        strange = np.flatnonzero((counts > 0) & ~files.known)
        if len(strange):
            raise DataError(
                "holds values that this set does not have",
                where=mask,
                expected=", ".join(_ranges(np.flatnonzero(files.known).tolist())),
                found=strange[:5].tolist(),
                next_step="Take the masks as the publisher made them.",
            )
        # Each class has one value in each set, so the counts can be taken before the table is applied.
        ids = np.sort(files.table[counts >= max(1, min_area)].astype(int)) - 1
        ids = ids[(ids >= 0) & (ids < UNDECIDED - 1)]
        if not len(ids):
            return LeftOut("no class in the mask")
        return Row(image_id, place, tuple(ids.tolist()))

    def entries() -> Iterator[Entry]:
        for entry in files.entries:
            if len(entry) == 2:
                yield Entry(files.where(entry[0]), entry[0], refuse(entry[1]))
            else:
                yield Entry(entry[0], entry[2], partial(read, *entry))

    labels = Labels(int, "fail", labelled)
    found = collect(files.name, entries(), labels, files.records, files.mask, files.source, files.where)
    return replace(found, truth_table=files.table, has_background=files.background)


def _all(pictures: Listing) -> Iterator[tuple[str, int, int]]:
    for number, image_id in enumerate(pictures.ids(), start=1):
        place = pictures.place(image_id)
        if place is not None and not image_id.startswith("."):
            yield image_id, place, number


def replace_end(place: Place, end: str) -> Place:
    """The same place for ids without a common end."""
    return Place(place.folder, end + place.suffix)


def _no_picture(image_id: str, where: str, images: Path) -> DataError:
    return DataError(
        f"lists {printable(image_id)!r}, which has no picture",
        where=where,
        expected=f"{printable(image_id)}.jpg in {images}",
        next_step="Add the picture, or take the id out of the list.",
    )


def _inner_folders(top: Path) -> list[Path]:
    return sorted(path for path in top.iterdir() if path.is_dir())


def _need_folders(what: str, root: Path, images: Path, masks: Path) -> None:
    for folder in (images, masks):
        if not folder.is_dir():
            there = sorted(printable(path.name) for path in root.iterdir())[:8] if root.is_dir() else "no such folder"
            raise DataError(
                f"is not a folder in the layout of {what}",
                where=root,
                expected=f"{folder.relative_to(root)}",
                found=there,
                next_step="data/README.md shows the tree and where to get it.",
            )


def _ranges(values: list[int]) -> Iterator[str]:
    """0, 1, 2, 255 as 0..2, 255."""
    first = last = values[0]
    for value in [*values[1:], None]:
        if value == last + 1:
            last = value
            continue
        yield str(first) if first == last else f"{first}..{last}"
        first = last = value if value is not None else last
