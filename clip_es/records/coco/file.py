"""COCO's instances files: checked, and their annotations drawn as masks by pycocotools.

What pycocotools takes on trust is checked here first: its compiled half may write past the end of a picture whose run
lengths are longer than it is.
"""

from __future__ import annotations

import json
import math
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeGuard

import numpy as np
from jaxtyping import Bool, UInt8

from clip_es.errors import ConfigError, DataError
from clip_es.records.text_files import printable, read_whole
from clip_es.types import UNDECIDED

LARGEST_JSON = 2**32
"""Bytes. The largest of COCO's own files has 450 MB."""

LARGEST_PICTURE = 2**28
"""Pixels of a picture that masks are made for."""

LONGEST_OUTLINE = 2**16
"""Corners of one polygon."""

Overlap = Literal["smaller", "later"]
"""Where objects overlap: the one with fewer pixels is seen (of equals the later in the file), or the later one is."""

Crowd = Literal["ignore", "class"]
"""Regions marked as a crowd: 255 where no single object lies on them, or their class like any other object."""


@dataclass(frozen=True)
class CocoFile:
    """A checked instances file."""

    path: Path
    images: tuple[dict, ...]
    """Entries of pictures in the order of the file."""
    things: Mapping[int, list[dict]]
    """Annotations by the id of their picture, in the order of the file."""
    names: dict[int, str]
    """Category names by raw id, in the order of the ids."""
    problems: tuple[tuple[str, DataError], ...]
    """Entries that cannot be used: what to call them, and why."""

    def objects(self, image: dict) -> list[dict]:
        """Annotations of a picture in the order of the file."""
        return self.things.get(image["id"], [])

    def area(self, thing: dict) -> float:
        """Pixels of an object as the file states them. Raises DataError: it does not."""
        area = thing.get("area")
        if isinstance(area, bool) or not isinstance(area, int | float) or not 0 <= area < math.inf:
            raise DataError(
                f"annotation {thing['id']} states no area",
                where=self.path.name,
                expected="a number of pixels",
                found=printable(repr(area), 40),
                next_step="Add it, or leave --min-area at 0.",
            )
        return float(area)


def read_coco_file(path: str | Path) -> CocoFile:
    """Load an instances file. Raises DataError: it is missing or too large, no JSON, or as `checked` says."""
    return checked(_json(Path(path)), Path(path))


def checked(content: Any, path: Path) -> CocoFile:
    """What an instances file holds, without the entries that cannot be used.

    Raises DataError: it has not the lists `images`, `annotations` and `categories`, or a bad category.
    """
    lists = {key: value for key in _LISTS if isinstance(value := _get(content, key), list)}
    missing = [key for key in _LISTS if key not in lists]
    if missing:
        raise DataError(
            f"has no list {' and '.join(map(repr, missing))}",
            where=path,
            expected=f"COCO's instances format: an object with {', '.join(_LISTS)}",
            next_step="Pass an instances_*.json file; captions and keypoints are others.",
        )
    problems: list[tuple[str, DataError]] = []
    names = _categories(lists["categories"], path)
    images = {image["id"]: image for image in _usable("images", lists["images"], path, problems)}
    things: defaultdict[int, list[dict]] = defaultdict(list)
    for thing in _usable("annotations", lists["annotations"], path, problems):
        if _belongs(thing, images, names, path, problems):
            things[thing["image_id"]].append(thing)
    return CocoFile(path, tuple(images.values()), things, names, tuple(problems))


_LISTS = ("images", "annotations", "categories")


def _json(path: Path) -> Any:
    try:
        return json.loads(read_whole(path, LARGEST_JSON, "an instances file"))
    except (ValueError, RecursionError, MemoryError) as error:  # UnicodeDecodeError is a ValueError
        raise DataError(
            "is not valid JSON",
            where=path,
            found=f"{type(error).__name__}: {printable(str(error), 100)}",
            next_step="Get the file again; data/README.md says where from.",
        ) from error


def _categories(items: list, path: Path) -> dict[int, str]:
    names: dict[int, str] = {}
    for item in items:
        number, name = _get(item, "id"), _get(item, "name")
        if not _whole(number) or not isinstance(name, str) or not name.strip() or number in names:
            raise DataError(
                "has a category without an id and a name of its own",
                where=path,
                expected='{"id": 18, "name": "dog"}, each id once',
                found=printable(repr(item), 80),
            )
        names[number] = name
    return dict(sorted(names.items()))


def _get(item: object, key: str) -> Any:
    return item.get(key) if isinstance(item, dict) else None


_NEEDED = {"images": ("id",), "annotations": ("id", "image_id", "category_id")}


def _usable(key: str, items: list, path: Path, problems: list[tuple[str, DataError]]) -> Iterator[dict]:
    seen: set[int] = set()
    for number, item in enumerate(items):
        wrong = None
        if not isinstance(item, dict) or not all(_whole(item.get(field)) for field in _NEEDED[key]):
            wrong = f"{key}[{number}] lacks the whole numbers {', '.join(_NEEDED[key])}"
        elif item["id"] in seen:
            wrong = f"{key}[{number}] has the id {item['id']}, which an earlier one has"
        if wrong:
            problems.append((f"{key}[{number}]", DataError(wrong, where=path.name, next_step="Mend the entry.")))
        else:
            seen.add(item["id"])
            yield item


