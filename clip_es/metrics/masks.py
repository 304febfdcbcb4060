"""How good masks are: one confusion matrix, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64, Shaped

from clip_es.errors import DataError, ShapeError
from clip_es.types import UNDECIDED


@dataclass(frozen=True)
class Scores:
    """Shares in 0..1; NaN where there is nothing to measure."""

    iou: Float64[np.ndarray, "class"]
    """Intersection over union of each class; NaN for a class neither drawn nor predicted."""
    miou: float
    """Mean of `iou` over the classes that occur in the ground truth."""
    pixel_accuracy: float
    """Share of the pixels that are right."""
    mean_accuracy: float
    """Share of each true class that is found, averaged over the classes that occur."""
    frequency_weighted_iou: float
    """`iou` weighted by how much of the ground truth a class covers."""


class ConfusionMatrix:
    """Counts of (true, predicted) pixels; batches may be counted apart and merged.

    Pixels whose truth is not among the `num_classes` labels, such as 255, are not counted. A predicted 255 (undecided)
    counts against its true class and for no other (`undecided="miss"`), or its pixel is left out (`"ignore"`).
    """

    def __init__(self, num_classes: int, undecided: Literal["miss", "ignore"] = "miss") -> None:
        if not 1 <= num_classes <= UNDECIDED:
            raise ShapeError("a mask has 1 to 255 classes, background included", found=num_classes)
        self.num_classes = num_classes
        self.undecided: Literal["miss", "ignore"] = undecided
        self.counts: Int64[np.ndarray, "truth predicted"] = np.zeros((num_classes, num_classes + 1), dtype=np.int64)
        """Row: true class. Column: predicted class; the last one holds the undecided."""

    def update(self, prediction: Shaped[np.ndarray, "*size"], truth: Shaped[np.ndarray, "*truth_size"]) -> None:
        """Count one picture, given as two integer arrays [h w].

        Raises ShapeError: sizes or kinds that do not fit. Raises DataError: an unknown class.
        """
        if prediction.shape != truth.shape or prediction.dtype.kind not in "iu" or truth.dtype.kind not in "iu":
            raise ShapeError(
                "prediction and ground truth must be label maps of one size",
                expected=f"integers {list(truth.shape)}",
                found=f"{prediction.dtype} {list(prediction.shape)} against {truth.dtype} {list(truth.shape)}",
            )
        undecided = prediction == UNDECIDED
        known = (prediction >= 0) & (prediction < self.num_classes)
        if not (known | undecided).all():
            raise DataError(
                "a prediction holds a class that is not being evaluated",
                expected=f"0..{self.num_classes - 1}, or {UNDECIDED} for undecided",
                found=int(prediction[~(known | undecided)][0]),
                next_step="Evaluate with the vocabulary the masks were made with.",
            )
        counted = (truth >= 0) & (truth < self.num_classes)
        if self.undecided == "ignore":
            counted &= ~undecided
        column = np.where(undecided, self.num_classes, prediction)[counted].astype(np.int64)
        cell = truth[counted].astype(np.int64) * (self.num_classes + 1) + column
        self.counts += np.bincount(cell, minlength=self.counts.size).reshape(self.counts.shape)

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the counts of another matrix. Raises ShapeError: it counts other classes or in another way."""
        if (other.num_classes, other.undecided) != (self.num_classes, self.undecided):
            raise ShapeError(
                "only confusion matrices of one kind can be merged",
                expected=f"{self.num_classes} classes, undecided={self.undecided}",
                found=f"{other.num_classes} classes, undecided={other.undecided}",
            )
        self.counts += other.counts

    def compute(self) -> Scores:
        """The scores of everything counted so far. Source: FCN (Long et al. 2015), as in CLIP-ES's evaluation."""
        right = np.diagonal(self.counts).astype(np.float64)
        true = self.counts.sum(axis=1).astype(np.float64)
        predicted = self.counts[:, : self.num_classes].sum(axis=0)
        iou = _share(right, true + predicted - right)
        present = true > 0
        if not present.any():
            return Scores(iou, *[float("nan")] * 4)
        return Scores(
            iou=iou,
            miou=float(iou[present].mean()),
            pixel_accuracy=float(right.sum() / true.sum()),
            mean_accuracy=float((right[present] / true[present]).mean()),
            frequency_weighted_iou=float((true[present] * iou[present]).sum() / true.sum()),
        )


def hiou(seen: float, unseen: float) -> float:
    """Harmonic mean of two mIoU values, the score of zero-shot segmentation; 0 where both are 0."""
    return 2 * seen * unseen / (seen + unseen) if seen + unseen else 0.0


def _share(part: Float64[np.ndarray, "class"], whole: Float64[np.ndarray, "class"]) -> Float64[np.ndarray, "class"]:
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)
