"""One look at a picture, step by step: the maps as they were found, then after each refiner, and the mask."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float32, UInt8

from clip_es.masks import leave_open, undecided_below
from clip_es.pipelines.masks.maker import MaskMaker
from clip_es.pipelines.masks.method import Located, Refined, at_full_size_steps, mask_of_maps
from clip_es.scaling import upsample
from clip_es.types import ClassMaps

MAP_SIDE = 320
"""Longer side of the maps that are shown, pixels."""


@dataclass(frozen=True)
class Step:
    """The maps after one step, as they are shown."""

    name: str
    """Of the method, for the maps as it found them, or of the refiner."""
    maps: UInt8[np.ndarray, "class vh vw"]
    """round(255 * map)."""
    moved: float | None
    """Share of the picture's pixels that this step gave another label; None for the first."""


@dataclass(frozen=True)
class Look:
    """Everything that is shown of a picture under some settings. The threshold is not among them."""

    names: tuple[str, ...]
    """Of the classes of the maps."""
    class_ids: tuple[int, ...]
    steps: tuple[Step, ...]
    decided: UInt8[np.ndarray, "h w"]
    confidence: Float32[np.ndarray, "h w"]
    threshold: float
    """That a run would use here."""
    seconds: Mapping[str, float]
    """By stage; what had been computed before is not in it."""
    found: Mapping[str, float]
    """The number behind each map; `Localization.scores` says what it is for each method."""

    def labels(self, threshold: float) -> UInt8[np.ndarray, "h w"]:
        """The mask, with 255 where the confidence is below the threshold: nothing else is computed again."""
        return leave_open(self.decided, self.confidence, threshold)


def look(maker: MaskMaker, located: Located, before: Mapping[str, float]) -> Look:
    """Refine and decide, and keep what each step gave; `before`: the maker's seconds when the work began."""
    steps: list[Step] = []
    mask, maps = None, located.found.maps
    for name, maps in _steps(maker, located):
        last = mask
        mask = mask_of_maps(Refined(located.picture, located.found, maps), maps, maker.config.mask)
        moved = None if last is None else float((mask.decided != last.decided).mean())
        steps.append(Step(name, _shown(maps, located.picture.size_hw), moved))
    assert mask is not None  # there is always the step of the method
    names = tuple(maker.vocabulary.names[k] for k in maps.class_ids)
    return Look(
        names,
        maps.class_ids,
        tuple(steps),
        mask.decided,
        mask.confidence,
        undecided_below(maps, maker.config.mask),
        maker.stopwatch.since(before),
        dict(zip(names, map(float, located.found.scores), strict=False)),
    )


def _steps(maker: MaskMaker, located: Located) -> Iterator[tuple[str, ClassMaps]]:
    """Name and maps of each step, in the form in which the next one at full size, or the decision, would get them."""
    refined = maker.settle(located, located.found.maps)
    yield maker.config.method, _leaving(maker, refined)
    for name, maps in maker.refine_steps(located):
        refined = maker.settle(located, maps)
        yield name, _leaving(maker, refined)
    for name, maps in at_full_size_steps(refined, maker.config, maker.stopwatch):
        if name != "enlarge":
            yield name, maps


def _leaving(maker: MaskMaker, refined: Refined) -> ClassMaps:
    """The maps as they leave the grid."""
    return next(at_full_size_steps(refined, maker.config, maker.stopwatch))[1]


def _shown(maps: ClassMaps, size_hw: tuple[int, int]) -> UInt8[np.ndarray, "class vh vw"]:
    """Maps at the size in which they are shown."""
    share = min(1.0, MAP_SIDE / max(size_hw))
    view = (max(1, round(size_hw[0] * share)), max(1, round(size_hw[1] * share)))
    scores = maps.scores
    if tuple(scores.shape[1:]) == size_hw and len(scores):
        small = F.interpolate(scores[None], size=view, mode="area")[0].clamp(0, 1)
    else:
        small = upsample(maps, view).scores
    return np.rint(255 * small.cpu().numpy()).astype(np.uint8)
