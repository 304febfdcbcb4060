"""Which picture belongs to which mask, and whether they fit: asked before a training, not in the middle of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clip_es.errors import ConfigError, DataError
from clip_es.records.dataset import Listing, read_lines
from clip_es.records.picture_files import pictures_of
from clip_es.storage import place_of
from clip_es.store.manifest import Manifest
from clip_es.store.shards.manifest import Entry, entries
from clip_es.types import UNDECIDED


@dataclass(frozen=True)
class Pair:
    """A picture, its mask and the confidence of the mask."""

    image_id: str
    image: Path
    mask: Path
    confidence: Path | None


def find_pairs(
    run: str | Path | None = None,
    images: str | Path | None = None,
    masks: str | Path | None = None,
    confidence: str | Path | None = None,
    list_file: str | Path | None = None,
) -> list[Pair]:
    """The pairs of a run, or of a folder of masks, in the order of the list or of the names.

    A run may be a folder, or shards on a disk or on object storage; of these the files are named where they lie, inside
    the shards (`clip_es.store.shards.inner`), and the pictures too where the shards carry them. Of a run the labels
    before the 255 rule are taken, with its confidence; pictures come from `images` or from where run.yaml says they
    were. Looks at names alone.

    Raises ConfigError: neither run nor masks, or the folder of the pictures is not known. DataError: a folder is
    missing, no pair is left, a mask has no picture, a listed id no mask, or a run's mask no confidence.
    """
    if (run is None) == (masks is None):
        raise ConfigError("a data set is one of two", expected="run=FOLDER or masks=FOLDER", found=f"{run}, {masks}")
    if run is not None and Manifest.is_in(run) and Manifest.read(run).sharded:
        return _of_shards(Path(run), images, list_file)
    if run is not None:
        run = Path(run)
        masks, confidence = run / "labels", run / "confidence"
    folders = (Path(images),) if images is not None else () if run is None else Manifest.read(run).picture_folders
    masks = Path(str(masks))
    confidence = None if confidence is None else Path(confidence)
    for folder in (masks, *folders, confidence):
        if folder is not None and not folder.is_dir():
            raise DataError("is not a folder", where=folder, next_step="Check the path.")
    if not folders:
        raise ConfigError(
            "the folder of the pictures is not known",
            where=masks,
            expected="the folder of the pictures",
            next_step="Pass --images DIR (images=... in a config).",
        )
    labels = Listing(masks, suffixes=Listing.MASKS)
    sure = None if confidence is None else Listing(confidence, suffixes=Listing.MASKS)
    ids = labels.ids() if list_file is None else _listed(Path(list_file))
    if not ids:
        raise DataError("there is no mask to train on", where=list_file or masks, found="an empty split")
    pictures = pictures_of(ids, folders)
    found = []
    for image_id in ids:
        mask, image = labels.find(image_id), pictures.get(image_id)
        certain = None if sure is None else sure.find(image_id)
        if mask is None:
            raise DataError(
                f"lists {image_id!r}, which has no mask", where=list_file, expected=str(masks / f"{image_id}.png")
            )
        if image is None:
            raise DataError(
                "the mask has no picture",
                where=mask,
                expected=f"{next(iter(folders)) / image_id}.jpg (or {', '.join(Listing.PICTURES[1:])})",
                next_step="Pass the folder of the pictures with --images, or remove the mask.",
            )
        if sure is not None and certain is None:
            raise DataError(
                "the mask has no confidence",
                where=mask,
                expected=str(Path(str(confidence)) / f"{image_id}.png"),
                next_step="Make the masks again, or train with --loss plain on the folder of masks itself.",
            )
        found.append(Pair(image_id, image, mask, certain))
    return found


def _of_shards(run: Path, images: str | Path | None, list_file: str | Path | None) -> list[Pair]:
    """The pairs of a run in shards; of a picture that two shards have, the first counts."""
    place = place_of(run)
    found: dict[str, tuple[Entry, int]] = {}
    for entry in entries(place):
        if isinstance(entry, DataError):
            raise entry
        for number, image_id in enumerate(entry.ids):
            found.setdefault(image_id, (entry, number))
    ids = sorted(found) if list_file is None else _listed(Path(list_file))
    if not ids:
        raise DataError("there is no mask to train on", where=list_file or place, found="an empty split")
    if missing := next((image_id for image_id in ids if image_id not in found), None):
        raise DataError(f"lists {missing!r}, which no shard has", where=list_file, expected=str(place))
    inside = images is None and all(found[image_id][0].pictures for image_id in ids)
    folders: tuple[Path, ...] = (
        (Path(images),) if images is not None else () if inside else Manifest.read(run).picture_folders
    )
    if not inside and not folders:
        raise ConfigError(
            "the shards carry no pictures, and the folder of the pictures is not known",
            where=place,
            next_step="Pass --images DIR, or make the masks with --shard-pictures.",
        )
    outside = {} if inside else pictures_of(ids, folders)
    pairs = []
    for image_id in ids:
        entry, number = found[image_id]
        mask, sure = (entry.inner(place, number, part) for part in ("labels.png", "confidence.png"))
        image = entry.inner(place, number, "picture") if inside else outside.get(image_id)
        if image is None:
            raise DataError(
                "the mask has no picture",
                where=mask,
                expected=f"{next(iter(folders)) / image_id}.jpg (or {', '.join(Listing.PICTURES[1:])})",
                next_step="Pass the folder of the pictures with --images.",
            )
        pairs.append(Pair(image_id, image, mask, sure))
    return pairs


def check_labels(labels: np.ndarray, class_count: int, where: Path) -> None:
    """Raises DataError: a label is none of the `class_count` classes (background counted) and not 255."""
    wrong = labels[(labels >= class_count) & (labels != UNDECIDED)]
    if wrong.size:
        raise DataError(
            "the mask holds a label that is not one of the classes",
            where=where,
            expected=f"0..{class_count - 1}, or {UNDECIDED} for undecided",
            found=", ".join(map(str, np.unique(wrong)[:5])),
            next_step="Pass the vocabulary the masks were made with, or make them again.",
        )


def _listed(path: Path) -> list[str]:
    ids: dict[str, None] = {}
    for _, line in read_lines(path):
        if isinstance(line, DataError):
            raise line
        ids[line.split()[0]] = None
    return list(ids)
