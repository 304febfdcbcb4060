"""The dense CRF in torch: the same permutohedral lattice, built by sorting, on whatever device the maps are.

Nothing is hashed and nothing is added in an order that changes: vertices are numbered by sorting their keys, neighbours
are found by bisection, and what pixels give to a vertex is summed as one segment of a sorted list. So two calls give
the same bytes, on a GPU as well. Tested on a CPU, where `native_crf` is many times faster; how fast it is on a GPU has
not been measured.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from clip_es.errors import ConfigError
from clip_es.refine.crf.settings import CrfConfig
from clip_es.types import ClassMaps


class Lattice(NamedTuple):
    """Where each pixel stands in the lattice, and which vertices are neighbours. The last vertex is none and zero."""

    corners: Int64[Tensor, "pixel corner"]
    """Vertices of each pixel's simplex."""
    weights: Float32[Tensor, "pixel corner"]
    """Barycentric weights, normalised so that `pass_through` is the whole term of the CRF."""
    near: Int64[Tensor, "axis two vertex"]
    """Neighbours of each vertex, after and before it on each axis."""
    givers: Int64[Tensor, " pair"]
    """Pairs (pixel, corner), as one number, in the order of their vertices."""
    counts: Int64[Tensor, " vertex"]
    """How many pairs each vertex has."""


def unary_energy(maps: ClassMaps, config: CrfConfig) -> Float32[Tensor, "label h w"]:
    """-log of background and class scores, background first, on the maps' device; as `crf.unary_energy`."""
    scores = maps.scores
    if maps.background is not None:
        scores = torch.cat([maps.background[None], scores])
    else:
        scores = scores.half() if config.half else scores
        background = (1 - scores.amax(0, keepdim=True)) ** config.background_power
        scores = torch.cat([background, scores])
    return -scores.clamp(1e-5, 1).log().float()


def mean_field(
    pixels: UInt8[Tensor, "h w 3"], energy: Float32[Tensor, "label h w"], config: CrfConfig
) -> Float32[Tensor, "label h w"]:
    """Label probabilities after `config.iterations` rounds, on the device of `energy`, where `pixels` must be too.

    Raises ConfigError: standard deviations so small that lattice coordinates do not fit 62 bits.
    Source: Adams et al. (2010), Krähenbühl & Koltun (2011), as pydensecrf computes them. Differs: sums run in another
    order, which moves probabilities by 1e-5, seldom by 1e-3.
    """
    labels, height, width = energy.shape
    rows, columns = torch.meshgrid(
        torch.arange(height, device=energy.device), torch.arange(width, device=energy.device), indexing="ij"
    )
    places = torch.stack([columns, rows], dim=-1).reshape(-1, 2).float()
    colours = pixels.reshape(-1, 3).float() / config.bilateral_colour
    terms = [
        lattice(places / config.gaussian_sigma, config.gaussian_weight),
        lattice(torch.cat([places / config.bilateral_sigma, colours], dim=1), config.bilateral_weight),
    ]
    start = -energy.reshape(labels, -1).T.contiguous()  # [pixel label]
    found = start.softmax(1)
    for _ in range(config.iterations):
        found = (start + sum(pass_through(found, term) for term in terms)).softmax(1)
    return found.T.reshape(energy.shape).contiguous()


def lattice(points: Float32[Tensor, "pixel feature"], weight: float) -> Lattice:
    """The lattice of points whose features, none negative, are in units of their standard deviation.

    Keys are packed as in `native_crf`, so that the step to a neighbour is an addition. Raises ConfigError: the points
    reach too far for that.
    """
    pixels, d = points.shape
    # pydensecrf pads to a multiple of four with points at the origin; their vertices take part in the blur.
    points = torch.cat([points, points.new_zeros((-pixels % 4, d))])
    base, rank, weights = _simplices(points)
    keys, step = _keys(base, rank)
    names, corners = keys.unique(return_inverse=True)  # sorted
    nobody = len(names)
    near = torch.stack([torch.stack([_find(names, names + s), _find(names, names - s)]) for s in step])
    near = torch.cat([near, near.new_full((*near.shape[:2], 1), nobody)], dim=2)
    corners = corners[:pixels]
    counts = corners.flatten().bincount(minlength=nobody + 1)
    found = Lattice(corners, weights[:pixels], near, corners.flatten().argsort(stable=True), counts)
    ones = pass_through(points.new_ones((pixels, 1)), found)
    return found._replace(weights=found.weights * (weight / (ones + 1e-20)).sqrt())


