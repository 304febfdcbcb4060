"""summary.json: what a run has come to, and how long it took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_es.errors import DataError
from clip_es.store.disk import Lock
from clip_es.store.manifest import plain
from clip_es.store.tables import read_json, write_json

FILE = "summary.json"
_MERGE = "merge"
"""Name of the lock under which failures.csv and summary.json change."""


@dataclass(frozen=True)
class Summary:
    """What a run has come to."""

    done: int
    """Finished pictures in the folder, of all shards and calls."""
    failed: int
    """Rows of failures.csv, of all shards."""
    skipped: int
    """Pictures that were finished before this call."""


def merge_lock(folder: Path) -> Lock:
    """The lock under which the tables of a whole run change."""
    return Lock.wait_for(folder, _MERGE)


def update_summary(folder: str | Path, figures: Mapping[str, Any]) -> None:
    """Add figures to a run's summary.json, such as miou of a later evaluation. Raises StoreError."""
    with merge_lock(Path(folder)):
        add_to_summary(Path(folder), plain(figures, "figures"), {})


def add_to_summary(folder: Path, figures: Mapping[str, Any], seconds: Mapping[str, float]) -> None:
    """Figures replace those of the same name, seconds add up. Needs `merge_lock`. Raises StoreError."""
    path = folder / FILE
    try:
        old = read_json(path)
    except DataError:
        old = {}  # What is no summary is written anew.
    total = added_seconds(old.get("seconds"), seconds)
    write_json(path, {**old, **figures, "seconds": total}, durable=True)


def added_seconds(before: object, seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds by stage of earlier calls, as a summary.json has them, and of this one. What is no number is dropped."""
    stated = before if isinstance(before, Mapping) else {}
    total = {str(stage): float(value) for stage, value in stated.items() if isinstance(value, int | float)}
    for stage, value in seconds.items():
        total[stage] = total.get(stage, 0.0) + float(value)
    return total
