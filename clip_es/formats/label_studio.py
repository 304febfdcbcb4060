"""Label Studio: tasks with a brush mask for each class as a prediction, to be corrected, and the labelling interface.

Serve the pictures as local files (LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT=DIR, storage DIR/images), make a project with
config.xml, import tasks.json; "Export, JSON" is what comes back. Undecided is a label of its own; what no region covers
is background. Reading also takes polygons; later regions lie on top.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw

from clip_es.errors import DataError
from clip_es.file_source import LARGEST_JSON, Source
from clip_es.formats import brush
from clip_es.formats.coco import is_number
from clip_es.formats.names import Names
from clip_es.formats.source import Incoming, paint, wrong_size
from clip_es.formats.writer import Writer, present
from clip_es.types import UNDECIDED

TAG, IMAGE = "label", "image"
"""What the brush and the picture are called in the labelling interface."""

_ID = "image_id"
_MOST_REGIONS = 10_000


class LabelStudioWriter(Writer):
    """images/, tasks.json and config.xml."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._tasks = self.folder.growing("tasks.json")
        self._begun = False

    def add(self, image_id: str, labels: UInt8[np.ndarray, "h w"], picture: Path | None) -> None:
        """The picture and its task."""
        file_name = self.place(picture, f"images/{image_id}", labels)
        prediction = {"model_version": "clip-es", "result": _regions(labels, self.names)}
        data = {IMAGE: f"/data/local-files/?d={quote(f'images/{file_name}')}", _ID: image_id}
        self._tasks.add(",\n" if self._begun else "[\n")
        self._tasks.add(json.dumps({"data": data, "predictions": [prediction]}, ensure_ascii=False))
        self._begun = True

    def finish(self) -> None:
        """The tasks and the labelling interface."""
        self._tasks.add("\n]\n" if self._begun else "[]\n")
        self._tasks.finish()
        self.folder.write("config.xml", interface(self.names))


def interface(names: Names) -> str:
    """The labelling interface: a brush with a label for each class and one for undecided."""
    labels = (*range(1, len(names.classes) + 1), UNDECIDED)
    rows = [f'    <Label value={quoteattr(names.name(k))} background="{_hex(names.colour(k))}"/>' for k in labels]
    return "\n".join(
        [
            "<View>",
            f'  <Image name="{IMAGE}" value="${IMAGE}" zoom="true"/>',
            f'  <BrushLabels name="{TAG}" toName="{IMAGE}">',
            *rows,
            "  </BrushLabels>",
            "</View>",
            "",
        ]
    )


def _hex(colour: tuple[int, int, int]) -> str:
    return "#" + bytes(colour).hex()


def region(mask: Bool[np.ndarray, "h w"], name: str, tag: str = TAG, image: str = IMAGE) -> dict[str, Any]:
    """A brush region; `tag` and `image` as the labelling interface calls the brush and the picture."""
    return {
        "from_name": tag,
        "to_name": image,
        "type": "brushlabels",
        "original_width": mask.shape[1],
        "original_height": mask.shape[0],
        "image_rotation": 0,
        "value": {"format": "rle", "rle": brush.encode(mask), "brushlabels": [name]},
    }


def _regions(labels: UInt8[np.ndarray, "h w"], names: Names) -> list[dict[str, Any]]:
    """A region for each class of a mask, and one for undecided."""
    return [{"id": f"clip-es-{k}", **region(labels == k, names.name(k))} for k in present(labels) if k != 0]


def read(source: Source, names: Names) -> Iterator[Incoming]:
    """The tasks of every JSON file that is a list of them: the last annotation that was not cancelled, or else the last
    prediction."""
    for name in source.names:
        if not name.lower().endswith(".json") or PurePosixPath(name).name == "clip-es-export.json":
            continue
        tasks = source.json_value(name, LARGEST_JSON)
        if not isinstance(tasks, list):
            continue
        for number, task in enumerate(tasks, start=1):
            where = f"{PurePosixPath(name).name}, task {number}"
            try:
                picture, results = _task(task, where)
            except DataError as error:
                yield Incoming.refused(where, error)
                continue
            yield Incoming(picture, where, partial(_labels, results, names, where))


def _task(task: Any, where: str) -> tuple[str, list[Any]]:
    """The picture of a task, and the regions that count. Raises DataError."""
    data = task.get("data") if isinstance(task, dict) else None
    known = data.get(_ID) if isinstance(data, dict) else None
    picture = known if isinstance(known, str) else data.get(IMAGE) if isinstance(data, dict) else None
    if not isinstance(picture, str) or not picture:
        raise DataError("has no picture", where=where, expected=f"data.{_ID} or data.{IMAGE}", found=str(data)[:80])
    for key in ("annotations", "predictions"):
        made = task.get(key) or []
        if not isinstance(made, list) or not all(isinstance(one, dict) for one in made):
            raise DataError(f"has no list of {key}", where=where, found=str(made)[:80])
        used = [one.get("result") for one in made if one.get("was_cancelled") is not True]
        if used:
            results = used[-1]
            if not isinstance(results, list) or len(results) > _MOST_REGIONS:
                raise DataError("has no list of regions, or a very long one", where=where, found=str(results)[:40])
            return f"{picture}.png" if known else picture, results
    raise DataError("has neither an annotation nor a prediction", where=where, next_step="Label it, or leave it out.")


def _labels(results: list[Any], names: Names, where: str, size_hw: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    labels = np.zeros(size_hw, dtype=np.uint8)
    for number, drawn in enumerate(results, start=1):
        at = f"{where}, region {number}"
        value = drawn.get("value") if isinstance(drawn, dict) else None
        kind = next((key for key in ("brushlabels", "polygonlabels") if isinstance(value, dict) and key in value), None)
        if kind is None or not isinstance(value, dict):
            if isinstance(drawn, dict) and drawn.get("type") in ("choices", "textarea", "rating", "taxonomy"):
                continue  # About the picture as a whole.
            found = drawn.get("type") if isinstance(drawn, dict) else drawn
            raise DataError(
                "is neither a brush nor a polygon", where=at, found=str(found)[:40], next_step="Draw it with the brush."
            )
        stated = drawn.get("original_height"), drawn.get("original_width")
        if stated != size_hw:
            raise wrong_size(at, stated, size_hw)
        label = value[kind]
        if not isinstance(label, list) or len(label) != 1 or not isinstance(label[0], str):
            raise DataError("needs one label", where=at, found=str(label)[:80])
        mask = brush.decode(value.get("rle"), size_hw) if kind == "brushlabels" else _polygon(value, size_hw, at)
        paint(labels, mask, names.label(label[0]))
    return labels


def _polygon(value: dict[str, Any], size_hw: tuple[int, int], where: str) -> Bool[np.ndarray, "h w"]:
    """Corners in per cent of width and height, filled as Pillow does."""
    points = value.get("points")
    if not isinstance(points, list) or not 3 <= len(points) <= 1_000_000 or not all(map(_corner, points)):
        raise DataError("a polygon needs three corners or more, in per cent", where=where, found=str(points)[:60])
    canvas = Image.new("1", (size_hw[1], size_hw[0]))
    corners = [(x * size_hw[1] / 100, y * size_hw[0] / 100) for x, y in points]
    ImageDraw.Draw(canvas).polygon(corners, outline=1, fill=1)
    return np.asarray(canvas)


def _corner(point: object) -> bool:
    return (
        isinstance(point, list)
        and len(point) == 2
        and all((is_number(v) or isinstance(v, float)) and math.isfinite(v) and abs(v) <= 200 for v in point)
    )
