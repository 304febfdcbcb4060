"""Masks from maps that another method has made: the refiners, the rule for 255 and the mask, without locating."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.nn.functional as F

from clip_es.calibration import enlarged
from clip_es.config.run import RunConfig
from clip_es.encoder import Encoder
from clip_es.errors import ConfigError, ShapeError
from clip_es.images import read_picture
from clip_es.localize.base import Localization
from clip_es.pipelines.masks.method import Decide, Located, Refined, looked_ahead
from clip_es.pipelines.stopwatch import Stopwatch, timed
from clip_es.prompts import Vocabulary
from clip_es.records.maps import MapFolder
from clip_es.refine import Surroundings, on_grid
from clip_es.refine.registry import in_order, looks_ahead
from clip_es.types import ClassMaps, ImageRecord, Picture

_PATCH = 16
"""Where there is no encoder nothing is cut into patches; the size is any."""


def needs_encoder(config: RunConfig) -> bool:
    """Whether a refiner looks at what CLIP sees."""
    return bool(in_order(config.refine)[0])


class MapMaker:
    """A `Maker` whose maps come from a folder. Without refiners on a grid it needs no CLIP."""

    def __init__(
        self,
        folder: MapFolder,
        vocabulary: Vocabulary,
        config: RunConfig,
        encoder: Encoder | None = None,
        stopwatch: Stopwatch | None = None,
        cache: Path | None = None,
    ) -> None:
        """`cache`: a folder for what a refiner's network makes.

        Raises ConfigError: a refiner needs the encoder, or words, and they are not there. WeightsError.
        """
        device = "cpu" if encoder is None else encoder.device.type
        self.folder, self.vocabulary, self.encoder = folder, vocabulary, encoder
        self.config = config = config.resolved(device)
        if needs_encoder(config) and encoder is None:
            raise ConfigError("refiners on a grid need the frozen CLIP", found=" ".join(config.refine))
        self.stopwatch = stopwatch or Stopwatch()
        around = Surroundings(
            vocabulary.box_threshold,
            "cpu" if encoder is None else encoder.device,
            blocks=None if encoder is None else encoder.sizes.layers,
            cache=cache,
        )
        self._grid_refiners = on_grid(config, around)
        self._looks = looks_ahead(config, around)
        self.decide = Decide(config, self.stopwatch, vocabulary.names)

    @property
    def rests_on(self) -> str:
        """What the masks come from."""
        refine = ", ".join(self.config.refine) or "nothing"
        return f"Segmentation masks from maps that another method has made ({self.folder.root}), refined by {refine}."

    @property
    def used(self) -> dict[str, Any]:
        """The settings that decide anything, by name: not those of methods, for none is asked."""
        kept = {"refine", "image", "mask", *(name.replace("-", "_") for name in self.config.refine)}
        kept |= {"encoder"} if self.encoder else set()
        return {name: value for name, value in self.config.in_use().items() if name in kept}

    @timed("read")
    def read(self, record: ImageRecord) -> Picture:
        """Decode a picture. Raises DataError."""
        return read_picture(record, self.encoder.patch if self.encoder else _PATCH, self.config.image)

    @timed("encode")
    def encode(self, pictures: Sequence[Picture]) -> list[Any]:
        """What the refiners on a grid ask CLIP for; nothing where there are none."""
        if self.encoder is None:
            return [None] * len(pictures)
        return self.encoder.encode([picture.patches for picture in pictures], self.config.refiners.affinity.layers)

    @timed("localize")
    def locate(self, picture: Picture, seen: Any, class_ids: Sequence[int] | None = None) -> Located:
        """The maps of the picture, as they are. Raises DataError, ShapeError: they cannot be used."""
        maps = self.folder.read(picture.image_id)
        height, width = picture.size_hw
        if height != width and tuple(maps.scores.shape[1:]) == (width, height):
            raise ShapeError(
                "the maps lie on their side: the picture is turned by its EXIF orientation, or rows and columns are "
                "swapped",
                where=picture.image_id,
                expected=[height, width],
                found=[width, height],
                next_step="Pass --image.no-exif, or transpose the maps.",
            )
        if seen is not None:
            maps = _at_grid(maps, seen.grid_hw)
        found = Localization(maps, maps.scores.amax((1, 2)), maps.scores, None)
        return Located(picture, seen, found)

    def refine(self, located: Located) -> Refined:
        """The refiners that work on a grid."""
        maps = located.found.maps
        for name, refiner in self._grid_refiners:
            with self.stopwatch(name):
                maps = refiner(located.picture, located.seen, maps)  # pyright: ignore[reportArgumentType]
        enlarge = enlarged if self.config.mask.calibration == "otsu" else None
        return looked_ahead(Refined(located.picture, located.found, maps, enlarge), self._looks, self.stopwatch)


def _at_grid(maps: ClassMaps, grid_hw: tuple[int, int]) -> ClassMaps:
    """Each patch has the mean of the map below it."""
    scores = F.interpolate(maps.scores[None], size=grid_hw, mode="area")[0].clamp(0, 1)
    return replace(maps, scores=scores)
