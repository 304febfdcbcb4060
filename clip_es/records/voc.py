"""The VOC 2012 layout: labels from XML annotations, splits from id lists."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from clip_es.decode import PICTURES
from clip_es.errors import DataError
from clip_es.records.dataset import (
    ClassId,
    Dataset,
    Entry,
    Labels,
    LeftOut,
    OnBadLabel,
    Use,
    check_id,
    collect,
    refuse,
)
from clip_es.records.file_listing import MASKS, Listing
from clip_es.records.packed_records import Records, Row
from clip_es.records.text_files import printable, read_lines, unreadable
from clip_es.records.xml_files import parse_xml

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

LARGEST_XML = 2**20
"""Bytes. A real annotation has a few thousand; the tree of a hostile one takes a hundred times its bytes."""

LONGEST_SIDE = 1_000_000
"""Pixels. A stated side beyond this is a slip, not a size."""

_YES = {"1", "true", "yes"}
"""How annotation tools write that an object is difficult or truncated; all else means that it is not."""

Read = Callable[[str, int], "Row | LeftOut"]
"""From an id and the number of its line to a row."""


def voc(
    root: str | Path,
    split: str = "train",
    *,
    class_id: ClassId,
    list_file: str | Path | None = None,
    on_bad_label: OnBadLabel = "fail",
    need_size: bool = False,
    difficult: Use = "keep",
    truncated: Use = "keep",
    labelled: bool = True,
) -> Dataset:
    """Read a data set in the layout of VOC 2012.

    `root` holds JPEGImages, Annotations, ImageSets/Segmentation and, where there is ground truth, SegmentationClassAug
    or SegmentationClass. `split` names a list in ImageSets/Segmentation, `list_file` a list elsewhere: one id per line,
    further columns ignored. `train_aug` without a list is every id of SegmentationClassAug that is not in val.
    Labels are those of `object/name` in the order of the file, each once. Difficult and truncated objects count, as
    published, unless they are to be dropped; a picture with no other object is then left out. `need_size` refuses
    pictures whose annotation states no height and width. Without `labelled` no class is known of any picture, and the
    annotations are only opened where their size is needed.

    Raises DataError: the folder or the list is missing or empty. What is wrong with one picture becomes a row of
    `Dataset.problems`.
    """
    root = Path(root)
    _check_root(root)
    source = Path(list_file) if list_file is not None else _list_of(root, split)
    pictures = Listing(root / "JPEGImages", suffixes=PICTURES)
    augmented = Listing(root / "SegmentationClassAug", suffixes=MASKS)
    plain = Listing(root / "SegmentationClass", suffixes=MASKS)
    labels = Labels(class_id, on_bad_label, labelled)
    folder = root / "Annotations"

    def where(number: int) -> str:
        return f"{source.name} line {number}" if source else "SegmentationClassAug"

    def read(image_id: str, number: int) -> Row | LeftOut:
        check_id(image_id, where(number))
        place = pictures.place(image_id)
        if place is None:
            raise DataError(
                f"lists {image_id!r}, which has no picture",
                where=where(number),
                expected=f"{root / 'JPEGImages' / image_id}.jpg (or {', '.join(PICTURES[1:])})",
                next_step="Add the picture, or take the id out of the list.",
            )
        if not labelled and not need_size:
            return Row(image_id, place, ())
        annotation = folder / f"{image_id}.xml"
        names, size_hw, dropped = _read(annotation, difficult, truncated)
        if need_size and size_hw is None:
            raise DataError(
                "states no usable size",
                where=annotation,
                expected="whole numbers in size/height and size/width",
                next_step="Fix the file, or pass --image.size-from picture.",
            )
        if labelled and dropped and not names:
            return LeftOut("only difficult or truncated objects")
        return Row(image_id, place, labels.ids(names, annotation), size_hw)

    def entries() -> Iterator[Entry]:
        if source is None:
            left_out = {entry.image_id for entry in _listed(_val_list(root), read)}
            for image_id in augmented.ids():
                if image_id not in left_out:
                    yield Entry(image_id, 0, partial(read, image_id, 0))
        else:
            yield from _listed(source, read)

    return collect(
        f"voc12 {split if list_file is None else Path(list_file).name}",
        entries(),
        labels,
        Records(pictures.places),
        lambda image_id: augmented.find(image_id) or plain.find(image_id),
        source or root / "SegmentationClassAug",
        where,
    )


def read_annotation(
    path: Path, difficult: Use = "keep", truncated: Use = "keep"
) -> tuple[list[str], tuple[int, int] | None]:
    """Names of the objects in the order of the file, and (height, width) where the file states a usable size.

    Objects marked difficult or truncated may be dropped. No entity, external reference or document type is followed:
    such a file is refused. Raises DataError: missing, unreadable, not XML, or an object without a name.
    """
    return _read(path, difficult, truncated)[:2]


def _read(path: Path, difficult: Use, truncated: Use) -> tuple[list[str], tuple[int, int] | None, int]:
    """As `read_annotation`, and how many objects were dropped."""
    tree = _parse(path)
    drop = [flag for flag, use in (("difficult", difficult), ("truncated", truncated)) if use == "drop"]
    names, dropped = [], 0
    for number, element in enumerate(tree.findall("object"), start=1):
        name = (element.findtext("name") or "").strip()
        if not name:
            raise DataError(f"object {number} has no name", where=path, next_step="Name it, or remove it.")
        if any((element.findtext(flag) or "").strip().lower() in _YES for flag in drop):
            dropped += 1
        else:
            names.append(name)
    height, width = (_pixels(tree.findtext(f"size/{side}")) for side in ("height", "width"))
    return names, (height, width) if height and width else None, dropped


def _parse(path: Path) -> Element:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_XML + 1)
    except OSError as error:
        raise unreadable(path, error) from error
    if len(data) > LARGEST_XML:
        raise DataError("is too large for an annotation", where=path, expected=f"at most {LARGEST_XML:,} bytes")
    return parse_xml(data, path)


def _pixels(text: str | None) -> int | None:
    """A side in pixels; some exporters write 338.0. None for anything that cannot be one."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return int(value) if math.isfinite(value) and 1 <= value <= LONGEST_SIDE and value == int(value) else None


