"""Results as pieces of a page. Everything that is put into a piece is escaped by the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import UInt8

from clip_es.errors import ClipEsError
from clip_es.localize.methods import METHODS
from clip_es.metrics.certainty import ScoreName
from clip_es.pipelines.clipseg.prompt import Answer
from clip_es.pipelines.exchange.worst import PictureScore
from clip_es.pipelines.playground.colours import (
    Mark,
    at_size,
    change,
    data_uri,
    grown,
    heat,
    heat_css,
    marks,
    overlay,
    shrunk,
)
from clip_es.pipelines.playground.look import Look
from clip_es.pipelines.playground.runs import RunView
from clip_es.types import UNDECIDED

MASK_SIDE = 720
"""Longer side of a mask that is shown, pixels."""

_SMALL = 360


def message(error: ClipEsError | str) -> str:
    """A message that is read out at once."""
    return _piece("message", text=str(error), failed=isinstance(error, ClipEsError))


def status(look: Look, encoded: int, notes: Sequence[str] = ()) -> str:
    """What it cost: seconds by stage, and how often the picture has been encoded."""
    total = sum(look.seconds.values())
    return _piece("status", total=total, stages=_told_seconds(look), encoded=encoded, notes=list(notes))


def mask(look: Look, rgb: UInt8[np.ndarray, "h w 3"], threshold: float, side: int = MASK_SIDE) -> str:
    """The mask over the picture, with a legend."""
    return _piece("mask", **_mask(look, rgb, threshold, side), threshold=threshold)


def steps(look: Look, rgb: UInt8[np.ndarray, "h w 3"]) -> str:
    """A row for each label: the map of each step, and what the step changed."""
    rows = []
    for place, name in enumerate(look.names):
        row: list[dict[str, str]] = []
        for number, step in enumerate(look.steps):
            small = _fitting(rgb, step.maps.shape[1:])
            values = step.maps[place].astype(np.float32) / 255
            told = {"title": step.name, "map": data_uri(heat(small, values)), "change": ""}
            if number:
                before = look.steps[number - 1].maps[place].astype(np.float32) / 255
                told["change"] = data_uri(change(small, values - before))
            row.append(told)
        rows.append({"name": name, "steps": row, "score": look.found.get(name)})
    moved = [(step.name, step.moved) for step in look.steps if step.moved is not None]
    return _piece("steps", rows=rows, moved=moved, heat=heat_css(), change=heat_css("PuOr", reverse=True))


def comparison(
    found: Sequence[tuple[str, Look | ClipEsError]],
    rgb: UInt8[np.ndarray, "h w 3"],
    threshold: float | None,
    without: Mapping[str, Sequence[str]],
) -> str:
    """The masks of several methods side by side, each compared with the first; `without`: the refiners that were left
    out for a method because it does not take them."""
    first = next((look for _, look in found if isinstance(look, Look)), None)
    columns: list[dict[str, Any]] = []
    for name, look in found:
        if not isinstance(look, Look):
            columns.append({"title": METHODS[name].title, "error": str(look)})
            continue
        used = look.threshold if threshold is None else threshold
        alike = None if first in (None, look) else float((look.decided == first.decided).mean())
        told = {"title": METHODS[name].title, "error": "", "alike": alike, "stages": _told_seconds(look)}
        told["without"] = ", ".join(without.get(name, ()))
        columns.append(told | _mask(look, rgb, used, _SMALL))
    return _piece("comparison", columns=columns)


def answers(rgb: UInt8[np.ndarray, "h w 3"], found: Sequence[Answer], threshold: float, supervision: str) -> str:
    """A map and a mask for each prompt."""
    small = shrunk(rgb, _SMALL)
    rows = []
    for one in found:
        view = np.array(one.probability >= threshold, dtype=np.uint8)
        values = at_size(np.rint(255 * one.probability).astype(np.uint8), (small.shape[0], small.shape[1])) / 255
        marked = overlay(small, at_size(view, (small.shape[0], small.shape[1])), marks([1]))
        rows.append(
            {
                "name": one.name,
                "map": data_uri(heat(small, values.astype(np.float32))),
                "mask": data_uri(marked),
                "example": "" if one.shown is None else data_uri(shrunk(one.shown, 200)),
                "highest": float(one.probability.max()),
                "share": one.share(threshold),
            }
        )
    return _piece("answers", rows=rows, picture=data_uri(small), threshold=threshold, supervision=supervision)


def strip(
    view: RunView, shown: Sequence[PictureScore], by: ScoreName, page: tuple[int, int], count: int, edited: set[str]
) -> str:
    """Pictures of a run as buttons."""
    rows = [
        {
            "id": one.image_id,
            "src": view.thumbnail(one.image_id),
            "score": 100 * one.scores[by],
            "edited": one.image_id in edited,
        }
        for one in shown
    ]
    return _piece("strip", rows=rows, by=by, page=page, count=count, problems=len(view.problems))


def legend(labels: Sequence[int], names: Mapping[int, str], shown: Mapping[int, Mark]) -> list[dict[str, Any]]:
    """Colour and name of each label."""
    told = {0: "background", UNDECIDED: "undecided (255)", **names}
    dark = "rgb(58 58 58)"
    return [
        {"label": k, "css": dark if k == 0 else shown[k].css if k in shown else dark, "name": told.get(k, f"label {k}")}
        for k in labels
    ]


def _mask(look: Look, rgb: np.ndarray, threshold: float, side: int) -> dict[str, Any]:
    labels = look.labels(threshold)
    small = shrunk(rgb, side)
    large = grown(small, side)  # a border one pixel wide would be as coarse as the picture
    shown = marks([k + 1 for k in look.class_ids])
    view = at_size(labels, (large.shape[0], large.shape[1]))
    counts = np.bincount(labels.ravel(), minlength=256) / labels.size
    order = [0, *(k + 1 for k in look.class_ids), UNDECIDED]
    rows = legend(order, dict(zip((k + 1 for k in look.class_ids), look.names, strict=True)), shown)
    for row in rows:
        row["share"] = float(counts[row["label"]])
    return {"mask": data_uri(overlay(large, view, shown)), "picture": data_uri(small), "legend": rows}


def _told_seconds(look: Look) -> list[tuple[str, float]]:
    return [(stage, value) for stage, value in look.seconds.items() if value >= 0.0005]


def _fitting(rgb: np.ndarray, size_hw: Sequence[int]) -> np.ndarray:
    from PIL import Image

    return np.array(Image.fromarray(rgb).resize((size_hw[1], size_hw[0]), Image.Resampling.BILINEAR))


@cache
def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(loader=PackageLoader("clip_es.pipelines"), autoescape=True, undefined=StrictUndefined)
    return made.get_template("playground.html").module


def _piece(kind: str, **values: Any) -> str:
    return str(getattr(_template(), kind)(**values))
