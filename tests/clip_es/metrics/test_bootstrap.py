"""The bootstrap over pictures: what it resamples, and that methods are compared on the same samples."""

from __future__ import annotations

import numpy as np
import pytest

from clip_es.errors import ShapeError
from clip_es.metrics.bootstrap import resampled_miou
from clip_es.metrics.masks import ConfusionMatrix


def counted(prediction, truth, classes=2):
    matrix = ConfusionMatrix(classes)
    matrix.update(np.array(prediction), np.array(truth))
    return matrix


RIGHT, WRONG = counted([0, 1], [0, 1]), counted([1, 0], [0, 1])


def test_equal_pictures_have_no_error():
    draws = resampled_miou([counted([0, 1, 1, 1], [0, 0, 1, 1])] * 5, draws=20)
    # Background: 1 of 2; the class: 2 of 3.
    np.testing.assert_allclose(draws, (1 / 2 + 2 / 3) / 2)


def test_every_draw_is_the_miou_of_a_sample():
    draws = resampled_miou([RIGHT, WRONG], draws=400)
    # Two right, one of each (two of six pixels of a union hit in both classes), or none.
    assert set(draws.round(6)) == {1.0, round(1 / 3, 6), 0.0}
    assert np.mean(draws == 1) == pytest.approx(0.25, abs=0.07)


def test_the_standard_error_shrinks_with_the_root_of_the_pictures():
    few, many = (resampled_miou([RIGHT, WRONG] * n, draws=2000).std() for n in (20, 80))
    assert few / many == pytest.approx(2, rel=0.1)


def test_methods_are_compared_on_the_same_samples():
    one, two = [RIGHT, WRONG, RIGHT], [WRONG, RIGHT, WRONG]
    np.testing.assert_array_equal(resampled_miou(one), resampled_miou(list(one)))
    better = resampled_miou([RIGHT] * 3) - resampled_miou(one)
    assert (better >= 0).all()
    assert not np.array_equal(resampled_miou(one), resampled_miou(two))


def test_a_class_that_a_sample_does_not_show_is_left_out_of_its_mean():
    only_background = counted([0, 0], [0, 0])
    draws = resampled_miou([only_background, WRONG], draws=200)
    assert 1.0 in draws


def test_the_whole_sample_agrees_with_the_confusion_matrix():
    rng = np.random.default_rng(0)
    pictures = [counted(rng.integers(0, 4, 50), rng.integers(0, 4, 50), classes=4) for _ in range(200)]
    whole = ConfusionMatrix(4)
    for picture in pictures:
        whole.merge(picture)
    assert resampled_miou(pictures).mean() == pytest.approx(whole.compute().miou, abs=0.002)


def test_no_picture_or_pictures_of_two_kinds_are_refused():
    with pytest.raises(ShapeError, match="at least one"):
        resampled_miou([])
    with pytest.raises(ShapeError, match="one way"):
        resampled_miou([RIGHT, counted([0], [0], classes=3)])
