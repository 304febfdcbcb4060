"""Spectral refiner: class maps averaged over the segments of one picture, which need no labels and no training.

The patches of a picture are the nodes of a graph; patches with like features, or like colours at like places, are
joined. The first eigenvectors of its Laplacian change little inside an object and much between objects, so that
k-means on them gives segments. A map then takes, in part, the mean of its segment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Float64, Int, UInt8
from torch import Tensor

from clip_es.config.bounds import check_within
from clip_es.errors import ShapeError
from clip_es.refine.base import Surroundings
from clip_es.refine.dino import Dino, DinoConfig
from clip_es.refine.graph import adaptive_count, affinity, eigenvectors, grid_picture
from clip_es.refine.pool import averaged
from clip_es.types import ClassMaps, EncodedImage, Picture


@dataclass(frozen=True)
class SpectralConfig:
    """Segments of one picture from its patch features and colours, and the maps averaged over them."""

    features: str = "clip"
    """Whose patch features: clip, or a local folder of a DINO in transformers' layout, as the published work has it."""
    eigenvectors: int = 5
    """How many are used, the constant one not counted."""
    segments: int | None = 16
    """Into how many parts k-means divides the picture. None: as many as the largest gap between eigenvalues tells."""
    amount: float = 0.5
    """How much of a segment's mean a patch takes: 0 changes nothing, 1 makes maps constant on each segment."""
    colours: Literal["hsv", "rgb", "none"] = "rgb"
    """What else makes patches neighbours. hsv: the nearest in hue, saturation, value and place, the closer the
    stronger, as in the paper. rgb: the nearest in colour and place, counted, as in the public deep-spectral code. none:
    features alone."""
    colour_weight: float = 1.0
    """Weight of the colour neighbours against the features, whose own weights are 0..1; published: 10."""
    neighbours: int = 20
    """Nearest neighbours of a patch in the hsv graph, itself included. The rgb graph has its own, 20 and 10."""
    rule: Literal["pool", "threshold"] = "pool"
    """pool: means over k-means segments. threshold: as published, the positive side of an eigenvector, or the other,
    takes the place of a map that it covers well enough; for comparison."""
    overlap: float = 0.5
    """Intersection over union above which that happens."""
    seed: int = 0
    """Of the k-means starts."""

    def __post_init__(self) -> None:
        check_within("eigenvectors", self.eigenvectors, 1, 100, "eigenvectors")
        if self.segments is not None:
            check_within("segments", self.segments, 1, 10_000, "segments")
        check_within("amount", self.amount, 0, 1, "share of the segment's mean")
        check_within("colour_weight", self.colour_weight, 0, 1e6, "weight")
        check_within("neighbours", self.neighbours, 1, 10_000, "nearest patches")
        check_within("overlap", self.overlap, 0, 1, "intersection over union")


class SpectralRefiner:
    """`refine`, or the same with features of a DINO."""

    def __init__(self, config: SpectralConfig, device: str | torch.device = "cpu") -> None:
        """Raises ConfigError, WeightsError: the DINO named cannot be loaded."""
        self.config = config
        self.dino = None if config.features == "clip" else Dino(config.features, DinoConfig(), device)

    def to(self, device: str | torch.device) -> None:
        """Use the network, where there is one, on another device."""
        if self.dino:
            self.dino.to(device)

    def __call__(self, picture: Picture, seen: EncodedImage, maps: ClassMaps) -> ClassMaps:
        """As `refine`; DINO's features are brought to the patch grid, bilinearly."""
        if self.dino is None:
            return refine(picture, seen, maps, self.config)
        features = self.dino.features(picture.rgb)
        spread = F.interpolate(features[None], size=seen.grid_hw, mode="bilinear", align_corners=False)[0]
        return spectral(picture, spread.flatten(1).T, maps, self.config)


def make(config: SpectralConfig, around: Surroundings) -> SpectralRefiner:
    """The refiner of the table. Raises ConfigError, WeightsError: its network cannot be loaded."""
    return SpectralRefiner(config, around.device)


def refine(picture: Picture, seen: EncodedImage, maps: ClassMaps, config: SpectralConfig) -> ClassMaps:
    """`spectral` as a refiner: the features are the patch tokens that enter CLIP's last block."""
    return spectral(picture, seen.tokens[1:], maps, config)