def _belongs(thing: dict, images: dict, names: dict, path: Path, problems: list[tuple[str, DataError]]) -> bool:
    for field, known in (("image_id", images), ("category_id", names)):
        if thing[field] not in known:
            error = DataError(
                f"annotation {thing['id']} has the {field} {thing[field]}, which the file does not list",
                where=path.name,
                next_step="Repair or remove the annotation.",
            )
            problems.append((f"annotation {thing['id']}", error))
            return False
    return True


def _whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def paint(
    file: CocoFile,
    image: dict,
    value_of: dict[int, int],
    *,
    overlap: Overlap = "smaller",
    crowd: Crowd = "ignore",
    min_area: int | float = 0,
) -> UInt8[np.ndarray, "h w"]:
    """The ground-truth mask of a picture: 0 background, the value of each category's raw id, 255 ignored.

    A category without a value is background. Objects below `min_area` become 255: they are not asked for, yet there.
    Raises DataError: the picture's size or a mask is not usable.
    """
    size = size_of(file, image)
    if size is None or size[0] * size[1] > LARGEST_PICTURE:
        raise DataError(
            f"image {image['id']} has no usable height and width",
            where=file.path.name,
            expected=f"whole numbers, at most {LARGEST_PICTURE:,} pixels",
            found=printable(f"{image.get('height')!r} x {image.get('width')!r}", 60),
        )
    layers: list[tuple[bool, int, int, np.ndarray]] = []
    for thing in file.objects(image):
        value = value_of.get(thing["category_id"])
        if value is None:
            continue
        pixels = pixels_of(file, thing, size)
        ignored = bool(thing.get("iscrowd")) and crowd == "ignore"
        small = min_area > 0 and file.area(thing) < min_area
        area = int(np.count_nonzero(pixels))
        layers.append(
            (not ignored, -area if overlap == "smaller" else 0, UNDECIDED if ignored or small else value, pixels)
        )
    mask = np.zeros(size, np.uint8)
    for _, _, value, pixels in sorted(
        layers, key=lambda layer: layer[:2]
    ):  # stable: the order of the file among equals
        mask[pixels] = value
    return mask


def size_of(file: CocoFile, image: dict) -> tuple[int, int] | None:
    """Height and width as the file states them, where they can be those of a picture."""
    height, width = image.get("height"), image.get("width")
    if _whole(height) and _whole(width) and 1 <= height <= 1_000_000 and 1 <= width <= 1_000_000:
        return height, width
    return None


def pixels_of(file: CocoFile, thing: dict, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Which pixels an object covers: polygons by pycocotools, run lengths once their sum is known to be right.

    Raises DataError: no segmentation, or one that is damaged or of another size. ConfigError: pycocotools is missing.
    """
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ConfigError(
            "masks of COCO's objects need the extra `coco`", next_step="pip install 'clip-es[coco]'."
        ) from error
    tools: Any = mask  # its own types leave out what its documentation allows
    shape: Any = thing.get("segmentation")
    wrong = _wrong_polygons(shape, size) if isinstance(shape, list) else _wrong_runs(shape, size)
    if wrong:
        raise DataError(
            f"annotation {thing['id']} has no usable segmentation",
            where=file.path.name,
            expected="polygons, or run lengths with the size of the picture",
            found=wrong,
            next_step="Repair or remove the annotation.",
        )
    try:
        packed = isinstance(shape, dict) and isinstance(shape["counts"], str)
        runs = shape if packed else tools.frPyObjects(shape, *size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pycocotools speaks to numpy in a way that numpy 2 calls old
            return tools.decode(tools.merge(runs) if isinstance(runs, list) else runs).astype(bool)
    except Exception as error:  # What is left after the checks above; pycocotools raises several kinds.
        raise DataError(
            f"annotation {thing['id']} cannot be drawn", where=file.path.name, found=printable(str(error), 100)
        ) from error


def _wrong_polygons(shape: list, size: tuple[int, int]) -> str | None:
    if not shape:
        return "no polygon"
    reach = 2 * max(size)
    for outline in shape:
        if not isinstance(outline, list) or len(outline) < 6 or len(outline) % 2 or len(outline) > 2 * LONGEST_OUTLINE:
            return f"a polygon that is not x, y of three to {LONGEST_OUTLINE:,} corners"
        if not all(isinstance(n, int | float) and not isinstance(n, bool) and abs(n) <= reach for n in outline):
            return "a corner that is no number or lies far outside the picture"
    return None


def _wrong_runs(shape: Any, size: tuple[int, int]) -> str | None:
    if not isinstance(shape, dict) or shape.get("size") != list(size):
        found = shape.get("size") if isinstance(shape, dict) else type(shape).__name__
        return printable(f"the size {found!r} in place of {list(size)}", 100)
    counts = shape.get("counts")
    if isinstance(counts, str):
        counts = _uncompressed(counts, size[0] * size[1])
    if not isinstance(counts, list) or not all(_whole(n) and n >= 0 for n in counts):
        return "no run lengths"
    covered = sum(counts)
    return None if covered == size[0] * size[1] else f"run lengths for {covered:,} of {size[0] * size[1]:,} pixels"


def _uncompressed(text: str, most: int) -> list[int] | None:
    """Run lengths of COCO's compressed text: five bits a character, from the fourth on relative to two before."""
    counts: list[int] = []
    value = shift = 0
    for letter in text.encode(errors="replace"):
        bits = letter - 48
        if not 0 <= bits < 64 or shift > 40:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            if not 0 <= counts[-1] <= most:
                return None
            value = shift = 0
    return counts if shift == 0 else None
