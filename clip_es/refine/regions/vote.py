"""Two published ways in which regions decide about the maps of a picture.

`soft`, after FMA-WSSS: a region takes the label of its mean scores; regions are painted one over another, the surest
and largest last. `hard`, after SEPL: a region goes to the label that already fills more than half of it.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64, Integer
from torch import Tensor

from clip_es.errors import DataError
from clip_es.refine.pool import region_means
from clip_es.regions import Regions

Order = Literal["auto", "level", "confidence", "area"]
Stretch = Literal["both", "regions", "none"]


def means(values: Float32[Tensor, "label h w"], regions: Regions) -> Float32[Tensor, "label region"]:
    """The mean of each label over each region."""
    flat = values.flatten(1)
    found = []
    for pixels, owners, first, last in regions.members():
        where, whose = torch.from_numpy(pixels).to(values.device), torch.from_numpy(owners).to(values.device)
        found.append(region_means(flat, whose, last - first, where))
    return torch.cat(found, 1) if found else values.new_zeros(len(values), 0)


def soft_scores(
    maps: Float32[Tensor, "class h w"],
    regions: Regions,
    background: Float32[Tensor, "h w"] | None = None,
    power: float = 0.7,
    stretch: Stretch = "regions",
) -> Float32[Tensor, "label region"]:
    """Background and class scores of each region, each in [0, 1].

    Class scores are means over the region. `stretch` "regions" brings those of each class to 0..1 over the regions of
    the picture, so that every label has a region, however low its map; "both" does so with the map over its pixels
    first, "none" leaves them. Background is (1 - best)^power; where the maps know it, it is a class like the others.
    Source: FMA-WSSS (WACV 2024), `gather_norm_bg_argmax`. Differs: the background of maps that know theirs, in which a
    label that is the same in all regions stays as it is.
    """
    values = _stretched(maps.flatten(1)).view_as(maps) if stretch == "both" else maps
    if background is not None:
        found = means(torch.cat([background[None], values]), regions)
        even = found.numel() == 0 or stretch == "none"
        return (found if even else torch.where(_flat(found), found, _stretched(found))).clamp(0, 1)
    classes = means(values, regions)
    if stretch != "none":
        classes = _stretched(classes)
    first = (1 - classes.amax(0)).clamp(min=0) ** power
    return torch.cat([first[None], classes]).clamp(0, 1)


def painted(
    regions: Regions, confidence: Float32[np.ndarray, " region"], order: Order = "auto"
) -> Int64[np.ndarray, "h w"]:
    """The region that lies on top at each pixel, -1 where there is none.

    level: regions of higher level come later, and among equals surer ones. confidence: surer ones come later. area:
    smaller ones do, and among equals surer ones. auto: level where all regions have one, else area.
    Source: FMA-WSSS, whose default is level. transformers' own mask generator tells no level.
    """
    how = order if order != "auto" else "level" if regions.levels is not None else "area"
    if how == "level" and regions.levels is not None:
        ranks = np.lexsort((confidence, regions.levels))
    elif how == "confidence":
        ranks = np.argsort(confidence, kind="stable")
    else:
        ranks = np.lexsort((confidence, -regions.areas))
    top = np.full(regions.size_hw, -1, dtype=np.int64)
    flat = top.reshape(-1)
    for number in ranks.tolist():
        flat[regions.pixels(number)] = number
    return top


def outermost(regions: Regions, most: float) -> Int64[np.ndarray, " kept"]:
    """Numbers of the regions that stay when parts of larger ones leave.

    From the highest level down, a region stays where less than the share `most` of it lies in any single region of a
    higher level that has stayed. Raises DataError: not every region tells its level.
    Source: FMA-WSSS, `rock_sand_water`. Differs: nothing; the order stays that of the regions.
    """
    if regions.levels is None:
        raise DataError(
            "these regions do not tell their level",
            expected="`level` in every entry: 0 part, 1 in between, 2 whole object",
            next_step="Leave out --refine.regions.most-inside, or make them with `clip-es segments --source sam`.",
        )
    kept = np.zeros(0, dtype=np.int64)
    for level in np.unique(regions.levels)[::-1].tolist():
        own = np.flatnonzero(regions.levels == level)
        kept = np.concatenate([kept, own[greatest_share(regions.only(own), regions.only(kept)) < most]])
    return np.sort(kept)


def greatest_share(inner: Regions, outer: Regions) -> Float64[np.ndarray, " region"]:
    """Of each of the regions `inner`, the largest share that lies in a single one of `outer`."""
    found = np.zeros(len(inner))
    for others in outer.members():
        there = _as_rows(*others, inner.size_hw)
        for some in inner.members():
            both = (_as_rows(*some, inner.size_hw) @ there.T).max(axis=1).toarray().ravel()
            first, last = some[2:]
            found[first:last] = np.maximum(found[first:last], both / inner.areas[first:last])
    return found


def _as_rows(pixels: np.ndarray, owners: np.ndarray, first: int, last: int, size_hw: tuple[int, int]) -> Any:
    """One row of zeros and ones for each region, a sparse matrix of SciPy."""
    from scipy.sparse import csr_array

    ones = np.ones(len(pixels), dtype=np.int32)
    return csr_array((ones, (owners, pixels)), shape=(last - first, size_hw[0] * size_hw[1]))


def hard_labels(
    labels: Integer[np.ndarray, "h w"], regions: Regions, covered: float | None = 0.85, keep: bool = True
) -> Int64[np.ndarray, "h w"]:
    """Labels (0 background, 1, 2, ...) after each class in turn has taken its regions.

    A class takes every region that no class before it has taken, and of which it fills more than half, or which holds
    at least the share `covered` of the class (None: the first alone). It paints all of them; with `keep` also those of
    its pixels that are in no region that was still free when its turn came. Background is what no class paints; a later
    class paints over an earlier one. Source: SEPL (`max_iou_imp2`, its default; without `covered` `max_iou_imp`,
    without `keep` too `max_iou`). Differs: nothing; the order of the regions is that of the file.
    """
    flat, found = labels.reshape(-1), np.zeros(labels.size, dtype=np.int64)
    areas, free = regions.areas, np.ones(len(regions), dtype=bool)
    places = [regions.pixels(number) for number in range(len(regions))] if len(regions) <= _KEPT else None
    for label in (k for k in np.unique(flat).tolist() if k):
        own = flat == label
        own_area = int(own.sum())
        seen: Bool[np.ndarray, " pixel"] = np.zeros(labels.size, dtype=bool)
        taken: list[int] = []
        for number in np.flatnonzero(free).tolist():
            where = regions.pixels(number) if places is None else places[number]
            seen[where] = True
            both = int(own[where].sum())
            if 2 * both > areas[number] or (covered is not None and both / own_area >= covered):
                taken.append(number)
        for number in taken:
            found[regions.pixels(number) if places is None else places[number]] = label
        free[taken] = False
        if keep:
            found[own & ~seen] = label
    return found.reshape(labels.shape)


_KEPT = 1000
"""Up to so many regions their pixels are kept between the classes of a picture; more are found again each time."""


def _flat(x: Float32[Tensor, "label region"]) -> Bool[Tensor, "label 1"]:
    """Which rows are the same everywhere."""
    return x.amax(1, keepdim=True) - x.amin(1, keepdim=True) < 1e-6


def _stretched(x: Float32[Tensor, "class sample"]) -> Float32[Tensor, "class sample"]:
    """Negative values to 0, then each row to 0..1; a constant one to 0. Source: CLIP-ES's `scale_cam_image`."""
    if not x.numel():
        return x
    x = x.clamp(min=0)
    x = x - x.amin(1, keepdim=True)
    return x / (1e-7 + x.amax(1, keepdim=True))
