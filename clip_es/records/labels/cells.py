"""Tables of cells, as spreadsheets and scripts write them: commas, semicolons or tabs, seen from the header.

A leading column without a name, which pandas writes, is left out. Several labels of one cell stand between `;` or `|`,
or as a list in JSON or Python's way: `['cat', 'traffic light']`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from clip_es.errors import DataError
from clip_es.records.labels.lines import LabelFiles, texts_of
from clip_es.records.text_files import csv_cells, printable

FIELDS = ("labels", "label", "classes", "class", "categories", "category", "objects", "tags")
"""Columns and keys that hold labels; the first that is there counts."""

PICTURE_COLUMNS = (
    *("image", "file_name", "filename", "image_name", "image_path", "file_path", "filepath", "path", "file"),
    *("picture", "image_id", "id"),
)
"""What the column of the pictures is called; the first that is there counts."""

HOT = {
    **dict.fromkeys(("1", "1.0", "true", "yes"), True),
    **dict.fromkeys(("0", "0.0", "false", "no", ""), False),
}
"""How tools write that a class is in a picture, or is not."""

_DELIMITER = re.compile(r'(?:"(?:[^"]|"")*"|[^",;\t])*([,;\t])')
_BETWEEN = re.compile(r"[;|]")
_QUOTED = re.compile(r"""\s*(?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)")\s*(?:,|$)?""")


class Header(NamedTuple):
    """The first line of a table."""

    cells: list[str]
    delimiter: str
    skipped: int
    """Leading columns without a name."""

    def at(self, *wanted: str) -> int | None:
        """The first column with one of the names, in the order of the names; case and blanks do not matter."""
        known = [named(cell) for cell in self.cells]
        return next((known.index(name) for name in wanted if name in known), None)


def named(cell: str) -> str:
    """The name of a column as it is compared."""
    return "_".join(cell.lower().split())


def header_of(files: LabelFiles, name: str) -> Header:
    """The first line of a table. Raises DataError: it is no text."""
    line = next(files.lines(name), (1, ""))[1]
    if isinstance(line, DataError):
        raise line
    found = _DELIMITER.match(line)
    delimiter = found[1] if found else ","
    cells = csv_cells(line, f"{name} line 1", delimiter)
    cells = [cell.strip() for cell in cells] if isinstance(cells, list) and cells else [""]
    skipped = int(len(cells) > 1 and cells[0].lower() in ("", "unnamed: 0"))
    return Header(cells[skipped:], delimiter, skipped)


def head_of(files: LabelFiles, name: str) -> tuple[list[str], list[str]]:
    """The cells of the header and of the line behind it; one empty cell where that is none. Raises DataError."""
    first = next((cells for _, _, cells in rows_of(files, name)), None)
    return header_of(files, name).cells, first if isinstance(first, list) else [""]


def rows_of(files: LabelFiles, name: str) -> Iterator[tuple[int, str, list[str] | DataError]]:
    """The number of each line behind the header, the line itself and its cells. Raises DataError."""
    header = header_of(files, name)
    width = len(header.cells) + header.skipped
    for number, line in islice(files.lines(name), 1, None):
        if isinstance(line, DataError):
            yield number, "", line
            continue
        # No quotes: the common case, ten times as fast as the csv module for one line.
        plain = '"' not in line and len(line) < 10_000
        cells = line.split(header.delimiter) if plain else csv_cells(line, f"{name} line {number}", header.delimiter)
        if isinstance(cells, list):
            cells = _checked(cells, width, f"{name} line {number}", line)
        yield number, line, cells[header.skipped :] if isinstance(cells, list) else cells


def _checked(cells: list[str], width: int, where: str, line: str) -> list[str] | DataError:
    if len(cells) == width:
        return [cell.strip() for cell in cells]
    return DataError(
        f"has {len(cells)} columns",
        where=where,
        expected=f"{width}, as in the header",
        found=repr(printable(line, 80)),
        next_step="Separate the names of several labels by ';', or quote a name that holds a comma.",
    )


def kind_of(head: tuple[list[str], list[str]]) -> str | None:
    """Which format a table has, by its first two lines; None: none that is known.

    A table has one format alone, so the question has one place.
    """
    header, first = head
    names = [named(cell) for cell in header]
    if {"annotation_id", "annotator"} <= set(names):
        return "label-studio"
    if {"image", "labels"} <= set(names):
        return "csv"
    labelled = any(name in FIELDS for name in names)
    if "file_name" in header and labelled:
        return "huggingface"
    if names[0] in PICTURE_COLUMNS and not labelled and len(first) > 1:
        return "one-hot-csv" if all(cell.lower() in HOT for cell in first[1:]) else "csv-rows"
    return "csv-rows" if any(name in PICTURE_COLUMNS for name in names) and len(names) > 1 else None


def labels_in(cell: str, separator: str | None = None) -> tuple[str, ...]:
    """The labels of a cell. `separator`: what stands between them; None: `;` or `|`."""
    listed = _listed(cell.strip())
    if listed is not None:
        return listed
    parts = cell.split(separator) if separator else _BETWEEN.split(cell)
    return tuple(text for part in parts if (text := part.strip()))


def _listed(cell: str) -> tuple[str, ...] | None:
    """The items of a list as JSON or Python writes it; None where the cell is none."""
    if not (cell.startswith("[") and cell.endswith("]")):
        return None
    try:
        return texts_of(json.loads(cell))
    except (ValueError, RecursionError):
        pass
    items, at, inner = [], 0, cell[1:-1]
    while at < len(inner):
        item = _QUOTED.match(inner, at)
        if item is None:
            return None
        items.append(re.sub(r"\\(.)", r"\1", item[1] if item[1] is not None else item[2]).strip())
        at = item.end()
    return tuple(text for text in items if text)
