"""FiftyOne: `fo.Dataset.from_dir(DIR, dataset_type=fo.types.FiftyOneDataset)` gives samples with `fo.Segmentation`.

The dataset's mask targets have the names: 0 background, k + 1 class k, 255 undecided. Masks are grey: FiftyOne reads
them through OpenCV, which gives the colours of a palette in place of its numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import UInt8

from clip_es.errors import DataError
from clip_es.file_source import LARGEST_JSON, Source
from clip_es.formats.names import Names
from clip_es.formats.source import Incoming
from clip_es.formats.voc import labels_of_png, voc_colours
from clip_es.formats.writer import Writer, grey_png
from clip_es.store.tables import json_text
from clip_es.types import UNDECIDED

FIELD = "ground_truth"
"""Of the samples, where FiftyOne itself puts what it imports."""


class FiftyOneWriter(Writer):
    """data/, fields/ground_truth/<id>.png, samples.json and metadata.json."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._samples = self.folder.growing_json("samples.json", "samples")

    def add(self, image_id: str, labels: UInt8[np.ndarray, "h w"], picture: Path | None) -> None:
        """The picture, its mask and a sample."""
        file_name = self.place(picture, f"data/{image_id}", labels)
        mask = f"fields/{FIELD}/{image_id}.png"
        self.folder.write(mask, grey_png(labels))
        segmentation = {"_cls": "Segmentation", "tags": [], "mask_path": mask}
        sample = {"filepath": f"data/{file_name}", "tags": [self.split], "_media_type": "image", FIELD: segmentation}
        self._samples.add("samples", sample)

    def finish(self) -> None:
        """The samples, and the names of the numbers in the masks."""
        self._samples.finish({"media_type": "image"})
        labels = (*range(len(self.names.classes) + 1), UNDECIDED)
        targets = {str(label): self.names.name(label) for label in labels}
        info = {"default_mask_targets": targets, "default_classes": list(self.names.classes)}
        self.folder.write("metadata.json", json_text({"media_type": "image", "info": info}))


def read(source: Source, names: Names) -> Iterator[Incoming]:
    """The samples of samples.json whose field `ground_truth`, or only segmentation, has a `mask_path`.

    FiftyOne's own exports are read likewise: their masks lie below `fields`.
    """
    found = source.find("samples.json")
    if found is None:
        raise DataError(
            "has no samples.json", where=source.path, next_step="Export the dataset as fo.types.FiftyOneDataset."
        )
    samples = source.json(found, LARGEST_JSON).get("samples")
    if not isinstance(samples, list):
        raise DataError("has no list of samples", where=found, found=type(samples).__name__)
    base = PurePosixPath(found).parent
    known = set(source.names)
    for number, sample in enumerate(samples, start=1):
        where = f"{PurePosixPath(found).name}, sample {number}"
        path, mask = _paths(sample)
        if path is None or mask is None:
            error = DataError(
                "has no filepath, or no segmentation with a mask_path", where=where, found=json.dumps(sample)[:80]
            )
            yield Incoming.refused(path or where, error)
            continue
        tail = PurePosixPath(mask.replace("\\", "/"))
        places = (base / tail, base / "fields" / FIELD / tail.name)
        inner = next((place.as_posix() for place in places if place.as_posix() in known), None)
        if inner is None:
            yield Incoming.refused(path, DataError("its mask is not there", where=where, found=mask[:100]))
            continue
        yield Incoming(path, where, partial(labels_of_png, source, inner, names, voc_colours(names)))


def _paths(sample: Any) -> tuple[str | None, str | None]:
    """The picture and the mask of a sample, as it states them."""
    if not isinstance(sample, dict):
        return None, None
    fields = [sample.get(FIELD), *(value for key, value in sample.items() if key != FIELD)]
    masks = [value for value in fields if isinstance(value, dict) and value.get("_cls") == "Segmentation"]
    path, mask = sample.get("filepath"), masks[0].get("mask_path") if masks else None
    return path if isinstance(path, str) else None, mask if isinstance(mask, str) else None
