"""How far a mean IoU would move with other pictures: the bootstrap over pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from clip_es.errors import ShapeError
from clip_es.metrics.masks import ConfusionMatrix


def resampled_miou(
    pictures: Sequence[ConfusionMatrix], draws: int = 1000, seed: int = 0
) -> Float64[np.ndarray, " draws"]:
    """mIoU, 0..1, of `draws` samples of as many pictures, taken with replacement.

    `pictures` holds one matrix for each picture. The samples follow from `seed` and the number of pictures alone, so
    that two methods on the same pictures are compared draw by draw; the standard deviation over the draws is the
    standard error. NaN where a sample has no true pixel.
    Raises ShapeError: there is no picture, or the matrices are not of one kind.
    Source: Efron 1979, applied to pictures because the pixels of one picture are alike.
    """
    if not pictures:
        raise ShapeError("the bootstrap needs at least one picture", found="none")
    kinds = {(matrix.num_classes, matrix.undecided) for matrix in pictures}
    if len(kinds) > 1:
        raise ShapeError("the pictures must be counted in one way", found=sorted(kinds))
    counts = np.stack([matrix.counts for matrix in pictures])
    right = np.diagonal(counts, axis1=1, axis2=2)
    true, predicted = counts.sum(axis=2), counts[:, :, :-1].sum(axis=1)
    rng = np.random.default_rng((0xB007, seed))
    times = rng.multinomial(len(pictures), np.full(len(pictures), 1 / len(pictures)), size=draws).astype(np.float64)
    hit, union, present = times @ right, times @ (true + predicted - right), times @ true > 0
    iou = np.divide(hit, union, out=np.zeros_like(hit), where=union > 0)
    classes = present.sum(axis=1)
    return np.divide((iou * present).sum(axis=1), classes, out=np.full(draws, np.nan), where=classes > 0)
