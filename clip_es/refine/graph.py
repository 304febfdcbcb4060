"""The graph of a picture: patches joined by like features and colours, and the eigenvectors of its Laplacian."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float, Float64, UInt8
from PIL import Image

_DENSE_BELOW = 64
"""Graphs with fewer nodes go through the dense solver; Lanczos needs room."""


def affinity(
    features: Float[np.ndarray, "patch dim"],
    small: Float64[np.ndarray, "gh gw 3"],
    colours: Literal["hsv", "rgb", "none"] = "rgb",
    colour_weight: float = 1.0,
    neighbours: int = 20,
) -> Float64[np.ndarray, "patch patch"]:
    """Weights of the graph: like features, plus `colour_weight` times the colours; symmetric, never negative."""
    weights = feature_affinity(features)
    if colours == "rgb":
        weights += colour_weight * rgb_neighbours(small)
    elif colours == "hsv":
        weights += colour_weight * hsv_neighbours(small, neighbours)
    return weights


def feature_affinity(features: Float[np.ndarray, "patch dim"]) -> Float64[np.ndarray, "patch patch"]:
    """Cosine of each pair, negative ones zero, divided by the largest."""
    rows = np.asarray(features, dtype=np.float64)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    weights = np.maximum(rows @ rows.T, 0)
    return weights / max(weights.max(), 1e-12)


def rgb_neighbours(small: Float64[np.ndarray, "gh gw 3"]) -> Float64[np.ndarray, "patch patch"]:
    """How often two patches are neighbours, in both directions, in two graphs over (r, g, b, a x, a y): the 20 nearest
    with a = 2, the 10 nearest with a = 0.1; every patch is its own neighbour, so the diagonal is 4.

    Source: the public code of deep spectral methods. Differs: ties between equally near patches may fall otherwise.
    """
    place, colour = _places(small), small.reshape(-1, 3)
    weights = np.zeros((len(place), len(place)))
    for count, reach in ((20, 2.0), (10, 0.1)):
        near, _ = _nearest(np.concatenate([colour, reach * place], axis=1).astype(np.float32), count)
        np.add.at(weights, (np.arange(len(near))[:, None], near), 1)
    return weights + weights.T


def hsv_neighbours(small: Float64[np.ndarray, "gh gw 3"], count: int = 20) -> Float64[np.ndarray, "patch patch"]:
    """1 - distance in (cos hue, sin hue, saturation, value, x, y) for the nearest patches, itself included.

    Below zero it counts as zero; two patches are neighbours where either finds the other.
    Source: the formula of SAZS and of deep spectral methods; clipping and symmetry are our reading.
    """
    near, distance = _nearest(hsv_places(small), count)
    weights = np.zeros((len(near), len(near)))
    weights[np.arange(len(near))[:, None], near] = np.maximum(1 - distance, 0)
    return np.maximum(weights, weights.T)


def hsv_places(small: Float64[np.ndarray, "gh gw 3"]) -> Float64[np.ndarray, "patch 6"]:
    """(cos hue, sin hue, saturation, value, x, y) of each patch; x and y run over 0..1."""
    from skimage.color import rgb2hsv

    hue, saturation, value = rgb2hsv(small).reshape(-1, 3).T
    angle = 2 * np.pi * hue
    return np.column_stack([np.cos(angle), np.sin(angle), saturation, value, _places(small)])


def eigenvectors(
    weights: Float64[np.ndarray, "n n"], count: int, *, degrees: bool = True
) -> tuple[Float64[np.ndarray, " k"], Float64[np.ndarray, "k n"]]:
    """The smallest solutions of (D - W) v = mu D v, fewer than `count` where the graph is smaller; mu ascending.

    D holds the row sums of W; with `degrees=False` the right side is mu v. The vectors are orthonormal in D, and turned
    so that the positive side is the smaller one. The largest eigenvectors of D^-1/2 W D^-1/2 are sought by Lanczos,
    which never factorises the singular D - W: 784 nodes take about 0.01 s on one core.
    Source: normalised cuts (Shi & Malik 2000).
    """
    from scipy import linalg
    from scipy.sparse.linalg import eigsh

    n = len(weights)
    sums = weights.sum(1)
    sums = np.where(sums < 1e-12, 1.0, sums)
    scale = 1 / np.sqrt(sums) if degrees else np.ones(n)
    matrix = weights if degrees else weights - np.diag(weights.sum(1))
    matrix = scale[:, None] * matrix * scale
    if n < max(_DENSE_BELOW, 3 * count):
        values, vectors = linalg.eigh(matrix, subset_by_index=(max(n - count, 0), n - 1))
    else:
        # A start of our own: ARPACK's would be drawn anew each time.
        values, vectors = eigsh(matrix, k=count, which="LA", v0=np.random.default_rng(0).standard_normal(n))
    order = np.argsort(-values, kind="stable")
    vectors = (vectors[:, order] * scale[:, None]).T
    share = (vectors > 0).mean(1)
    vectors[(share > 0.5) & (share < 1)] *= -1
    return (1.0 if degrees else 0.0) - values[order], vectors


def adaptive_count(values: Float64[np.ndarray, " k"]) -> int:
    """How many eigenvalues lie before the largest gap; the first gap, behind the constant vector, does not count."""
    gaps = np.diff(values)[1:]
    return int(gaps.argmax()) + 2 if len(gaps) else len(values)


def grid_picture(patches: UInt8[np.ndarray, "h w 3"], grid_hw: tuple[int, int]) -> Float64[np.ndarray, "gh gw 3"]:
    """The picture with one pixel for each patch, in 0..1, by Pillow's bilinear filter."""
    small = Image.fromarray(patches).resize((grid_hw[1], grid_hw[0]), Image.Resampling.BILINEAR)
    return np.asarray(small, dtype=np.float64) / 255


def _places(small: np.ndarray) -> Float64[np.ndarray, "patch 2"]:
    height, width = small.shape[:2]
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return np.column_stack([x.ravel(), y.ravel()])


def _nearest(points: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Index and distance [n k] of the nearest points, each point its own first; all where there are fewer."""
    from scipy.spatial import KDTree

    count = min(count, len(points))
    # Which of several equally near points is found hangs on the leaves: 16 is what the recorded graphs were made with.
    distance, index = KDTree(points, leafsize=16).query(points, k=count)
    return np.asarray(index).reshape(-1, count), np.asarray(distance).reshape(-1, count)
