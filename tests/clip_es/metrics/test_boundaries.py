"""The boundary F-score on outlines that can be counted."""

import numpy as np
import pytest

from clip_es.errors import ShapeError
from clip_es.metrics.boundaries import BoundaryMeter


def disc(shift=0, side=64):
    y, x = np.mgrid[:side, :side]
    return ((y - 32) ** 2 + (x - 32 - shift) ** 2 < 200).astype(np.uint8)


def score(prediction, truth, **options):
    meter = BoundaryMeter(**options)
    meter.update(prediction, truth)
    return meter


def test_the_same_outline_scores_one_and_a_shift_within_the_tolerance_too():
    assert score(disc(), disc()).mean([0, 1]) == 1
    assert score(disc(1), disc()).mean([0, 1]) == 1
    shifted = [score(disc(by), disc()).mean([1]) for by in (2, 4, 8)]
    assert shifted == sorted(shifted, reverse=True)
    assert shifted[-1] < 0.4


def test_a_class_that_only_one_of_the_two_has_scores_zero_there():
    meter = score(np.zeros_like(disc()), disc())
    assert meter.by_class([1]).tolist() == [0]
    assert np.isnan(meter.by_class([2])[0])
    meter.update(disc(), disc())
    assert meter.by_class([1]).tolist() == [0.5]


def test_unknown_pixels_do_not_count():
    truth = disc()
    truth[:, 40:] = 255
    prediction = disc()
    prediction[:20, 50:] = 2
    assert np.isnan(score(prediction, truth).by_class([2])[0])


def test_sizes_must_fit():
    with pytest.raises(ShapeError, match="one size"):
        score(disc(), disc()[:-1])
