"""Tables of labels as people write them by hand or with a script: CSV, one-hot CSV, JSON lines, text.

| format | a line |
|---|---|
| csv | header `image,labels`; names separated by `;` |
| csv-rows | header with columns of pictures and labels, `filename,width,class`; a picture may have several rows |
| one-hot-csv | header `image,cat,dog,...`; 1 where the class is in the picture, else 0 or nothing |
| jsonl | `{"image": "a.jpg", "labels": ["cat", "dog"]}`; other keys are ignored |
| text | `a.jpg cat traffic_light` or `a 15 9`: the picture, then names without blanks or 0-based class ids |

Files are read line by line: memory does not grow with them, but for csv-rows, whose pictures are collected.
"""

from __future__ import annotations

import json

from clip_es.errors import DataError
from clip_es.records.labels.cells import FIELDS, HOT, PICTURE_COLUMNS, Header, header_of, labels_in, named, rows_of
from clip_es.records.labels.lines import Asked, LabelFiles, LabelTable, Line, Lines, beside, labelled, merged, texts_of
from clip_es.records.text_files import printable
from clip_es.store.found_labels import FOUND_COLUMNS

COLUMNS = ("image", "labels")


def csv(files: LabelFiles, names: tuple[str, ...], asked: Asked) -> LabelTable:
    """Tables with the columns `image` and `labels`."""
    return LabelTable(_csv_lines(files, names, asked), asked.class_id, files.at(names, "line"))


def csv_rows(files: LabelFiles, names: tuple[str, ...], asked: Asked) -> LabelTable:
    """Tables with a column of pictures and one of labels, and a row for each label or object."""
    lines = merged(_row_lines(files, names, asked))
    return LabelTable(lines, asked.name_or_id, files.at(names, "line"), numbers=True, anywhere=True)


def one_hot(files: LabelFiles, names: tuple[str, ...], asked: Asked) -> LabelTable:
    """Tables with a column for each class."""
    classes = tuple(dict.fromkeys(cell for name in names for cell in header_of(files, name).cells[1:] if cell))
    return LabelTable(_one_hot_lines(files, names), asked.class_id, files.at(names, "line"), classes, anywhere=True)


def is_jsonl(first: object) -> bool:
    """Whether the first line is an object with a picture and labels."""
    return isinstance(first, dict) and set(COLUMNS) <= set(first)


def jsonl(files: LabelFiles, names: tuple[str, ...], asked: Asked) -> LabelTable:
    """JSON lines."""
    lines = _json_lines(files, names, asked.field or "labels")
    return LabelTable(lines, asked.name_or_id, files.at(names, "line"), numbers=True)


def text(files: LabelFiles, names: tuple[str, ...], asked: Asked) -> LabelTable:
    """Text with blanks between."""
    return LabelTable(_text_lines(files, names), asked.name_or_id, files.at(names, "line"), numbers=True)


def _csv_lines(files: LabelFiles, names: tuple[str, ...], asked: Asked) -> Lines:
    for name in names:
        header = [cell.lower() for cell in header_of(files, name).cells]
        field = (asked.field or "labels").lower()
        if header.count("image") != 1 or header.count(field) != 1:
            raise DataError(
                f"does not have the columns `image` and `{printable(field, 40)}` once each",
                where=files.path,
                expected="a first line `image,labels`, `image,cat,dog,...` with 0 and 1, or one with a column of "
                f"pictures ({', '.join(PICTURE_COLUMNS[:4])}, ...) and one of labels ({', '.join(FIELDS[:4])}, ...)",
                found=repr(printable(",".join(header), 80)),
                next_step="Rename the columns, or name the one of the labels with --label-field.",
            )
        image, labels = header.index("image"), header.index(field)
        nothing = f"the run that wrote {name} found no label" if set(FOUND_COLUMNS) <= set(header) else ""
        for number, _, cells in rows_of(files, name):
            if isinstance(cells, DataError):
                yield number, cells
                continue
            found = labels_in(cells[labels], asked.separator)
            yield number, Line(cells[image], found, "" if found else nothing)


def _row_lines(files: LabelFiles, names: tuple[str, ...], asked: Asked) -> Lines:
    for name in names:
        header = header_of(files, name)
        image, label = _columns(header, asked.field, name)
        for number, _, cells in rows_of(files, name):
            if isinstance(cells, DataError):
                yield number, cells
            else:
                yield number, labelled(beside(name, cells[image]), labels_in(cells[label], asked.separator))


def _columns(header: Header, field: str | None, where: str) -> tuple[int, int]:
    """The columns of the pictures and of the labels. Raises DataError: one is not there."""
    image = header.at(*PICTURE_COLUMNS)
    label = header.cells.index(field) if field in header.cells else header.at(*([named(field)] if field else FIELDS))
    if image is None or label is None:
        raise DataError(
            "has no column of pictures" if image is None else f"has no column {field!r}" if field else "has no labels",
            where=where,
            expected=f"a column {' or '.join(PICTURE_COLUMNS if image is None else [field] if field else FIELDS)}",
            found=repr(printable(header.delimiter.join(header.cells), 120)),
            next_step="Rename the column, or name the one of the labels with --label-field.",
        )
    return image, label


def _one_hot_lines(files: LabelFiles, names: tuple[str, ...]) -> Lines:
    for name in names:
        classes = header_of(files, name).cells[1:]
        if not classes or len(set(classes)) != len(classes) or not all(classes):
            raise DataError(
                "does not name each class once in its first line",
                where=files.path,
                expected="`image,cat,dog,...`",
                found=repr(printable(",".join(classes), 80)),
            )
        for number, line, cells in rows_of(files, name):
            if isinstance(cells, DataError):
                yield number, cells
                continue
            hot = [HOT.get(cell.lower()) for cell in cells[1:]]
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
            yield number, Line(beside(name, cells[0]), found, "" if found else "no class is 1 in its row")


def _json_lines(files: LabelFiles, names: tuple[str, ...], field: str) -> Lines:
    for name in names:
        for number, line in files.lines(name):
            if isinstance(line, DataError):
                yield number, line
                continue
            item = json_object(line)
            image = item.get("image") if isinstance(item, dict) else None
            labels = texts_of(item.get(field)) if isinstance(item, dict) else None
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
