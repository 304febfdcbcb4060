"""One self-contained HTML page: figures, plots, pictures with maps and masks, the settings.

Nothing in it refers to anything outside the file. Its one script orders and filters galleries; without it all is there.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from clip_es.overlay import label_name, overlay_colour, overlay_heat, overlay_labels
from clip_es.pipelines.masks.method import Refined
from clip_es.scaling import upsample
from clip_es.store.disk import write_atomic


@dataclass(frozen=True)
class GalleryRow:
    """Columns side by side, in each some pictures with their captions, one below the other."""

    columns: Sequence[Sequence[tuple[str, UInt8[np.ndarray, "_ _ 3"]]]]
    """Pictures of any size; those of a row need not be alike."""
    labels: Collection[int] = ()
    """Labels whose colours occur in them, 0 for background and 255 for undecided: the legend explains these."""
    maps: bool = False
    """Whether maps under `overlay_heat` are among them."""
    name: str = ""
    """What stands over the row, such as the id of the picture; nothing where empty."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Numbers by their names, low where the picture deserves a look; the reader can order the gallery by them."""


@dataclass
class Page:
    """A report in the making; `write` puts it on disk at once or not at all."""

    title: str
    lead: str
    sections: list[tuple[str, Any]] = field(default_factory=list)
    """Kind and content; templates/report.html knows the kinds."""

    def heading(self, text: str) -> None:
        """Begin a section."""
        anchor = f"section-{1 + len(self._contents())}"
        self.sections.append(("heading", {"anchor": anchor, "text": text}))

    def paragraph(self, text: str) -> None:
        """Plain text."""
        self.sections.append(("paragraph", text))

    def figures(self, values: Mapping[str, object]) -> None:
        """The numbers one looks for first."""
        self.sections.append(("figures", dict(values)))

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Rows under a header; numbers stand on the right."""
        self.sections.append(("table", {"header": list(header), "rows": [list(row) for row in rows]}))

    def gallery(self, rows: Sequence[GalleryRow], names: Sequence[str] = ()) -> None:
        """Pictures, one row for each case, under a legend of their colours; `names` of labels, background first."""
        labels = sorted(set().union(*(row.labels for row in rows)))
        legend = [(_css(overlay_colour(label)), label_name(label, names)) for label in labels]
        if any(row.maps for row in rows):
            legend.append((f"linear-gradient(to right, {', '.join(map(_css, _heat_steps()))})", "map: 0 to 1"))
        scores = list(dict.fromkeys(name for row in rows for name in row.scores))
        shown = [
            {
                "name": row.name,
                "labels": sorted(row.labels),
                "scores": [round(row.scores[name], 4) if name in row.scores else "" for name in scores],
                "columns": [[(caption, _data_uri(picture)) for caption, picture in column] for column in row.columns],
            }
            for row in rows
        ]
        filters = [(label, label_name(label, names)) for label in labels if label != 0]
        self.sections.append(("gallery", {"legend": legend, "rows": shown, "scores": scores, "labels": filters}))

    def bars(self, names: Sequence[str], values: Sequence[float], label: str) -> None:
        """Horizontal bars, 0..100."""
        with _figure(7.0, 0.9 + 0.27 * len(names)) as (figure, axes):
            axes.barh(range(len(names)), values, color="#3b7dd8", height=0.7)
            axes.set_yticks(range(len(names)), names)
            axes.invert_yaxis()
            axes.set_xlim(0, 100)
            axes.set_xlabel(label)
            for i, value in enumerate(values):
                text = "absent" if np.isnan(value) else f"{value:.1f}"
                axes.text(0 if np.isnan(value) else value, i, f" {text}", va="center", fontsize=8)
            self.sections.append(("plot", _svg(figure)))

    def scatter(self, x: Sequence[float], y: Sequence[float], names: Sequence[str], labels: tuple[str, str]) -> None:
        """Points, those in `names` that are not empty with their name."""
        with _figure(7.0, 4.5) as (figure, axes):
            axes.scatter(x, y, s=14, color="#3b7dd8", alpha=0.75)
            for xi, yi, name in zip(x, y, names, strict=True):
                if name:
                    axes.annotate(name, (xi, yi), fontsize=7, xytext=(4, 3), textcoords="offset points")
            axes.set_xlabel(labels[0])
            axes.set_ylabel(labels[1])
            self.sections.append(("plot", _svg(figure)))

    def preformatted(self, text: str) -> None:
        """Text as it is: settings, a table from the terminal."""
        self.sections.append(("preformatted", text))

    def write(self, path: Path) -> None:
        """Put the page on disk, atomically. Raises ClipEsError where the disk refuses."""
        write_atomic(path, self.html().encode())

    def html(self) -> str:
        """The page as text."""
        return _template().render(title=self.title, lead=self.lead, sections=self.sections, contents=self._contents())

    def _contents(self) -> list[tuple[str, str]]:
        return [(value["anchor"], value["text"]) for kind, value in self.sections if kind == "heading"]


def _template() -> Any:
    """Everything that is put into it is escaped, but for the plots, which are drawn here."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(loader=PackageLoader("clip_es.pipelines"), autoescape=True, undefined=StrictUndefined)
    made.filters["number"] = _number
    return made.get_template("report.html")


