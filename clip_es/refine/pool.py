"""Means over regions of a picture: the one place where maps are pooled, for `segments`, `spectral` and `regions`."""

from __future__ import annotations

import torch
from jaxtyping import Float32, Int, Int64
from torch import Tensor


def region_means(
    values: Float32[Tensor, "label pixel"],
    owners: Int64[Tensor, " member"],
    count: int,
    pixels: Int64[Tensor, " member"] | None = None,
) -> Float32[Tensor, "label region"]:
    """The mean of each label over each of `count` regions; 0 where a region has no pixel.

    Member i is the pixel `pixels[i]`, or pixel i where there are no `pixels`, and counts for the region `owners[i]`;
    so regions may overlap, and need not cover the picture.
    """
    members = values if pixels is None else values[:, pixels]
    sums = values.new_zeros(len(values), count).index_add_(1, owners, members)
    sizes = values.new_zeros(count).index_add_(0, owners, values.new_ones(len(owners)))  # `bincount` reads from a GPU
    return sums / sizes.clamp(min=1)


def averaged(
    values: Float32[Tensor, "label h w"], parts: Int[Tensor, "h w"], amount: float = 1.0
) -> Float32[Tensor, "label h w"]:
    """(1 - amount) times each value plus `amount` times its mean over the part of the pixel; parts count from 0."""
    if amount == 0:
        return values
    owners = parts.reshape(-1).to(values.device, torch.int64)
    means = region_means(values.flatten(1), owners, int(owners.max()) + 1)[:, owners].view_as(values)
    return means if amount == 1 else (1 - amount) * values + amount * means
