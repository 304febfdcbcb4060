"""The dense CRF without pydensecrf: the same permutohedral lattice in numba, two to three times faster.

All pixels are points in a space of position (and colour). A lattice of simplices fills that space; each pixel gives its
values to the corners of its simplex, the corners are blurred along each axis, and each pixel takes its values back.
Three things make it fast: all labels of a corner are one vector, one pass over the pixels does what a mean-field round
needs (take back, softmax, give), and the lattice of the Gaussian term, which knows only the size, is kept.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numba
import numpy as np
from jaxtyping import Float32, Int32, UInt8

from clip_es.errors import ConfigError
from clip_es.refine.crf.settings import CrfConfig
from clip_es.refine.crf.vector_rows import blend, gather, scatter, softmax


class Lattice(NamedTuple):
    """Where each pixel stands in the lattice, and which vertices are neighbours. Vertex 0 is none and stays zero."""

    corners: Int32[np.ndarray, "pixel corner"]
    """Vertices of each pixel's simplex."""
    weights: Float32[np.ndarray, "pixel corner"]
    """Barycentric weights, normalised so that giving, blurring and taking back is the whole term of the CRF."""
    near: Int32[np.ndarray, "axis vertex 2"]
    """Neighbours of each vertex along each axis."""


def mean_field(
    pixels: UInt8[np.ndarray, "h w 3"], energy: Float32[np.ndarray, "label h w"], config: CrfConfig
) -> Float32[np.ndarray, "label h w"]:
    """Label probabilities after `config.iterations` rounds.

    Raises ConfigError: standard deviations so small that lattice coordinates do not fit 62 bits.
    Source: Adams et al. (2010), Krähenbühl & Koltun (2011), as pydensecrf computes them. Differs: sums run in another
    order, which moves probabilities by 1e-5, seldom by 1e-3.
    """
    labels, height, width = energy.shape
    bilateral = lattice_of(pixels, config)
    gaussian = _gaussian(height, width, config.gaussian_sigma, config.gaussian_weight)
    start = np.negative(energy.reshape(labels, -1).T, order="C")
    found = np.empty_like(start)
    # One block of memory: large blocks get large pages, and faulting small ones in took as long as a round.
    work = np.zeros((3 * (gaussian.near.shape[1] + bilateral.near.shape[1]), labels), np.float32)
    _rounds(start, found, work, gaussian, bilateral, config.iterations, (0,) * labels, (0,) * 3, (0,) * 6)
    return np.ascontiguousarray(found.T).reshape(energy.shape)


def lattice_of(pixels: UInt8[np.ndarray, "h w 3"], config: CrfConfig) -> Lattice:
    """The lattice of the bilateral term: of a picture, whatever its maps are. About a third of the time of a CRF.

    Raises ConfigError: as `mean_field`.
    """
    colours = pixels.reshape(-1, 3) / np.float32(config.bilateral_colour)
    places = _places(pixels.shape[0], pixels.shape[1]) / np.float32(config.bilateral_sigma)
    return _lattice(np.concatenate([places, colours], axis=1), config.bilateral_weight)


@lru_cache(maxsize=4)
def _gaussian(height: int, width: int, sigma: float, weight: float) -> Lattice:
    return _lattice(_places(height, width) / np.float32(sigma), weight)


