"""CSV tables and JSON files: the one place where they are written and read.

Tables have a header, cells are separated by commas, lines end with a line feed, text is UTF-8. A file appears whole or
not at all; a table that grows gets whole lines, and half a line that a kill left is not read.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clip_es.errors import DataError
from clip_es.store.disk import append, make_folder, write_atomic

Row = Sequence[object]


def csv_bytes(columns: Sequence[str], rows: Iterable[Row], *, header: bool = True) -> bytes:
    """The text of a table; characters that no file can hold become `?`."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    if header:
        writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode(errors="replace")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Row], *, durable: bool = False) -> None:
    """Write a table, and its folder where there is none. Raises StoreError."""
    make_folder(path.parent)
    write_atomic(path, csv_bytes(columns, rows), durable=durable)


def append_rows(path: Path, columns: Sequence[str], rows: Iterable[Row], *, durable: bool = False) -> None:
    """Add rows to the end of a table, which begins with its header where there is none yet. Raises StoreError.

    `durable`: they survive a power cut once this returns.
    """
    begun = path.exists() and path.stat().st_size > 0  # A disk that was full leaves an empty file.
    append(path, csv_bytes(columns, rows, header=not begun), durable=durable)


def read_csv(path: str | Path, columns: Iterable[str] = ()) -> list[dict[str, str]]:
    """The rows of a table by column, where every one of `columns` has a cell; empty where there is no such file.

    Raises DataError: the file cannot be read.
    """
    try:
        return parse_csv(Path(path).read_bytes(), columns)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError("cannot be read", where=path, found=error.strerror) from error


def parse_csv(text: bytes, columns: Iterable[str] = ()) -> list[dict[str, str]]:
    """As `read_csv`, from the bytes of a table."""
    whole = text[: text.rfind(b"\n") + 1].decode(errors="replace")
    wanted = tuple(columns)
    rows = csv.DictReader(io.StringIO(whole, newline=""))
    return [row for row in rows if all(row.get(column) is not None for column in wanted)]


def merged(texts: Iterable[bytes], columns: Sequence[str], wanted: Container[str]) -> bytes:
    """One table made of several with the same columns: a row for each wanted key, the first column, in their order.

    Of several rows with one key the last counts.
    """
    rows: dict[str, tuple[str, ...]] = {}
    for text in texts:
        for row in parse_csv(text, columns):
            if row[columns[0]] in wanted:
                rows[row[columns[0]]] = tuple(row[column] for column in columns)
    return csv_bytes(columns, [rows[key] for key in sorted(rows)])


def json_text(content: object) -> str:
    """The content as JSON that a person can read, with a line feed at its end."""
    return json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n"


def write_json(path: Path, content: object, *, durable: bool = False) -> None:
    """Write a JSON file, and its folder where there is none. Raises StoreError."""
    make_folder(path.parent)
    write_atomic(path, json_text(content).encode(errors="replace"), durable=durable)


def read_json(path: str | Path) -> dict[str, Any]:
    """The mapping that a JSON file holds. Raises DataError: no such file, or it holds something else."""
    try:
        content = json.loads(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        missing = isinstance(error, FileNotFoundError)
        raise DataError(
            "does not exist" if missing else "cannot be read as JSON", where=path, found=None if missing else error
        ) from error
    if not isinstance(content, Mapping):
        raise DataError("holds no mapping", where=path, expected="{...}", found=type(content).__name__)
    return dict(content)
