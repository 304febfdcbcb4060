"""Affinity from what patches say: maps are carried between patches that give the same answer to the same words."""

from __future__ import annotations

import torch
from jaxtyping import Float32
from torch import Tensor

from clip_es.errors import ShapeError
from clip_es.scaling import min_max
from clip_es.types import ClassMaps

_ROWS = 64
"""Patches compared with all others at a time, so that 64 x patch x text numbers are held at most."""


def carry(
    maps: ClassMaps,
    attention: Float32[Tensor, "patch patch"],
    shares: Float32[Tensor, "row text"],
    temperature: float = 0.05,
) -> ClassMaps:
    """Carry each map twice to the patches that say the same and attend to each other; no box masks.

    `shares`: for each patch the share of every text, summing to one. The weights are softmax((1 - D) / temperature) of
    the Jensen-Shannon divergences D, times the attention, each row divided by its sum. Returns maps in [0, 1];
    `unscaled` holds them before the last min-max. Raises ShapeError: the three come from different grids.
    Source: CD-CLIP, class-aware distribution affinity. Differs: the shares come from a softmax with the model's own
    scale, without which the distributions are nearly uniform.
    """
    classes, rows, columns = maps.scores.shape
    count = rows * columns
    if tuple(attention.shape) != (count, count) or len(shares) != count:
        raise ShapeError(
            "maps, attention and words must come from the same grid",
            expected=f"{count} patches for maps of [{rows} {columns}]",
            found=f"attention {list(attention.shape)}, words of {len(shares)} patches",
        )
    weights = ((1 - jensen_shannon(shares)) / temperature).softmax(-1) * attention
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
    values = maps.scores.reshape(classes, count).T
    unscaled = (weights @ (weights @ values)).T.reshape(classes, rows, columns)
    return ClassMaps(min_max(unscaled), maps.class_ids, unscaled=unscaled)


def jensen_shannon(shares: Float32[Tensor, "patch text"]) -> Float32[Tensor, "patch patch"]:
    """Jensen-Shannon divergence in nats, 0..ln 2, between the answers of every two patches."""
    shares = shares.clamp(min=1e-12)
    entropy = -(shares * shares.log()).sum(-1)
    parts = []
    for some, some_own in zip(shares.split(_ROWS), entropy.split(_ROWS), strict=True):
        middle = (some[:, None] + shares[None]) / 2
        parts.append(-(middle * middle.log()).sum(-1) - (some_own[:, None] + entropy[None]) / 2)
    return torch.cat(parts).clamp(min=0)
