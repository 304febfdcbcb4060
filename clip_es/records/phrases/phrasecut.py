"""PhraseCut (VGPhraseCut_v0): phrases and polygons on pictures of Visual Genome.

ROOT/images/<image_id>.jpg
ROOT/refer_train.json, refer_val.json, refer_test.json, refer_miniv.json
ROOT/image_data_split.json      size and split of each picture; read where it is there (also image_data_split3000.json)
ROOT/name_att_rel_count.json    how often names occur; not needed
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from clip_es.errors import ClipEsError, DataError
from clip_es.records.dataset import Problem
from clip_es.records.phrases.table import Phrase, PhraseSet, read_rgb
from clip_es.records.text_files import printable, unreadable

LARGEST_JSON = 2**31
"""Bytes. refer_train.json has 344 MB."""

_WRONG_SIZES = """150417 285665 498246 61564 285743 498269 498010 150516 150344 286093 61530 150333 286065 285814
498187 285761 498042"""
WRONG_SIZES = frozenset(map(int, _WRONG_SIZES.split()))
"""Pictures whose annotated size is not theirs; left out as published."""

SPLITS = ("train", "val", "test", "miniv")
_KEYS = ("image_id", "phrase", "Polygons")


class PhraseCut(PhraseSet):
    """A split of PhraseCut. Polygons are kept packed: the whole training split takes some hundred megabytes.

    `problems` lists the entries that cannot be used. `left_out` counts those that are left out on purpose.
    Raises DataError: a folder or file is missing or no JSON list, or no entry can be used.
    Source: the published data set, and CLIPSeg's reader of it. Differs: a missing picture is a problem, not the end.
    """

    supervision = "masks (PhraseCut)"

    def __init__(self, root: str | Path, split: str = "train", *, without: Collection[str] = ()) -> None:
        """`split`: one of `SPLITS`, or several joined by _ (val_miniv). `without`: words; phrases with them are left
        out, words of several words as parts of the phrase, others as whole words in singular or plural."""
        self.root = Path(root)
        self.name = f"phrasecut {split}"
        for part in split.split("_"):
            if part not in SPLITS:
                raise DataError(f"there is no split {printable(part)!r}", where=root, expected=" | ".join(SPLITS))
        try:
            here = {name for name in os.listdir(self.root / "images") if name.endswith(".jpg")}  # noqa: PTH208  names
        except OSError as error:
            raise DataError(
                "is not a folder in the layout of VGPhraseCut_v0",
                where=self.root,
                expected="images/<image_id>.jpg and refer_train.json",
                found=error.strerror,
                next_step="data/README.md shows the tree and where to get it.",
            ) from error
        samples: list[Phrase] = []
        problems: list[Problem] = []
        self._ids: list[int] = []
        self._points, self._polygon_ends, self._sample_ends = array("d"), array("I"), array("I")
        self.left_out = {"annotated with a wrong size": 0, "without an area": 0, "of classes left out": 0}
        sizes = _sizes(self.root)
        number_of: dict[int, int] = {}
        for part in split.split("_"):
            for place, task in _entries(self.root / f"refer_{part}.json"):
                where = f"refer_{part}.json entry {place}"
                try:
                    image_id, text, polygons = _task(task, where, here)
                except ClipEsError as error:
                    problems.append(Problem.of(where, error))
                    continue
                reason = _reason(image_id, text, task, polygons, without)
                if reason:
                    self.left_out[reason] += 1
                    continue
                if image_id not in number_of:
                    number_of[image_id] = len(self._ids)
                    self._ids.append(image_id)
                for polygon in polygons:
                    self._points.extend(float(value) for point in polygon for value in point)
                    self._polygon_ends.append(len(self._points) // 2)
                self._sample_ends.append(len(self._polygon_ends))
                samples.append(Phrase(number_of[image_id], text))
        if not samples:
            raise DataError(
                "has no entry that can be used",
                where=self.root,
                found=problems[0].reason if problems else f"{sum(self.left_out.values())} left out",
            )
        self.samples, self.problems = tuple(samples), tuple(problems)
        self._sizes = [sizes.get(image_id) for image_id in self._ids]

    def image_id(self, number: int) -> int:
        """Visual Genome's number of a picture."""
        return self._ids[number]

    def picture(self, number: int) -> UInt8[np.ndarray, "h w 3"]:
        """A picture by its number. Raises DataError: missing or damaged."""
        return read_rgb(self._path(number))

    def mask(self, sample: int) -> Bool[np.ndarray, "h w"]:
        """The union of the sample's polygons, drawn as published: `skimage.draw.polygon2mask`."""
        from skimage.draw import polygon2mask

        number = self.samples[sample].picture
        size = self._sizes[number]
        if size is None:
            height, width = self.picture(number).shape[:2]
            size = self._sizes[number] = (height, width)
        canvas = np.zeros(size, dtype=bool)
        for polygon in self.polygons(sample):
            canvas |= polygon2mask(size, polygon[:, ::-1])
        return canvas

    def polygons(self, sample: int) -> list[np.ndarray]:
        """The polygons of a sample, each float64 [point 2] of x, y."""
        first = self._sample_ends[sample - 1] if sample else 0
        found = []
        for number in range(first, self._sample_ends[sample]):
            start = self._polygon_ends[number - 1] if number else 0
            flat = np.frombuffer(self._points[2 * start : 2 * self._polygon_ends[number]].tobytes(), np.float64)
            found.append(flat.reshape(-1, 2))
        return found

    def _path(self, number: int) -> Path:
        return self.root / "images" / f"{self._ids[number]}.jpg"


