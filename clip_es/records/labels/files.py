"""Tables of labels: CSV, JSON lines, `id label label` text, one-hot arrays; all become a picture and its labels.

| suffix | a line |
|---|---|
| .csv | header `image,labels`; names separated by `;` |
| .jsonl, .ndjson | `{"image": "a.jpg", "labels": ["cat", "dog"]}`; other keys are ignored |
| .txt, .lst | `a.jpg cat traffic_light` or `a 15 9`: the picture, then names without blanks or 0-based class ids |
| .npy | 0 and 1, one row for each picture, one column for each class; or a dictionary of such rows (`pickled`) |

The rows of a plain array are the lines of the text file of the same name (`labels.npy`, `labels.txt`), or else the
pictures of the folder in the order of their names. Files are read line by line: memory does not grow with them.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clip_es.errors import DataError, nearest
from clip_es.records.dataset import ClassId
from clip_es.records.file_listing import PICTURES
from clip_es.records.labels.pickled import pickled_rows
from clip_es.records.text_files import csv_cells, printable, read_lines

COLUMNS = ("image", "labels")
FOUND_COLUMNS = (*COLUMNS, "confidence", "sure")
"""Those of the labels.csv that a run with `--labels auto` writes; there a picture may have no label."""
_ROWS = 4096
"""Rows of an array that are looked at together."""


class Line(NamedTuple):
    """A picture as the table names it, and its labels as text."""

    image: str
    labels: tuple[str, ...]
    none_found: bool = False
    """Whether no label stands there because a run that looked for labels found none."""


Lines = Iterator[tuple[int, Line | DataError]]
"""Numbers of lines with what stands there; a bad line comes as the error it is."""


class LabelFile(NamedTuple):
    """How one table is read."""

    lines: Lines
    class_id: ClassId
    """From the text of a label to its class."""
    unit: str
    """What the numbers count: line or row."""


def open_labels(table: Path, class_id: ClassId, class_count: int | None, pictures: Callable[[], Iterable[str]]):
    """The reader for a table, by its suffix. `pictures`: names of all pictures, for an array that does not name them.

    Raises DataError: no such file, another kind of file, or one whose beginning is not what its suffix says.
    """
    known = (*_TEXTS, ".npy")
    suffix = table.suffix.lower()
    if not table.exists():
        raise DataError(
            "does not exist",
            where=table,
            expected="a file of labels, or one of the words subfolders, auto, none",
            next_step=nearest(str(table), ("subfolders", "auto", "none")) or "Check the path.",
        )
    if suffix not in known:
        raise DataError(
            "is not a table of labels, judging by its name",
            where=table,
            expected=f"a name that ends with {', '.join(known)}",
            next_step="Rename it; data/README.md shows what each kind contains.",
        )
    either = _name_or_id(class_id, class_count)
    if suffix == ".npy":
        return LabelFile(_array_lines(table, class_count, pictures), _column, "row")
    return LabelFile(_TEXTS[suffix](table), class_id if suffix == ".csv" else either, "line")


def _csv_lines(table: Path) -> Lines:
    rows = read_lines(table)
    names = _header(table, next(rows, (1, ""))[1])
    image, labels, width = names.index("image"), names.index("labels"), len(names)
    were_found = set(FOUND_COLUMNS) <= set(names)
    for number, line in rows:
        if isinstance(line, DataError):
            yield number, line
            continue
        # No quotes: the common case, ten times as fast as the csv module for one line.
        plain = '"' not in line and len(line) < 10_000
        cells = line.split(",") if plain else csv_cells(line, f"{table.name} line {number}")
        if isinstance(cells, list) and len(cells) != width:
            cells = DataError(
                f"has {len(cells)} columns",
                where=f"{table.name} line {number}",
                expected=f"{width}, as in the header",
                found=repr(printable(line, 80)),
                next_step="Separate the names of several labels by ';', or quote a name that holds a comma.",
            )
        if isinstance(cells, DataError):
            yield number, cells
        else:
            found = tuple(name for label in cells[labels].split(";") if (name := label.strip()))
            yield number, Line(cells[image].strip(), found, were_found and not found)


def _header(table: Path, line: str | DataError) -> list[str]:
    """The names of the columns, lower case."""
    if isinstance(line, DataError):
        raise line
    cells = csv_cells(line, f"{table.name} line 1")
    names = [cell.strip().lower() for cell in cells] if isinstance(cells, list) else []
    if any(names.count(column) != 1 for column in COLUMNS):
        raise DataError(
            "does not have the columns `image` and `labels` once each",
            where=table,
            expected="a first line `image,labels`",
            found=repr(printable(line, 80)),
            next_step="Separate the columns by commas, the names within `labels` by ';'.",
        )
    return names


def _json_lines(table: Path) -> Lines:
    for number, line in read_lines(table):
        if isinstance(line, DataError):
            yield number, line
            continue
        try:
            item = json.loads(line)
        except (ValueError, RecursionError) as error:
            item = error
        image = item.get("image") if isinstance(item, dict) else None
        labels = item.get("labels") if isinstance(item, dict) else None
        labels = [labels] if isinstance(labels, str) else labels
        if not isinstance(image, str) or not isinstance(labels, list) or not all(map(_is_label, labels)):
            yield (
                number,
                DataError(
                    "is not an object with a picture and its labels",
                    where=f"{table.name} line {number}",
                    expected='{"image": "a.jpg", "labels": ["cat", "dog"]}, labels as names or 0-based class ids',
                    found=printable(str(item) if isinstance(item, Exception) else line, 80),
                    next_step="Write one such object on each line.",
                ),
            )
        else:
            yield number, Line(image, tuple(str(label).strip() for label in labels))


def _is_label(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and value != ""


def _text_lines(table: Path) -> Lines:
    for number, line in read_lines(table):
        if isinstance(line, DataError):
            yield number, line
        else:
            image, *labels = line.split()
            yield number, Line(image, tuple(labels))


def _array_lines(table: Path, class_count: int | None, pictures: Callable[[], Iterable[str]]) -> Lines:
    """Lines of an .npy file; the labels are the numbers of the columns that hold 1."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # About files of Python 2, which are read all the same.
        found = _open_array(table)
    if not isinstance(found, np.ndarray):
        for number, (name, row) in enumerate(found, start=1):
            where = f"{table.name} row {number} ({printable(str(name), 60)!r})"
            yield number, row if isinstance(row, DataError) else _line(str(name), row, class_count, where)
        return
    listed = table.with_suffix(".txt")
    names = (_listed_name(line) for _, line in read_lines(listed)) if listed.is_file() else iter(pictures())
    origin = listed if listed.is_file() else "the folder of the pictures"
    if found.ndim == 2 and class_count is not None and found.shape[1] != class_count:
        raise DataError(
            "has another number of columns than the vocabulary has classes",
            where=table,
            expected=f"[pictures, {class_count}]",
            found=list(found.shape),
            next_step="Pass the vocabulary whose classes, in its order, the columns are.",
        )
    rows = 0
    for block in _blocks(found):
        good = ((block == 0) | (block == 1)).all(axis=1).tolist()
        which, columns = np.nonzero(block)
        ends = np.searchsorted(which, np.arange(len(block) + 1)).tolist()
        classes = list(map(str, columns.tolist()))
        for at, row in enumerate(block):
            rows += 1
            name = next(names, None)
            if name is None:
                raise DataError(
                    "has more rows than there are pictures", where=table, expected=f"{rows - 1} ({origin})",
                    found=len(found), next_step=f"Name the pictures, one per line, in {listed}.",
                )  # fmt: skip
            if isinstance(name, DataError):
                yield rows, name
            elif good[at]:
                yield rows, Line(name.strip(), tuple(classes[ends[at] : ends[at + 1]]))
            else:
                yield rows, _line(name.strip(), row, class_count, f"{table.name} row {rows}")
    if next(names, None) is not None:
        raise DataError(
            "has fewer rows than there are pictures", where=table, expected=f"one for each picture of {origin}",
            found=rows, next_step=f"Name the pictures, one per line, in {listed}.",
        )  # fmt: skip