def _places(height: int, width: int) -> Float32[np.ndarray, "pixel 2"]:
    """Column and row of each pixel."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).reshape(-1, 2).astype(np.float32)


def _lattice(points: Float32[np.ndarray, "pixel feature"], weight: float) -> Lattice:
    """The lattice of points whose features, none negative, are in units of their standard deviation.

    A vertex has d integer coordinates. They are packed into one number, so that the step to a neighbour is an
    addition: along axis j every coordinate grows by 1, and the j-th by -d; along the last axis all grow by 1.
    """
    pixels, d = points.shape
    # pydensecrf pads to a multiple of four with points at the origin; their vertices take part in the blur.
    points = np.concatenate([points, np.zeros((-pixels % 4, d), np.float32)])
    spread = float(np.float32(math.sqrt(2 / 3) * (d + 1)))
    scale = np.array([1 / math.sqrt((i + 1) * (i + 2)) * spread for i in range(d)], np.float32)
    top = points.max(axis=0) * scale
    margin = 2 * (d + 1)
    low = np.array([-margin - math.ceil(j * top[j - 1]) if j else -margin for j in range(d)])
    high = np.array([margin + math.ceil(top[j:].sum()) for j in range(d)])
    place = np.ones(d, dtype=np.int64)
    sizes = [int(size) for size in high - low + 1]
    if math.prod(sizes) >= 2**62:
        raise ConfigError(
            "the standard deviations of the CRF are too small for this picture",
            next_step="Use larger ones, or --refine.crf.backend pydensecrf.",
        )
    for j in reversed(range(d - 1)):
        place[j] = place[j + 1] * sizes[j + 1]
    step = place.sum() - (d + 1) * np.append(place, 0)
    corners = np.empty((len(points), d + 1), np.int32)
    weights = np.empty((len(points), d + 1), np.float32)
    keys = _find_corners(points, scale, low, place, step, corners, weights, (0,) * (d + 1))
    near = np.zeros((d + 1, len(keys) + 1, 2), np.int32)
    order = np.argsort(keys)
    _find_neighbours(keys[order], order + 1, step, near)
    corners, weights = corners[:pixels], weights[:pixels]
    _normalise(corners, weights, near, np.float32(weight), (0,), (0,) * (d + 1))
    return Lattice(corners, weights, near)


def _compiled(exact: bool = False) -> Callable[[Callable], Any]:
    """Compile at the first call, and keep the machine code on disk where there is a place to keep it.

    `exact` keeps the order and the rounding of floating-point operations.
    """

    def decorate(function: Callable) -> Any:
        function = inspect.unwrap(function)  # the checked test run wraps every function, which numba cannot compile
        options = {"fastmath": not exact, "error_model": "numpy", "nogil": True}
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # neither the package's folder nor the user's cache can be written
            return numba.njit(**options)(function)

    return decorate


@_compiled()
def _slot(key, bits):
    """Where a key belongs in a hash table of 2**bits entries: the high bits of a product (multiplicative hashing)."""
    return ((key * np.int64(-7046029254386353131)) >> (64 - bits)) & ((1 << bits) - 1)


@_compiled(exact=True)
def _find_corners(points, scale, low, place, step, corners, weights, corner):
    """Fill `corners`, numbered from 1 in order of appearance, and `weights`; return the key of each vertex."""
    side = len(corner)
    d = side - 1
    bits = 16
    mask = (1 << bits) - 1
    table = np.zeros(1 << bits, np.int32)
    keys = np.empty(1 << (bits - 1), np.int64)
    count = 0
    elevated = np.empty(side, np.float32)
    base = np.empty(side, np.float32)
    rank = np.empty(side, np.int32)
    last_base = np.empty(side, np.float32)
    last_rank = np.full(side, -1, np.int32)
    order = np.empty(side, np.int64)
    share = np.empty(side + 1, np.float32)
    per_side = np.float32(1 / side)
    for p in range(len(points)):
        # Onto the plane in which coordinates sum to zero.
        total = np.float32(0)
        for j in range(d, 0, -1):
            coordinate = points[p, j - 1] * scale[j - 1]
            elevated[j] = total - np.float32(j) * coordinate
            total += coordinate
        elevated[0] = total
        # The nearest vertex of remainder 0, and the order of the distances from it: together they name the simplex.
        excess = 0
        for i in range(side):
            whole = np.rint(elevated[i] * per_side)
            base[i] = whole * np.float32(side)
            excess += np.int32(whole)
            rank[i] = 0
        for i in range(d):
            for j in range(i + 1, side):
                if elevated[i] - base[i] < elevated[j] - base[j]:
                    rank[i] += 1
                else:
                    rank[j] += 1
        same = True
        for i in range(side):
            rank[i] += excess
            if rank[i] < 0:
                rank[i] += side
                base[i] += np.float32(side)
            elif rank[i] > d:
                rank[i] -= side
                base[i] -= np.float32(side)
            same = same and base[i] == last_base[i] and rank[i] == last_rank[i]
        for i in range(side + 1):
            share[i] = 0
        for i in range(side):
            value = (elevated[i] - base[i]) * per_side
            share[d - rank[i]] += value
            share[side - rank[i]] -= value
        share[0] += np.float32(1) + share[side]
        for i in range(side):
            weights[p, i] = share[i]
        if same:
            for i in range(side):
                corners[p, i] = corners[p - 1, i]
            continue
        key = np.int64(0)
        for i in range(side):
            last_base[i] = base[i]
            last_rank[i] = rank[i]
            order[d - rank[i]] = step[i]
            if i < d:
                key += (np.int64(base[i]) - low[i]) * place[i]
        for i in range(side):
            slot = _slot(key, bits)
            while table[slot] != 0 and keys[table[slot] - 1] != key:
                slot = (slot + 1) & mask
            if table[slot] == 0:
                keys[count] = key
                count += 1
                table[slot] = count
            corners[p, i] = table[slot]
            key += order[i]
        if count + side > len(keys):  # at most half full: twice the table
            bits += 1
            mask = (1 << bits) - 1
            table = np.zeros(1 << bits, np.int32)
            larger = np.empty(1 << (bits - 1), np.int64)
            larger[:count] = keys[:count]
            keys = larger
            for v in range(count):
                slot = _slot(keys[v], bits)
                while table[slot] != 0:
                    slot = (slot + 1) & mask
                table[slot] = v + 1
    return keys[:count]


@_compiled()
def _find_neighbours(keys, vertices, step, near):
    """Fill `near`, given the sorted keys and their vertices: along an axis both ends of a step come in order."""
    for axis in range(len(step)):
        end = 0
        for start in range(len(keys)):
            wanted = keys[start] + step[axis]
            while end < len(keys) and keys[end] < wanted:
                end += 1
            if end == len(keys):
                break
            if keys[end] == wanted:
                near[axis, vertices[start], 0] = vertices[end]
                near[axis, vertices[end], 1] = vertices[start]


@_compiled()
def _blur(table, spare, near, row):
    """Blur along every axis; the result and the other table, whose content is then of no use."""
    for axis in range(len(near)):
        for v in range(1, len(table)):
            blend(spare, table, v, near[axis, v, 0], near[axis, v, 1], row)
        table, spare = spare, table
    return table, spare


@_compiled()
def _normalise(corners, weights, near, factor, row, corner):
    """Divide each pixel's weights by the square root of what the filter makes of ones, times that of `factor`.

    The filter's own scale, 1 / (1 + 2**-d), cancels.
    """
    table = np.zeros((near.shape[1], 1), np.float32)
    value = np.ones((1, 1), np.float32)
    zero = np.zeros((1, 1), np.float32)
    for p in range(len(corners)):
        scatter(table, corners, weights, p, value, 0, row, corner)
    table, _ = _blur(table, np.zeros_like(table), near, row)
    for p in range(len(corners)):
        gather(value, 0, zero, 0, table, corners, weights, p, row, corner)
        for i in range(len(corner)):
            weights[p, i] *= np.sqrt(factor / (value[0, 0] + np.float32(1e-20)))


@_compiled()
def _rounds(start, found, work, gaussian, bilateral, iterations, row, three, six):
    """Mean field: found = softmax(start), then `iterations` times softmax(start + both filters of found)."""
    small, large = gaussian.near.shape[1], bilateral.near.shape[1]
    g, g_spare, g_next = work[:small], work[small : 2 * small], work[2 * small : 3 * small]
    rest = work[3 * small :]
    b, b_spare, b_next = rest[:large], rest[large : 2 * large], rest[2 * large :]
    for p in range(len(start)):
        softmax(found, p, start, p, row)
        scatter(g, gaussian.corners, gaussian.weights, p, found, p, row, three)
        scatter(b, bilateral.corners, bilateral.weights, p, found, p, row, six)
    for _ in range(iterations):
        g, g_spare = _blur(g, g_spare, gaussian.near, row)
        b, b_spare = _blur(b, b_spare, bilateral.near, row)
        g_next[:] = 0
        b_next[:] = 0
        for p in range(len(start)):
            gather(found, p, start, p, g, gaussian.corners, gaussian.weights, p, row, three)
            gather(found, p, found, p, b, bilateral.corners, bilateral.weights, p, row, six)
            softmax(found, p, found, p, row)
            scatter(g_next, gaussian.corners, gaussian.weights, p, found, p, row, three)
            scatter(b_next, bilateral.corners, bilateral.weights, p, found, p, row, six)
        g, g_next = g_next, g
        b, b_next = b_next, b
