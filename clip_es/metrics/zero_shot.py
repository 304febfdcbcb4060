"""How good a segmenter is on classes it was trained on and on classes it knows by name alone.

Two protocols. *Generalised*: all classes compete on every picture; figures of the seen, of the unseen, and their
harmonic mean (`ZeroShotMeter`). *Episodes*: a picture and one class that is in it, everything else is background
(`EpisodeMeter`); figures are the mIoU of the classes and the FB-IoU. They cannot be compared with each other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped

from clip_es.errors import ConfigError, DataError, ShapeError
from clip_es.metrics.masks import hiou
from clip_es.types import UNDECIDED

IgnorePolicy = Literal["count", "drop"]
"""What a prediction on an ignored pixel (255 in the ground truth) is: `count`, part of the predicted area and so a
false positive, as SAZS evaluates PASCAL; `drop`, nothing, as PFENet and HSNet do (about 4 points of mIoU more)."""


@dataclass(frozen=True)
class GroupScores:
    """Figures of a group of classes, shares in 0..1; NaN where there is nothing to measure."""

    miou: float
    """Mean IoU over the classes that occur in the ground truth or in a prediction; one that is only predicted is 0."""
    pixel_accuracy: float
    """Share of the group's pixels that are right."""
    mean_accuracy: float
    """Share of each class that is found, averaged over the classes that occur."""
    frequency_weighted_iou: float
    """IoU weighted by the share of all pixels that a class covers: the groups add up to the whole."""


@dataclass(frozen=True)
class ZeroShotScores:
    """Figures of all classes, of the seen, of the unseen, and the harmonic means of the two."""

    iou: Float64[np.ndarray, " value"]
    """By mask value, 0 background; NaN for a class that is neither drawn nor predicted."""
    all: GroupScores
    seen: GroupScores
    unseen: GroupScores
    harmonic: GroupScores
    fb_iou: float
    """Mean IoU of background and of everything else taken as one class; NaN where background is not counted."""

    def percent(self) -> dict[str, float]:
        """Seen, unseen and harmonic mIoU, mIoU, pixel and mean accuracy and FB-IoU in per cent, as tables show them."""
        return {
            "seen": 100 * self.seen.miou,
            "unseen": 100 * self.unseen.miou,
            "harmonic": 100 * self.harmonic.miou,
            "miou": 100 * self.all.miou,
            "pixel_accuracy": 100 * self.all.pixel_accuracy,
            "mean_accuracy": 100 * self.all.mean_accuracy,
            "fb_iou": 100 * self.fb_iou,
        }


