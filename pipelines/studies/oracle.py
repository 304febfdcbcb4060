"""How good a run's masks would be if spectral segments were chosen with the ground truth: a bound, never a result."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float64, Int64

from clip_es.config.run import ImageConfig, SpectralConfig
from clip_es.encoder import Encoder
from clip_es.errors import ClipEsError, ConfigError, DataError
from clip_es.images import read_picture
from clip_es.masks import read_mask
from clip_es.records import Dataset
from clip_es.refine.spectral import oracle, picture_sides

STAMP = (
    "ORACLE: for every picture and class the better of mask and spectral segment was chosen with the ground truth. "
    "This bounds what choosing could achieve; it is not the result of a method and made no mask."
)


@dataclass(frozen=True)
class OracleResult:
    """Sums over pictures, class 0 being background."""

    classes: int
    inside: Int64[np.ndarray, "2 class"]
    """Intersections: of the masks, and of what the ground truth chose."""
    union: Int64[np.ndarray, "2 class"]
    chosen: int
    """How often a segment took the place of a mask."""
    asked: int
    """Pictures times classes that a mask or the ground truth has."""
    failures: tuple[tuple[str, str], ...]
    images: int

    @property
    def iou(self) -> Float64[np.ndarray, "2 class"]:
        """Of the masks, and of the oracle; NaN for a class that nowhere occurs."""
        return np.where(self.union > 0, self.inside / np.maximum(self.union, 1), np.nan)

    @property
    def miou(self) -> tuple[float, float]:
        """Means over the classes that occur."""
        masks, best = (float(np.nanmean(row)) for row in self.iou)
        return masks, best


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
    picture has both. Source: the released evaluation of SAZS, whose figures are made so. Differs: all classes of a
    picture.
    """
    if not dataset.truth:
        raise ConfigError(
            "an oracle needs ground truth, and this data set has none",
            where=dataset.name,
            next_step="Name the folder of its masks; without ground truth there is no bound.",
        )
    inside, union = np.zeros((2, classes), dtype=np.int64), np.zeros((2, classes), dtype=np.int64)
    chosen = asked = done = 0
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
            best = oracle(predicted, large[:, known][:, None], true)
            asked += 1
            chosen += not torch.equal(best, predicted)
            for row, found in enumerate((predicted, best)):
                inside[row, k] += int((found & true).sum())
                union[row, k] += int((found | true).sum())
    if not done:
        raise DataError(
            "no picture has both a mask and ground truth",
            where=labels,
            expected=f"PNG files named like the {len(dataset.truth)} pictures with ground truth",
            found=failures[0][1] if failures else "none",
        )
    return OracleResult(classes, inside, union, chosen, asked, tuple(failures), done)