def _reason(image_id: int, text: str, task: dict[str, Any], polygons: list, without: Collection[str]) -> str | None:
    """Why an entry is left out on purpose."""
    if image_id in WRONG_SIZES:
        return "annotated with a wrong size"
    boxes = task.get("instance_boxes")
    known = isinstance(boxes, list) and all(isinstance(box, list) and len(box) == 4 for box in boxes)
    if not polygons or (known and boxes and not any(box[2] > 0 and box[3] > 0 for box in boxes)):
        return "without an area"
    return "of classes left out" if speaks_of(text, without) else None


def speaks_of(text: str, words: Collection[str]) -> bool:
    """Whether a phrase has one of the words: several words as a part, a single one as a whole word or its plural."""
    text = text.lower()
    mine = set(text.split())
    mine |= {word[:-1] for word in mine if word.endswith("s")} | {word[:-2] for word in mine if word.endswith("es")}
    return any(word.lower() in text if " " in word else word.lower() in mine for word in words)


def _task(task: Any, where: str, here: set[str]) -> tuple[int, str, list]:
    """Picture, phrase and polygons of an entry. Raises DataError: it is none, or its picture is missing."""
    if not isinstance(task, dict) or any(key not in task for key in _KEYS):
        raise DataError(
            "is not a phrase with its region",
            where=where,
            expected="an object with image_id, phrase and Polygons",
            found=printable(repr(task), 80),
        )
    image_id, text = task["image_id"], task["phrase"]
    if not isinstance(image_id, int) or isinstance(image_id, bool) or not isinstance(text, str) or not text.strip():
        raise DataError(
            "needs a number and a phrase", where=where, found=printable(repr((image_id, text)), 80), expected="both"
        )
    if f"{image_id}.jpg" not in here:
        raise DataError(
            f"is about the picture {image_id}, which is not there",
            where=where,
            expected=f"images/{image_id}.jpg",
            next_step="Fetch the pictures again; both parts of Visual Genome are needed.",
        )
    polygons = []
    for instance in _lists(task["Polygons"], where):
        for polygon in _lists(instance, where):
            points = _lists(polygon, where)
            if not all(isinstance(point, list) and len(point) == 2 and all(map(_number, point)) for point in points):
                raise DataError("has a polygon that is no list of [x, y]", where=where)
            if len(points) > 1:
                polygons.append(points)
    return image_id, text.strip(), polygons


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e6  # not NaN either


def _lists(value: Any, where: str) -> list:
    if not isinstance(value, list):
        raise DataError("has Polygons that are no lists of lists", where=where, found=printable(repr(value), 60))
    return value


def _sizes(root: Path) -> dict[int, tuple[int, int]]:
    """Height and width by picture, where a file states them; it only saves opening each picture for its size."""
    for name in ("image_data_split.json", "image_data_split3000.json"):
        if (root / name).is_file():
            found = {}
            for _, entry in _entries(root / name):
                values = [entry.get(key) for key in ("image_id", "height", "width")] if isinstance(entry, dict) else []
                if values and all(isinstance(value, int) and 0 < value < 10**8 for value in values):
                    found[values[0]] = (values[1], values[2])
            return found
    return {}


def _entries(path: Path) -> Iterator[tuple[int, Any]]:
    """The entries of a JSON list with their numbers, one at a time: only the text is held as a whole."""
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise DataError("is too large", where=path, expected=f"at most {LARGEST_JSON:,} bytes")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise DataError("is not UTF-8 text", where=path, next_step="Fetch the file again.") from error
    decoder, at, number = json.JSONDecoder(), _skip(text, 0), 0
    try:
        if text[at : at + 1] != "[":
            raise DataError("is not a JSON list", where=path, found=repr(printable(text[:60])))
        at = _skip(text, at + 1)
        while text[at : at + 1] != "]":
            entry, at = decoder.raw_decode(text, at)
            yield number, entry
            number, at = number + 1, _skip(text, at)
            if text[at : at + 1] == ",":
                at = _skip(text, at + 1)
            elif text[at : at + 1] != "]":
                raise json.JSONDecodeError("no comma", text[at : at + 40], 0)
    except (ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits, too
        raise DataError(
            "is damaged JSON",
            where=path,
            expected="a list of entries",
            found=f"trouble after entry {number}: {error}",
            next_step="Fetch the file again.",
        ) from error


def _skip(text: str, at: int) -> int:
    """The next place that is no blank."""
    while text[at : at + 1] in {" ", "\n", "\r", "\t"}:
        at += 1
    return at
