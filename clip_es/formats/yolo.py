"""YOLO segmentation: `class x y x y ...` in shares of width and height, one line for each connected region.

YOLO knows no holes, so a hole is joined to the outline by a cut that is walked twice. Every point is a pixel of the
border, a quarter pixel off its corner, so readers that round and readers that cut off arrive at the same pixel. Filled
as OpenCV does (`fillPoly`, borders included, which is what ultralytics and supervision use) the lines give back every
pixel; other ways of filling differ at borders. YOLO knows no ignored pixels either: 255 becomes a last class
`undecided`, declared only where it occurs; an export with `--labels decided` has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Bool, Int, UInt8

from clip_es.errors import ConfigError
from clip_es.formats.writer import Writer, regions_in
from clip_es.types import UNDECIDED

_OFF = 0.25
"""Share of a pixel by which points lie inside it: rounding and cutting off give the same pixel."""

Ring = list[tuple[int, int]]


class YoloWriter(Writer):
    """images/<split>, labels/<split>/<id>.txt and data.yaml. Raises ConfigError when made: OpenCV is not installed."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._cv2 = opencv()
        self._undecided = False

    def add(self, image_id: str, labels: UInt8[np.ndarray, "h w"], picture: Path | None) -> None:
        """The picture and its lines; an empty file where there is only background."""
        self.place(picture, f"images/{self.split}/{image_id}", labels)
        height, width = labels.shape
        lines = []
        for label, mask in regions_in(labels, self.things(image_id, labels)):
            self._undecided |= label == UNDECIDED
            number = len(self.names.classes) if label == UNDECIDED else label - 1
            for ring in polygons(mask, self._cv2):
                points = [f"{(x + _OFF) / width:.7g} {(y + _OFF) / height:.7g}" for x, y in ring]
                lines.append(f"{number} {' '.join(points)}\n")
        self.folder.write(f"labels/{self.split}/{image_id}.txt", "".join(lines))

    def finish(self) -> None:
        """data.yaml."""
        names = [*self.names.classes, *(["undecided"] if self._undecided else [])]
        tree = {
            "train": f"images/{self.split}",
            "val": f"images/{self.split}",
            "names": dict(enumerate(names)),
        }
        self.folder.write("data.yaml", yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))


def polygons(mask: Bool[np.ndarray, "h w"], cv2: Any) -> list[Ring]:
    """One closed ring of pixels for each 8-connected region; filling them with their borders gives the mask."""
    found, tree = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    if tree is None:
        return []
    outlines = {index: _points(found[index][:, 0]) for index, row in enumerate(tree[0]) if row[3] < 0}
    holes: dict[int, list[Ring]] = {index: [] for index in outlines}
    for index, row in enumerate(tree[0]):
        if row[3] >= 0:
            holes[int(row[3])].append(_points(found[index][:, 0]))
    return [_at_least_three(_straight(_joined(ring, holes[index], mask))) for index, ring in outlines.items()]


def edge_polygons(mask: Bool[np.ndarray, "h w"], cv2: Any) -> list[Ring]:
    """The same along the edges of pixels, for tools that fill areas, as CVAT and pycocotools do: a ring of four corners
    around a single pixel, up to (w, h)."""
    doubled = mask.repeat(2, axis=0).repeat(2, axis=1)
    rings = [[((x + 1) // 2, (y + 1) // 2) for x, y in ring] for ring in polygons(doubled, cv2)]
    return [
        [point for point, before in zip(ring, [ring[-1], *ring], strict=False) if point != before] for ring in rings
    ]


def _joined(ring: Ring, holes: Sequence[Ring], mask: Bool[np.ndarray, "h w"]) -> Ring:
    """The outline with every hole joined to it by a cut to the left, from the leftmost hole on.

    The cut stays in the region and ends on the outline or on a hole further left, which is joined already.
    """
    for hole in sorted(holes, key=min):
        start = min(range(len(hole)), key=lambda i: hole[i])
        x, y = hole[start]
        while x > 0 and mask[y, x - 1]:
            x -= 1
        end = ring.index((x, y))
        ring = [*ring[: end + 1], *hole[start:], *hole[: start + 1], *ring[end:]]
    return ring


def _straight(ring: Ring) -> Ring:
    """Without the points that lie on the way between their neighbours."""
    points = np.array(ring)
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    corner = (np.sign(before) != np.sign(after)).any(axis=1) | (
        before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    )
    return _points(points[corner]) if corner.any() else ring


def _at_least_three(ring: Ring) -> Ring:
    return [*ring, *[ring[-1]] * (3 - len(ring))]


def _points(ring: Int[np.ndarray, "point 2"]) -> Ring:
    return [(x, y) for x, y in ring.tolist()]


def opencv() -> Any:
    """OpenCV. Raises ConfigError: it is not installed."""
    try:
        import cv2
    except ImportError as error:
        raise ConfigError("outlines need the extra `opencv`", next_step="pip install 'clip-es[opencv]'.") from error
    return cv2
