"""Segments that vote: what they keep, and what they change."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clip_es.errors import ConfigError
from clip_es.refine.pool import averaged
from clip_es.refine.segments import SegmentsConfig, divide, segments
from clip_es.types import ClassMaps, Picture


@pytest.fixture
def picture():
    rgb = np.full((40, 60, 3), 30, dtype=np.uint8)
    rgb[10:30, 15:45] = (200, 40, 40)
    return Picture("two", rgb, np.zeros((32, 48, 3), dtype=np.uint8), 16)


def maps_of(seed=0):
    torch.manual_seed(seed)
    return ClassMaps(torch.rand(2, 40, 60), (4, 7))


def test_shares_of_background_and_classes_sum_to_one(picture):
    done = segments(picture, maps_of(), SegmentsConfig())
    assert done.class_ids == (4, 7)
    assert done.background is not None
    torch.testing.assert_close(done.scores.sum(0) + done.background, torch.ones(40, 60), atol=1e-5, rtol=0)


def test_an_amount_of_zero_changes_nothing_but_the_sum(picture):
    maps = maps_of()
    done = segments(picture, maps, SegmentsConfig(amount=0.0))
    background = 1 - maps.scores.amax(0)
    expected = maps.scores / (maps.scores.sum(0) + background)
    torch.testing.assert_close(done.scores, expected, atol=1e-6, rtol=0)


def test_a_whole_vote_is_constant_on_an_object_of_one_colour(picture):
    done = segments(picture, maps_of(), SegmentsConfig(scales=(100.0,), amount=1.0))
    inside = done.scores[0, 12:28, 17:43]
    assert float(inside.max() - inside.min()) < 1e-6
    assert abs(float(done.scores[0, 12, 17] - done.scores[0, 2, 2])) > 1e-4


def test_means_over_segments_are_those_counted_by_hand():
    values = torch.tensor([[[1.0, 2.0], [3.0, 10.0]]])
    part = torch.tensor([[0, 0], [0, 1]])
    assert averaged(values, part).tolist() == [[[2.0, 2.0], [2.0, 10.0]]]
    torch.testing.assert_close(averaged(values, torch.zeros(2, 2, dtype=torch.int64)), torch.full((1, 2, 2), 4.0))


def test_larger_pictures_have_larger_segments():
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 255, (120, 400, 3), dtype=np.uint8)
    by_size, fixed = (divide(rgb, SegmentsConfig(by_size=by_size))[0].max() for by_size in (True, False))
    assert by_size < fixed


def test_a_picture_without_a_label_stays(picture):
    maps = ClassMaps(torch.zeros(0, 40, 60), ())
    assert segments(picture, maps, SegmentsConfig()).scores.shape == (0, 40, 60)


def test_settings_that_mean_nothing_are_refused():
    for wrong in ({"scales": ()}, {"amount": 1.5}, {"sigma": -1.0}, {"min_size": 0}):
        with pytest.raises(ConfigError):
            SegmentsConfig(**wrong)
