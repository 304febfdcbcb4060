"""The dense CRF in torch: the same permutohedral lattice, built by sorting, on whatever device the maps are.

Nothing is hashed and nothing is added in an order that changes: vertices are numbered by sorting their keys, neighbours
are found by bisection, and giving, blurring and taking back are sums over listed rows. So two calls give the same
bytes, on a GPU as well. Pictures of one size share a pass: each has vertices of its own in one lattice of all. Tested
on a CPU, where `native_crf` is several times faster; how fast it is on a GPU has not been measured.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float32, Int32, Int64, UInt8
from torch import Tensor

from clip_es.refine.crf.settings import CrfConfig
from clip_es.refine.crf.simplices import find_simplices, pack_keys
from clip_es.types import ClassMaps

_MOST_PIXELS = 2**22
"""Pixels in one lattice; more pictures than that go one after the other. 22 pictures of VOC's size, about 2 GB."""


class Lattice(NamedTuple):
    """Where each point stands in the lattice, and which vertices are neighbours. The last vertex is none and zero."""

    corners: Int32[Tensor, " pair"]
    """Vertices of each point's simplex, point by point."""
    weights: Float32[Tensor, " pair"]
    """Barycentric weights, normalised so that `pass_through` is the whole term of the CRF."""
    points: Int32[Tensor, " point"]
    """Where the corners of each point begin."""
    givers: Int32[Tensor, " pair"]
    """The point of each pair of point and corner, in the order of their vertices."""
    gifts: Float32[Tensor, " pair"]
    """Its weight."""
    starts: Int32[Tensor, " vertex"]
    """Where the pairs of each vertex begin."""
    near: Int32[Tensor, "axis three_vertices"]
    """Each vertex, the next one and the one before, on each axis."""
    shares: Float32[Tensor, " three_vertices"]
    """What those three count for: 1, 1/2, 1/2."""
    threes: Int32[Tensor, " vertex"]
    """Where the three of each vertex begin."""


def unary_energy(maps: ClassMaps, config: CrfConfig) -> Float32[Tensor, "label h w"]:
    """-log of background and class scores, background first, on the maps' device; as `crf.unary_energy`."""
    if maps.background is not None:
        return _energy(torch.cat([maps.background[None], maps.scores]))
    return class_energy(maps.scores, config)


def class_energy(
    scores: Float32[Tensor, "*picture class h w"], config: CrfConfig
) -> Float32[Tensor, "*picture label h w"]:
    """-log of background, (1 - best)^power, and class scores; a score of 0 in all of a map changes no other energy."""
    scores = scores.half() if config.half else scores
    background = (1 - scores.amax(-3, keepdim=True)) ** config.background_power
    return _energy(torch.cat([background, scores], dim=-3))


def _energy(scores: Tensor) -> Tensor:
    return -scores.clamp(1e-5, 1).log().float()


