"""How good maps of single phrases are: binary figures at many thresholds, and the area under precision and recall."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from clip_es.errors import ConfigError, ShapeError

THRESHOLDS: tuple[float, ...] = tuple(round(0.02 * step, 2) for step in range(1, 50))
"""0.02 to 0.98; a pixel is predicted where its probability is above."""


@dataclass(frozen=True)
class ReferringScores:
    """Shares in 0..1, one for each threshold; counts are smoothed by one, as published."""

    thresholds: tuple[float, ...]
    miou: Float64[np.ndarray, " t"]
    """Mean over the groups (samples, or classes) of the IoU of their pooled counts."""
    iou_fg: Float64[np.ndarray, " t"]
    """IoU of the foreground over all pixels of all samples."""
    iou_bin: Float64[np.ndarray, " t"]
    """Mean of `iou_fg` and of the same for the background."""
    precision: Float64[np.ndarray, " t"]
    recall: Float64[np.ndarray, " t"]
    ap: float
    """Integral of precision over recall by Simpson's rule, at the thresholds that predict anything; 0 where none does.
    It is not extended to recall 0 and 1."""
    ap_trapezoid: float
    """The same by the trapezoidal rule."""
    samples: int

    def at(self, threshold: float) -> dict[str, float]:
        """mIoU, IoU_FG and IoU_BIN at one of the thresholds. Raises ConfigError: it is not one of them."""
        if round(threshold, 6) not in self.thresholds:
            raise ConfigError("no figures at this threshold", expected="0.02, 0.04 .. 0.98", found=threshold)
        t = self.thresholds.index(round(threshold, 6))
        return {"miou": float(self.miou[t]), "iou_fg": float(self.iou_fg[t]), "iou_bin": float(self.iou_bin[t])}

    def best(self, figure: str = "miou") -> tuple[float, float]:
        """The largest value of `miou`, `iou_fg` or `iou_bin`, and the first threshold that reaches it."""
        values = getattr(self, figure)
        t = int(np.argmax(values))
        return float(values[t]), self.thresholds[t]


class ReferringMeter:
    """Counts of pixels at every threshold, by group; meters of parts of a data set may be merged."""

    def __init__(self, thresholds: tuple[float, ...] = THRESHOLDS) -> None:
        if list(thresholds) != sorted(set(thresholds)) or not thresholds:
            raise ConfigError("thresholds ascend", found=thresholds)
        self.thresholds = thresholds
        self.counts: dict[tuple[str, Hashable], Int64[np.ndarray, "t 4"]] = {}
        """By group: true positives, false positives, false negatives, true negatives at each threshold."""
        self.samples = 0

    def update(
        self,
        probability: Float[Tensor, "h w"],
        truth: Bool[Tensor, "th tw"],
        group: Hashable = None,
        valid: Bool[Tensor, "vh vw"] | None = None,
    ) -> None:
        """Count one sample. `group` None: the sample is a group of its own. Pixels outside `valid` do not count.

        Raises ShapeError: sizes that do not fit.
        """
        if probability.shape != truth.shape or (valid is not None and valid.shape != truth.shape):
            raise ShapeError(
                "map and ground truth must have one size", expected=list(truth.shape), found=probability.shape
            )
        edges = torch.tensor(self.thresholds, dtype=probability.dtype, device=probability.device)
        above = torch.bucketize(probability.contiguous(), edges)  # how many thresholds each pixel is above
        keep = torch.ones_like(truth) if valid is None else valid
        positive, negative = (
            torch.bincount(above[keep & side], minlength=len(edges) + 1).cpu().numpy() for side in (truth, ~truth)
        )
        counts = np.empty((len(edges), 4), np.int64)
        for column, pixels in ((0, positive), (1, negative)):
            over = pixels[::-1].cumsum()[::-1][1:]
            counts[:, column], counts[:, (2, 3)[column]] = over, pixels.sum() - over
        key = ("sample", self.samples) if group is None else ("group", group)
        self.counts[key] = self.counts.get(key, 0) + counts
        self.samples += 1

    def merge(self, other: ReferringMeter) -> None:
        """Add the counts of another meter. Raises ShapeError: it has other thresholds."""
        if other.thresholds != self.thresholds:
            raise ShapeError("only meters of the same thresholds can be merged", found=len(other.thresholds))
        for (kind, key), counts in other.counts.items():
            own = (kind, key + self.samples) if isinstance(key, int) and kind == "sample" else (kind, key)
            self.counts[own] = self.counts.get(own, 0) + counts
        self.samples += other.samples

    def compute(self) -> ReferringScores:
        """The scores of everything counted so far. Raises ShapeError: nothing was.

        Source: CLIPSeg's published evaluation. Differs: points of equal recall are taken in the order of their
        precision; published, in that of a Python set, which moves the average precision by up to some thousandths.
        """
        if not self.counts:
            raise ShapeError("nothing was counted", expected="at least one sample")
        every = np.stack(list(self.counts.values())).astype(np.float64)
        tp, fp, fn, tn = every.sum(0).T
        iou_fg = tp / (1 + tp + fp + fn)
        precision, recall = tp / (1 + tp + fp), tp / (1 + tp + fn)
        made = tp + fp > 0  # a threshold above all probabilities says nothing about precision
        points = np.array(sorted(set(zip(recall[made].tolist(), precision[made].tolist(), strict=True)))).reshape(-1, 2)
        grouped = every[:, :, 0] / (1 + every[:, :, :3].sum(-1))
        return ReferringScores(
            thresholds=self.thresholds,
            miou=grouped.mean(0),
            iou_fg=iou_fg,
            iou_bin=(iou_fg + tn / (1 + tn + fp + fn)) / 2,
            precision=precision,
            recall=recall,
            ap=simpson(points[:, 0], points[:, 1]),
            ap_trapezoid=float(np.sum(np.diff(points[:, 0]) * (points[1:, 1] + points[:-1, 1]) / 2)),
            samples=self.samples,
        )


def simpson(x: Float64[np.ndarray, " n"], y: Float64[np.ndarray, " n"]) -> float:
    """Simpson's rule on points of any spacing; for an even number the last interval by Cartwright's correction.

    Points that share their x are allowed where they do not stand at both ends of a pair of intervals. Written out
    because the rule for even numbers changed between releases of scipy; this is the one from 1.11 on.
    """
    n = len(x)
    if n < 3:
        return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2))
    h = np.diff(x)
    last = n if n % 2 else n - 1
    h0, h1 = h[0 : last - 1 : 2], h[1 : last - 1 : 2]
    y0, y1, y2 = y[0 : last - 2 : 2], y[1 : last - 1 : 2], y[2:last:2]
    whole, product = h0 + h1, h0 * h1
    ratio, inverse, square = (
        np.divide(a, b, out=np.zeros_like(a), where=b != 0) for a, b in ((h0, h1), (h1, h0), (whole**2, product))
    )
    total = float(np.sum(whole / 6 * (y0 * (2 - inverse) + y1 * square + y2 * (2 - ratio))))
    if n % 2:
        return total
    a, b = float(h[-2]), float(h[-1])
    if a + b == 0 or a == 0:
        return total + b * float(y[-1] + y[-2]) / 2
    alpha = (2 * b**2 + 3 * a * b) / (6 * (a + b))
    beta = (b**2 + 3 * a * b) / (6 * a)
    eta = b**3 / (6 * a * (a + b))
    return total + alpha * float(y[-1]) + beta * float(y[-2]) - eta * float(y[-3])
