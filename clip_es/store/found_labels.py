"""labels.csv of a run whose labels were found and not given, readable as a table of labels.

`image,labels,confidence,sure`: the picture's id, names and their confidences separated by `;`, and how likely the whole
row is right, where that is known. While a run goes on each shard adds lines to a piece of its own, before the mask of
the picture is written; when the run closes they are merged, one line for each finished picture, in the order of ids. So
a kill loses nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clip_es.store.tables import append_rows, read_csv

PIECE = "labels-"
TABLE = "labels.csv"
FOUND_COLUMNS = ("image", "labels", "confidence", "sure")
"""Of that table; the first two are those of any table of labels, but here a picture may have no label."""


@dataclass(frozen=True)
class FoundLabels:
    """The classes that were found in a picture; may be none."""

    names: tuple[str, ...]
    confidence: tuple[float, ...]
    """How sure each is: 0..1 where CLIP named them, the method's own score (CLIPer: 0..2) where that did."""
    sure: float | None = None
    """0..1: how likely all of it is right; None where it is not known."""


def note(piece: Path, image_id: str, found: FoundLabels) -> None:
    """Add the line of a picture. Raises StoreError."""
    sure = "" if found.sure is None else f"{found.sure:.3f}"
    row = (image_id, ";".join(found.names), ";".join(f"{score:.3f}" for score in found.confidence), sure)
    append_rows(piece, FOUND_COLUMNS, [row])


def label_figures(table: Path) -> dict[str, object]:
    """What summary.json says of a labels.csv: labels found, pictures without any, mean of `sure` where it is known."""
    rows = read_csv(table, FOUND_COLUMNS)
    sure = [float(row["sure"]) for row in rows if row["sure"]]
    return {
        "found": sum(len(row["labels"].split(";")) for row in rows if row["labels"]),
        "pictures_without": sum(not row["labels"] for row in rows),
        **({"mean_sure": sum(sure) / len(sure)} if sure else {}),
    }
