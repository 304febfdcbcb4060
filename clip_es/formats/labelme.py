"""labelme: one JSON file beside each picture, its regions as shapes of type `mask`, exact to the pixel.

Undecided is labelme's `__ignore__`, which its own converters write as 255. What no shape covers is background. Reading
also takes polygon, rectangle, oriented_rectangle and circle, filled as labelme fills them; later shapes lie on top.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw

from clip_es.errors import DataError
from clip_es.file_source import Source
from clip_es.formats.coco import bbox
from clip_es.formats.names import IGNORE, Names
from clip_es.formats.source import Incoming, decode_png, paint, wrong_size
from clip_es.formats.writer import Writer, present
from clip_es.store.tables import json_text
from clip_es.types import UNDECIDED

_VERSION = "5.5.0"
"""The version of labelme whose files these are like."""
_MOST_SHAPES = 10_000


class LabelmeWriter(Writer):
    """<id>.json beside the picture, and labels.txt for `labelme --labels`."""

    def add(self, image_id: str, labels: UInt8[np.ndarray, "h w"], picture: Path | None) -> None:
        """The picture and its JSON file."""
        file_name = self.place(picture, image_id, labels)
        tree = {
            "version": _VERSION,
            "flags": {},
            "shapes": [self._shape(label, labels == label) for label in present(labels) if label != 0],
            "imagePath": file_name,
            "imageData": None,
            "imageHeight": labels.shape[0],
            "imageWidth": labels.shape[1],
        }
        self.folder.write(f"{image_id}.json", json_text(tree))

    def finish(self) -> None:
        """labels.txt: labelme wants `__ignore__` first and `_background_` second."""
        self.folder.write("labels.txt", "\n".join([IGNORE, "_background_", *self.names.classes, ""]))

    def _shape(self, label: int, mask: Bool[np.ndarray, "h w"]) -> dict[str, Any]:
        x, y, width, height = bbox(mask)
        data = io.BytesIO()
        Image.fromarray(mask[y : y + height, x : x + width]).save(data, "PNG")
        return {
            "label": IGNORE if label == UNDECIDED else self.names.name(label),
            "points": [[float(x), float(y)], [float(x + width - 1), float(y + height - 1)]],
            "group_id": None,
            "description": "",
            "shape_type": "mask",
            "flags": {},
            "mask": base64.b64encode(data.getvalue()).decode(),
        }


def read(source: Source, names: Names) -> Iterator[Incoming]:
    """Every JSON file but the mark of an export; the name of the file is that of the picture."""
    for name in annotation_files(source):
        yield Incoming(name, PurePosixPath(name).name, partial(labels_of_shapes, source, name, names, _region))


def annotation_files(source: Source) -> list[str]:
    """Every JSON file but the mark of an export."""
    found = [name for name in source.names if name.lower().endswith(".json")]
    return [name for name in found if PurePosixPath(name).name != "clip-es-export.json"]


Drawn = Callable[[dict[str, Any], tuple[int, int], str], Bool[np.ndarray, "h w"]]
"""From a shape, the height and width of its picture, and where it stands, to its pixels. Raises DataError."""


def labels_of_shapes(
    source: Source, name: str, names: Names, region: Drawn, size_hw: tuple[int, int]
) -> UInt8[np.ndarray, "h w"]:
    """The labels of a file's shapes, later ones on top. Raises DataError, ShapeError."""
    tree = source.json(name)
    where = PurePosixPath(name).name
    shapes = tree.get("shapes")
    if not isinstance(shapes, list) or len(shapes) > _MOST_SHAPES:
        raise DataError("has no list of shapes, or a very long one", where=where, expected=f"at most {_MOST_SHAPES}")
    stated = tree.get("imageHeight"), tree.get("imageWidth")
    if stated not in (size_hw, (None, None)):
        raise wrong_size(where, stated, size_hw)
    labels = np.zeros(size_hw, dtype=np.uint8)
    for number, shape in enumerate(shapes, start=1):
        at = f"{where}, shape {number}"
        if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
            raise DataError("a shape needs a label", where=at, found=str(shape)[:80])
        label = names.label(shape["label"])
        paint(labels, region(shape, size_hw, at), label)
    return labels


def _region(shape: dict[str, Any], size_hw: tuple[int, int], where: str) -> Bool[np.ndarray, "h w"]:
    kind = shape.get("shape_type") or "polygon"
    points = points_of(shape.get("points"), size_hw, where)
    least = {"polygon": 3, "rectangle": 2, "oriented_rectangle": 4, "circle": 2, "mask": 2}.get(str(kind))
    if least is None:
        raise DataError(
            f"a {str(kind)[:40]!r} covers no region",
            where=where,
            expected="mask, polygon, rectangle, oriented_rectangle or circle",
            next_step="Remove the shape, or draw it as a polygon.",
        )
    corners = kind == "rectangle" and len(points) == 4  # X-AnyLabeling's; labelme's has two.
    if len(points) < least or (kind != "polygon" and len(points) != least and not corners):
        raise DataError(f"a {kind} has {least} points", where=where, found=len(points))
    if kind == "mask":
        return _pasted(shape.get("mask"), points, size_hw, where)
    canvas = Image.new("L", (size_hw[1], size_hw[0]))
    draw = ImageDraw.Draw(canvas)
    if kind == "circle":
        (x, y), (px, py) = points
        r = math.hypot(x - px, y - py)
        draw.ellipse((x - r, y - r, x + r, y + r), outline=1, fill=1)
    elif kind == "rectangle":
        xs, ys = zip(*points, strict=True)
        draw.rectangle((min(xs), min(ys), max(xs), max(ys)), outline=1, fill=1)
    else:
        draw.polygon(points, outline=1, fill=1)
    return np.asarray(canvas) > 0


def points_of(points: object, size_hw: tuple[int, int], where: str) -> list[tuple[float, float]]:
    """Finite points that lie no further outside than the picture is large. Raises DataError."""
    reach = 2 * max(size_hw)

    def fine(point: object) -> bool:
        return (
            isinstance(point, list)
            and len(point) == 2
            and all(isinstance(v, (int, float)) and not isinstance(v, bool) and -reach <= v <= reach for v in point)
        )

    if not isinstance(points, list) or len(points) > 1_000_000 or not all(fine(point) for point in points):
        raise DataError("the points of a shape must be [x, y] in the picture", where=where, found=str(points)[:80])
    return [(float(x), float(y)) for x, y in points]


def _pasted(
    text: object, points: list[tuple[float, float]], size_hw: tuple[int, int], where: str
) -> Bool[np.ndarray, "h w"]:
    (x, y), (x2, y2) = ((int(px), int(py)) for px, py in points)
    if not (0 <= x <= x2 < size_hw[1] and 0 <= y <= y2 < size_hw[0]):
        raise DataError("a mask lies outside its picture", where=where, found=[x, y, x2, y2])
    try:
        data = base64.b64decode(text if isinstance(text, str) else "", validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError("a mask is not base64", where=where, found=str(error)[:80]) from error
    pixels = np.asarray(decode_png(data, where, (y2 - y + 1, x2 - x + 1)))
    region = np.zeros(size_hw, dtype=bool)
    region[y : y2 + 1, x : x2 + 1] = pixels if pixels.ndim == 2 else pixels[..., :3].any(axis=2)
    return region