def spectral(
    picture: Picture, features: Float[Tensor, "patch dim"], maps: ClassMaps, config: SpectralConfig
) -> ClassMaps:
    """Class maps averaged over the segments of their picture, by `config.amount`; still in [0, 1], same grid.

    `features` has one row for each patch of the maps' grid, in row order, from whatever network.
    Raises ShapeError: another number of patches. Source: SAZS (CVPR 2023); Melas-Kyriazi et al. (CVPR 2022).
    Differs: segments are pooled into the maps; SAZS picks segments with the ground truth. k-means in place of single
    eigenvectors, unless `rule="threshold"`.
    """
    grid_hw = (maps.scores.shape[1], maps.scores.shape[2])
    if len(features) != grid_hw[0] * grid_hw[1]:
        raise ShapeError(
            "the spectral refiner works on the patch grid",
            where=picture.image_id,
            expected=f"maps of {len(features)} patches",
            found=list(grid_hw),
            next_step="Put spectral before refiners that work at full size: --refine spectral crf.",
        )
    if not len(maps.scores) or len(features) == 1:
        return maps
    weights = _weights(picture, features, grid_hw, config)
    values, vectors = eigenvectors(weights, config.eigenvectors + 2)
    vectors = vectors[1 : config.eigenvectors + 1]
    if config.rule == "threshold":
        sides = torch.from_numpy(vectors > 0).unflatten(1, grid_hw).to(maps.scores.device)
        return ClassMaps(replace_by_sides(maps.scores, sides, config.overlap), maps.class_ids)
    count = config.segments or adaptive_count(values)
    segments = torch.from_numpy(k_means(vectors.T, count, config.seed)).to(maps.scores.device)
    return ClassMaps(averaged(maps.scores, segments.unflatten(0, grid_hw), config.amount).clamp(0, 1), maps.class_ids)


def picture_sides(
    picture: Picture, features: Float[Tensor, "patch dim"], grid_hw: tuple[int, int], config: SpectralConfig
) -> Bool[Tensor, "k gh gw"]:
    """The positive side of each eigenvector of a picture, the constant one left out; always the smaller side."""
    weights = _weights(picture, features, grid_hw, config)
    _, vectors = eigenvectors(weights, config.eigenvectors + 2)
    return torch.from_numpy(vectors[1 : config.eigenvectors + 1] > 0).unflatten(1, grid_hw)


def picture_segments(
    picture: UInt8[np.ndarray, "h w 3"],
    features: Float[Tensor, "dim gh gw"],
    config: SpectralConfig,
    grid_hw: tuple[int, int] | None = None,
) -> tuple[Int[Tensor, "nh nw"], Bool[Tensor, "k nh nw"]]:
    """k-means regions (0, 1, ..) and the positive sides of the eigenvectors, on a grid of nodes.

    `grid_hw` None: the features' own; a finer one takes them bilinearly, with the colours of its own cells.
    """
    grid = grid_hw or (features.shape[1], features.shape[2])
    spread = F.interpolate(features[None].float(), size=grid, mode="bilinear", align_corners=False)[0]
    nodes = spread.flatten(1).T.double().cpu().numpy()
    values, vectors = eigenvectors(_joined(nodes, picture, grid, config), config.eigenvectors + 2)
    vectors = vectors[1 : config.eigenvectors + 1]
    regions = k_means(vectors.T, config.segments or adaptive_count(values), config.seed)
    return torch.from_numpy(regions).unflatten(0, grid), torch.from_numpy(vectors > 0).unflatten(1, grid)


def k_means(points: Float[np.ndarray, "n dim"], count: int, seed: int = 0, starts: int = 10) -> Int[np.ndarray, " n"]:
    """The part 0..count-1 of each point by scikit-learn's k-means: the best of some k-means++ starts. Same seed, same
    parts.

    A graph with fewer points than parts gives each its own; points that are equal share one.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    if count >= len(points):
        return np.arange(len(points))
    count = min(count, len(np.unique(points, axis=0)))
    with threadpool_limits(1):  # sums split over threads could part equally good starts otherwise
        found = KMeans(count, n_init=starts, tol=0, random_state=seed)  # pyright: ignore[reportArgumentType]
        return found.fit_predict(points).astype(np.int64)


def replace_by_sides(
    scores: Float32[Tensor, "class gh gw"], sides: Bool[Tensor, "k gh gw"], overlap: float
) -> Float32[Tensor, "class gh gw"]:
    """Each map, or in its place the side that covers it best, where intersection over union reaches `overlap`.

    A map counts as the patches above half its maximum; sides are compared with their complements too.
    """
    both = torch.cat([sides, ~sides]).flatten(1)
    on = (scores > scores.amax((1, 2), keepdim=True) / 2).flatten(1)
    share, best = overlaps(on, both).max(1)
    return torch.where((share >= overlap)[:, None, None], both[best].to(scores.dtype).view_as(scores), scores)


def overlaps(a: Bool[Tensor, "m pixel"], b: Bool[Tensor, "n pixel"]) -> Float32[Tensor, "m n"]:
    """Intersection over union of each mask in `a` with each in `b`; 0 where both are empty."""
    inside = a.float() @ b.float().T
    return inside / (a.sum(1)[:, None] + b.sum(1) - inside).clamp(min=1)


def _weights(
    picture: Picture, features: Float[Tensor, "patch dim"], grid_hw: tuple[int, int], config: SpectralConfig
) -> Float64[np.ndarray, "patch patch"]:
    """The graph of a picture."""
    return _joined(features.double().cpu().numpy(), picture.patches, grid_hw, config)


def _joined(
    rows: Float64[np.ndarray, "patch dim"],
    rgb: UInt8[np.ndarray, "h w 3"],
    grid_hw: tuple[int, int],
    config: SpectralConfig,
) -> Float64[np.ndarray, "patch patch"]:
    small = grid_picture(rgb, grid_hw)
    return affinity(rows, small, config.colours, config.colour_weight, config.neighbours)
