"""Segments of the picture vote: each takes over part of its mean, so that borders move to where the picture changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Int, UInt8

from clip_es.errors import ConfigError
from clip_es.refine.base import FullSizeRefiner, Surroundings
from clip_es.refine.pool import averaged
from clip_es.scaling import upsample
from clip_es.types import ClassMaps, Picture

_MEASURED_SIDE = 200
"""Longer side, in pixels, of the pictures for which the settings are stated; they grow with the side."""


@dataclass(frozen=True)
class SegmentsConfig:
    """Felzenszwalb segments of the picture vote on the maps, before the CRF."""

    scales: tuple[float, ...] = (20.0, 60.0, 150.0)
    """Larger values make larger segments; the votes of all scales are averaged."""
    amount: float = 0.5
    """How much of a segment's mean a pixel takes: 0 changes nothing, 1 makes maps constant on each segment."""
    sigma: float = 0.5
    """Blur before segmenting, pixels."""
    min_size: int = 20
    """Pixels a segment has at least."""
    by_size: bool = True
    """Scales and least size are meant for pictures of 200 pixels and grow with the longer side of larger ones."""

    def __post_init__(self) -> None:
        if not self.scales or any(not 0 < scale <= 1e6 for scale in self.scales):
            raise ConfigError("scales of segments are positive", expected="0..1e6", found=self.scales)
        if not 0 <= self.amount <= 1:
            raise ConfigError("amount is a share of the segment's mean", expected="0..1", found=self.amount)
        if not 0 <= self.sigma <= 100 or not 1 <= self.min_size <= 10**6:
            raise ConfigError(
                "blur and least size of segments are out of range",
                expected="sigma 0..100, min_size 1..1000000",
                found=(self.sigma, self.min_size),
            )


def make(config: SegmentsConfig, around: Surroundings) -> FullSizeRefiner:
    """The refiner of the table."""
    return partial(segments, config=config)


def segments(picture: Picture, maps: ClassMaps, config: SegmentsConfig) -> ClassMaps:
    """Probabilities at full size, each partly replaced by its mean over the picture's segments.

    d' = (1 - a) d + a * mean over scales of the mean of d over the segment of the pixel; d is background and every
    class, so the sum stays one. Background is what the maps know of it, else 1 - the best map, and all are divided by
    their sum. Raises nothing of its own. Source: Felzenszwalb & Huttenlocher (2004) for the segments.
    """
    maps = upsample(maps, picture.size_hw)
    if not maps.class_ids:
        return maps
    background = maps.background
    if background is None:
        background = 1 - maps.scores.amax(0)
    values = torch.cat([background[None], maps.scores])
    values = values / values.sum(0)
    parts = [averaged(values, torch.from_numpy(part)) for part in divide(picture.rgb, config)]
    mixed = (1 - config.amount) * values + config.amount * torch.stack(parts).mean(0)
    mixed = mixed.clamp(0, 1)
    return ClassMaps(mixed[1:], maps.class_ids, background=mixed[0])


def divide(rgb: UInt8[np.ndarray, "h w 3"], config: SegmentsConfig) -> Sequence[Int[np.ndarray, "h w"]]:
    """The segments of a picture at each scale, numbered from 0; larger pictures have larger segments."""
    from skimage.segmentation import felzenszwalb

    grown = max(1.0, max(rgb.shape[:2]) / _MEASURED_SIDE) if config.by_size else 1.0
    return [
        felzenszwalb(rgb, scale=scale * grown, sigma=config.sigma, min_size=round(config.min_size * grown))
        for scale in config.scales
    ]
