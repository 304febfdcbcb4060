"""Measures of labels: against scikit-learn, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from clip_es.errors import ShapeError
from clip_es.metrics.labels import average_precision, best_threshold, label_scores, reliability


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("count", [1, 2, 17, 400])
def test_average_precision_is_scikit_learns(count, ties):
    rng = np.random.default_rng(count)
    for _ in range(20):
        scores, present = rng.random(count), rng.random(count) < 0.3
        present[rng.integers(count)] = True
        if ties:
            scores = np.round(scores, 1)
        wanted = average_precision_score(present, scores)
        assert average_precision(scores, present) == pytest.approx(wanted, abs=1e-12)


def test_average_precision_by_hand():
    # Ranked: right, wrong, right. Precision at the two right ones: 1 and 2/3.
    found = average_precision(np.array([0.9, 0.5, 0.1]), np.array([True, False, True]))
    assert found == pytest.approx((1 + 2 / 3) / 2)


def test_a_class_that_never_occurs_has_no_average_precision_and_leaves_the_mean_alone():
    scores = np.array([[0.9, 0.8], [0.1, 0.2]])
    present = np.array([[True, False], [False, False]])
    assert np.isnan(average_precision(scores[:, 1], present[:, 1]))
    assert label_scores(scores, present).mean_average_precision == 1


def test_all_measures_by_hand():
    scores = np.array([[0.9, 0.6, 0.1], [0.2, 0.7, 0.5]])
    present = np.array([[True, False, False], [False, True, True]])
    found = label_scores(scores, present)  # gives 0 and 1 to the first picture, 1 and 2 to the second
    assert (found.precision, found.recall, found.exact) == (3 / 4, 1, 1 / 2)
    assert found.f1 == pytest.approx(6 / 7)
    assert found.mean_average_precision == 1


def test_a_threshold_for_each_class_is_allowed():
    scores = np.array([[0.9, 0.6], [0.3, 0.7]])
    present = np.array([[True, False], [True, True]])
    assert label_scores(scores, present, np.array([0.3, 0.65])).exact == 1


def test_f1_is_scikit_learns_micro_average():
    rng = np.random.default_rng(0)
    scores, present = rng.random((60, 5)), rng.random((60, 5)) < 0.4
    wanted = f1_score(present, scores >= 0.5, average="micro")
    assert label_scores(scores, present).f1 == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("digits", [1, 6])
def test_the_best_threshold_is_the_best_of_all(digits):
    rng = np.random.default_rng(digits)
    present = rng.random((40, 3)) < 0.4
    scores = np.round(rng.random((40, 3)) + 0.3 * present, digits)
    best = label_scores(scores, present, best_threshold(scores, present)).f1
    assert best == max(label_scores(scores, present, t).f1 for t in np.unique(scores))


def test_reliability_by_hand():
    confidence = np.array([0.05, 0.15, 0.15, 0.95, 1.0])
    present = np.array([False, False, True, True, True])
    found = reliability(confidence, present)
    # Gaps 0.05, 0.35 (two labels), 0.025 (two).
    assert found.error == pytest.approx((0.05 + 2 * 0.35 + 2 * 0.025) / 5)
    assert found.bins[:, 2].tolist() == [1, 2, 2]


def test_measures_refuse_what_does_not_fit():
    with pytest.raises(ShapeError, match=r"booleans \[2, 3\]"):
        label_scores(np.zeros((2, 3)), np.zeros((3, 2), dtype=bool))
    with pytest.raises(ShapeError, match="int64"):
        average_precision(np.zeros(2), np.zeros(2, dtype=np.int64))