def _listed(source: Path, read: Read) -> Iterator[Entry]:
    for number, line in read_lines(source):
        if isinstance(line, DataError):
            yield Entry(f"{source.name} line {number}", number, refuse(line))
        else:
            image_id = line.split()[0]
            yield Entry(image_id, number, partial(read, image_id, number))


def _check_root(root: Path) -> None:
    if (root / "Annotations").is_dir() and (root / "JPEGImages").is_dir():
        return
    inner = [folder for folder in ("VOC2012", "VOCdevkit/VOC2012") if (root / folder / "Annotations").is_dir()]
    found = sorted(printable(path.name) for path in root.iterdir())[:8] if root.is_dir() else "no such folder"
    raise DataError(
        "is not a folder in the layout of VOC 2012",
        where=root,
        expected="the folders JPEGImages and Annotations",
        found=found,
        next_step=f"Pass {root / inner[0]}." if inner else "data/README.md shows the tree and where to get it.",
    )


def _list_of(root: Path, split: str) -> Path | None:
    """The list file of a split; None where train_aug has to be derived."""
    folder = root / "ImageSets" / "Segmentation"
    path = folder / f"{split}.txt"
    if Path(split).name == split and path.is_file():
        return path
    if split == "train_aug" and (root / "SegmentationClassAug").is_dir():
        return None
    known = sorted(printable(file.stem) for file in folder.glob("*.txt")) if folder.is_dir() else []
    raise DataError(
        f"has no list of the split {printable(split)!r}",
        where=root,
        expected=str(path) + (", or the folder SegmentationClassAug to derive it" if split == "train_aug" else ""),
        found=f"the splits {', '.join(known)}" if known else "no lists",
        next_step="Pick one of them, or pass a list of ids with --list-file.",
    )


def _val_list(root: Path) -> Path:
    path = root / "ImageSets" / "Segmentation" / "val.txt"
    if not path.is_file():
        raise DataError(
            "train_aug is derived as SegmentationClassAug without val, so the list of val is needed",
            where=path,
            found="no such file",
            next_step="Add it, or pass a list of ids with --list-file.",
        )
    return path
