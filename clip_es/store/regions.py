"""Regions in files: one COCO RLE JSON for each picture, as SAM's automatic masks are kept, or a PNG of numbered parts.

FOLDER/<id>.json   a list of entries, or SA-1B's {"image": ..., "annotations": [...]}; of each entry `segmentation`
                   {"size": [height, width], "counts": text or list} is read, and where they are there `predicted_iou`,
                   `stability_score` and `level` (which of SAM's three answers: 0 part .. 2 whole object)
FOLDER/<id>.png    palette or 8 bits of grey: pixels of one number are one region, none is left out
"""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, Integer
from PIL import Image

from clip_es import rle
from clip_es.decode import quiet_pillow
from clip_es.errors import ClipEsError, DataError, ShapeError
from clip_es.masks import read_mask, write_mask
from clip_es.regions import Instances, Regions
from clip_es.store.disk import make_folder, write_atomic
from clip_es.types import MAX_CLASSES

MOST_REGIONS = 50_000
"""Of one picture; a file with more is refused."""

LARGEST_FILE = 2**29
"""Bytes of one picture's file: 512 MiB."""


def regions_of(folder: Path, image_id: str, size_hw: tuple[int, int]) -> Regions:
    """The regions of a picture from a folder. Raises DataError, ShapeError: no usable file, or of another size."""
    path = folder / f"{image_id}.json"
    if path.is_file():
        return read_regions(path, size_hw)
    parts = path.with_suffix(".png") if "." not in image_id else folder / f"{image_id}.png"
    if not parts.is_file():
        raise DataError(
            "there are no regions of this picture",
            where=path,
            expected=f"{image_id}.json or {image_id}.png",
            found="no such file",
            next_step="Make them with `clip-es segments`, or leave the picture out.",
        )
    return read_parts(parts, size_hw)


def read_regions(path: Path, size_hw: tuple[int, int]) -> Regions:
    """Regions from a JSON file, in its order; empty ones are left out.

    Raises DataError: unreadable, no such JSON, damaged run lengths, too many regions. ShapeError: of another size.
    """
    entries = _entries(read_tree(path), path)
    runs, quality, stability, levels = [], [], [], []
    for number, entry in enumerate(entries, start=1):
        where = f"{path}, region {number}"
        runs.append(_runs(entry, size_hw, where))
        quality.append(_number(entry, "predicted_iou", 1.0, where))
        stability.append(_number(entry, "stability_score", 1.0, where))
        levels.append(entry.get("level") if isinstance(entry, dict) else None)
    known = all(isinstance(level, int) and not isinstance(level, bool) and abs(level) < 2**31 for level in levels)
    return Regions.of(size_hw, runs, quality, stability, levels if known and levels else None)


def read_parts(path: Path, size_hw: tuple[int, int]) -> Regions:
    """Regions from a PNG of numbered parts. Raises DataError: no such PNG. ShapeError: of another size."""
    parts = read_numbers(path)
    if parts.shape != size_hw:
        raise _wrong_size(path, list(parts.shape), size_hw)
    return Regions.from_parts(parts)


def read_numbers(path: Path) -> Int64[np.ndarray, "h w"]:
    """The numbers of such a PNG as they are. Raises DataError: no such PNG."""
    parts = _sixteen_bits(path)
    return (read_mask(path) if parts is None else parts).astype(np.int64)


def write_regions(path: Path, regions: Regions, about: dict[str, Any] | None = None) -> None:
    """Write regions as SA-1B's JSON, so that `read_regions` gives them back and a power cut spares them.

    Raises StoreError.
    """
    make_folder(path.parent)
    write_atomic(path, regions_bytes(regions, about), durable=True)


def regions_bytes(regions: Regions, about: dict[str, Any] | None = None) -> bytes:
    """What `write_regions` writes."""
    height, width = regions.size_hw
    entries = []
    for number, run in enumerate(regions.runs):
        entry: dict[str, Any] = {
            "segmentation": {"size": [height, width], "counts": rle.text(run)},
            "area": int(run[1::2].sum()),
            "bbox": _box(regions.pixels(number), width),
            "predicted_iou": float(regions.quality[number]),
            "stability_score": float(regions.stability[number]),
        }
        if regions.levels is not None:
            entry["level"] = int(regions.levels[number])
        entries.append(entry)
    tree = {"image": {"height": height, "width": width}, **(about or {}), "annotations": entries}
    return json.dumps(tree).encode()


