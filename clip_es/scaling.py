"""Min-max scaling and enlarging, as every map of this package uses them."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from clip_es.types import ClassMaps


def min_max(x: Float[Tensor, "class gh gw"]) -> Float[Tensor, "class gh gw"]:
    """Each map shifted and stretched to [0, 1]: (x - min) / (1e-7 + max(x - min)).

    The largest value stays just below 1, and well below where a map spans less than about 1e-6; a constant map
    becomes 0. Source: CLIP-ES, `scale_cam_image`. Differs: nothing.
    """
    if x.numel() == 0:
        return x
    x = x - x.amin(dim=(-2, -1), keepdim=True)
    return x / (1e-7 + x.amax(dim=(-2, -1), keepdim=True))


def scale_twice(raw: Float[Tensor, "class gh gw"]) -> Float[Tensor, "class gh gw"]:
    """ReLU, then twice (x - min) / (1e-7 + max(x - min)); zeros where nothing is positive.

    Twice, because a raw map around 1e-7 has a maximum well below 1 after the first pass.
    """
    return min_max(min_max(raw.clamp(min=0)))


def even_at(x: Float[Tensor, "*class gh gw"], threshold: float) -> Float[Tensor, "*class gh gw"]:
    """Values in [0, 1] raised to the power that brings `threshold`, between 0 and 1, to 0.5.

    Order and both ends stay; against background as 1 - best, a map now wins exactly where it was above the threshold.
    """
    return x ** (math.log(0.5) / math.log(threshold))


def upsample(maps: ClassMaps, size_hw: tuple[int, int]) -> ClassMaps:
    """The maps, and the background where there is one, at another height and width.

    Bilinear, half-pixel centres, edges repeated: OpenCV's default. Nothing is rescaled afterwards, so a maximum
    may end below 1. Maps that already have the size come back as they are. `unscaled` is not carried over.
    """
    if tuple(maps.scores.shape[1:]) == size_hw:
        return maps
    scores = resized(maps.scores, size_hw)
    background = None if maps.background is None else resized(maps.background[None], size_hw)[0]
    return ClassMaps(scores=scores, class_ids=maps.class_ids, background=background)


def keep_heights(before: ClassMaps, after: ClassMaps) -> ClassMaps:
    """Refined maps with the heights that the maps had before; refiners stretch each map to [0, 1] by itself.

    What a refiner knows of background goes: it was known against other heights.
    """
    if after is before or not after.class_ids:
        return after
    peaks = before.scores.amax((1, 2)).to(after.scores.device)
    reached = after.scores.amax((1, 2)).clamp(min=torch.finfo(after.scores.dtype).tiny)
    scores = (after.scores * (peaks / reached)[:, None, None]).clamp(0, 1)
    return ClassMaps(scores, after.class_ids, unscaled=after.unscaled)


def resized(x: Float[Tensor, "class gh gw"], size_hw: tuple[int, int]) -> Float[Tensor, "class h w"]:
    """Maps in [0, 1] at another height and width: bilinear, half-pixel centres, edges repeated."""
    if len(x) == 0:
        return x.new_zeros((0, *size_hw))
    rows, columns = (_weights(old, new, x.dtype, x.device) for old, new in zip(x.shape[1:], size_hw, strict=True))
    return (rows @ (x @ columns.T)).clamp(0, 1)


@lru_cache(maxsize=64)
def _weights(old: int, new: int, kind: torch.dtype, device: torch.device) -> Float[Tensor, "new old"]:
    """What each old sample gives to each new one. Made in float64: torch's own resize places samples in float32, which
    moves values by up to 2e-6 against OpenCV."""
    place = ((torch.arange(new, dtype=torch.float64) + 0.5) * (old / new) - 0.5).clamp(0, old - 1)
    return (1 - (place[:, None] - torch.arange(old)).abs()).clamp(min=0).to(device, kind)
