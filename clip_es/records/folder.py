"""A folder of pictures and a table: the header `image,labels`, names separated by `;`."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from clip_es.errors import DataError
from clip_es.records.dataset import (
    ClassId,
    Dataset,
    Entry,
    Labels,
    Listing,
    OnBadLabel,
    collect,
    printable,
    read_lines,
    refuse,
)
from clip_es.types import ImageRecord

COLUMNS = ("image", "labels")


def folder(
    images: str | Path,
    labels: str | Path,
    *,
    class_id: ClassId,
    truth: str | Path | None = None,
    on_bad_label: OnBadLabel = "fail",
) -> Dataset:
    """Read pictures and labels from a folder and a CSV file.

    The file has the header `image,labels` (further columns are ignored); `image` is a file name below `images`, with
    `/` for sub-folders, `labels` are class names separated by `;`. The id of `a/b.jpg` is `a__b`. `truth` is a folder
    of ground-truth masks, `<id>.png` or in the same sub-folders.

    Raises DataError: a folder or the file is missing, a column is missing, or there is no row. What is wrong with one
    row becomes a row of `Dataset.problems`.
    """
    images, table = Path(images), Path(labels)
    masks = Path(truth) if truth is not None else None
    for path in filter(None, (images, masks)):
        if not path.is_dir():
            raise DataError("is not a folder", where=path, next_step="Check the path.")
    lookup = Labels(class_id, on_bad_label)
    listing = Listing(masks, suffixes=Listing.MASKS) if masks else None
    inside: dict[str, PurePosixPath] = {}

    def record(name: str, names: str, where: str) -> ImageRecord:
        inner = _inner_path(name, where)
        image_id = _image_id(name)
        ImageRecord(image_id, Path(where), ())
        if not (images / inner).is_file():
            raise DataError(
                f"lists {name!r}, which is not there",
                where=where,
                expected=f"the file {images / inner}",
                next_step="Add the picture, correct the name, or take the row out.",
            )
        inside[image_id] = inner
        wanted = [label.strip() for label in names.split(";") if label.strip()]
        return ImageRecord(image_id, images / inner, lookup.ids(wanted, where))

    def find_truth(image_id: str) -> Path | None:
        if listing is None or masks is None:
            return None
        nested = masks / inside[image_id].with_suffix(".png")
        return listing.find(image_id) or (nested if nested.is_file() else None)

    return collect(f"folder {images.name}", _entries(table, record), lookup, find_truth, table)


def _entries(table: Path, record) -> Iterator[Entry]:
    rows = read_lines(table)
    image, labels, width = _header(table, next(rows, (1, ""))[1])
    for number, line in rows:
        where = f"{table.name} line {number}"
        cells = line if isinstance(line, DataError) else _cells(line, where)
        if isinstance(cells, list) and len(cells) != width:
            cells = DataError(
                f"has {len(cells)} columns",
                where=where,
                expected=f"{width}, as in the header",
                found=repr(printable(str(line), 80)),
                next_step="Separate the names of several labels by ';', or quote a name that holds a comma.",
            )
        if isinstance(cells, DataError):
            yield Entry(where, where, refuse(cells))
        else:
            name = cells[image].strip()
            yield Entry(_image_id(name) or where, where, partial(record, name, cells[labels], where))


def _header(table: Path, line: str | DataError) -> tuple[int, int, int]:
    """Where the two columns stand, and how many there are."""
    if isinstance(line, DataError):
        raise line
    cells = _cells(line, f"{table.name} line 1")
    names = [cell.strip().lower() for cell in cells] if isinstance(cells, list) else []
    if any(names.count(column) != 1 for column in COLUMNS):
        raise DataError(
            "does not have the columns `image` and `labels` once each",
            where=table,
            expected="a first line `image,labels`",
            found=repr(printable(line, 80)),
            next_step="Separate the columns by commas, the names within `labels` by ';'.",
        )
    return names.index("image"), names.index("labels"), len(names)


def _cells(line: str, where: str) -> list[str] | DataError:
    """Cells of one line. No name holds a line break, so an opening quote without an end spoils only its own line."""
    try:
        return next(csv.reader([line], strict=True, skipinitialspace=True))
    except csv.Error as error:
        return DataError(
            "is not a row of a CSV file",
            where=where,
            found=f"{error}: {printable(line, 60)!r}",
            next_step="Close the quotes and double those inside a name.",
        )


def _image_id(name: str) -> str:
    """The name without its suffix, sub-folders joined by two underscores."""
    path = PurePosixPath(name)
    return "__".join(path.with_suffix("").parts) if path.name else ""


def _inner_path(name: str, where: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if not path.name or path.is_absolute() or ".." in path.parts or "\\" in name:
        raise DataError(
            f"names the picture {printable(name)!r}",
            where=where,
            expected="a file name relative to the folder of the pictures, with / for sub-folders and without '..'",
            next_step="Correct the name.",
        )
    return path
