"""Regions from colours alone: superpixels of scikit-image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt8

from clip_es.config.bounds import check_within
from clip_es.errors import ConfigError
from clip_es.refine.segments import SegmentsConfig, divide
from clip_es.regions import Regions


@dataclass(frozen=True)
class SuperpixelConfig:
    """Superpixels, by felzenszwalb or slic."""

    scales: tuple[float, ...] = (60.0,)
    """felzenszwalb: larger values make larger segments; with several, the regions of all of them."""
    sigma: float = 0.5
    """felzenszwalb: blur before segmenting, pixels."""
    min_size: int = 20
    """felzenszwalb: pixels a segment has at least."""
    by_size: bool = True
    """felzenszwalb: scales and least size are meant for pictures of 200 pixels and grow with larger ones."""
    count: int = 150
    """slic: about how many."""
    compactness: float = 10.0
    """slic: how round they are against how even in colour."""

    def __post_init__(self) -> None:
        SegmentsConfig(self.scales, sigma=self.sigma, min_size=self.min_size)
        check_within("count", self.count, 1, 50_000, "superpixels")
        check_within("compactness", self.compactness, 1e-3, 1e3, "weight of place against colour")
        if len(self.scales) > 8:
            raise ConfigError("that many scales say the same again", expected="at most 8", found=len(self.scales))


def felzenszwalb_parts(rgb: UInt8[np.ndarray, "h w 3"], config: SuperpixelConfig) -> list[Int[np.ndarray, "h w"]]:
    """The segments of a picture at each scale. Source: Felzenszwalb & Huttenlocher (2004)."""
    wanted = SegmentsConfig(config.scales, sigma=config.sigma, min_size=config.min_size, by_size=config.by_size)
    return list(divide(rgb, wanted))


def slic_parts(rgb: UInt8[np.ndarray, "h w 3"], config: SuperpixelConfig) -> list[Int[np.ndarray, "h w"]]:
    """The superpixels of a picture. Source: Achanta et al. (2012)."""
    from skimage.segmentation import slic

    return [slic(rgb, n_segments=config.count, compactness=config.compactness, start_label=0)]


def joined(parts: list[Int[np.ndarray, "h w"]]) -> Regions:
    """The regions of several divisions of a picture, one after the other."""
    found = [Regions.from_parts(part) for part in parts]
    return Regions.of(found[0].size_hw, [run for one in found for run in one.runs])