def pass_through(values: Float32[Tensor, "pixel label"], term: Lattice) -> Float32[Tensor, "pixel label"]:
    """Give the values to the corners, blur along every axis, take them back."""
    side = term.corners.shape[1]
    given = values[term.givers // side] * term.weights.flatten()[term.givers, None]
    table = torch.segment_reduce(given, "sum", lengths=term.counts, axis=0, initial=0)
    for after, before in term.near:
        table = table + (table[after] + table[before]) / 2
    taken = torch.zeros_like(values)
    for i in range(side):
        taken.addcmul_(table[term.corners[:, i]], term.weights[:, i, None])
    return taken


def _simplices(
    points: Float32[Tensor, "pixel feature"],
) -> tuple[Int64[Tensor, "pixel corner"], Int64[Tensor, "pixel corner"], Float32[Tensor, "pixel corner"]]:
    """The simplex around each point, as its vertex of remainder 0 and the rank of each axis, and the weights of its
    corners, by remainder."""
    d = points.shape[1]
    side = d + 1
    # Rounded where `native_crf` rounds: a point on the border of two simplices must fall into the same one, because
    # it decides which vertices there are.
    spread, per_side = _float32(math.sqrt(2 / 3) * side), _float32(1 / side)
    # Onto the plane in which coordinates sum to zero.
    total, elevated = torch.zeros_like(points[:, 0]), [torch.zeros(0)] * side
    for j in range(d, 0, -1):
        coordinate = points[:, j - 1] * _float32(1 / math.sqrt(j * (j + 1)) * spread)
        elevated[j] = total - j * coordinate
        total = total + coordinate
    elevated[0] = total
    place = torch.stack(elevated, dim=1)
    whole = (place * per_side).round()  # half to even
    excess = whole.sum(1, keepdim=True).long()
    base, rest = whole.long() * side, place - whole * side
    # The order of the distances from there; where two are equal the later axis ranks higher.
    rank = torch.zeros_like(base)
    for i in range(side):
        for j in range(i + 1, side):
            first = rest[:, i] < rest[:, j]
            rank[:, i] += first
            rank[:, j] += ~first
    rank += excess
    below, above = (rank < 0).long(), (rank > d).long()
    rank, base = rank + side * (below - above), base + side * (below - above)
    share = (place - base) * per_side
    weights = points.new_zeros((len(points), side + 1))
    weights.scatter_add_(1, d - rank, share)
    weights.scatter_add_(1, side - rank, -share)
    weights[:, 0] += 1 + weights[:, side]
    return base, rank, weights[:, :side]


def _float32(value: float) -> float:
    return float(torch.tensor(value, dtype=torch.float32))


def _keys(
    base: Int64[Tensor, "pixel corner"], rank: Int64[Tensor, "pixel corner"]
) -> tuple[Int64[Tensor, "pixel corner"], list[int]]:
    """One number for each corner, and what it grows by from a vertex to the next one on each axis."""
    d = base.shape[1] - 1
    margin = 2 * (d + 1)
    low, high = (found.tolist() for found in base[:, :d].aminmax(dim=0))
    sizes = [top - bottom + 2 * margin + 1 for top, bottom in zip(high, low, strict=True)]
    if math.prod(sizes) >= 2**62:
        raise ConfigError(
            "the standard deviations of the CRF are too small for this picture",
            next_step="Use larger ones, or --refine.crf.backend pydensecrf.",
        )
    place = [math.prod(sizes[j + 1 :]) for j in range(d)]
    step = [sum(place) - (d + 1) * p for p in (*place, 0)]
    first = ((base[:, :d] - base.new_tensor(low) + margin) * base.new_tensor(place)).sum(1, keepdim=True)
    moves = torch.empty_like(rank).scatter_(1, d - rank, base.new_tensor(step).expand_as(rank))
    return torch.cat([first, first + moves[:, :d].cumsum(1)], dim=1), step


def _find(names: Int64[Tensor, " vertex"], wanted: Int64[Tensor, " vertex"]) -> Int64[Tensor, " vertex"]:
    """Where each wanted name stands among the sorted ones; their number where it does not."""
    at = torch.searchsorted(names, wanted)
    there = names[at.clamp(max=len(names) - 1)] == wanted
    return torch.where(there, at, len(names))
