"""Class-aware affinity: each map is carried to the patches that attend to it, from inside its boxes only.

The attention matrix is balanced (columns, then rows, to sum one; three rounds), made symmetric and squared. None of the
n x n products is formed: a balanced matrix is diag(r) A diag(c), so two vectors and matrix-vector products are enough,
for all labels of a picture at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from clip_es.config.bounds import check_within
from clip_es.errors import ConfigError, ShapeError
from clip_es.refine.base import GridRefinerTogether, Surroundings
from clip_es.refine.box_masks import box_mask_on_device
from clip_es.refine.words import carry
from clip_es.scaling import min_max
from clip_es.types import ClassMaps, EncodedImage, Picture


@dataclass(frozen=True)
class AffinityConfig:
    """Class-aware affinity: maps spread along CLIP's own attention, inside box masks."""

    kind: Literal["attention", "words"] = "attention"
    """Along what maps are carried: CLIP's attention inside boxes, as published, or attention between patches that give
    the same answer to the words of the vocabulary (CD-CLIP), without boxes."""
    layers: int = 8
    """How many of the last transformer layers are averaged; all where the tower has fewer."""
    iterations: int = 3
    """Sinkhorn rounds: columns to sum one, then rows."""
    squarings: int | None = None
    """How often the symmetrised matrix is squared: the power is 2 to this number. None: once, as published; not at all
    for a tower of fewer than eight blocks: its attention is so even that two steps reach the whole picture."""
    box_threshold: float | None = None
    """Share of a map's maximum above which a patch opens a box. None: the vocabulary's (VOC 0.4, COCO 0.7)."""
    border: Literal["keep", "drop"] = "keep"
    """Published boxes never reach the last row and column of the grid: `drop`. `keep` lets them."""
    words_temperature: float = 0.05
    """For `words`: how fast the weight falls with the Jensen-Shannon divergence of two patches, nats."""

    def __post_init__(self) -> None:
        check_within("layers", self.layers, 1, 64, "transformer layers")
        check_within("iterations", self.iterations, 0, 1000, "Sinkhorn rounds")
        if self.squarings is not None:
            check_within("squarings", self.squarings, 0, 6, "squarings")
        if self.box_threshold is not None:
            check_within("box_threshold", self.box_threshold, 0.0, 1.0, "share of the maximum")
        check_within("words_temperature", self.words_temperature, 1e-4, 100, "nats")

    def for_tower(self, blocks: int | None) -> AffinityConfig:
        """These settings with `squarings` settled for a vision tower of so many blocks; None: not known."""
        if self.squarings is not None:
            return self
        return replace(self, squarings=0 if blocks is not None and blocks < _DEEP else 1)


_DEEP = 8
"""Blocks of a tower from which on the published power is right: as many as it takes the mean of."""


Border = Literal["keep", "drop"]


def spread(
    maps: ClassMaps, attention: Float32[Tensor, "patch patch"], config: AffinityConfig, box_threshold: float
) -> ClassMaps:
    """Carry each class map to the patches that attend to it.

    `attention` has one row for each query patch; `box_threshold`, a share of a map's maximum, is used where
    `config.box_threshold` is None. Returns maps in [0, 1] on the same grid; `unscaled` holds them before the last
    min-max (the paper's V_c). Raises ShapeError: maps and attention come from different grids.
    Source: CLIP-ES (CVPR 2023), section 3.3. Differs by default: boxes reach the border (`border="keep"`).
    """
    classes, rows, columns = maps.scores.shape
    _check_grid(maps, attention)
    values = _inside_boxes(maps.scores, config, box_threshold).reshape(classes, rows * columns).T  # [patch class]
    unscaled = _carried(values, attention, config).T.reshape(classes, rows, columns)
    return ClassMaps(scores=min_max(unscaled), class_ids=maps.class_ids, unscaled=unscaled)


