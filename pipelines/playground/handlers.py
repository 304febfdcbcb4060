"""What happens when something on the page changes: from the fields to results, and from errors to messages.

Nothing here knows gradio: a handler gets the values of the fields and gives pieces of the page.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clip_es.errors import ClipEsError
from clip_es.metrics.certainty import ScoreName
from clip_es.pipelines.exchange.import_masks import imported_ids
from clip_es.pipelines.playground import show
from clip_es.pipelines.playground.asking import Asking
from clip_es.pipelines.playground.colours import at_size, data_uri, shrunk
from clip_es.pipelines.playground.export import bundle, command_line
from clip_es.pipelines.playground.runs import Opened, RunView, Which, page_of
from clip_es.pipelines.playground.session import Asked, Playground
from clip_es.pipelines.playground.uploads import Photo
from clip_es.pipelines.playground.words import Words
from clip_es.prompts import Synonyms
from clip_es.refine.registry import REFINERS
from clip_es.scenes.dataset import ScenesConfig, scene_of
from clip_es.scenes.draw import CLASSES
from clip_es.store.disk import make_folder
from clip_es.types import UNDECIDED

_BRUSH_SIDE = 900
"""Longer side of the picture under the brush; what is painted is laid over the mask at its own size."""


@dataclass(frozen=True)
class Fields:
    """The fields of the page about one picture."""

    photo: str
    labels: Sequence[str]
    synonyms: Synonyms
    said: str
    templates: str
    background: str
    method: str
    refine: Sequence[str]

    @classmethod
    def of(cls, values: Sequence[Any]) -> Fields:
        """In the order of the page, where a field that nobody has touched may be None."""
        photo, labels, synonyms, said, templates, background, method, refine = values
        return cls(
            photo or "", labels or (), synonyms, said or "", templates or "", background or "", method, refine or ()
        )

    def asked(self, playground: Playground) -> Asked:
        """What they ask. Raises ConfigError, DataError: a field that cannot be read."""
        words = Words.typed(
            self.labels, self.synonyms, self.said, self.templates, self.background, playground.vocabulary
        )
        return Asked(self.photo, words, self.method, tuple(name for name in REFINERS if name in self.refine))


@dataclass(frozen=True)
class Shown:
    """Pieces of the page about one picture."""

    status: str
    mask: str
    steps: str
    command: str
    threshold: float


@dataclass
class Handlers:
    """The handlers of one server, for all visitors."""

    playground: Playground
    asking: Asking
    view: RunView | None
    weights: str

    @property
    def draws(self) -> bool:
        """Whether a drawn scene is something that these weights and these words know."""
        return self.weights.startswith("scenes") and set(CLASSES) <= set(self.playground.vocabulary.names)

    def draw(self) -> tuple[Photo, list[str], str]:
        """A new scene as if it had been brought, its labels, and what is to be said of it."""
        scene = scene_of(ScenesConfig(), "val", secrets.randbelow(1_000_000))
        names = [CLASSES[k] for k in scene.class_ids]
        file = self.playground.uploads.folder / f"{secrets.token_hex(8)}.png"
        make_folder(file.parent)
        Image.fromarray(scene.picture).save(file)
        try:
            photo = self.playground.uploads.take(file, "scene.png")
        finally:
            file.unlink()
        height, width = photo.size_hw
        return photo, names, show.message(f"A drawn scene: {width} x {height} pixels.")

    def upload(self, path: str | None) -> tuple[Photo | None, str]:
        """A file that was brought, and what is to be said of it."""
        if not path:
            return None, show.message("Drop a picture to begin.")
        try:
            photo = self.playground.uploads.take(Path(path))
        except ClipEsError as error:
            return None, show.message(error)
        height, width = photo.size_hw
        more = " Of its frames or pages only the first is used." if photo.more_frames else ""
        return photo, show.message(f"{photo.name}: {width} x {height} pixels.{more}")

    def look(self, fields: Fields, threshold: float | None = None) -> Shown:
        """Maps and mask; without a threshold the one that a run would use. Raises ClipEsError."""
        asked = fields.asked(self.playground)
        look = self.playground.look(asked)
        rgb = self.playground.picture(asked.photo).rgb
        used = look.threshold if threshold is None else threshold
        return Shown(
            show.status(look, self.playground.encoded(asked)),
            show.mask(look, rgb, used),
            show.steps(look, rgb),
            command_line(asked, self.playground.config, self.weights, used),
            used,
        )

    def mask(self, fields: Fields, threshold: float) -> tuple[str, str, str]:
        """Mask, status and command line under another threshold; from what is known where it is."""
        asked = fields.asked(self.playground)
        look = self.playground.look(asked)
        return (
            show.mask(look, self.playground.picture(asked.photo).rgb, threshold),
            show.status(look, self.playground.encoded(asked)),
            command_line(asked, self.playground.config, self.weights, threshold),
        )

    def compare(self, fields: Fields, methods: Iterable[str], threshold: float | None) -> str:
        """Masks side by side."""
        asked = fields.asked(self.playground)
        found = list(self.playground.compare(asked, methods))
        if not found:
            return show.message("Choose the methods to compare.")
        without = {
            method: [name for name in asked.refine if name not in self.playground.taken(method, asked.refine)]
            for method, _ in found
        }
        return show.comparison(found, self.playground.picture(asked.photo).rgb, threshold, without)

    def find_labels(self, fields: Fields) -> tuple[list[str], str]:
        """The labels that CLIP itself sees, and what is to be said of them."""
        words = fields.asked(self.playground).words
        found = self.playground.find_labels(fields.photo, words)
        if not found:
            return [], show.message("CLIP is sure of none of the vocabulary's classes here. Name the labels yourself.")
        told = ", ".join(f"{name} {100 * sure:.0f} %" for name, sure in found.items())
        return list(found), show.message(f"Found by CLIP itself: {told}.")

    def export(self, fields: Fields, threshold: float | None) -> str:
        """A ZIP to take along, in the private folder of the uploads."""
        asked = fields.asked(self.playground)
        look = self.playground.look(asked)
        used = look.threshold if threshold is None else threshold
        folder = self.playground.uploads.folder / secrets.token_hex(8)
        folder.mkdir(parents=True)
        path = folder / "clip-es-playground.zip"
        path.write_bytes(bundle(self.playground, asked, look, self.weights, used))
        return str(path)

    def ask(
        self,
        photo: str,
        texts: str | None,
        example: str | None,
        example_mask: str | None,
        share: float,
        threshold: float,
    ) -> str:
        """CLIPSeg's answers to words, one on each line, and to an example."""
        try:
            shown = self.playground.uploads.take(Path(example)).key if example else ""
            mask = Path(example_mask) if example_mask else None
            rgb, found = self.asking.ask(photo, (texts or "").splitlines(), shown, mask, share)
            return show.answers(rgb, found, threshold, self.asking.supervision)
        except ClipEsError as error:
            return show.message(error)

    def browse(self, by: ScoreName, name: str, which: Which, page: float) -> tuple[str, int]:
        """A page of the run, and its number."""
        if self.view is None:
            return show.message("Start the playground with the folder of a run to look through it: clip-es ui RUN"), 1
        try:
            label = (
                self.view.names.index(name) if name in self.view.names else UNDECIDED if name == "undecided" else None
            )
            chosen = self.view.chosen(by, label, which)
            rows, number, pages = page_of(chosen, int(page))
            edited = imported_ids(self.view.run.folder)
            return show.strip(self.view, rows, by, (number, pages), len(chosen), edited), number
        except ClipEsError as error:
            return show.message(error), 1

    def open(self, image_id: str, told: str = "", saved: bool = False) -> str:
        """A picture of the run for the brush, as JSON. Raises DataError: it cannot be read."""
        assert self.view is not None  # there are no pictures to choose without a run
        return json.dumps(_for_brush(self.view, self.view.open(image_id), told, saved))

    def save(self, image_id: str, seen: str, strokes: object) -> str:
        """Save strokes as an edit of the run, and open the picture again. Raises ClipEsError: nothing was changed."""
        assert self.view is not None
        pixels = self.view.save(image_id, seen, strokes)
        told = f"Saved: {pixels} pixels of {image_id} are an edit of the run now. clip-es restore takes it back."
        return self.open(image_id, told if pixels else "Nothing differs from the mask, so nothing was saved.", True)


def _for_brush(view: RunView, opened: Opened, told: str, saved: bool) -> dict[str, Any]:
    small = shrunk(opened.rgb, _BRUSH_SIDE)
    height, width = small.shape[:2]
    shown = view.marks(opened.masks)
    present = np.unique(opened.masks).tolist()
    labels = sorted(range(len(view.names)), key=lambda label: (label not in present, label))
    legend = show.legend(present, dict(enumerate(view.names)), shown)
    return {
        "run": view.run.manifest.folder.resolve().name,
        "image_id": opened.image_id,
        "seen": opened.seen,
        "saved": saved,
        "opening": secrets.token_hex(4),
        "width": width,
        "height": height,
        "scale": opened.masks.shape[1] / width,
        "picture": data_uri(small),
        "mask": data_uri(at_size(opened.masks, (height, width)), "PNG"),
        "marks": {label: {"rgb": mark.rgb, "striped": mark.striped} for label, mark in shown.items()},
        "labels": [(label, view.names[label]) for label in labels] + [(UNDECIDED, "undecided (255)")],
        "legend": legend,
        "told": told
        or f"{opened.image_id}{', edited before' if opened.edited else ''}: paint what is wrong, then save.",
    }
