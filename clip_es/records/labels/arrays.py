"""One-hot arrays in .npy files: 0 and 1, a row for each picture, a column for each class; or a dictionary of such rows.

The rows of a plain array are the lines of the text file of the same name (`labels.npy`, `labels.txt`), or else the
pictures of the folder in the order of their names. Memory does not grow with the file.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from clip_es.decode import PICTURES
from clip_es.errors import DataError
from clip_es.records.labels.lines import Asked, LabelFiles, LabelTable, Line, Lines
from clip_es.records.labels.pickled import pickled_rows
from clip_es.records.text_files import printable, read_lines

_ROWS = 4096
"""Rows of an array that are looked at together."""


def npy(files: LabelFiles, names: tuple[str, ...], asked: Asked) -> LabelTable:
    """The rows of an array; their labels are the numbers of the columns that hold 1."""
    lines = _lines(files.path, asked.class_count, asked.pictures)
    return LabelTable(lines, int, files.at(names, "row"), numbers=True)


def _lines(table: Path, class_count: int | None, pictures: Callable[[], Iterable[str]]) -> Lines:
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