def spread_together(
    maps: Sequence[ClassMaps],
    attention: Float32[Tensor, "picture patch patch"],
    config: AffinityConfig,
    box_threshold: float,
) -> list[ClassMaps]:
    """`spread` for several pictures of one grid at once, in the same few operations as for one; no value is looked at.

    Sums run in another order than for one picture. Raises ShapeError: maps and attention come from different grids.
    """
    for one, own in zip(maps, attention, strict=True):
        _check_grid(one, own)
    counts = [len(one.class_ids) for one in maps]
    if not (most := max(counts, default=0)):
        return list(maps)
    scores = torch.cat([one.scores for one in maps])
    # A row for each label, at the place of its picture; pictures with fewer labels carry zeros.
    places = torch.tensor([most * picture + k for picture, count in enumerate(counts) for k in range(count)])
    places = places.to(scores.device)
    values = _inside_boxes(scores, config, box_threshold).flatten(1)
    padded = values.new_zeros(most * len(maps), values.shape[1]).index_copy_(0, places, values)
    carried = _carried(padded.unflatten(0, (len(maps), most)).mT, attention, config).mT.flatten(0, 1)
    unscaled = carried.index_select(0, places).reshape(scores.shape)
    each = zip(maps, min_max(unscaled).split(counts), unscaled.split(counts), strict=True)
    return [ClassMaps(scores=scaled, class_ids=one.class_ids, unscaled=own) for one, scaled, own in each]


def _check_grid(maps: ClassMaps, attention: Float32[Tensor, "patch patch"]) -> None:
    rows, columns = maps.scores.shape[1:]
    if tuple(attention.shape) != (rows * columns, rows * columns):
        raise ShapeError(
            "maps and attention must come from the same grid",
            expected=f"attention [{rows * columns} {rows * columns}] for maps of [{rows} {columns}]",
            found=list(attention.shape),
        )


def _inside_boxes(
    scores: Float32[Tensor, "class gh gw"], config: AffinityConfig, box_threshold: float
) -> Float32[Tensor, "class gh gw"]:
    threshold = box_threshold if config.box_threshold is None else config.box_threshold
    return scores * box_mask(scores, threshold, config.border)


def _carried(
    values: Float32[Tensor, "*picture patch class"],
    attention: Float32[Tensor, "*picture patch patch"],
    config: AffinityConfig,
) -> Float32[Tensor, "*picture patch class"]:
    """The balanced, symmetric attention to its power, times the values."""
    r, c = (vector[..., None] for vector in balance(attention, config.iterations))
    for _ in range(2 ** (config.for_tower(None).squarings or 0)):
        values = (r * (attention @ (c * values)) + c * (attention.mT @ (r * values))) / 2
    return values


def refine(
    picture: Picture,
    seen: EncodedImage,
    maps: ClassMaps,
    config: AffinityConfig,
    box_threshold: float,
    spread: Callable[..., ClassMaps] = spread,
) -> ClassMaps:
    """`spread` as a refiner: the attention is that of the encoded picture. Raises ShapeError: maps at full size."""
    if tuple(maps.scores.shape[1:]) != seen.grid_hw:
        raise ShapeError(
            "affinity works on the patch grid",
            where=picture.image_id,
            expected=f"maps of {list(seen.grid_hw)}",
            found=list(maps.scores.shape[1:]),
            next_step="Put affinity before refiners that work at full size: --refine affinity crf.",
        )
    return spread(maps, seen.attention, config, box_threshold)


def make(config: AffinityConfig, around: Surroundings) -> partial[ClassMaps]:
    """The refiner of the table."""
    config = config.for_tower(None if around.exact else around.blocks)
    how = spread
    if config.kind == "words":
        return partial(_refine_by_words, config=config, words=around.words)
    if around.exact:
        from clip_es.published import spread as how
    return partial(refine, config=config, box_threshold=around.box_threshold, spread=how)


def make_together(config: AffinityConfig, around: Surroundings) -> GridRefinerTogether | None:
    """The same for several pictures of one grid at once; None: under these settings there is no such way."""
    if config.kind == "words" or around.exact:
        return None
    # No closure: refiners travel to other processes.
    return partial(refine_together, config=config.for_tower(around.blocks), box_threshold=around.box_threshold)


def refine_together(
    seen: Sequence[EncodedImage], maps: Sequence[ClassMaps], config: AffinityConfig, box_threshold: float
) -> list[ClassMaps]:
    """`spread_together` as a refiner: the attention is that of the encoded pictures."""
    return spread_together(maps, torch.stack([one.attention for one in seen]), config, box_threshold)


