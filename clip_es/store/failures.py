"""failures.csv: the pictures and entries that could not be used, and why."""

from __future__ import annotations

from pathlib import Path

from clip_es.records.dataset import Problem
from clip_es.store.tables import read_csv

COLUMNS = ("image_id", "stage", "error", "reason")


def read_failures(path: str | Path) -> list[Problem]:
    """Rows of a failures.csv; empty where there is none. A row that a kill cut off is left out."""
    rows = read_csv(path, COLUMNS)
    return [Problem(row["image_id"], row["error"], row["reason"], row["stage"]) for row in rows]


def failure_row(problem: Problem) -> tuple[str, str, str, str]:
    """A row of failures.csv."""
    return problem.image_id, problem.stage, problem.error, problem.reason
