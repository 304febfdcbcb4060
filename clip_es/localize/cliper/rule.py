"""CLIPer's rule from maps to labels: which classes occur, and where each is even with background."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float32
from torch import Tensor

from clip_es.config.methods import CliperConfig
from clip_es.scaling import even_at, min_max
from clip_es.types import ClassMaps

EVEN = (3 - 5**0.5) / 2
"""Where background competes as (1 - best)^2, the two are even at best = 0.382."""


def ceiling(raw: Float32[Tensor, "class gh gw"]) -> float:
    """What maps are divided by to lie in [0, 1]: 2, or their maximum where the attention's columns sum to more."""
    return max(2.0, float(raw.max())) if raw.numel() else 2.0


def mean_of_maxima(
    raw: Float32[Tensor, "class gh gw"], refined: Float32[Tensor, "class rh rw"]
) -> Float32[Tensor, " class"]:
    """The score of each class: its maxima before and after refinement, averaged; without a refiner both are one map."""
    return (raw.amax((1, 2)) + refined.amax((1, 2)).to(raw.device)) / 2


@dataclass(frozen=True)
class PublishedHeights:
    """Maps to full size as published: enlarged, each scaled to its score, and only then compared with the threshold.

    The result is in [0, 1] with the background threshold at 0.5, so that the common rule for background, 1 - best,
    gives the published labels. Source: CLIPer's published code, its evaluation and `cam_to_label`. Differs: nothing.
    """

    scores: tuple[float, ...]
    """Of each class, as `mean_of_maxima` has it."""
    top: float
    """`ceiling` of the maps."""
    threshold: float
    """Of the background; 0: it competes as (1 - best)^2."""
    normalise: bool

    def __call__(self, maps: ClassMaps, size_hw: tuple[int, int]) -> ClassMaps:
        """From maps in [0, 1], divided by `top`, on whatever grid."""
        if not maps.class_ids:
            return ClassMaps(maps.scores.new_zeros(0, *size_hw), ())
        full = F.interpolate(maps.scores[None] * self.top, size=size_hw, mode="bilinear", align_corners=False)[0]
        scores = torch.tensor(self.scores, device=full.device)[:, None, None]
        full = full / (full.amax((1, 2), keepdim=True) + 1e-5) * scores
        top, threshold = self.top, self.threshold or EVEN
        if self.normalise:
            full = full - full.amin((1, 2), keepdim=True)
            full, top = full / (full.amax((1, 2), keepdim=True) + 1e-6), 1.0
        return ClassMaps(even_at((full / top).clamp(0, 1), threshold / top), maps.class_ids)


def published_heights(scores: Float32[Tensor, " class"], top: float, config: CliperConfig) -> PublishedHeights:
    """The rule for one picture."""
    return PublishedHeights(tuple(scores.tolist()), top, config.background_threshold, config.normalise)


def early_heights(raw: Float32[Tensor, "class gh gw"], config: CliperConfig) -> Float32[Tensor, "class gh gw"]:
    """Maps in [0, 1] on their own grid, with the background threshold at 0.5: the rule for refiners that stretch."""
    threshold, top = config.background_threshold or EVEN, ceiling(raw)
    return even_at(min_max(raw), threshold) if config.normalise else even_at(raw / top, threshold / top)


def short_side_hw(size_hw: tuple[int, int], side: int, patch: int) -> tuple[int, int]:
    """Height and width whose shorter side is `side`, each rounded (half up) to whole patches."""
    ratio = side / min(size_hw)
    height, width = (max(int(length * ratio / patch + 0.5), 1) * patch for length in size_hw)
    return height, width
