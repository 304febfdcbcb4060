"""ultralytics' task `semantic`: a palette PNG of class numbers for each picture, 255 ignored, and data.yaml.

Background is the class 0, so the numbers are ours: `yolo semantic train data=DIR/data.yaml model=yolo26n-sem.yaml`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import yaml
from jaxtyping import UInt8

from clip_es.file_source import Source
from clip_es.formats.names import Names
from clip_es.formats.source import Incoming, no_pngs
from clip_es.formats.voc import labels_of_png, voc_colours
from clip_es.formats.writer import Writer, palette_png

_MASKS = "masks"


class YoloSemanticWriter(Writer):
    """images/<split>, masks/<split>/<id>.png and data.yaml."""

    def add(self, image_id: str, labels: UInt8[np.ndarray, "h w"], picture: Path | None) -> None:
        """The picture and its mask."""
        self.place(picture, f"images/{self.split}/{image_id}", labels)
        self.folder.write(f"{_MASKS}/{self.split}/{image_id}.png", palette_png(labels))

    def finish(self) -> None:
        """data.yaml; without `path`, folders are seen from the file itself."""
        tree = {
            "train": f"images/{self.split}",
            "val": f"images/{self.split}",
            "masks_dir": _MASKS,
            "names": {label: self.names.name(label) for label in range(len(self.names.classes) + 1)},
        }
        self.folder.write("data.yaml", yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))


def read(source: Source, names: Names) -> Iterator[Incoming]:
    """Every PNG of masks, or of the folder itself where there is none."""
    for name in source.below(_MASKS, ".png"):
        where = PurePosixPath(name).name
        yield Incoming(name, where, partial(labels_of_png, source, name, names, voc_colours(names)))
    yield from no_pngs(source, _MASKS)
