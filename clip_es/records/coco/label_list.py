"""COCO 2014 with the split lists of the published code: a picture's id, then its 0-based class ids."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from clip_es.decode import PICTURES
from clip_es.errors import DataError
from clip_es.records.dataset import At, Dataset, Entry, Labels, OnBadLabel, check_id, collect, refuse
from clip_es.records.file_listing import MASKS, Listing
from clip_es.records.packed_records import Records, Row
from clip_es.records.text_files import printable, read_lines

CLASSES = 80


def coco14(
    root: str | Path,
    split: str = "train",
    *,
    list_file: str | Path | None = None,
    class_count: int = CLASSES,
    truth: str | Path | None = None,
    on_bad_label: OnBadLabel = "fail",
    labelled: bool = True,
) -> Dataset:
    """Read COCO 2014 from a published list; `coco_instances` reads COCO's own files.

    `root` holds the pictures in train2014 and val2014 (or in those folders below JPEGImages), and the list as
    `<split>.txt` unless `list_file` names it. A line of the list is `COCO_train2014_000000000009 45 49 50`: the id,
    then class ids 0..79 in the official order (not the ids 1..90 of the JSON files). `truth` is a folder of masks
    `<id>.png`, itself or in train2014 and val2014 below it, with values 0 background, k + 1 class k, 255 ignored.
    Without `labelled` the class ids of the list are not looked at.

    Raises DataError: the folder or the list is missing or empty. What is wrong with one line becomes a row of
    `Dataset.problems`.
    """
    root = Path(root)
    source = Path(list_file) if list_file is not None else root / f"{split}.txt"
    folders = [top / part for top in (root, root / "JPEGImages") for part in ("train2014", "val2014")]
    if not any(folder.is_dir() for folder in folders):
        raise DataError(
            "is not a folder in the layout of COCO 2014",
            where=root,
            expected="the folders train2014 and val2014",
            next_step="data/README.md shows the tree and where to get it.",
        )
    if not source.is_file():
        raise DataError(
            "is not there, and COCO's own files do not state the splits in this form",
            where=source,
            expected="lines such as 'COCO_train2014_000000000009 45 49 50'",
            next_step="data/README.md says where the list comes from; name it with --list-file.",
        )
    pictures = Listing(*folders, suffixes=PICTURES)
    truths = coco_masks(truth)
    labels = Labels(partial(_class_id, class_count), on_bad_label, labelled)

    listing = source.name

    def where(number: int) -> At:
        return At(listing, "line", number)

    def read(image_id: str, ids: list[str], number: int) -> Row:
        check_id(image_id, where(number))
        place = pictures.place(image_id)
        if place is None:
            raise DataError(
                f"lists {image_id!r}, which has no picture",
                where=where(number),
                expected=f"{image_id}.jpg in {root / 'train2014'} or {root / 'val2014'}",
                next_step="Add the picture, or take the line out of the list.",
            )
        return Row(image_id, place, labels.ids(ids, where(number)))

    def entries() -> Iterator[Entry]:
        for number, line in read_lines(source):
            if isinstance(line, DataError):
                yield Entry(str(where(number)), number, refuse(line))
            else:
                image_id, *ids = line.split()
                yield Entry(image_id, number, partial(read, image_id, ids, number))

    name = f"coco14 {split if list_file is None else source.name}"
    find_truth = truths.find if truths else None
    return collect(name, entries(), labels, Records(pictures.places), find_truth, source, where)


def coco_masks(truth: str | Path | None, year: int = 2014) -> Listing | None:
    """Masks in a folder, or in train2014 and val2014 below it. Raises DataError: there is no such folder."""
    if truth is None:
        return None
    top = Path(truth)
    if not top.is_dir():
        raise DataError("is not a folder", where=top, next_step="Check the path.")
    return Listing(top, top / f"train{year}", top / f"val{year}", suffixes=MASKS)


def _class_id(class_count: int, text: str) -> int:
    value = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else -1
    if not 0 <= value < class_count:
        raise DataError(
            f"lists {printable(text, 40)!r}, which is not a class id",
            expected=f"whole numbers 0..{class_count - 1}",
            next_step="The ids 1..90 of COCO's JSON files have to be re-indexed to 0..79.",
        )
    return value
