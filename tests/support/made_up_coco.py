"""A made-up data set in COCO's own form: the 80 categories with their 90 raw ids, polygons, crowds, tiny objects.

Objects are rectangles with whole corners, so that everybody can tell which pixels they cover; what the masks and labels
should be is painted here with numpy alone. Number n (from 1) is drawn so that every case turns up:

* n % 10 == 0: no annotation at all
* n % 7 == 1: also a crowd, as run lengths
* n % 5 == 2: also a tiny object of 2 x 2 pixels, drawn last
* n % 4 == 3: the first object has two parts, two polygons of one annotation
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
    *("fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow"),
    *("elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee"),
    *("skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard"),
    *("tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch"),
    *("potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone"),
    *("microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear"),
    *("hair drier", "toothbrush"),
)
"""COCO's names in COCO's order."""

RAW_IDS = tuple(i for i in range(1, 91) if i not in {12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
"""COCO's id of each name: 1..90 with ten gaps."""


@dataclass(frozen=True)
class MadeUpCoco:
    """Where the files lie, and what a reader should find in them."""

    root: Path
    annotations: Path
    labels: dict[str, tuple[int, ...]]
    """0-based classes of each picture in the order of its annotations, crowds included; () for those without."""
    truth: dict[str, np.ndarray]
    """uint8 [h w]: 0 background, k + 1 class k, 255 crowd alone; where objects overlap, the smaller one."""


def make_coco(root: Path, count: int = 30, *, year: int = 2014, part: str = "train", seed: int = 0) -> MadeUpCoco:
    """Write pictures of 48 x 64 or 64 x 48 pixels and annotations/instances_<part><year>.json."""
    folder = root / f"{part}{year}"
    folder.mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    colours = np.random.default_rng(1).integers(0, 256, (80, 3))
    images, annotations, labels, truth = [], [], {}, {}
    for number in range(1, count + 1):
        rng = np.random.default_rng((seed, number))
        h, w = (48, 64) if rng.random() < 0.5 else (64, 48)
        name = f"{number:012d}" if year == 2017 else f"COCO_{part}{year}_{number:012d}"
        things = [] if number % 10 == 0 else _things(rng, number, h, w)
        picture = np.full((h, w, 3), rng.integers(0, 256, 3), np.int64)
        for thing in things:
            picture[thing.covers(h, w)] = colours[thing.k]
        picture += rng.integers(-12, 13, picture.shape)
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / f"{name}.jpg", quality=95)
        images.append({"id": number, "file_name": f"{name}.jpg", "height": h, "width": w})
        annotations += [thing.annotation(len(annotations) + i, number, h, w) for i, thing in enumerate(things, 1)]
        labels[name] = tuple(dict.fromkeys(thing.k for thing in things))
        truth[name] = _truth(things, h, w)
    path = root / "annotations" / f"instances_{part}{year}.json"
    categories = [{"supercategory": "thing", "id": i, "name": n} for i, n in zip(RAW_IDS, NAMES, strict=True)]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return MadeUpCoco(root, path, labels, truth)


@dataclass(frozen=True)
class _Thing:
    k: int
    boxes: tuple[tuple[int, int, int, int], ...]
    crowd: bool = False

    def covers(self, h: int, w: int) -> np.ndarray:
        pixels = np.zeros((h, w), bool)
        for x0, y0, x1, y1 in self.boxes:
            pixels[y0:y1, x0:x1] = True
        return pixels

    def annotation(self, number: int, image: int, h: int, w: int) -> dict:
        pixels = self.covers(h, w)
        ys, xs = np.nonzero(pixels)
        box = [int(xs.min()), int(ys.min()), int(xs.max() - xs.min() + 1), int(ys.max() - ys.min() + 1)]
        outlines = [[x0, y0, x1, y0, x1, y1, x0, y1] for x0, y0, x1, y1 in self.boxes]
        return {
            "id": number,
            "image_id": image,
            "category_id": RAW_IDS[self.k],
            "iscrowd": int(self.crowd),
            "area": int(pixels.sum()),
            "bbox": box,
            "segmentation": {"size": [h, w], "counts": _runs(pixels)} if self.crowd else outlines,
        }


def _runs(pixels: np.ndarray) -> list[int]:
    """Lengths of the runs of 0, 1, 0, ... down the columns, the first of them perhaps 0."""
    flat = np.concatenate([[0], pixels.T.ravel().astype(int), [-1]])
    ends = np.flatnonzero(np.diff(flat))
    return [int(n) for n in np.diff(np.concatenate([[0], ends]))]


def _things(rng: np.random.Generator, number: int, h: int, w: int) -> list[_Thing]:
    things = []
    for i in range(int(rng.integers(1, 4))):
        side = rng.integers(10, 31, 2)
        x, y = int(rng.integers(0, w - side[0])), int(rng.integers(0, h - side[1]))
        boxes = [(x, y, x + int(side[0]), y + int(side[1]))]
        if i == 0 and number % 4 == 3:
            boxes = [(0, 0, 9, 12), (w - 11, h - 8, w, h)]
        # Every class once in 80 pictures, others at random.
        things.append(_Thing((number - 1 + number // 80) % 80 if i == 0 else int(rng.integers(80)), tuple(boxes)))
    if number % 7 == 1:
        things.append(_Thing(int(rng.integers(80)), ((2, 3, 40, 44),), crowd=True))
    if number % 5 == 2:
        x, y = int(rng.integers(0, w - 2)), int(rng.integers(0, h - 2))
        things.append(_Thing(int(rng.integers(80)), ((x, y, x + 2, y + 2),)))
    return things


def _truth(things: list[_Thing], h: int, w: int) -> np.ndarray:
    mask = np.zeros((h, w), np.uint8)
    for thing in things:
        if thing.crowd:
            mask[thing.covers(h, w)] = 255
    solid = [thing for thing in things if not thing.crowd]
    for thing in sorted(solid, key=lambda thing: -int(thing.covers(h, w).sum())):  # among equals the later one wins
        mask[thing.covers(h, w)] = thing.k + 1
    return mask