class ZeroShotMeter:
    """Counts of (ground truth, prediction) over pictures, and the generalised zero-shot figures that follow.

    `seen` and `unseen` are mask values, 1 and up. Background (0) is counted as a seen class with
    `include_background`; without it, pixels of background are left out, and 0 predicted elsewhere is a miss.
    A predicted 255 is a miss.
    Raises ConfigError: a value in both groups, out of range, or no value at all.
    """

    def __init__(
        self,
        seen: Iterable[int],
        unseen: Iterable[int],
        *,
        ignore_policy: IgnorePolicy = "drop",
        include_background: bool = True,
    ) -> None:
        self.seen, self.unseen = tuple(seen), tuple(unseen)
        both = set(self.seen) & set(self.unseen)
        values = (*self.seen, *self.unseen)
        if both or len(set(values)) != len(values):
            raise ConfigError("a class is seen or unseen, and named once", found=sorted(both) or sorted(values))
        if not values or not all(0 < value < UNDECIDED for value in values):
            raise ConfigError("the classes of an evaluation are mask values", expected="1..254", found=sorted(values))
        self.ignore_policy: IgnorePolicy = ignore_policy
        self.include_background = include_background
        self.counts: Int64[np.ndarray, "truth predicted"] = np.zeros((256, 256), dtype=np.int64)
        """By mask value. Every pixel is counted, whatever is left out later."""

    def update(self, prediction: Shaped[np.ndarray, "h w"], truth: Shaped[np.ndarray, "th tw"]) -> None:
        """Count one picture, both label maps with values 0..255.

        Raises ShapeError: sizes or kinds that do not fit. Raises DataError: a predicted class that is not evaluated.
        """
        _check_maps(prediction, truth)
        strange = sorted(set(np.unique(prediction).tolist()) - {0, UNDECIDED, *self.seen, *self.unseen})
        if strange:
            raise DataError(
                "a prediction holds a class that is neither seen nor unseen",
                expected=sorted((*self.seen, *self.unseen)),
                found=strange,
                next_step="Name every class of the model as seen or unseen.",
            )
        truth = np.where((truth < 0) | (truth > UNDECIDED), UNDECIDED, truth)
        cell = truth.astype(np.int64) * 256 + prediction.astype(np.int64)
        self.counts += np.bincount(cell.ravel(), minlength=self.counts.size).reshape(self.counts.shape)

    def merge(self, other: ZeroShotMeter) -> None:
        """Add the counts of another meter. Raises ConfigError: it measures something else."""
        mine, theirs = (
            (meter.seen, meter.unseen, meter.ignore_policy, meter.include_background) for meter in (self, other)
        )
        if mine != theirs:
            raise ConfigError("only meters of one protocol can be merged", expected=mine, found=theirs)
        self.counts += other.counts

    def compute(self) -> ZeroShotScores:
        """The figures of everything counted so far. Source: SPNet, CaGNet (classes); FSS papers (FB-IoU)."""
        classes = np.array(sorted(({0} if self.include_background else set()) | {*self.seen, *self.unseen}))
        counted = self.counts[classes]
        right = np.diagonal(self.counts)[classes].astype(np.float64)
        true = counted.sum(axis=1).astype(np.float64)
        predicted = counted[:, classes].sum(axis=0).astype(np.float64)
        if self.ignore_policy == "count":
            others = sorted(set(range(1, 256)) - set(classes.tolist()))  # 255, and classes that are not evaluated
            predicted += self.counts[others][:, classes].sum(axis=0)
        iou, recall = _share(right, true + predicted - right), _share(right, true)

        def group(members: set[int]) -> GroupScores:
            chosen = np.isin(classes, sorted(members))
            whole = true[chosen].sum()
            return GroupScores(
                miou=_mean(iou[chosen]),
                pixel_accuracy=float(right[chosen].sum() / whole) if whole else float("nan"),
                mean_accuracy=_mean(recall[chosen]),
                frequency_weighted_iou=float(np.nansum((true * iou)[chosen]) / true.sum()) if whole else float("nan"),
            )

        seen = group({*self.seen, 0} if self.include_background else set(self.seen))
        unseen = group(set(self.unseen))
        by_value = np.full(UNDECIDED, np.nan)
        by_value[classes] = iou
        return ZeroShotScores(
            iou=by_value,
            all=group(set(classes.tolist())),
            seen=seen,
            unseen=unseen,
            harmonic=GroupScores(
                **{name: harmonic(getattr(seen, name), getattr(unseen, name)) for name in GroupScores.__annotations__}
            ),
            fb_iou=self._fb_iou(classes) if self.include_background else float("nan"),
        )

    def _fb_iou(self, classes: Int64[np.ndarray, "class"]) -> float:
        rows = self.counts[classes]
        sides = np.zeros((2, 2))
        for i, row in enumerate((rows[:1], rows[1:])):
            sides[i] = row[:, 0].sum(), row[:, 1:].sum()
        ignored = self.counts[UNDECIDED] if self.ignore_policy == "count" else np.zeros(256, dtype=np.int64)
        right = np.diagonal(sides)
        predicted = sides.sum(axis=0) + np.array([ignored[0], ignored[1:].sum()])
        return _mean(_share(right.astype(np.float64), sides.sum(axis=1) + predicted - right))


