"""Label Studio: tasks with a brush mask for each class as a prediction, to be corrected, and the labelling interface.

Serve the pictures as local files (LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true,
LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT=DIR, storage DIR/images), make a project with config.xml, import tasks.json;
"Export, JSON" is what comes back. Undecided is a label of its own; what no region covers is background. Reading also
takes polygons. Label Studio keeps the order of regions when one of them is extended, so the order does not tell what
lies on top: what was drawn anew lies on what was there, and later regions on earlier ones.
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
from clip_es.records.elsewhere import tails, uploaded_name
from clip_es.types import UNDECIDED

TAG, IMAGE = "label", "image"
"""What the brush and the picture are called in the labelling interface."""

_ID = "image_id"
_MOST_REGIONS = 10_000
_NO_REGIONS = ("choices", "textarea", "rating", "taxonomy", "number", "datetime", "relation")
"""Results about a picture as a whole, or about two regions."""


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
    """The tasks of every JSON file that is a list of them: the last annotation that was not cancelled, those marked as
    ground truth before others, or else the last prediction. An export of all tasks has numbers for predictions: nobody
    has opened such a task, and it is passed over, as one is that was skipped. Raises DataError: all were."""
    total = passed_over = 0
    for name in source.names:
        if not name.lower().endswith(".json") or PurePosixPath(name).name == "clip-es-export.json":
            continue
        tasks = source.json_value(name, LARGEST_JSON)
        if not isinstance(tasks, list):
            continue
        for number, task in enumerate(tasks, start=1):
            where = f"{PurePosixPath(name).name}, task {number}"
            total += 1
            try:
                picture, made = _task(task, where)
            except DataError as error:
                yield Incoming.refused(where, error)
                continue
            if made is None:
                passed_over += 1
                continue
            yield Incoming(picture, where, partial(_labels, made, names, where))
    if total and passed_over == total:
        raise DataError(
            "nobody has annotated any of its tasks", where=source.path, found=f"{total} tasks", next_step="Submit one."
        )


def _task(task: Any, where: str) -> tuple[str, dict[str, Any] | None]:
    """The picture of a task, and the annotation that counts; None where nobody has made one. Raises DataError."""
    data = task.get("data") if isinstance(task, dict) else None
    known = data.get(_ID) if isinstance(data, dict) else None
    picture = known if isinstance(known, str) else data.get(IMAGE) if isinstance(data, dict) else None
    if not isinstance(picture, str) or not picture:
        raise DataError("has no picture", where=where, expected=f"data.{_ID} or data.{IMAGE}", found=str(data)[:80])
    name = f"{picture}.png" if known else uploaded_name(picture) or next(tails(picture), picture)
    made = [_list(task, key, where) for key in ("annotations", "predictions")]
    for found in made:
        used = [one for one in found if isinstance(one, dict) and one.get("was_cancelled") is not True]
        used = [one for one in used if one.get("ground_truth") is True] or used
        if used:
            return name, used[-1]
    if not any(made):
        raise DataError(
            "has neither an annotation nor a prediction", where=where, next_step="Label it, or leave it out."
        )
    return name, None


def _list(task: dict[str, Any], key: str, where: str) -> list[Any]:
    made = task.get(key) or []
    plain = (dict, int) if key == "predictions" else dict
    if not isinstance(made, list) or not all(isinstance(one, plain) for one in made):
        raise DataError(f"has no list of {key}", where=where, found=str(made)[:80])
    return made


def _labels(made: dict[str, Any], names: Names, where: str, size_hw: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """What was drawn anew on what had been predicted, and in both every region on those before it."""
    labels, fresh = np.zeros(size_hw, dtype=np.uint8), np.zeros(size_hw, dtype=np.uint8)
    drawn = np.zeros(size_hw, dtype=bool)
    predicted = made.get("prediction")
    known = predicted.get("result") if isinstance(predicted, dict) else None
    before = {at: (label, mask) for at, label, mask, _ in _regions_of(known or [], names, where, size_hw)}
    for at, label, mask, origin in _regions_of(made.get("result"), names, where, size_hw):
        old = before.get(at)
        new = mask & ~old[1] if old is not None and old[0] == label else mask
        if origin == "prediction":
            new = np.zeros_like(mask)
        paint(labels, mask, label)
        paint(fresh, new, label)
        drawn |= new
    return np.where(drawn, fresh, labels)


_Region = tuple[str, int, Bool[np.ndarray, "h w"], object]
"""Id, label, pixels, and where a region comes from as Label Studio says it: prediction, prediction-changed, manual."""


def _regions_of(results: object, names: Names, where: str, size_hw: tuple[int, int]) -> Iterator[_Region]:
    if not isinstance(results, list) or len(results) > _MOST_REGIONS:
        raise DataError("has no list of regions, or a very long one", where=where, found=str(results)[:40])
    for number, drawn in enumerate(results, start=1):
        at = f"{where}, region {number}"
        value = drawn.get("value") if isinstance(drawn, dict) else None
        kind = next((key for key in ("brushlabels", "polygonlabels") if isinstance(value, dict) and key in value), None)
        if kind is None or not isinstance(value, dict):
            if isinstance(drawn, dict) and drawn.get("type") in _NO_REGIONS:
                continue
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
        yield str(drawn.get("id")), names.label(label[0]), mask, drawn.get("origin")


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