def gallery_row(
    refined: Refined,
    mask: UInt8[np.ndarray, "h w"],
    names: Sequence[str],
    truth: UInt8[np.ndarray, "h w"] | None = None,
    scores: Mapping[str, float] | None = None,
) -> GalleryRow:
    """Picture, map of each label before and after the refiners on the grid, mask, truth; `scores` stand over them."""
    rgb = refined.picture.rgb
    before, after = (
        upsample(maps, refined.picture.size_hw).scores.cpu().numpy() for maps in (refined.found.maps, refined.maps)
    )
    first = [("picture", rgb), ("mask", overlay_labels(rgb, mask))]
    columns = [first]
    labels = set(np.unique(mask).tolist()) | (set() if truth is None else set(np.unique(truth).tolist()))
    for k, start, end in zip(refined.maps.class_ids, before, after, strict=True):
        column = [(f"{names[k]}: map", overlay_heat(rgb, start))]
        if refined.maps is not refined.found.maps:
            column.append((f"{names[k]}: refined", overlay_heat(rgb, end)))
        columns.append(column)
    if truth is not None:
        columns.append([("ground truth", overlay_labels(rgb, truth))])
    return GalleryRow(columns, labels, len(before) > 0, refined.picture.image_id, scores or {})


def _data_uri(picture: UInt8[np.ndarray, "h w 3"]) -> str:
    image = Image.fromarray(picture)
    image.thumbnail((360, 360))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _number(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.2f}" if abs(value) < 1000 else f"{value:,.0f}"


def _css(colour: tuple[int, int, int]) -> str:
    return f"rgb({colour[0]} {colour[1]} {colour[2]})"


def _rgb(colour: Sequence[float]) -> tuple[int, int, int]:
    return int(255 * colour[0]), int(255 * colour[1]), int(255 * colour[2])


def _heat_steps() -> list[tuple[int, int, int]]:
    from matplotlib import colormaps

    return [_rgb(colormaps["turbo"](step / 8)) for step in range(9)]


class _figure:
    """A matplotlib figure made without pyplot, so nothing global stays behind."""

    def __init__(self, width: float, height: float) -> None:
        from matplotlib.figure import Figure

        self.figure = Figure(figsize=(width, height), layout="constrained")

    def __enter__(self):
        axes = self.figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        return self.figure, axes

    def __exit__(self, *_: object) -> None:
        self.figure.clear()


def _svg(figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    text = buffer.getvalue()
    return text[text.index("<svg") :]
