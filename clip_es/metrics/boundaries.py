"""How well outlines are met: the boundary F-score of each class, with a tolerance in pixels."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float64, Shaped
from scipy.ndimage import distance_transform_edt

from clip_es.errors import ShapeError
from clip_es.types import UNDECIDED

TOLERANCE = 0.0075
"""Of the diagonal of a picture: 2 pixels at 192 x 192."""


class BoundaryMeter:
    """F-score of the outlines of each class, averaged over the pictures it is in, then over classes.

    In a picture, precision is the share of the predicted outline that is within the tolerance of the true one, recall
    the converse; a class that only one of the two has scores 0 there. Pixels of 255 in the ground truth are left out.
    Source: Csurka et al. 2013 (per class and picture), Perazzi et al. 2016 (tolerance).
    """

    def __init__(self, tolerance: float = TOLERANCE) -> None:
        self.tolerance = tolerance
        self.sums: Float64[np.ndarray, " value"] = np.zeros(UNDECIDED)
        self.counts: Float64[np.ndarray, " value"] = np.zeros(UNDECIDED)

    def update(self, prediction: Shaped[np.ndarray, "h w"], truth: Shaped[np.ndarray, "th tw"]) -> None:
        """Count one picture, two label maps. Raises ShapeError: sizes that do not fit."""
        if prediction.shape != truth.shape:
            raise ShapeError(
                "prediction and ground truth must be of one size", expected=truth.shape, found=prediction.shape
            )
        known = truth != UNDECIDED
        reach = max(1.0, round(self.tolerance * float(np.hypot(*truth.shape))))
        for value in sorted(set(np.unique(prediction[known]).tolist()) | set(np.unique(truth[known]).tolist())):
            if value == UNDECIDED:
                continue
            self.sums[value] += _score(outline(prediction == value) & known, outline(truth == value) & known, reach)
            self.counts[value] += 1

    def by_class(self, classes: list[int]) -> Float64[np.ndarray, " class"]:
        """F of some mask values, 0..1; NaN for one that is nowhere."""
        sums, counts = self.sums[classes], self.counts[classes]
        return np.divide(sums, counts, out=np.full(len(classes), np.nan), where=counts > 0)

    def mean(self, classes: list[int]) -> float:
        """Mean of `by_class` over those that are somewhere."""
        found = self.by_class(classes)
        return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")


def outline(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Pixels of the mask with a neighbour (right, below, beside those) outside it, or the other way round."""
    edge = np.zeros_like(mask)
    edge[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    edge[:-1] |= mask[:-1] != mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] != mask[1:, 1:]
    return edge


def _score(predicted: Bool[np.ndarray, "h w"], drawn: Bool[np.ndarray, "h w"], reach: float) -> float:
    if not predicted.any() or not drawn.any():
        return float(not predicted.any() and not drawn.any())
    precision = float((np.asarray(distance_transform_edt(~drawn))[predicted] <= reach).mean())
    recall = float((np.asarray(distance_transform_edt(~predicted))[drawn] <= reach).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
