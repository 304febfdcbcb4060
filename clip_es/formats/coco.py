"""COCO JSON with one RLE annotation for each class of a picture, or for each single thing where the method tells them
apart; no overlaps.

Undecided pixels are annotations of a category `undecided` with id 255, listed only where there are any. supervision's
`DetectionDataset.from_coco(..., force_masks=True)` and FiftyOne's COCODetectionDataset read it.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from clip_es import rle
from clip_es.errors import DataError
from clip_es.file_source import LARGEST_JSON, Source
from clip_es.formats.names import UNDECIDED_CATEGORY, Names
from clip_es.formats.source import Incoming, paint, wrong_size
from clip_es.formats.writer import Writer, regions_in
from clip_es.types import UNDECIDED

_NUMBERED = re.compile(r"(?:COCO_[A-Za-z0-9]+_)?(\d{12})")
INFO = {"description": "Masks made by clip-es from image-level labels; one region for each class of a picture"}


class CocoWriter(Writer):
    """annotations/instances_<split>.json and images/."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._numbers = numbers(self.image_ids)
        self._json = self.folder.growing_json(f"annotations/instances_{self.split}.json", "images", "annotations")
        self._annotations = 0
        self._undecided = False

    def add(self, image_id: str, labels: UInt8[np.ndarray, "h w"], picture: Path | None) -> None:
        """An entry of `images`, and one of `annotations` for each class or single thing."""
        file_name = self.place(picture, f"images/{image_id}", labels)
        number = self._numbers[image_id]
        self._json.add("images", image_entry(number, file_name, labels))
        things = self.things(image_id, labels)
        for entry in class_annotations(labels, self.names, number, self._annotations + 1, things):
            self._annotations = entry["id"]
            self._undecided |= entry["category_id"] == UNDECIDED_CATEGORY
            self._json.add("annotations", entry)

    def finish(self) -> None:
        """The JSON file."""
        self._json.finish({"info": INFO, "licenses": [], "categories": categories(self.names, self._undecided)})


def class_annotations(
    labels: UInt8[np.ndarray, "h w"],
    names: Names,
    image_number: int,
    first: int = 1,
    things: Int64[np.ndarray, "h w"] | None = None,
) -> Iterator[dict[str, Any]]:
    """A row of `annotations` for each label of a mask but background, numbered from `first`; for each single thing of
    it where these are known."""
    for number, (label, mask) in enumerate(regions_in(labels, things), start=first):
        yield {
            "id": number,
            "image_id": image_number,
            "category_id": names.category(label),
            "segmentation": {"size": list(labels.shape), "counts": rle.encode(mask)},
            "area": int(mask.sum()),
            "bbox": bbox(mask),
            "iscrowd": 0,
        }


def categories(names: Names, undecided: bool) -> list[dict[str, Any]]:
    """The rows of `categories`."""
    labels = [*range(1, len(names.classes) + 1), *([UNDECIDED] if undecided else [])]
    return [{"id": names.category(k), "name": names.name(k), "supercategory": ""} for k in labels]


def one_picture(labels: UInt8[np.ndarray, "h w"], names: Names, image_number: int, file_name: str) -> dict[str, Any]:
    """A whole file about one picture."""
    return {
        "info": INFO,
        "licenses": [],
        "images": [image_entry(image_number, file_name, labels)],
        "annotations": list(class_annotations(labels, names, image_number)),
        "categories": categories(names, bool((labels == UNDECIDED).any())),
    }


def numbers(image_ids: Sequence[str]) -> dict[str, int]:
    """COCO's own number of each picture where all are named as COCO's are, otherwise 1, 2, 3, ..."""
    own = [int(match[1]) for image_id in image_ids if (match := _NUMBERED.fullmatch(image_id))]
    if len(set(own)) != len(image_ids):
        own = list(range(1, len(image_ids) + 1))
    return dict(zip(image_ids, own, strict=True))


def image_entry(number: int, file_name: str, labels: UInt8[np.ndarray, "h w"]) -> dict[str, Any]:
    """One row of `images`."""
    return {"id": number, "file_name": file_name, "height": labels.shape[0], "width": labels.shape[1]}


