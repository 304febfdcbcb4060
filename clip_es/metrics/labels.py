"""How good labels of whole pictures are: average precision, F1, exact sets, and whether confidences are honest.

`present` is boolean everywhere, and of the shape of the scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Shaped

from clip_es.errors import ShapeError


@dataclass(frozen=True)
class LabelScores:
    """Shares in 0..1; NaN where there is nothing to measure."""

    mean_average_precision: float
    """Mean over the classes that occur; needs no threshold."""
    precision: float
    """Share of the labels given that are right, over all pictures and classes."""
    recall: float
    """Share of the true labels that are given."""
    f1: float
    """Harmonic mean of both."""
    exact: float
    """Share of the pictures whose labels are all right and none missing."""


def average_precision(scores: Float[np.ndarray, " picture"], present: Shaped[np.ndarray, " _"]) -> float:
    """Area under precision over recall, as steps: for each true picture the precision at its score, averaged.

    Pictures of equal score come in together. NaN where the class occurs nowhere.
    Source: scikit-learn, the definition without interpolation; VOC's 11 points give slightly more.
    """
    from sklearn.metrics import average_precision_score

    _check(scores, present)
    return float(average_precision_score(present, scores)) if present.any() else float("nan")


def label_scores(
    scores: Float[np.ndarray, "picture class"],
    present: Shaped[np.ndarray, "_ _"],
    threshold: float | Float[np.ndarray, " class"] = 0.5,
) -> LabelScores:
    """All measures; labels are given from `threshold` on. Raises ShapeError: shapes that differ."""
    _check(scores, present)
    each = [average_precision(scores[:, k], present[:, k]) for k in np.flatnonzero(present.any(0))]
    given = scores >= threshold
    right = float((given & present).sum())
    share = [right / total if (total := float(side.sum())) else float("nan") for side in (given, present)]
    return LabelScores(
        mean_average_precision=float(np.mean(each)) if each else float("nan"),
        precision=share[0],
        recall=share[1],
        f1=2 * right / total if (total := float(given.sum() + present.sum())) else float("nan"),
        exact=float((given == present).all(1).mean()) if len(scores) else float("nan"),
    )


def best_threshold(scores: Float[np.ndarray, "picture class"], present: Shaped[np.ndarray, "_ _"]) -> float:
    """The score from which labels are given with the largest F1; the largest such one. Raises ShapeError."""
    _check(scores, present)
    flat = scores.ravel()
    order = np.argsort(-flat, kind="stable")
    right = present.ravel()[order].cumsum()
    f1 = 2 * right / (np.arange(1, flat.size + 1) + present.sum())
    f1[:-1][np.diff(flat[order]) == 0] = -1  # a threshold cannot part equal scores
    return float(flat[order][f1.argmax()])


@dataclass(frozen=True)
class Reliability:
    """Whether p of the labels given with confidence p are right."""

    error: float
    """Expected calibration error: the gap between confidence and share present, averaged over bins by how many fall
    in."""
    bins: Float64[np.ndarray, "bin 3"]
    """Mean confidence, share present, how many; bins without any are left out."""


def reliability(
    confidence: Float[np.ndarray, "*any"], present: Shaped[np.ndarray, "*present"], bins: int = 10
) -> Reliability:
    """Equal bins over 0..1. Raises ShapeError. Source: Guo et al. (2017)."""
    _check(confidence, present)
    flat, truth = confidence.ravel().astype(np.float64), present.ravel()
    which = np.minimum((flat * bins).astype(int), bins - 1)
    rows = np.array(
        [(flat[on].mean(), truth[on].mean(), on.sum()) for k in range(bins) if (on := which == k).any()]
    ).reshape(-1, 3)
    gap = np.abs(rows[:, 0] - rows[:, 1])
    return Reliability(float((gap * rows[:, 2]).sum() / max(flat.size, 1)), rows)


def _check(scores: np.ndarray, present: np.ndarray) -> None:
    if scores.shape != present.shape or present.dtype != np.bool_:
        raise ShapeError(
            "each score belongs to a class that is present or not",
            expected=f"booleans {list(scores.shape)}",
            found=f"{present.dtype} {list(present.shape)}",
        )