def _blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    """Some rows at a time. Read, not mapped, where they lie together: mapped pages count as memory of the process."""
    if not isinstance(array, np.memmap) or not array.flags.c_contiguous:
        yield from (np.array(array[start : start + _ROWS]) for start in range(0, len(array), _ROWS))
        return
    with Path(str(array.filename)).open("rb") as file:
        file.seek(array.offset)
        for start in range(0, len(array), _ROWS):  # behind the array there may be more bytes
            rows = min(_ROWS, len(array) - start)
            yield np.fromfile(file, array.dtype, rows * array.shape[1]).reshape(rows, array.shape[1])


def _listed_name(line: str | DataError) -> str | DataError:
    """The picture on a line of a list: all of it where it ends like a picture, else the first word."""
    if isinstance(line, DataError) or line.strip().lower().endswith(PICTURES):
        return line
    return line.split()[0]


def _open_array(table: Path) -> np.ndarray | Iterator[tuple[object, np.ndarray | DataError]]:
    """The array, on disk until it is asked for; or the rows of a dictionary."""
    try:
        with table.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, fortran, dtype = read[version](file)
            start = file.tell()
        if dtype.hasobject:
            return pickled_rows(table, start)
        if dtype.kind not in "biuf" or len(shape) != 2 or 0 in shape:
            raise DataError(
                "is not a one-hot array",
                where=table,
                expected="numbers [pictures, classes]",
                found=f"{dtype} {list(shape)}",
                next_step="Save one row for each picture, with 1 for the classes in it and 0 for the others.",
            )
        return np.memmap(table, dtype, "r", start, shape, "F" if fortran else "C")
    except DataError:
        raise
    except Exception as error:  # Damaged headers make numpy raise almost anything.
        raise DataError(
            "is not a whole .npy file",
            where=table,
            found=f"{type(error).__name__}: {printable(str(error), 100)}",
            next_step="Save it again with numpy.save.",
        ) from error


def _line(name: str, row: np.ndarray, class_count: int | None, where: str) -> Line | DataError:
    if row.ndim == 1 and (class_count is None or len(row) == class_count) and ((row == 0) | (row == 1)).all():
        return Line(name, tuple(map(str, np.flatnonzero(row).tolist())))
    return DataError(
        "is not a row of 0 and 1 with a column for each class",
        where=where,
        expected=f"{class_count or 'some'} numbers",
        found=f"{list(row.shape)}, {printable(str(row.ravel()[:4].tolist()), 60)}...",
        next_step="Pass the vocabulary whose classes, in its order, the columns are.",
    )


def _column(text: str) -> int:
    return int(text)


def _name_or_id(class_id: ClassId, class_count: int | None) -> ClassId:
    """Names first, so that a class may be called 7; then whole numbers as 0-based ids."""

    def find(text: str) -> int:
        try:
            return class_id(text)
        except DataError:
            number = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else -1
            if number < 0:
                raise
        if class_count is not None and number >= class_count:
            raise DataError(f"lists the class id {number}", expected=f"0..{class_count - 1}, counted from 0")
        return number

    return find


_TEXTS: dict[str, Callable[[Path], Lines]] = {
    ".csv": _csv_lines,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".txt": _text_lines,
    ".lst": _text_lines,
}
