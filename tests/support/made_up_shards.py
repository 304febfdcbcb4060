"""A small run in shards with masks that no model has made, for tests of what is stored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from clip_es.storage import Place
from clip_es.store.shards.forms import FormName
from clip_es.store.shards.store import ShardStore, Unit
from clip_es.types import ImageRecord, PseudoMask

CLASSES = ("cat", "traffic light", "dog")
SETTINGS = {"made": "up"}


def records_in(folder: Path, count: int, *, draw: bool = False) -> list[ImageRecord]:
    """Records `p.000`, `p.001`, ..., each with two labels; with `draw` their pictures are there."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number in range(count):
        path = folder / f"p.{number:03}.png"
        if draw:
            Image.fromarray(np.full((24, 32, 3), number, dtype=np.uint8)).save(path)
        found.append(ImageRecord(f"p.{number:03}", path, (number % 3, (number + 1) % 3)))
    return found


def mask_of(record: ImageRecord) -> PseudoMask:
    """The mask of a record, always the same: stripes of background and its labels, the last column undecided."""
    decided = np.zeros((24, 32), dtype=np.uint8)
    decided[:, 8:16], decided[:, 16:] = record.class_ids[0] + 1, record.class_ids[1] + 1
    confidence = np.full((24, 32), int(record.image_id[-3:]) % 200 / 255, dtype=np.float32)
    labels = decided.copy()
    labels[:, -1] = 255
    return PseudoMask(labels, confidence, record.class_ids, decided)


def write_unit(store: ShardStore, unit: Unit, bad: Sequence[str] = ()) -> None:
    """One unit; the pictures called `bad` fail."""
    writer = store.sink.writer(unit)
    for record in reversed(unit.records):  # The order in which results come does not count.
        if record.image_id in bad:
            writer.fail(record, "read", ValueError("no picture"))
        else:
            writer.save(record, mask_of(record))
    writer.commit()


def make_shards(
    out: Path | Place,
    records: Sequence[ImageRecord],
    form: FormName = "webdataset",
    *,
    size: int = 4,
    bad: Sequence[str] = (),
    stop_after: int | None = None,
    pictures: bool = False,
) -> int:
    """Make what is left of a run; returns how many units that were. `stop_after`: units, then no more."""
    about = {"classes": list(CLASSES), "images": str(records[0].path.parent)}
    made = 0
    with ShardStore.open(out, SETTINGS, classes=CLASSES, form=form, about=about, pictures=pictures) as store:
        for unit in store.units(records, size):
            if made == stop_after:
                return made
            write_unit(store, unit, bad)
            made += 1
        store.finish({"store": 1.0})
    return made
