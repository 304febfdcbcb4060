"""Hugging Face's `metadata.jsonl` or `metadata.csv`: `file_name`, seen from the file, and a column of labels.

    {"file_name": "a.jpg", "label": "cat"}
    {"file_name": "a.jpg", "labels": ["cat", "dog"]}
    {"file_name": "a.jpg", "objects": {"bbox": [[302, 109, 73, 52]], "categories": ["cat"]}}

Numbers are 0-based class ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from clip_es.errors import DataError
from clip_es.records.labels.cells import FIELDS, header_of, labels_in, rows_of
from clip_es.records.labels.declared import labels_of
from clip_es.records.labels.lines import Asked, LabelFiles, LabelTable, Lines, bad_entry, beside, labelled
from clip_es.records.labels.tables import json_object
from clip_es.records.text_files import printable

_NAME = "file_name"


def is_jsonl(first: Any) -> bool:
    """Whether the first line names a file and has a column of labels."""
    return isinstance(first, dict) and isinstance(first.get(_NAME), str)


def huggingface(files: LabelFiles, names: tuple[str, ...], asked: Asked) -> LabelTable:
    """Every line of the files."""
    lines = _lines(files, names, asked)
    return LabelTable(lines, asked.name_or_id, files.at(names, "line"), numbers=True, anywhere=True)


def _lines(files: LabelFiles, names: tuple[str, ...], asked: Asked) -> Lines:
    for name in names:
        rows = _json_rows(files, name) if name.lower().endswith(".jsonl") else _csv_rows(files, name, asked.separator)
        for number, row in rows:
            try:
                if isinstance(row, DataError):
                    raise row
                where = f"{PurePosixPath(name).name} line {number}"
                image = row.get(_NAME)
                if not isinstance(image, str) or not image:
                    raise bad_entry(f"has no {_NAME}", where, f'{{"{_NAME}": "a.jpg", "label": "cat"}}', row)
                yield number, labelled(beside(name, image), _labels(row, asked.field, where))
            except DataError as error:
                yield number, error


def _json_rows(files: LabelFiles, name: str) -> Iterator[tuple[int, dict[str, Any] | DataError]]:
    for number, line in files.lines(name):
        item = json_object(line) if isinstance(line, str) else line
        if isinstance(item, dict | DataError):
            yield number, item
        else:
            yield number, bad_entry("is not a JSON object", f"{name} line {number}", f'{{"{_NAME}": ...}}', item)


def _csv_rows(files: LabelFiles, name: str, separator: str | None) -> Iterator[tuple[int, dict[str, Any] | DataError]]:
    header = header_of(files, name).cells
    for number, _, cells in rows_of(files, name):
        if isinstance(cells, DataError):
            yield number, cells
        else:
            # Several names in one cell stand as in our own tables.
            row = dict(zip(header, cells, strict=True))
            yield number, {k: v if k == _NAME else list(labels_in(v, separator)) for k, v in row.items()}


def _labels(row: dict[str, Any], field: str | None, where: str) -> tuple[str, ...]:
    known = [key for key in ((field,) if field else FIELDS) if key in row]
    if not known:
        raise DataError(
            f"has no column {field!r}" if field else "has no column of labels",
            where=where,
            expected=f"one of {', '.join(FIELDS)}",
            found=printable(", ".join(map(str, row)), 80),
            next_step="Name the column with --label-field.",
        )
    return labels_of(row[known[0]], (), where)
