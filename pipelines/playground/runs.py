"""A run to be looked through: the least sure pictures first, filtered by class; masks mended and saved as edits."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from clip_es.config.run import ImageConfig
from clip_es.errors import ClipEsError, DataError
from clip_es.images import read_picture
from clip_es.metrics.certainty import ScoreName
from clip_es.pipelines.exchange.edits import save_edit
from clip_es.pipelines.exchange.history import digest
from clip_es.pipelines.exchange.import_masks import imported_ids
from clip_es.pipelines.exchange.run_folder import Run
from clip_es.pipelines.exchange.worst import PictureScore, rank
from clip_es.pipelines.playground.brush import paint, read_strokes
from clip_es.pipelines.playground.cache import Cache
from clip_es.pipelines.playground.colours import OKABE_ITO, Mark, at_size, data_uri, marks, overlay, shrunk
from clip_es.records import Problem
from clip_es.types import UNDECIDED, ImageRecord

PAGE = 12
"""Pictures of a page."""

MADE_WITH = "playground"
"""What RUN/imported.csv says of edits that were painted here."""

_THUMBNAIL = 220

Which = Literal["all", "edited", "not edited"]


@dataclass(frozen=True)
class Opened:
    """A picture of the run and its mask, as a person begins to mend them."""

    image_id: str
    rgb: UInt8[np.ndarray, "h w 3"]
    masks: UInt8[np.ndarray, "h w"]
    seen: str
    """Digest of the mask: an edit is of this one."""
    edited: bool
    """Whether the mask holds a person's edits already."""


class RunView:
    """A run as visitors see it. Its folder is read again for every picture that is opened."""

    def __init__(self, run: Run, images: Path | None = None) -> None:
        """Raises ConfigError: the pictures cannot be found."""
        self.run = run
        self.files = run.pictures(images)
        self._ranking: tuple[PictureScore, ...] = ()
        self.problems: tuple[Problem, ...] = ()
        self._lock = threading.Lock()
        self._thumbnails: Cache[str] = Cache(2**20, most=500)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the labels, background first."""
        return ("background", *self.run.names.classes)

    def marks(self, masks: UInt8[np.ndarray, "h w"]) -> dict[int, Mark]:
        """How labels are shown: alike in all pictures, or where they are too many for that, those of the mask apart."""
        labels = list(range(1, len(self.names)))
        return marks(labels if len(labels) <= 3 * len(OKABE_ITO) else [*np.unique(masks).tolist(), *labels])

    def rank(self) -> None:
        """Read every mask of the run: seconds for thousands. Pictures that cannot be read are told."""
        with self._lock:
            found = rank(self.run)
            self._ranking, self.problems = found.pictures, found.problems

    def chosen(self, by: ScoreName, label: int | None = None, which: Which = "all") -> list[PictureScore]:
        """The pictures, the least sure by that score first; those in which a label occurs."""
        if not self._ranking:
            self.rank()
        edited = imported_ids(self.run.folder) if which != "all" else set()
        kept = [
            one
            for one in self._ranking
            if one.image_id in self.files
            and (label is None or label in one.labels)
            and (which == "all" or (one.image_id in edited) == (which == "edited"))
        ]
        return sorted(kept, key=lambda one: (one.scores[by], one.image_id))

    def open(self, image_id: str) -> Opened:
        """A picture and its mask as they are now. Raises DataError: not of this run, or it cannot be read."""
        if image_id not in self.files:
            raise DataError("no picture of this run has this name", found=repr(image_id[:100]))
        masks = self.run.labels(image_id, "masks")
        rgb = read_picture(ImageRecord(image_id, self.files[image_id], ()), 1, ImageConfig()).rgb
        if rgb.shape[:2] != masks.shape:
            raise DataError(
                "the picture has another size than its mask",
                where=self.files[image_id],
                expected=list(masks.shape),
                found=list(rgb.shape[:2]),
            )
        return Opened(image_id, rgb, masks, digest(masks), image_id in imported_ids(self.run.folder))

    def save(self, image_id: str, seen: str, strokes: object) -> int:
        """Paint the strokes over the mask and put it into the run; returns how many pixels changed.

        Raises DataError: no strokes, or the run has another mask by now. ConfigError: an import is going on.
        StoreError.
        """
        opened = self.open(image_id)
        drawn = read_strokes(strokes, {*range(len(self.names)), UNDECIDED})
        pixels = save_edit(self.run, image_id, paint(opened.masks, drawn), seen, MADE_WITH)
        if pixels:
            self._again(image_id)
        return pixels

    def thumbnail(self, image_id: str) -> str:
        """The picture under its mask, small, as part of a page; empty where it cannot be shown."""
        path = self.run.path(image_id, "masks")
        try:
            key = image_id, path.stat().st_mtime_ns
            if known := self._thumbnails.get(key):
                return known
            opened = self.open(image_id)
        except (ClipEsError, OSError):
            return ""
        small = shrunk(opened.rgb, _THUMBNAIL)
        labels = at_size(opened.masks, (small.shape[0], small.shape[1]))
        return self._thumbnails.put(key, data_uri(overlay(small, labels, self.marks(opened.masks))))

    def _again(self, image_id: str) -> None:
        """Score one picture once more."""
        one = Run(self.run.folder, self.run.names, (image_id,), self.run.manifest)
        with self._lock:
            others = [known for known in self._ranking if known.image_id != image_id]
            self._ranking = (*others, *rank(one).pictures)


def page_of(chosen: Sequence[PictureScore], number: int) -> tuple[list[PictureScore], int, int]:
    """The pictures of a page, its number (from 1, within what there is), and how many pages there are."""
    pages = max(1, -(-len(chosen) // PAGE))
    number = min(max(1, number), pages)
    return list(chosen[(number - 1) * PAGE : number * PAGE]), number, pages
