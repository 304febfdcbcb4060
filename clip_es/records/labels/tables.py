"""Tables of labels as people write them by hand or with a script: CSV, one-hot CSV, JSON lines, text.

| format | a line |
|---|---|
| csv | header `image,labels`; names separated by `;` |
| one-hot-csv | header `image,cat,dog,...`; 1 where the class is in the picture, else 0 or nothing |
| jsonl | `{"image": "a.jpg", "labels": ["cat", "dog"]}`; other keys are ignored |
| text | `a.jpg cat traffic_light` or `a 15 9`: the picture, then names without blanks or 0-based class ids |

Files are read line by line: memory does not grow with them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice

from clip_es.errors import DataError
from clip_es.records.labels.lines import Asked, LabelFiles, LabelTable, Line, Lines, texts_of
from clip_es.records.text_files import csv_cells, printable

COLUMNS = ("image", "labels")
FOUND_COLUMNS = (*COLUMNS, "confidence", "sure")
"""Those of the labels.csv that a run with `--labels auto` writes; there a picture may have no label."""

PICTURE_COLUMNS = ("image", "file_name", "filename", "image_name", "image_id", "file", "path")
"""What the column of the pictures is called in one-hot tables."""

_HOT = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False, "": False}
"""How tools write that a class is in a picture, or is not."""


def is_csv(rows: list[list[str]]) -> bool:
    """Whether a table, of which the first two lines are given, has the columns `image` and `labels`."""
    return set(COLUMNS) <= {cell.lower() for cell in rows[0]}


def csv(files: LabelFiles, names: tuple[str, ...], asked: Asked) -> LabelTable:
    """Tables with the columns `image` and `labels`."""
    return LabelTable(_csv_lines(files, names), asked.class_id, files.at(names, "line"))


def is_one_hot(rows: list[list[str]]) -> bool:
    """Whether the first column names pictures and the others say yes or no."""
    header, first = rows
    return header[0].lower() in PICTURE_COLUMNS and len(first) > 1 and all(cell.lower() in _HOT for cell in first[1:])


def one_hot(files: LabelFiles, names: tuple[str, ...], asked: Asked) -> LabelTable:
    """Tables with a column for each class."""
    classes = tuple(dict.fromkeys(cell for name in names for cell in files.header(name)[1:] if cell))
    return LabelTable(_one_hot_lines(files, names), asked.class_id, files.at(names, "line"), classes)


def is_jsonl(first: object) -> bool:
    """Whether the first line is an object with a picture and labels."""
    return isinstance(first, dict) and set(COLUMNS) <= set(first)


def jsonl(files: LabelFiles, names: tuple[str, ...], asked: Asked) -> LabelTable:
    """JSON lines."""
    return LabelTable(_json_lines(files, names), asked.name_or_id, files.at(names, "line"), numbers=True)


def text(files: LabelFiles, names: tuple[str, ...], asked: Asked) -> LabelTable:
    """Text with blanks between."""
    return LabelTable(_text_lines(files, names), asked.name_or_id, files.at(names, "line"), numbers=True)


def _rows(files: LabelFiles, name: str) -> Iterator[tuple[int, str, list[str] | DataError]]:
    """Cells of each line behind the header, with the line itself."""
    width = len(files.header(name))
    for number, line in islice(files.lines(name), 1, None):
        if isinstance(line, DataError):
            yield number, "", line
            continue
        # No quotes: the common case, ten times as fast as the csv module for one line.
        plain = '"' not in line and len(line) < 10_000
        cells = line.split(",") if plain else csv_cells(line, f"{name} line {number}")
        if isinstance(cells, list) and len(cells) != width:
            cells = DataError(
                f"has {len(cells)} columns",
                where=f"{name} line {number}",
                expected=f"{width}, as in the header",
                found=repr(printable(line, 80)),
                next_step="Separate the names of several labels by ';', or quote a name that holds a comma.",
            )
        yield number, line, cells


def _csv_lines(files: LabelFiles, names: tuple[str, ...]) -> Lines:
    for name in names:
        header = [cell.lower() for cell in files.header(name)]
        if any(header.count(column) != 1 for column in COLUMNS):
            raise DataError(
                "does not have the columns `image` and `labels` once each",
                where=files.path,
                expected="a first line `image,labels`",
                found=repr(printable(",".join(header), 80)),
                next_step="Separate the columns by commas, the names within `labels` by ';'.",
            )
        image, labels = header.index("image"), header.index("labels")
        nothing = f"the run that wrote {name} found no label" if set(FOUND_COLUMNS) <= set(header) else ""
        for number, _, cells in _rows(files, name):
            if isinstance(cells, DataError):
                yield number, cells
                continue
            found = tuple(text for label in cells[labels].split(";") if (text := label.strip()))
            yield number, Line(cells[image].strip(), found, "" if found else nothing)


def _one_hot_lines(files: LabelFiles, names: tuple[str, ...]) -> Lines:
    for name in names:
        classes = files.header(name)[1:]
        if not classes or len(set(classes)) != len(classes) or not all(classes):
            raise DataError(
                "does not name each class once in its first line",
                where=files.path,
                expected="`image,cat,dog,...`",
                found=repr(printable(",".join(classes), 80)),
            )
        for number, line, cells in _rows(files, name):
            if isinstance(cells, DataError):
                yield number, cells
                continue
            hot = [_HOT.get(cell.strip().lower()) for cell in cells[1:]]
            if None in hot:
                yield (
                    number,
                    DataError(
                        f"holds {printable(cells[1 + hot.index(None)], 40)!r} in the column of "
                        f"{printable(classes[hot.index(None)], 40)}",
                        where=f"{name} line {number}",
                        expected="1 where the class is in the picture, else 0",
                        found=repr(printable(line, 80)),
                        next_step="Mend the row, or take columns out that are no classes.",
                    ),
                )
                continue
            found = tuple(known for known, there in zip(classes, hot, strict=True) if there)
            yield number, Line(cells[0].strip(), found, "" if found else "no class is 1 in its row")


def _json_lines(files: LabelFiles, names: tuple[str, ...]) -> Lines:
    for name in names:
        for number, line in files.lines(name):
            if isinstance(line, DataError):
                yield number, line
                continue
            item = json_object(line)
            image = item.get("image") if isinstance(item, dict) else None
            labels = texts_of(item.get("labels")) if isinstance(item, dict) else None
            if not isinstance(image, str) or labels is None:
                yield (
                    number,
                    DataError(
                        "is not an object with a picture and its labels",
                        where=f"{name} line {number}",
                        expected='{"image": "a.jpg", "labels": ["cat", "dog"]}, labels as names or 0-based class ids',
                        found=printable(str(item) if isinstance(item, Exception) else line, 80),
                        next_step="Write one such object on each line.",
                    ),
                )
            else:
                yield number, Line(image, labels)


def json_object(line: str) -> object:
    """What a line of JSON holds, or the error that it is."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return error


def _text_lines(files: LabelFiles, names: tuple[str, ...]) -> Lines:
    for name in names:
        for number, line in files.lines(name):
            if isinstance(line, DataError):
                yield number, line
            else:
                image, *labels = line.split()
                yield number, Line(image, tuple(labels))
