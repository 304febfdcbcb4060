"""The one function behind all tools: a picture, and the names of what is in it where they are known, to regions."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from clip_es.errors import DataError
from clip_es.formats.yolo import Ring, edge_polygons, opencv, polygons
from clip_es.pipelines.masks.maker import MaskMaker
from clip_es.pipelines.masks.result import MaskResult


@dataclass(frozen=True)
class Region:
    """Where one class is in a picture."""

    class_id: int
    """0-based, in the vocabulary of the predictor."""
    name: str
    mask: Bool[np.ndarray, "h w"]
    score: float
    """Mean confidence of its pixels, 0..1."""

    def outlines(self) -> list[Ring]:
        """A ring of pixels for each connected part, holes joined to it by a cut. Raises ConfigError: no OpenCV."""
        return polygons(self.mask, opencv())

    def edges(self) -> list[Ring]:
        """The same along the edges of the pixels. Raises ConfigError: no OpenCV."""
        return edge_polygons(self.mask, opencv())


class Stopped(RuntimeError):
    """No picture is begun any more."""


class Predictor:
    """A mask maker that many threads may ask; it answers one after the other."""

    def __init__(self, maker: MaskMaker) -> None:
        """`maker`: made with labels="auto" where pictures come without labels."""
        self.maker = maker
        self._busy = threading.Lock()
        self._stopped = False

    @classmethod
    def load(cls, weights: str | Path = "scenes", vocabulary: str | Path = "scenes", device: str = "auto") -> Predictor:
        """By name or file; labels that are not given are CLIP's own reading. Raises WeightsError, ConfigError."""
        from clip_es.encoder import load_encoder
        from clip_es.prompts import load_vocabulary

        return cls(MaskMaker(load_encoder(weights, device=device), load_vocabulary(vocabulary), labels="auto"))

    @property
    def names(self) -> tuple[str, ...]:
        """All classes, in the order of their ids."""
        return self.maker.vocabulary.names

    def known(self, names: Sequence[str]) -> list[str]:
        """Those of the names that the vocabulary has, whatever their case."""
        return [name for name in names if self._has(name)]

    def _has(self, name: str) -> bool:
        try:
            self.maker.vocabulary.class_id(name)
        except DataError:
            return False
        return True

    def result(self, image: Any, labels: Sequence[str] = ()) -> MaskResult:
        """The mask of a picture: a path, bytes, a Pillow picture, an array. Without labels they are found.

        Raises DataError: no usable picture, or a name that is not in the vocabulary. Stopped.
        """
        with self._busy:
            if self._stopped:
                raise Stopped("the server is being stopped")
            return self.maker(image, list(labels) or None)

    def stop(self) -> None:
        """Begin no other picture; those who wait for one get `Stopped`."""
        self._stopped = True

    def regions(self, image: Any, labels: Sequence[str] = (), least: float = 0.0) -> list[Region]:
        """A region for each class that has pixels and at least this score; undecided pixels belong to none."""
        mask = self.result(image, labels).mask
        found = []
        for class_id in mask.class_ids:
            covered = mask.labels == class_id + 1
            score = float(mask.confidence[covered].mean()) if covered.any() else -1.0
            if covered.any() and score >= least:
                found.append(Region(class_id, self.names[class_id], covered, score))
        return found
