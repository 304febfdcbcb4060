"""How well one column of figures predicts the order of another, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rank correlation, and the interval in which 95 per cent of the resamples lie."""

    value: float
    """-1..1; NaN where one column is constant."""
    low: float
    high: float
    resamples: int

    @property
    def direction(self) -> int:
        """-1 or 1, the sign of the correlation, as far as the interval tells it; 0 where it contains zero."""
        return (self.low > 0) - (self.high < 0)

    def __str__(self) -> str:
        return f"{self.value:+.2f} (95 % of {self.resamples} resamples: {self.low:+.2f} .. {self.high:+.2f})"


def spearman(x: Float[np.ndarray, "*set item"], y: Float[np.ndarray, "*set item"]) -> Float[np.ndarray, "*set"]:
    """Correlation of the ranks along the last axis, equal values sharing their mean rank; NaN for constant columns."""
    a, b = (rankdata(values, axis=-1) for values in (x, y))
    a, b = (ranks - ranks.mean(axis=-1, keepdims=True) for ranks in (a, b))
    length = np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))
    return np.divide((a * b).sum(axis=-1), length, out=np.full_like(length, np.nan), where=length > 0)


def with_interval(value: float, resampled: Float[np.ndarray, " resample"]) -> RankCorrelation:
    """The value with the 2.5 and 97.5 per cent quantiles of its resamples; those that are NaN do not count."""
    known = resampled[~np.isnan(resampled)]
    low, high = np.quantile(known, (0.025, 0.975)) if len(known) else (np.nan, np.nan)
    return RankCorrelation(float(value), float(low), float(high), len(known))
