"""Which labels a file names, for those who have no vocabulary yet."""

from __future__ import annotations

from pathlib import Path

from clip_es.errors import DataError
from clip_es.records.labels.formats import open_labels
from clip_es.records.labels.lines import Asked, is_number
from clip_es.records.text_files import printable

MOST = 10_000
"""Different labels after which no more are collected; no mask holds so many."""


def label_names(
    table: Path, format: str | None = None, field: str | None = None, separator: str | None = None
) -> set[str]:
    """Every label of a file as it is spelt, and the classes it declares; entries that cannot be read are left out, as
    they will be when it is used.

    Raises DataError: no usable file, its labels are numbers, which have no names, or several stand in one.
    """
    file = open_labels(table, Asked(int, None, tuple, field, separator), format)
    found: set[str] = set(file.classes)
    for _, line in file.lines:
        if isinstance(line, DataError):
            continue
        found.update(label for label in line.labels if label)
        if len(found) > MOST:
            break
    if file.numbers and all(is_number(label) for label in found) and (found or table.suffix.lower() == ".npy"):
        raise DataError(
            "numbers its classes and does not name them", where=table, next_step="Pass --vocabulary with the names."
        )
    if separator is None:
        _refuse_lists(found, table)
    return found


def _refuse_lists(names: set[str], where: Path) -> None:
    """Raises DataError: a name is a list of others, so that commas stand between the labels of a cell."""
    for name in names:
        parts = [part.strip() for part in name.split(",")]
        if len(parts) > 1 and names.issuperset(parts):
            raise DataError(
                f"has the label {printable(name, 60)!r}, whose parts are labels too",
                where=where,
                next_step="Pass --label-separator ',' where these are several labels, --label-separator ';' where not.",
            )
