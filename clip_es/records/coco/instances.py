"""COCO 2014 and 2017 from their instances files: labels from the annotations, ids made contiguous by name."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from clip_es.errors import DataError
from clip_es.records.coco.file import CocoFile, read_coco_file, size_of
from clip_es.records.coco.label_list import coco_masks
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
from clip_es.records.file_listing import Place, Tree
from clip_es.records.folder import image_id_of
from clip_es.records.packed_records import Records, Row
from clip_es.records.text_files import check_inside, printable


def annotations_of(root: Path, split: str, year: int) -> Path | None:
    """Where COCO's own file of a split lies below the root; None where it is not there."""
    names = [root / part / f"instances_{split}{year}.json" for part in ("annotations", "")]
    return next((path for path in names if path.is_file()), None)


def coco_instances(
    root: str | Path,
    split: str = "train",
    *,
    class_id: ClassId,
    year: int = 2014,
    annotations: str | Path | CocoFile | None = None,
    crowd: Use = "keep",
    min_area: int | float = 0,
    truth: str | Path | None = None,
    on_bad_label: OnBadLabel = "fail",
    labelled: bool = True,
) -> Dataset:
    """Read COCO from annotations/instances_<split><year>.json, or another file of that format.

    A label is the class whose name (or alias) the category has, so the raw ids 1..90 become the vocabulary's 0..79, in
    the order in which the picture's annotations first name them. `crowd="drop"` and `min_area` (pixels, COCO's own
    `area`) leave objects out. A picture that has no object, or none left, is left out and counted in `notes`; without
    `labelled` it is kept, with no class known, like all others. Pictures lie in <split><year>, in images/<split><year>,
    or in the root; their ids are their names without suffix. `truth` is a folder of masks as `clip-es truth` makes
    them.

    Raises DataError: the file is missing or not of this format, or it lists
    no picture. What is wrong with one entry becomes a row of `Dataset.problems`.
    """
    root = Path(root)
    source = annotations if annotations is not None else annotations_of(root, split, year)
    if source is None:
        raise DataError(
            "is not there",
            where=root / "annotations" / f"instances_{split}{year}.json",
            expected="COCO's own file of the split",
            next_step="data/README.md shows the tree and where to get it; another file is named with --annotations.",
        )
    file = source if isinstance(source, CocoFile) else read_coco_file(source)
    labels = Labels(class_id, on_bad_label, labelled)
    masks = coco_masks(truth, year)
    folders = [top for top in _folders(root, split, year) if top.is_dir()]
    trees = [(Tree(folder), folder) for folder in folders]
    records = Records()

    def where(number: int) -> str:
        return f"{file.path.name} image {number}"

    def read(image: dict) -> Row | LeftOut:
        number, name = image["id"], image.get("file_name")
        if not isinstance(name, str):
            raise DataError("has no file_name", where=where(number), found=printable(repr(name), 40))
        check_inside(name, where(number))
        folder = next((folder for tree, folder in trees if tree.has(name)), None)
        image_id = image_id_of(name)
        check_id(image_id, where(number))
        if folder is None:
            raise DataError(
                f"names {printable(name)!r}, which is not there",
                where=where(number),
                expected=f"the file in {root / f'{split}{year}'}",
                next_step="Add the picture, or pass the --root it lies in.",
            )
        found: list[str] = []
        if labelled:
            things = file.objects(image)
            if not things:
                return LeftOut("no object")
            kept = [thing for thing in things if not (crowd == "drop" and thing.get("iscrowd"))]
            kept = [thing for thing in kept if min_area <= 0 or file.area(thing) >= min_area]
            if not kept:
                return LeftOut("only objects that --crowd and --min-area drop")
            found = [file.names[thing["category_id"]] for thing in kept]
        stem, suffix = name[: name.rindex(".")] if "." in name else name, Path(name).suffix
        place = records.place(Place(folder, suffix))
        ids = labels.ids(dict.fromkeys(found), where(number))
        return Row(image_id, place, ids, size_of(file, image), "" if stem == image_id else stem)

    def entries() -> Iterator[Entry]:
        for name, error in file.problems:
            yield Entry(name, 0, refuse(error))
        for image in file.images:
            name = image.get("file_name")
            image_id = image_id_of(name) if isinstance(name, str) else ""
            yield Entry(image_id or where(image["id"]), image["id"], partial(read, image))

    find_truth = masks.find if masks else None
    return collect(f"coco{year % 100} {split}", entries(), labels, records, find_truth, file.path, where)


def _folders(root: Path, split: str, year: int) -> list[Path]:
    parts = [split] + [part for part in ("train", "val") if part != split]
    tops = (root, root / "images", root / "JPEGImages")
    return [top / f"{part}{year}" for part in parts for top in tops] + [root / "images", root]


def masks_of(file: CocoFile, class_id: ClassId) -> dict[int, int]:
    """The value k + 1 in a mask for the raw id of each category that the vocabulary knows.

    Raises DataError: it knows none of them.
    """
    values: dict[int, int] = {}
    for raw, name in file.names.items():
        try:
            values[raw] = class_id(name) + 1
        except DataError:
            continue
    if not values:
        raise DataError(
            "has no category that the vocabulary knows",
            where=file.path,
            found=", ".join(list(file.names.values())[:5]),
            next_step="Pass the --vocabulary of this data set.",
        )
    return values
