"""Predictions and segments of the same picture, joined without any ground truth.

`vote`: every pixel's probabilities, in part those of its segment. `nearest_side`: the segment that overlaps most with a
predicted mask takes its place, if the two overlap enough; `nearest_sides` does so for each class. The published fusion
of SAZS chooses by the overlap with the *ground truth*; it is `clip_es.pipelines.studies.oracle.published`, of
`clip-es oracle` alone.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clip_es.errors import ShapeError
from clip_es.refine.pool import averaged
from clip_es.refine.spectral import overlaps


def vote(
    shares: Float[Tensor, "class h w"], segments: Int[Tensor, "sh sw"], amount: float
) -> Float[Tensor, "class h w"]:
    """(1 - amount) p + amount times the mean of p over the pixel's segment. 0 gives `shares` itself, 1 the segment's.

    Raises ShapeError: segments of another size.
    """
    _check(shares.shape[1:], segments.shape)
    return averaged(shares, segments, amount).clamp(0, 1)


def nearest_side(
    prediction: Bool[Tensor, "h w"], sides: Bool[Tensor, "k sh sw"], least: float = 0.5
) -> Bool[Tensor, "h w"]:
    """The segment, or the complement of one, with the highest IoU with the prediction, where that is `least` or more.

    A prediction is returned as it is where none is near enough; so always with `least` above 1.
    Raises ShapeError: segments of another size. Source: our reading of SAZS, whose text names the overlap with the
    prediction; taken literally the prediction itself would always win.
    """
    _check(prediction.shape, sides.shape[1:])
    both = torch.cat([sides, ~sides])
    if not len(both):
        return prediction
    share = overlaps(prediction.flatten()[None], both.flatten(1))[0]
    best = int(share.argmax())
    return both[best] if float(share[best]) >= least else prediction


def nearest_sides(
    shares: Float[Tensor, "class h w"], sides: Bool[Tensor, "k sh sw"], least: float = 0.5
) -> Float[Tensor, "class h w"]:
    """`nearest_side` for the mask of every class but the first, which is background and gets what no class takes.

    Of several classes that take a pixel the likeliest wins. The winner and the label that was there exchange their
    shares, so that these still sum to one. Raises ShapeError: segments of another size.
    """
    before = shares.argmax(0)
    present = before.unique()
    present = present[present > 0]
    if not len(present):
        _check(shares.shape[1:], sides.shape[1:])
        return shares
    taken = torch.stack([nearest_side(before == label, sides, least) for label in present])
    likeliest = present[shares[present].masked_fill(~taken, -1).argmax(0)]
    after = torch.where(taken.any(0), likeliest, 0)[None]
    old, new = shares.gather(0, before[None]), shares.gather(0, after)
    return shares.scatter(0, before[None], new).scatter(0, after, old)


def _check(size: torch.Size, segments: torch.Size) -> None:
    if tuple(size) != tuple(segments):
        raise ShapeError(
            "segments and prediction must be of one size",
            expected=f"{size[0]} x {size[1]}",
            found=" x ".join(map(str, segments)),
            next_step="Make the segments again for these very pictures: clip-es segments.",
        )
