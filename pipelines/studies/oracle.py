"""How good a run's masks would be if spectral segments were chosen with the ground truth: a bound, never a result.

The published choice takes, for each picture and class, whatever overlaps most with the ground truth. IoU over a data
set is a ratio of sums, so it can fall by that: a large segment that is little better than a small mask adds its whole
area to the union. The bound therefore takes what makes the ratio of the sums largest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from clip_es.config.run import ImageConfig, SpectralConfig
from clip_es.encoder import Encoder
from clip_es.errors import ClipEsError, ConfigError, DataError
from clip_es.images import read_picture
from clip_es.masks import read_mask
from clip_es.records import Dataset
from clip_es.refine.spectral import picture_sides

STAMP = (
    "ORACLE: for every picture and class mask or spectral segment was chosen with the ground truth, as published by "
    "the IoU in the picture, and for the bound by the IoU over all pictures. It tells what choosing could achieve; it "
    "is not the result of a method and made no mask."
)


@dataclass(frozen=True)
class OracleResult:
    """Sums over pictures, class 0 being background."""

    classes: int
    inside: Int64[np.ndarray, "3 class"]
    """Intersections: of the masks, of the published choice, and of the choice that is best over all pictures."""
    union: Int64[np.ndarray, "3 class"]
    chosen: tuple[int, int]
    """How often a segment took the place of a mask: as published, and for the bound."""
    asked: int
    """Pictures times classes that a mask or the ground truth has."""
    failures: tuple[tuple[str, str], ...]
    images: int

    @property
    def iou(self) -> Float64[np.ndarray, "3 class"]:
        """Of the masks, the published choice and the bound; NaN for a class that nowhere occurs."""
        return np.where(self.union > 0, self.inside / np.maximum(self.union, 1), np.nan)

    @property
    def miou(self) -> tuple[float, float, float]:
        """Means over the classes that occur."""
        masks, published, bound = (float(np.nanmean(row)) for row in self.iou)
        return masks, published, bound


def spectral_oracle(
    encoder: Encoder,
    dataset: Dataset,
    labels: Path,
    classes: int,
    config: SpectralConfig,
    images: ImageConfig,
    track: Callable[[Iterable], Iterable] = lambda items: items,
) -> OracleResult:
    """Compare masks, and the better of mask and segment, with the ground truth, class by class.

    `labels`: folder of the masks; `classes`: labels with background. Segments are the positive sides of a picture's
    eigenvectors, enlarged to its size (nearest). Raises ConfigError: the data set has no ground truth. DataError: no
    picture has both. Source: the released evaluation of SAZS, whose figures are made by the published choice. Differs:
    all classes of a picture.
    """
    if not dataset.truth:
        raise ConfigError(
            "an oracle needs ground truth, and this data set has none",
            where=dataset.name,
            next_step="Name the folder of its masks; without ground truth there is no bound.",
        )
    counted: dict[int, list[OneCount]] = {}
    done = 0
    failures: list[tuple[str, str]] = []
    for record in track(dataset.records):
        path = dataset.truth.get(record.image_id)
        mask_path = labels / f"{record.image_id}.png"
        if path is None or not mask_path.is_file():
            continue
        try:
            truth, mask = read_mask(path), read_mask(mask_path)
            if dataset.truth_table is not None:
                truth = dataset.truth_table[truth]
            if truth.shape != mask.shape:
                raise DataError(
                    "mask and ground truth differ in size", where=mask_path, expected=truth.shape, found=mask.shape
                )
            picture = read_picture(record, encoder.patch, images)
            seen = encoder.encode([picture.patches], attention_layers=1)[0]
            sides = picture_sides(picture, seen.tokens[1:], seen.grid_hw, config)
        except ClipEsError as error:
            failures.append((record.image_id, str(error)))
            continue
        done += 1
        known = torch.from_numpy(truth < classes)
        large = F.interpolate(sides[None].float(), size=truth.shape, mode="nearest")[0] > 0
        for k in np.union1d(np.unique(truth[truth < classes]), np.unique(mask[mask < classes])):
            predicted, true = (torch.from_numpy(one == k)[known][None] for one in (mask, truth))
            counted.setdefault(int(k), []).append(counts_of(torch.cat([predicted, large[:, known]]), true[0]))
    if not done:
        raise DataError(
            "no picture has both a mask and ground truth",
            where=labels,
            expected=f"PNG files named like the {len(dataset.truth)} pictures with ground truth",
            found=failures[0][1] if failures else "none",
            next_step=None if failures else "Name a run of `clip-es masks`, or of `clip-es predict --confidence`.",
        )
    inside, union = np.zeros((3, classes), dtype=np.int64), np.zeros((3, classes), dtype=np.int64)
    chosen = np.zeros(3, dtype=np.int64)
    for k, episodes in counted.items():
        counts = np.stack(episodes)
        for row, picks in enumerate((np.zeros(len(counts), dtype=np.int64), published(counts), best_in_all(counts))):
            inside[row, k], union[row, k] = _summed(counts, picks)
            chosen[row] += (picks > 0).sum()
    asked = sum(map(len, counted.values()))
    return OracleResult(classes, inside, union, (int(chosen[1]), int(chosen[2])), asked, tuple(failures), done)


OneCount = Int64[np.ndarray, "2 candidate"]
Counts = Int64[np.ndarray, "picture 2 candidate"]
"""Intersection and union with the ground truth of what may be taken in each picture; the mask is the first."""


def counts_of(candidates: Bool[Tensor, "candidate pixel"], truth: Bool[Tensor, " pixel"]) -> OneCount:
    """Of one picture."""
    return torch.stack([(candidates & truth).sum(1), (candidates | truth).sum(1)]).numpy()


def published(counts: Counts) -> Int64[np.ndarray, " picture"]:
    """In each picture the candidate of the highest IoU, the mask where it is among the best. Source: SAZS, released."""
    return (counts[:, 0] / np.maximum(counts[:, 1], 1)).argmax(1)


def best_in_all(counts: Counts) -> Int64[np.ndarray, " picture"]:
    """The candidates whose summed intersection over summed union is largest, and never below that of the masks.

    Source: Dinkelbach 1967, for ratios: a share is reached by the sums if and only if they reach it without the ratio,
    so each picture can choose for itself.
    """
    picks = np.zeros(len(counts), dtype=np.int64)
    while True:
        inside, union = _summed(counts, picks)
        gain = counts[:, 0] * int(union) - counts[:, 1] * int(inside)  # in whole numbers, which know no rounding
        better = gain.argmax(1)
        if int(np.take_along_axis(gain, better[:, None], 1).sum()) <= 0:
            return picks
        picks = better


def _summed(counts: Counts, picks: Int64[np.ndarray, " picture"]) -> tuple[np.int64, np.int64]:
    chosen = np.take_along_axis(counts, picks[:, None, None], 2)[..., 0].sum(0)
    return chosen[0], chosen[1]
