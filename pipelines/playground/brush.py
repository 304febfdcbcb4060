"""Strokes of a brush to labels. The page sends strokes, not pixels: what a mask becomes is decided here."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from clip_es.errors import DataError

MAX_STROKES, MAX_POINTS, MAX_RADIUS = 5_000, 200_000, 2_000.0


@dataclass(frozen=True)
class Stroke:
    """A line drawn with a round brush; a single point is a dot."""

    label: int
    radius: float
    """Pixels of the picture."""
    points: tuple[tuple[float, float], ...]
    """x and y in pixels; the middle of the first pixel is (0.5, 0.5)."""


def read_strokes(content: object, labels: Collection[int]) -> list[Stroke]:
    """Strokes as the page sends them: JSON text, or what it stands for; `labels` are those that may be painted.

    Raises DataError: anything else, or too many.
    """
    try:
        rows = json.loads(content) if isinstance(content, str) else content
        if not isinstance(rows, list) or len(rows) > MAX_STROKES:
            raise ValueError("not a list of strokes, or too many")
        strokes = [_stroke(row, labels) for row in rows]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DataError(
            "these are no strokes of the brush",
            expected=f"at most {MAX_STROKES}, each with a label of the run, a radius and points",
            found=str(error)[:120],
            next_step="Reload the page.",
        ) from error
    if sum(len(stroke.points) for stroke in strokes) > MAX_POINTS:
        raise DataError("these are too many strokes at once", expected=f"at most {MAX_POINTS} points")
    return strokes


def paint(mask: UInt8[np.ndarray, "h w"], strokes: Sequence[Stroke]) -> UInt8[np.ndarray, "h w"]:
    """The mask with the strokes laid over it, in their order: pixels whose middle is within the radius."""
    out = mask.copy()
    for stroke in strokes:
        ends = list(zip(stroke.points, stroke.points[1:], strict=False)) or [(stroke.points[0], stroke.points[0])]
        for start, end in ends:
            _line(out, start, end, stroke)
    return out


def _line(out: np.ndarray, start: tuple[float, float], end: tuple[float, float], stroke: Stroke) -> None:
    (x0, y0), (x1, y1), r = start, end, stroke.radius
    top, left = max(0, math.floor(min(y0, y1) - r)), max(0, math.floor(min(x0, x1) - r))
    bottom, right = math.ceil(max(y0, y1) + r), math.ceil(max(x0, x1) + r)
    view = out[top : max(top, bottom), left : max(left, right)]
    if not view.size:
        return
    y, x = np.mgrid[top : top + view.shape[0], left : left + view.shape[1]] + 0.5
    dx, dy = x1 - x0, y1 - y0
    length = dx * dx + dy * dy
    along = np.clip(((x - x0) * dx + (y - y0) * dy) / length, 0, 1) if length else np.zeros_like(x)
    view[(x - x0 - along * dx) ** 2 + (y - y0 - along * dy) ** 2 <= r * r] = stroke.label


def _stroke(row: dict, labels: Collection[int]) -> Stroke:
    label, radius, points = row["label"], float(row["radius"]), row["points"]
    if type(label) is not int or label not in labels:
        raise ValueError(f"label {label!r:.40}")
    if not 0 < radius <= MAX_RADIUS:
        raise ValueError(f"radius {radius!r:.40}")
    if not isinstance(points, list) or not points or len(points) > MAX_POINTS:
        raise ValueError("a stroke without points, or with too many")
    places = tuple((float(x), float(y)) for x, y in points)
    if not all(-1e5 <= value <= 1e5 for place in places for value in place):
        raise ValueError("a point far outside the picture")
    return Stroke(label, radius, places)
