"""Labels on the way to the losses: onto the feature grid, drawn from a prior, guessed for self-training."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int, Shaped
from torch import Tensor

from clip_es.errors import ConfigError, ShapeError
from clip_es.types import UNDECIDED


def resize_labels(labels: Shaped[np.ndarray, "*n h w"], size_hw: tuple[int, int]) -> Shaped[np.ndarray, "*n gh gw"]:
    """Label maps on another grid: cell i takes the pixel floor(i * h / gh), OpenCV's nearest."""
    (h, w), (gh, gw) = labels.shape[-2:], size_hw
    if min(gh, gw, h, w) < 1:
        raise ShapeError("a label map has at least one cell", found=(labels.shape, size_hw))
    rows, columns = (np.minimum(np.floor(np.arange(g) * (s / g)).astype(int), s - 1) for g, s in ((gh, h), (gw, w)))
    return labels[..., rows[:, None], columns[None]]


def class_prior(
    seen: int, unseen: int, *, extra_weight: int | float | None = None, unseen_mass: int | float | None = None
) -> Float64[np.ndarray, "class"]:
    """Probability of each class, seen ones first: 1 to 1 + `extra_weight`, or the unseen have `unseen_mass` together.

    Raises ConfigError: not exactly one of the two ways, or no unseen class to give the mass to.
    """
    if (extra_weight is None) == (unseen_mass is None):
        raise ConfigError("the prior is set in one of two ways", expected="extra_weight or unseen_mass")
    if seen < 1 or unseen < 1:
        raise ConfigError("there must be seen and unseen classes", found=(seen, unseen))
    if unseen_mass is not None:
        if not 0 <= unseen_mass <= 1:
            raise ConfigError("the mass of the unseen classes is a share", expected="0..1", found=unseen_mass)
        return np.r_[np.full(seen, (1 - unseen_mass) / seen), np.full(unseen, unseen_mass / unseen)]
    if not 0 <= float(extra_weight or 0) < float("inf"):
        raise ConfigError("the extra weight of unseen classes is not negative", found=extra_weight)
    weights = np.r_[np.ones(seen), np.full(unseen, 1.0 + float(extra_weight or 0))]
    return weights / weights.sum()


def top_p_labels(
    labels: Int[Tensor, "n h w"], scores: Float[Tensor, "n k h w"], unseen: range, top_p: int
) -> Int[Tensor, "n h w"]:
    """Each ignored cell gets its best unseen class where that is among the `top_p` outputs; others stay.

    `scores` has all outputs, the extra one too, as published.
    """
    best, at = scores[:, unseen.start : unseen.stop].max(dim=1)
    rank = (scores > best[:, None]).sum(dim=1)
    return torch.where((labels == UNDECIDED) & (rank < top_p), at + unseen.start, labels.long())


def gated_labels(
    labels: Int[Tensor, "n h w"],
    scores: Float[Tensor, "n k h w"],
    maps: Float[Tensor, "n u mh mw"],
    unseen: range,
    *,
    threshold: float,
    top_p: int | None = None,
) -> Int[Tensor, "n h w"]:
    """An ignored cell gets the unseen class u only where the localizer's map of u is at least `threshold`.

    u is the unseen class with the best score, so a cell where model and localizer speak of different ones stays
    ignored; with `top_p` it must be among so many outputs as well. A map of zeros (a class that is not in the
    picture) lets nothing through.
    Source: specs of the extension; the published rule has no gate.
    """
    grid = scores.shape[-2:]
    open_ = F.interpolate(maps.float(), size=grid, mode="bilinear", align_corners=False) >= threshold
    best, at = scores[:, unseen.start : unseen.stop].max(dim=1)
    rank = (scores > best[:, None]).sum(dim=1)
    takes: Bool[Tensor, "n h w"] = (labels == UNDECIDED) & open_.gather(1, at[:, None])[:, 0]
    if top_p is not None:
        takes = takes & (rank < top_p)
    return torch.where(takes, at + unseen.start, labels.long())
