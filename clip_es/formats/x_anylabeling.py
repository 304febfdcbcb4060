"""X-AnyLabeling: one JSON file beside each picture, its regions as polygons. It knows no masks, so files of labelme
that have some do not open in it.

A polygon runs through the pixels of its border, holes are joined to it by a cut, and filled as X-AnyLabeling's own
export fills it (OpenCV's `fillPoly`, borders included) it gives back every pixel. What no shape covers is background,
and later shapes lie on top. Reading also takes rectangles, rotated ones, quadrilaterals and circles.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from clip_es.errors import DataError
from clip_es.file_source import Source
from clip_es.formats.labelme import annotation_files, labels_of_shapes, points_of
from clip_es.formats.names import Names
from clip_es.formats.source import Incoming
from clip_es.formats.writer import Writer, regions_in
from clip_es.formats.yolo import Ring, opencv, polygons
from clip_es.store.tables import json_text
from clip_es.types import UNDECIDED

_VERSION = "4.2.1"
"""The version of X-AnyLabeling whose files these are like."""
_LEAST = {"polygon": 3, "rectangle": 4, "rotation": 4, "quadrilateral": 4, "circle": 2}
"""Shapes that cover something, and how many points they have at least."""


class XAnyLabelingWriter(Writer):
    """<id>.json beside the picture, and labels.txt. Raises ConfigError when made: OpenCV is not installed."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._cv2 = opencv()

    def add(self, image_id: str, labels: UInt8[np.ndarray, "h w"], picture: Path | None) -> None:
        """The picture and its JSON file."""
        file_name = self.place(picture, image_id, labels)
        tree = {
            "version": _VERSION,
            "flags": {},
            "checked": False,
            "shapes": [
                shape(self.names.name(label), ring)
                for label, mask in regions_in(labels, self.things(image_id, labels))
                for ring in polygons(mask, self._cv2)
            ],
            "imagePath": file_name,
            "imageData": None,
            "imageHeight": labels.shape[0],
            "imageWidth": labels.shape[1],
        }
        self.folder.write(f"{image_id}.json", json_text(tree))

    def finish(self) -> None:
        """labels.txt: the classes, one in a line."""
        self.folder.write("labels.txt", "\n".join([*self.names.classes, self.names.name(UNDECIDED), ""]))


def shape(name: str, ring: Ring, score: float | None = None) -> dict[str, Any]:
    """A polygon as X-AnyLabeling writes it."""
    return {
        "label": name,
        "score": score,
        "points": [[float(x), float(y)] for x, y in ring],
        "group_id": None,
        "description": None,
        "difficult": False,
        "shape_type": "polygon",
        "flags": None,
        "attributes": {},
        "kie_linking": [],
    }


def read(source: Source, names: Names) -> Iterator[Incoming]:
    """Every JSON file but the mark of an export. Raises ConfigError: OpenCV is not installed."""
    region = partial(_region, opencv())
    for name in annotation_files(source):
        yield Incoming(name, PurePosixPath(name).name, partial(labels_of_shapes, source, name, names, region))


def _region(cv2: Any, drawn: dict[str, Any], size_hw: tuple[int, int], where: str) -> Bool[np.ndarray, "h w"]:
    kind = str(drawn.get("shape_type") or "polygon")
    if kind not in _LEAST:
        raise DataError(
            f"a {kind[:40]!r} covers no region",
            where=where,
            expected=", ".join(_LEAST),
            next_step="Remove the shape, or draw it as a polygon."
            + (" A mask is labelme's: pass --format labelme." if kind == "mask" else ""),
        )
    points = points_of(drawn.get("points"), size_hw, where)
    if len(points) < _LEAST[kind]:
        raise DataError(f"a {kind} has {_LEAST[kind]} points or more", where=where, found=len(points))
    canvas = np.zeros(size_hw, dtype=np.uint8)
    if kind == "circle":
        (x, y), (px, py) = points[:2]
        cv2.circle(canvas, (int(x), int(y)), round(np.hypot(x - px, y - py)), 1, thickness=-1)
    else:
        top = size_hw[1] - 1, size_hw[0] - 1
        corners = [(int(min(max(x, 0), top[0])), int(min(max(y, 0), top[1]))) for x, y in points]
        cv2.fillPoly(canvas, [np.array(corners, dtype=np.int32)], 1)
    return canvas > 0
