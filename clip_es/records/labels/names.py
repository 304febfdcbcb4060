"""Which labels a table names, for those who have no vocabulary yet."""

from __future__ import annotations

from pathlib import Path

from clip_es.errors import DataError
from clip_es.records.labels.files import open_labels

MOST = 10_000
"""Different labels after which no more are collected; no mask holds so many."""


def label_names(table: Path) -> set[str]:
    """Every label of a table as it is spelt; rows that cannot be read are left out, as they will be when it is used.

    Raises DataError: no usable table, or its labels are numbers, which have no names.
    """
    file = open_labels(table, int, None, tuple)
    found: set[str] = set()
    for _, line in file.lines:
        if isinstance(line, DataError):
            continue
        found.update(label for label in line.labels if label)
        if len(found) > MOST:
            break
    if table.suffix.lower() == ".npy" or (found and all(label.isdigit() for label in found)):
        raise DataError(
            "numbers its classes and does not name them", where=table, next_step="Pass --vocabulary with the names."
        )
    return found
