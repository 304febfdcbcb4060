"""In which simplex of the permutohedral lattice a point lies, in torch: for all points at once."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from clip_es.errors import ConfigError


def find_simplices(
    points: Float32[Tensor, "point feature"],
) -> tuple[Int64[Tensor, "point corner"], Int64[Tensor, "point corner"], Float32[Tensor, "point corner"]]:
    """The simplex around each point, as its vertex of remainder 0 and the rank of each axis, and the weights of its
    corners, by remainder."""
    d = points.shape[1]
    side = d + 1
    # Rounded where `native_crf` rounds: a point on the border of two simplices must fall into the same one, because
    # it decides which vertices there are.
    spread, per_side = _float32(math.sqrt(2 / 3) * side), _float32(1 / side)
    scale = [_float32(1 / math.sqrt(j * (j + 1)) * spread) for j in range(1, side)]
    # Onto the plane in which coordinates sum to zero.
    coordinates = points * _row(tuple(scale), points.device)
    totals = [torch.zeros_like(points[:, 0])]
    for j in range(d, 0, -1):
        totals.append(totals[-1] + coordinates[:, j - 1])
    place = torch.stack(totals[::-1], dim=1)
    place[:, 1:] -= _row(tuple(map(float, range(1, side))), points.device) * coordinates
    whole = (place * per_side).round()  # half to even
    excess = whole.sum(1, keepdim=True).long()
    base, rest = whole.long() * side, place - whole * side
    # The order of the distances from there; where two are equal the later axis ranks higher.
    one, other = rest[:, :, None], rest[:, None, :]
    rank = torch.where(_earlier(side, points.device), other >= one, other > one).sum(2) + excess
    turns = (rank < 0).long() - (rank > d).long()
    rank, base = rank + side * turns, base + side * turns
    share = (place - base) * per_side
    weights = points.new_zeros((len(points), side + 1))
    weights.scatter_add_(1, d - rank, share)
    weights.scatter_add_(1, side - rank, -share)
    weights[:, 0] += 1 + weights[:, side]
    return base, rank, weights[:, :side].contiguous()


def pack_keys(
    base: Int64[Tensor, "point corner"], rank: Int64[Tensor, "point corner"], top: list[float], pictures: int
) -> tuple[Int64[Tensor, "point corner"], Int64[Tensor, " axis"]]:
    """One number for each corner, and what it grows by from a vertex to the next one on each axis.

    As in `native_crf`, so that the step to a neighbour is an addition: a vertex has d integer coordinates; along axis j
    every one grows by 1, and the j-th by -d; along the last axis all grow by 1. `top` bounds the features of the
    points, which come from `pictures` pictures, each with vertices of its own. Raises ConfigError: 62 bits are too few.
    """
    d = len(top)
    margin = 2 * (d + 1)
    spread = math.sqrt(2 / 3) * (d + 1)
    reach = [feature / math.sqrt(j * (j + 1)) * spread for j, feature in enumerate(top, 1)]
    low = [-margin - math.ceil(j * reach[j - 1]) if j else -margin for j in range(d)]
    sizes = [margin + math.ceil(sum(reach[j:])) - low[j] + 1 for j in range(d)]
    if pictures * math.prod(sizes) >= 2**62:
        raise ConfigError(
            "the standard deviations of the CRF are too small for this picture",
            next_step="Use larger ones, or --refine.crf.backend pydensecrf.",
        )
    place = [math.prod(sizes[j + 1 :]) for j in range(d)]
    steps = torch.tensor([sum(place) - (d + 1) * p for p in (*place, 0)]).to(base.device)
    first = (base[:, :d] * torch.tensor(place).to(base.device)).sum(1) - sum(
        p * b for p, b in zip(place, low, strict=True)
    )
    own = math.prod(sizes) * torch.arange(pictures, device=base.device)  # pictures do not meet
    first = (first.unflatten(0, (pictures, -1)) + own[:, None]).flatten()[:, None]
    moves = torch.empty_like(rank).scatter_(1, d - rank, steps.expand_as(rank))
    return torch.cat([first, first + moves[:, :d].cumsum(1)], dim=1), steps


@lru_cache(maxsize=64)
def _row(values: tuple[float, ...], device: torch.device) -> Float32[Tensor, " feature"]:
    return torch.tensor(values).to(device)


@lru_cache(maxsize=16)
def _earlier(side: int, device: torch.device) -> Bool[Tensor, "axis other"]:
    """Whether the other axis comes before the axis."""
    return torch.ones(side, side).tril(-1).bool().to(device)


def _float32(value: float) -> float:
    return float(torch.tensor(value, dtype=torch.float32))