def _refine_by_words(
    picture: Picture,
    seen: EncodedImage,
    maps: ClassMaps,
    config: AffinityConfig,
    words: Callable[[EncodedImage], Float32[Tensor, "patch text"]] | None,
) -> ClassMaps:
    if words is None:
        raise ConfigError("the affinity of words needs a text bank", next_step="Pass --refine.affinity.kind attention.")
    return carry(maps, seen.attention, words(seen), config.words_temperature)


def balance(
    attention: Float[Tensor, "*batch n n"], rounds: int
) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch n"]]:
    """Sinkhorn's scaling vectors: diag(r) A diag(c) is A after `rounds` times columns, then rows, to sum one.

    A row or column of zeros keeps the factor 0, where plain division would give 0/0; others are not changed by that.
    Source: Sinkhorn & Knopp (1967); CLIP-ES divides the matrix itself, which is the same.
    """
    r = attention.new_ones(attention.shape[:-1])
    c = attention.new_ones(attention.shape[:-1])
    for _ in range(rounds):
        c = _inverse((attention.transpose(-1, -2) @ r[..., None])[..., 0])
        r = _inverse((attention @ c[..., None])[..., 0])
    return r, c


def attention_affinity(
    attention: Float[Tensor, "*batch n n"], rounds: int = 3, symmetric: bool = True
) -> Float[Tensor, "*batch n n"]:
    """The balanced, and by default symmetrised, attention as a matrix, for methods that need its entries.

    Leading dimensions, such as heads, are treated one by one. Source: CLIP-ES (Sinkhorn, (S + S^T) / 2).
    """
    r, c = balance(attention, rounds)
    balanced = r[..., :, None] * attention * c[..., None, :]
    return (balanced + balanced.mT) / 2 if symmetric else balanced


def boxes(
    maps: Float[Tensor, "class gh gw"], threshold: float, border: Border = "keep"
) -> list[Int[np.ndarray, "k 4"]]:
    """Upright bounding boxes x0 y0 x1 y1 of each map's connected patches above the threshold, in patches.

    A map in [0, 1] is truncated to 8 bit; a patch is on where that exceeds int(threshold * maximum); patches that
    touch, also at a corner, are one component. The end is excluded. `border="drop"` cuts boxes to x1 <= gw - 1 and
    y1 <= gh - 1, so the last row and column are never inside, as published. A map without positive values has no box.
    Source: CLIP-ES, `scoremap2bbox`. Differs: components in place of OpenCV's contours; the union is the same.
    """
    from scipy import ndimage

    levels = (maps * 255).cpu().numpy().astype(np.uint8)
    last = np.array([levels.shape[2], levels.shape[1]]) - (border == "drop")
    found = []
    for level in levels:
        on = level > int(threshold * int(level.max(initial=0)))
        components = np.zeros(level.shape, dtype=np.int32)
        ndimage.label(on, structure=np.ones((3, 3), dtype=int), output=components)
        spans = [(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(components)]
        box = np.array(spans, dtype=np.int64).reshape(-1, 4)
        box[:, 2:] = np.minimum(box[:, 2:], last)
        found.append(box)
    return found


def box_mask(
    maps: Float[Tensor, "class gh gw"], threshold: float, border: Border = "keep"
) -> Bool[Tensor, "class gh gw"]:
    """True inside the union of each map's `boxes`: on the CPU from the boxes, elsewhere without leaving the device."""
    if maps.device.type != "cpu":
        limits = tuple(int(threshold * level) for level in range(256))
        return box_mask_on_device((maps * 255).to(torch.uint8), limits, border == "drop")
    mask = np.zeros(tuple(maps.shape), dtype=bool)
    for inside, found in zip(mask, boxes(maps, threshold, border), strict=True):
        for x0, y0, x1, y1 in found:
            inside[y0:y1, x0:x1] = True
    return torch.from_numpy(mask).to(maps.device)


def _inverse(sums: Tensor) -> Tensor:
    return torch.where(sums > torch.finfo(sums.dtype).tiny, 1 / sums, 0)
