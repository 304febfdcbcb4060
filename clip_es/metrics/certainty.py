"""How sure a method is of a picture, from the confidence of its pixels alone.

`expected-miou` reads the confidence of a pixel as the chance that its label is right and asks which mIoU the picture
then has. Of each label in the picture: the pixels that are expected to be right, over the pixels that have the label
plus those expected to have lost it to another one (every wrong pixel belongs to one of the other labels, in equal
shares). The mean over the labels is the score, 0..1; low means unsure. Unlike the mean confidence it gives a small
object the weight of a large one, as mIoU does.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, UInt8

from clip_es.errors import ShapeError
from clip_es.types import UNDECIDED

ScoreName = Literal["expected-miou", "mean-confidence", "decided-share"]
"""What pictures are ranked by. All are 0..1, and low means unsure."""


def certainty(
    decided: UInt8[np.ndarray, "h w"], masks: UInt8[np.ndarray, "h w"], confidence: Float32[np.ndarray, "h w"]
) -> dict[ScoreName, float]:
    """All scores of one picture. Raises ShapeError: the three have different sizes."""
    if not decided.shape == masks.shape == confidence.shape:
        raise ShapeError(
            "labels, mask and confidence of a picture have different sizes",
            found=f"{decided.shape}, {masks.shape}, {confidence.shape}",
        )
    return {
        "expected-miou": expected_miou(decided, confidence),
        "mean-confidence": float(confidence.mean(dtype=np.float64)),
        "decided-share": float((masks != UNDECIDED).mean()),
    }


def expected_miou(decided: UInt8[np.ndarray, "h w"], confidence: Float32[np.ndarray, "h w"]) -> float:
    """The mIoU of the labels that occur, were each pixel right with the chance that its confidence says."""
    pixels: Float[np.ndarray, 256] = np.bincount(decided.ravel(), minlength=256).astype(np.float64)
    right = np.bincount(decided.ravel(), weights=confidence.ravel().astype(np.float64), minlength=256)
    labels = np.flatnonzero(pixels)
    pixels, right = pixels[labels], right[labels]
    wrong = pixels - right
    lost = (wrong.sum() - wrong) / max(len(labels) - 1, 1)
    return float((right / (pixels + lost)).mean())