def write_parts(path: Path, parts: Integer[np.ndarray, "h w"]) -> None:
    """Write numbered parts as a PNG that `read_parts` reads: with a palette up to 255, else with 16 bits of grey.

    It survives a power cut.

    Raises StoreError. DataError: more than 65,536 parts.
    """
    most, file = int(parts.max(initial=0)), io.BytesIO()
    if most >= 2**16:
        raise DataError(
            "a PNG cannot tell that many parts apart", where=path, expected="at most 65,536", found=most + 1
        )
    if most < 256:
        write_mask(file, parts.astype(np.uint8))
    else:
        Image.fromarray(parts.astype(np.uint16)).save(file, "PNG")
    make_folder(path.parent)
    write_atomic(path, file.getvalue(), durable=True)


def write_instances(path: Path, instances: Instances) -> None:
    """Write single things as regions, with `labels`: the mask value of each, class + 1. Raises StoreError."""
    make_folder(path.parent)
    write_atomic(path, instances_bytes(instances))


def instances_bytes(instances: Instances) -> bytes:
    """What `write_instances` writes."""
    return regions_bytes(instances.regions, {"labels": [k + 1 for k in instances.class_ids]})


def read_instances(path: Path, size_hw: tuple[int, int]) -> Instances:
    """The same again. Raises DataError, ShapeError as `read_regions`; DataError: labels are missing."""
    tree, regions = read_tree(path), read_regions(path, size_hw)
    labels = tree.get("labels") if isinstance(tree, dict) else None
    known = labels if isinstance(labels, list) else []
    whole = all(type(k) is int and 1 <= k <= MAX_CLASSES for k in known)
    if not whole or len(known) != len(regions):
        raise DataError("does not say the class of each thing", where=path, expected="labels", found=str(labels)[:60])
    return Instances(regions, tuple(k - 1 for k in known))


def read_tree(path: Path) -> Any:
    """The content of a JSON file. Raises DataError."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise DataError("is too large", where=path, expected=f"at most {LARGEST_FILE:,} bytes")
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError("the regions cannot be read", where=path, expected="a JSON file", found=error) from error


def _entries(tree: Any, path: Path) -> list[Any]:
    entries = tree.get("annotations") if isinstance(tree, dict) else tree
    if not isinstance(entries, list):
        raise DataError(
            "is no file of regions",
            where=path,
            expected='a list of entries, or {"annotations": [...]}',
            found=type(tree).__name__,
            next_step="Save SAM's automatic masks with output_mode coco_rle or uncompressed_rle.",
        )
    if len(entries) > MOST_REGIONS:
        raise DataError("holds too many regions", where=path, expected=f"at most {MOST_REGIONS:,}", found=len(entries))
    return entries


def _runs(entry: Any, size_hw: tuple[int, int], where: str) -> Any:
    told = entry.get("segmentation") if isinstance(entry, dict) else None
    if not isinstance(told, dict) or "counts" not in told:
        raise DataError(
            "a region has no run lengths",
            where=where,
            expected='"segmentation": {"size": [height, width], "counts": ...}',
            found=str(told)[:60],
        )
    if told.get("size") != list(size_hw):
        raise _wrong_size(where, told.get("size"), size_hw)
    try:
        return rle.read(told["counts"], size_hw)
    except ClipEsError as error:
        raise DataError(error.what, where=where, expected=error.expected, found=error.found) from error


def _number(entry: Any, key: str, default: float, where: str) -> float:
    value = entry.get(key, default)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise DataError(f"{key} of a region is no number", where=where, found=str(value)[:40])
    return float(value)


def _box(pixels: np.ndarray, width: int) -> list[int]:
    """x, y, width, height."""
    rows, columns = pixels // width, pixels % width
    x, y = int(columns.min()), int(rows.min())
    return [x, y, int(columns.max()) + 1 - x, int(rows.max()) + 1 - y]


def _wrong_size(where: object, found: object, expected: tuple[int, int]) -> ShapeError:
    return ShapeError(
        "the regions are of another size than their picture",
        where=where,
        expected=f"{list(expected)} (height, width)",
        found=str(found)[:60],
        next_step="Make them from the same file; if it has an EXIF orientation, from the upright picture.",
    )


def _sixteen_bits(path: Path) -> np.ndarray | None:
    """The numbers of a PNG with 16 bits of grey, which can tell more than 256 parts apart; None for another kind."""
    try:
        with quiet_pillow(), path.open("rb") as file:
            header = file.read(26)
            if header[:8] != b"\x89PNG\r\n\x1a\n" or header[24:26] != b"\x10\x00":
                return None
            with Image.open(file, formats=["PNG"]) as image:
                return np.array(image)
    except Exception as error:  # Damaged files make Pillow raise almost anything.
        raise DataError("the regions cannot be read", where=path, found=error) from error
