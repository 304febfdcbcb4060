"""Labels of a row of a data set that declares its classes, as Hugging Face's do: numbers, which the data set names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from clip_es.errors import DataError
from clip_es.records.labels.cells import FIELDS
from clip_es.records.labels.lines import texts_of
from clip_es.records.text_files import printable

MISSING = -1
"""What `datasets` writes in place of a label that is not known."""


def names_of(kind: Any) -> list[str]:
    """The names that a column declares for its numbers, its own or those of its elements or objects.

    `kind`: a feature of `datasets`, or the JSON of one as Parquet files carry it.
    """
    for _ in range(8):  # Lists of objects of lists.
        if isinstance(kind, list) and kind:
            kind = kind[0]
        elif isinstance(kind, dict) and "feature" in kind:
            kind = kind["feature"]
        elif isinstance(kind, dict) and "names" not in kind:
            kind = next((kind[key] for key in FIELDS if key in kind), None)
        else:
            kind = getattr(kind, "feature", kind)
    names = kind.get("names") if isinstance(kind, dict) else getattr(kind, "names", None)
    return [str(name) for name in names] if isinstance(names, list) else []


def names_in_parquet(schema: Any, column: str) -> list[str]:
    """The names that a Parquet file of Hugging Face's declares for a column; none where it does not."""
    told = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        features = json.loads(told)["info"]["features"]
        return names_of(features.get(column))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return []


def labels_of(value: Any, names: Sequence[str], where: object) -> tuple[str, ...]:
    """The labels of a row: one, a list, objects that have one each, or lists of what objects have. Raises DataError."""
    if isinstance(value, dict):  # A list for each property of the objects.
        value = next((value[key] for key in FIELDS if isinstance(value.get(key), list)), value)
    items = list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
    items = [next((item[k] for k in FIELDS if k in item), item) if isinstance(item, dict) else item for item in items]
    items = [item for item in items if item is not None and not (names and item == MISSING)]
    wrong = [item for item in items if names and isinstance(item, int) and not 0 <= item < len(names)]
    found = None if wrong else texts_of([names[i] if names and isinstance(i, int) else i for i in items])
    if found is None:
        raise DataError(
            "has a label that is none",
            where=where,
            expected=f"0..{len(names) - 1}" if wrong else "a name, a class id, or a list of them",
            found=printable(repr(value), 80),
            next_step="Mend the entry.",
        )
    return tuple(dict.fromkeys(found))