class EpisodeMeter:
    """Counts of episodes: a picture and one of its classes; the rest of the picture is background.

    `ignore_policy` says what a prediction on a pixel of 255 is. Source: SAZS, evaluation of PASCAL (`count`, where
    the blanking of predictions is written into a copy and lost) and PFENet, HSNet (`drop`).
    """

    def __init__(self, class_ids: Iterable[int], ignore_policy: IgnorePolicy = "drop") -> None:
        self.class_ids = tuple(class_ids)
        if not self.class_ids or len(set(self.class_ids)) != len(self.class_ids):
            raise ConfigError("the classes of a fold are unique, and there is one", found=self.class_ids)
        self.ignore_policy: IgnorePolicy = ignore_policy
        self.intersection: Int64[np.ndarray, "class 2"] = np.zeros((len(self.class_ids), 2), dtype=np.int64)
        """By class; background, foreground."""
        self.union: Int64[np.ndarray, "class 2"] = np.zeros_like(self.intersection)
        self.episodes = 0

    def update(
        self, class_id: int, prediction: Bool[np.ndarray, "h w"], truth: Shaped[np.ndarray, "th tw"], value: int
    ) -> tuple[Int64[np.ndarray, " 2"], Int64[np.ndarray, " 2"]]:
        """Count one episode: where the class is predicted, and the mask in which it has `value`.

        Returns its intersection and union, background first. Raises DataError: the class is not of the fold.
        """
        if class_id not in self.class_ids:
            raise DataError("the class of an episode is not of this fold", expected=self.class_ids, found=class_id)
        _check_maps(prediction.astype(np.uint8), truth)
        valid = truth != UNDECIDED
        target = truth == value
        intersection, union = np.zeros(2, dtype=np.int64), np.zeros(2, dtype=np.int64)
        for side in (0, 1):
            predicted = prediction == bool(side)
            drawn = (target if side else ~target) & valid
            if self.ignore_policy == "drop":
                predicted = predicted & valid
            intersection[side] = (predicted & drawn).sum()
            union[side] = predicted.sum() + drawn.sum() - intersection[side]
        row = self.class_ids.index(class_id)
        self.intersection[row] += intersection
        self.union[row] += union
        self.episodes += 1
        return intersection, union

    def merge(self, other: EpisodeMeter) -> None:
        """Add the counts of another meter. Raises ConfigError: another fold or policy."""
        if (self.class_ids, self.ignore_policy) != (other.class_ids, other.ignore_policy):
            raise ConfigError("only meters of one fold and policy can be merged", found=other.class_ids)
        self.intersection += other.intersection
        self.union += other.union
        self.episodes += other.episodes

    def iou(self) -> Float64[np.ndarray, "class"]:
        """Foreground IoU of each class of the fold, 0..1; 0 for a class without a pixel, as published."""
        return self.intersection[:, 1] / np.maximum(self.union[:, 1], 1)

    @property
    def miou(self) -> float:
        """Mean of `iou` over the classes of the fold."""
        return float(self.iou().mean())

    @property
    def fb_iou(self) -> float:
        """Mean IoU of foreground and background over all episodes, whatever their class."""
        return float((self.intersection.sum(axis=0) / np.maximum(self.union.sum(axis=0), 1)).mean())


def harmonic(seen: float, unseen: float) -> float:
    """Harmonic mean of two shares; 0 where both are 0, NaN where one was not measured."""
    return float("nan") if np.isnan(seen) or np.isnan(unseen) else hiou(seen, unseen)


def _check_maps(prediction: np.ndarray, truth: np.ndarray) -> None:
    if prediction.shape != truth.shape or prediction.dtype.kind not in "iu" or truth.dtype.kind not in "iu":
        raise ShapeError(
            "prediction and ground truth must be label maps of one size",
            expected=f"integers {list(truth.shape)}",
            found=f"{prediction.dtype} {list(prediction.shape)} and {truth.dtype} {list(truth.shape)}",
        )


def _mean(values: Float64[np.ndarray, "class"]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _share(part: Float64[np.ndarray, "class"], whole: Float64[np.ndarray, "class"]) -> Float64[np.ndarray, "class"]:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