def mean_field(
    pixels: UInt8[Tensor, "*picture h w 3"], energy: Float32[Tensor, "*picture label h w"], config: CrfConfig
) -> Float32[Tensor, "*picture label h w"]:
    """Label probabilities after `config.iterations` rounds, on the device of `energy`, where `pixels` must be too.

    Several pictures of one size may go together; a label whose energy is infinite everywhere does not exist. One number
    is read from the device for each lattice: how many vertices there are.
    Raises ConfigError: standard deviations so small that lattice coordinates do not fit 62 bits.
    Source: Adams et al. (2010), Krähenbühl & Koltun (2011), as pydensecrf computes them. Differs: sums run in another
    order, which moves probabilities by 1e-5, seldom by 1e-3.
    """
    if energy.ndim == 3:
        return mean_field(pixels[None], energy[None], config)[0]
    pictures, labels, height, width = energy.shape
    most = max(1, _MOST_PIXELS // (height * width))
    if pictures > most:
        groups = zip(pixels.split(most), energy.split(most), strict=True)
        return torch.cat([mean_field(some, theirs, config) for some, theirs in groups])
    gaussian = _gaussian(height, width, config.gaussian_sigma, config.gaussian_weight, energy.device)
    bilateral = _bilateral(pixels, config)
    start = F.pad(-energy.flatten(2).mT, (0, 0, 0, _added(height * width)))  # [picture point label]
    found = start.softmax(2)
    for _ in range(config.iterations):
        # The Gaussian term knows only the size, so that its lattice takes all pictures' labels as columns.
        columns = found.transpose(0, 1).flatten(1)
        near = pass_through(columns, gaussian).unflatten(1, (pictures, labels)).transpose(0, 1)
        alike = pass_through(found.flatten(0, 1), bilateral).unflatten(0, (pictures, -1))
        found = (start + (near + alike)).softmax(2)
    found = found[:, : height * width].unflatten(1, (height, width))
    return found.permute(0, 3, 1, 2).contiguous()


@lru_cache(maxsize=4)
def _gaussian(height: int, width: int, sigma: float, weight: float, device: torch.device) -> Lattice:
    top = [(width - 1) / sigma, (height - 1) / sigma]
    return lattice(_places(height, width, device)[None] / sigma, top, weight)


def _bilateral(pixels: UInt8[Tensor, "picture h w 3"], config: CrfConfig) -> Lattice:
    height, width = pixels.shape[1:3]
    places = _places(height, width, pixels.device) / config.bilateral_sigma
    colours = pixels.flatten(1, 2).float() / config.bilateral_colour
    sides = [(side - 1) / config.bilateral_sigma for side in (width, height)]
    top = [*sides, *[255 / config.bilateral_colour] * 3]
    return lattice(torch.cat([places.expand(len(colours), -1, -1), colours], dim=2), top, config.bilateral_weight)


def _places(height: int, width: int, device: torch.device) -> Float32[Tensor, "pixel 2"]:
    """Column and row of each pixel."""
    number = torch.arange(height * width, device=device)
    return torch.stack([number % width, number // width], dim=1).float()


def _added(pixels: int) -> int:
    """pydensecrf pads to a multiple of four with points at the origin; their vertices take part in the blur."""
    return -pixels % 4


def lattice(points: Float32[Tensor, "picture pixel feature"], top: list[float], weight: float) -> Lattice:
    """The lattice of points whose features are in units of their standard deviation and lie in 0..top, for each picture
    one of its own. Its points are the pixels of a picture, `_added` ones without weight, those of the next picture.

    Raises ConfigError: the points reach too far for keys of 62 bits.
    """
    pictures, pixels, d = points.shape
    side = d + 1
    points = F.pad(points, (0, 0, 0, _added(pixels)))
    base, rank, weights = find_simplices(points.flatten(0, 1))
    weights.unflatten(0, (pictures, -1))[:, pixels:] = 0
    keys, steps = pack_keys(base, rank, top, pictures)
    names, order, corners = _vertices(keys)
    begin = torch.searchsorted(keys.flatten().index_select(0, order), names).int()
    near, threes = _neighbours(names, steps), 3 * torch.arange(len(names), dtype=torch.int32, device=names.device)
    found = Lattice(
        corners=corners,
        weights=weights.flatten(),
        points=side * torch.arange(len(weights), dtype=torch.int32, device=names.device),
        givers=(order // side).int(),
        gifts=weights.flatten().index_select(0, order),
        starts=begin,
        near=near,
        shares=_shares(names.device).repeat(len(names)),
        threes=threes,
    )
    ones = pass_through(weights.new_ones((len(weights), 1)), found)
    weights = (weights * (weight / (ones + 1e-20)).sqrt()).flatten()
    return found._replace(weights=weights, gifts=weights.index_select(0, order))


def pass_through(values: Float32[Tensor, "point label"], term: Lattice) -> Float32[Tensor, "point label"]:
    """Give the values to the corners, blur along every axis, take them back. Each is a sum over listed rows, in the
    order in which they are listed."""
    table = _sums(values, term.givers, term.starts, term.gifts)
    for near in term.near:
        table = _sums(table, near, term.threes, term.shares)
    return _sums(table, term.corners, term.points, term.weights)


def _sums(rows: Tensor, listed: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
    """For each start, up to the next, the weighted sum of the rows listed there; zeros where nothing is listed."""
    return F.embedding_bag(listed, rows, starts, mode="sum", per_sample_weights=weights)


def _vertices(
    keys: Int64[Tensor, "point corner"],
) -> tuple[Int64[Tensor, " vertex"], Int64[Tensor, " pair"], Int32[Tensor, " pair"]]:
    """The keys that occur, ascending, with one behind them that does not; the pairs in the order of their keys; the
    vertex of each pair. Reads from the device how many there are."""
    listed, order = keys.flatten().sort(stable=True)
    number = F.pad(listed[1:] != listed[:-1], (1, 0)).cumsum(0)
    count = int(number[-1]) + 1
    names = listed.new_full((count + 1,), _NO_KEY).index_copy_(0, number, listed)
    return names, order, torch.empty_like(number, dtype=torch.int32).index_copy_(0, order, number.int())


def _neighbours(names: Int64[Tensor, " vertex"], steps: Int64[Tensor, " axis"]) -> Int32[Tensor, "axis three_vertices"]:
    """Each vertex, and on each axis those a step after and before it; the last vertex where there is none."""
    wanted = names[:, None] + steps[:, None, None] * torch.tensor([1, -1]).to(names.device)  # [axis vertex two]
    at = torch.searchsorted(names, wanted).clamp_(max=len(names) - 1)
    at = torch.where(names[at] == wanted, at, len(names) - 1)
    own = torch.arange(len(names), device=names.device)[:, None].expand(len(steps), -1, 1)
    return torch.cat([own, at], dim=2).flatten(1).int()


@lru_cache(maxsize=16)
def _shares(device: torch.device) -> Float32[Tensor, " three"]:
    return torch.tensor([1, 0.5, 0.5]).to(device)


_NO_KEY = 2**62
"""Above every key of a vertex."""
