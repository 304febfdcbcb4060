"""Where a class and background are even: found for each map from its own values, without ground truth."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from clip_es.scaling import even_at, upsample
from clip_es.types import ClassMaps

LEAST_SPAN = 1e-6
"""A map that spans less has no contrast and stays as it is."""

LOWEST, HIGHEST = 0.05, 0.95
"""Thresholds are kept between these, so that no exponent runs away."""

_EVEN = 0.5
"""Where a map and background are even without calibration."""

_FILLED = 0.5
"""A map that is above even in more than this share of the picture has no background to be split from."""


def threshold(values: Float[np.ndarray, "h w"]) -> float | None:
    """Otsu's threshold (256 bins) within 0.05..0.95; None where the map has no contrast.

    It splits the values into the two groups whose means differ most, weighted by their sizes. Where the map is high in
    most of the picture that would cut the object itself in two, so there the threshold is 0.5 at most.
    Source: Otsu (1979). Differs: both bounds.
    """
    from skimage.filters import threshold_otsu

    if not values.size or float(values.max()) - float(values.min()) < LEAST_SPAN:
        return None
    found = min(max(float(threshold_otsu(values)), LOWEST), HIGHEST)
    return min(found, _EVEN) if float((values > _EVEN).mean()) > _FILLED else found


def calibrated(maps: ClassMaps) -> ClassMaps:
    """Each map raised to the power that brings its own threshold to 0.5, where a class and background are even.

    For maps that were each stretched to [0, 1] by themselves, at full size. Maps whose height says how sure the label
    is would lose that. A background that a refiner knows stays, and then nothing is calibrated: it is decided already.
    """
    if maps.background is not None or not maps.class_ids:
        return maps
    return ClassMaps(torch.stack([_even(x) for x in maps.scores]), maps.class_ids, unscaled=maps.unscaled)


def enlarged(maps: ClassMaps, size_hw: tuple[int, int]) -> ClassMaps:
    """Maps on a grid at full size, then `calibrated`: an `Enlarge` for methods whose maps are each stretched."""
    return calibrated(upsample(maps, size_hw))


def _even(x: Float32[Tensor, "h w"]) -> Float32[Tensor, "h w"]:
    found = threshold(x.cpu().numpy())
    return x if found is None else even_at(x, found)
