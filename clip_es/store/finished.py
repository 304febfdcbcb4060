"""Where the files of finished pictures lie: in a run folder, or in shards."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from clip_es.errors import DataError
from clip_es.storage import Place
from clip_es.store.shards import manifest
from clip_es.store.shards.manifest import Entry
from clip_es.store.shards.rows import NEEDED
from clip_es.store.shards.upkeep import read_rows


class Finished(NamedTuple):
    """The files of one picture, for `read_mask` and `read_confidence`."""

    mask: Path
    labels: Path
    confidence: Path
    beside: bool = True
    """Whether labels and confidence are there."""


def in_folder(run: Path, image_ids: Iterable[str]) -> dict[str, Finished]:
    """Those of the pictures whose mask a run folder has."""
    parts = ("masks", "labels", "confidence")
    found = {}
    for image_id in image_ids:
        mask, labels, confidence = (run / part / f"{image_id}.png" for part in parts)
        if mask.is_file():
            found[image_id] = Finished(mask, labels, confidence, labels.is_file() and confidence.is_file())
    return found


def in_shards(place: Place, image_ids: Collection[str]) -> dict[str, Finished]:
    """Those of the pictures that shards have; a damaged entry has none. Raises DataError: the place cannot be read."""
    wanted, found = set(image_ids), {}
    for entry in manifest.entries(place) if wanted else ():
        if isinstance(entry, Entry):
            for number, image_id in enumerate(entry.ids):
                if image_id in wanted and image_id not in found:
                    mask, labels, confidence = (entry.inner(place, number, name) for name in NEEDED)
                    found[image_id] = Finished(mask, labels, confidence)
    return found


def labels_in_shards(place: Place, image_ids: Collection[str]) -> Iterator[tuple[str, Path]]:
    """The decided labels of those of the pictures that shards have, each as a file that is there for its turn alone.

    Shards are read whole, one after the other. Of a damaged one each picture's file is the one inside it, which can be
    read or not. Raises DataError: the place cannot be read.
    """
    left = set(image_ids)
    with TemporaryDirectory() as folder:
        file = Path(folder, "labels.png")
        for entry in manifest.entries(place):
            if not isinstance(entry, Entry) or left.isdisjoint(entry.ids):
                continue
            try:
                rows = {row.image_id: row.files["labels.png"] for row in read_rows(place, entry)}
            except DataError:
                rows = {}
            for number, image_id in enumerate(entry.ids):
                if image_id in left:
                    left.discard(image_id)
                    if data := rows.get(image_id):
                        file.write_bytes(data)
                    yield image_id, file if data else entry.inner(place, number, "labels.png")