def bbox(mask: Bool[np.ndarray, "h w"]) -> list[int]:
    """x, y, width and height of the pixels of a mask that has some."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]


def read(source: Source, names: Names) -> Iterator[Incoming]:
    """The pictures of every JSON file that has `images`, `annotations` and `categories`; others are passed over.

    What is annotated nowhere is background; annotations are painted in the order of the file, crowds as any other.
    """
    for name in source.below("annotations", ".json"):
        tree = source.json(name, LARGEST_JSON)
        if not all(isinstance(tree.get(key), list) for key in ("images", "annotations", "categories")):
            continue
        if any(isinstance(entry, dict) and "segments_info" in entry for entry in tree["annotations"][:1]):
            continue  # Panoptic.
        known = category_names(tree["categories"], name)
        regions: dict[Any, list[dict]] = defaultdict(list)
        for number, entry in enumerate(tree["annotations"], start=1):
            if not isinstance(entry, dict) or not is_number(entry.get("image_id")):
                raise DataError(f"annotation {number} belongs to no picture", where=name, found=str(entry)[:80])
            regions[entry["image_id"]].append(entry)
        for number, entry in enumerate(tree["images"], start=1):
            if (
                not isinstance(entry, dict)
                or not isinstance(entry.get("file_name"), str)
                or not is_number(entry.get("id"))
            ):
                error = DataError("a picture needs file_name and id", where=name, found=str(entry)[:80])
                yield Incoming.refused(f"{name}, picture {number}", error)
                continue
            where = f"{PurePosixPath(name).name}, {entry['file_name'][:100]}"
            rows = regions.get(entry["id"], [])
            yield Incoming(entry["file_name"], where, partial(_labels, entry, rows, known, names, where))


def category_names(rows: list, where: str) -> dict[int, str]:
    """Category id -> name. Raises DataError."""
    found = {}
    for row in rows:
        if not isinstance(row, dict) or not is_number(row.get("id")) or not isinstance(row.get("name"), str):
            raise DataError("has a category without id or name", where=where, found=str(row)[:80])
        found[row["id"]] = row["name"]
    return found


def is_number(value: object) -> bool:
    """Whether a JSON value is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def _labels(
    image: dict, rows: list[dict], categories: dict[int, str], names: Names, where: str, size_hw: tuple[int, int]
) -> UInt8[np.ndarray, "h w"]:
    stated = image.get("height"), image.get("width")
    if stated != size_hw:
        raise wrong_size(where, stated, size_hw)
    labels = np.zeros(size_hw, dtype=np.uint8)
    for row in rows:
        category = row.get("category_id")
        if not is_number(category) or category not in categories:
            raise DataError("an annotation has no known category", where=where, found=str(category)[:40])
        paint(labels, _region(row.get("segmentation"), size_hw, where), names.label(categories[category]))
    return labels


def _region(segmentation: object, size_hw: tuple[int, int], where: str) -> Bool[np.ndarray, "h w"]:
    if isinstance(segmentation, dict):
        if segmentation.get("size") != list(size_hw):
            raise wrong_size(where, segmentation.get("size"), size_hw)
        return rle.decode(segmentation.get("counts"), size_hw)
    if isinstance(segmentation, list) and segmentation:
        return _polygons(segmentation, size_hw, where)
    raise DataError(
        "an annotation has no region", where=where, expected="RLE or polygons", found=str(segmentation)[:40]
    )


def _polygons(polygons: list, size_hw: tuple[int, int], where: str) -> Bool[np.ndarray, "h w"]:
    """As pycocotools fills them, after points outside were moved to the border."""
    try:
        from pycocotools import mask as api
    except ImportError as error:
        raise DataError(
            "polygons need the extra `coco`", where=where, next_step="pip install 'clip-es[coco]', or use RLE."
        ) from error
    height, width = size_hw
    rings = []
    for ring in polygons:
        fine = isinstance(ring, list) and len(ring) >= 6 and len(ring) % 2 == 0
        if not fine or not all(isinstance(v, (int, float)) and math.isfinite(v) for v in ring):
            raise DataError("a polygon needs three points or more", where=where, found=str(ring)[:60])
        points = np.asarray(ring, dtype=np.float64).reshape(-1, 2)
        rings.append(np.clip(points, 0, (width, height)).ravel().tolist())
    counts: object = api.merge(api.frPyObjects(rings, height, width))["counts"]
    return rle.decode(counts.decode() if isinstance(counts, bytes) else counts, size_hw)
