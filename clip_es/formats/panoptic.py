"""COCO panoptic: a PNG whose colours are segment numbers (red + 256 green + 65536 blue) and a JSON file of segments.

Each class of a picture is one segment, drawn in its colour of the VOC palette. Background is a category of its own (id
256), because number 0 is void: the undecided pixels.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from clip_es.errors import DataError
from clip_es.file_source import LARGEST_JSON, Source
from clip_es.formats.coco import INFO, bbox, category_names, image_entry, is_number, numbers
from clip_es.formats.names import Names
from clip_es.formats.source import Incoming, decode_png, packed_rgb, relabelled
from clip_es.formats.writer import Writer, present
from clip_es.types import UNDECIDED

_BACKGROUND_COLOUR = (40, 40, 40)
"""In no VOC palette, whose values are multiples of 32."""


class PanopticWriter(Writer):
    """annotations/panoptic_<split>.json, annotations/panoptic_<split>/<id>.png and images/."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._numbers = numbers(self.image_ids)
        self._json = self.folder.growing_json(f"annotations/panoptic_{self.split}.json", "images", "annotations")
        colours = np.array([self.names.colour(label) for label in range(256)], dtype=np.uint8)
        colours[0], colours[UNDECIDED] = _BACKGROUND_COLOUR, 0
        self._colours = colours

    def add(self, image_id: str, labels: UInt8[np.ndarray, "h w"], picture: Path | None) -> None:
        """A PNG, an entry of `images` and one of `annotations`."""
        file_name = self.place(picture, f"images/{image_id}", labels)
        data = io.BytesIO()
        Image.fromarray(self._colours[labels]).save(data, "PNG")
        self.folder.write(f"annotations/panoptic_{self.split}/{image_id}.png", data.getvalue())
        segments = []
        for label in present(labels):
            if label == UNDECIDED:
                continue
            mask = labels == label
            red, green, blue = self._colours[label].tolist()
            segments.append(
                {
                    "id": red + 256 * green + 65536 * blue,
                    "category_id": self.names.category(label),
                    "area": int(mask.sum()),
                    "bbox": bbox(mask),
                    "iscrowd": 0,
                }
            )
        number = self._numbers[image_id]
        self._json.add("images", image_entry(number, file_name, labels))
        self._json.add("annotations", {"image_id": number, "file_name": f"{image_id}.png", "segments_info": segments})

    def finish(self) -> None:
        """The JSON file."""
        rows = [
            {
                "id": self.names.category(label),
                "name": self.names.name(label),
                "supercategory": "",
                # One segment for all things of a kind is what COCO calls stuff.
                "isthing": 0,
                "color": self._colours[label].tolist(),
            }
            for label in (*range(1, len(self.names.classes) + 1), 0)
        ]
        self._json.finish({"info": INFO, "licenses": [], "categories": rows})


def read(source: Source, names: Names) -> Iterator[Incoming]:
    """The pictures of every JSON file whose annotations have `segments_info`; others are passed over."""
    pngs: dict[str, str] = {}
    for name in source.names:
        if name.lower().endswith(".png"):
            pngs.setdefault(PurePosixPath(name).name, name)
    for name in source.below("annotations", ".json"):
        tree = source.json(name, LARGEST_JSON)
        rows = tree.get("annotations")
        if not isinstance(rows, list) or not isinstance(tree.get("categories"), list):
            continue
        categories = category_names(tree["categories"], name)
        for number, row in enumerate(rows, start=1):
            if not isinstance(row, dict) or not isinstance(row.get("file_name"), str) or "segments_info" not in row:
                if number == 1:
                    break  # Instances, not panoptic.
                error = DataError("an annotation needs file_name and segments_info", where=name, found=str(row)[:80])
                yield Incoming.refused(f"{name}, annotation {number}", error)
                continue
            where = f"{PurePosixPath(name).name}, {row['file_name'][:100]}"
            png = pngs.get(PurePosixPath(row["file_name"].replace("\\", "/")).name)
            segments = row["segments_info"]
            yield Incoming(row["file_name"], where, partial(_labels, source, png, segments, categories, names, where))


def _labels(
    source: Source,
    png: str | None,
    segments: Any,
    categories: dict[int, str],
    names: Names,
    where: str,
    size_hw: tuple[int, int],
) -> UInt8[np.ndarray, "h w"]:
    if png is None:
        raise DataError("its PNG is not there", where=where, next_step="Keep the PNGs beside the JSON file.")
    known = {0: UNDECIDED}
    for segment in segments if isinstance(segments, list) else [None]:
        row: dict[str, Any] = segment if isinstance(segment, dict) else {}
        number, category = row.get("id", -1), row.get("category_id", -1)
        if not is_number(number) or not is_number(category) or number < 0 or category not in categories:
            raise DataError("a segment has no id or no known category", where=where, found=str(segment)[:80])
        if number != 0:
            known[number] = names.label(categories[category])
    image = decode_png(source.bytes(png), where, size_hw)
    return relabelled(packed_rgb(image), known, where, lambda value: f"the segment {value}")
