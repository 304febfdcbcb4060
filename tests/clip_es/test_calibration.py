"""Thresholds found without ground truth: scikit-image's Otsu, and what calibration must keep."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clip_es.calibration import calibrated, threshold
from clip_es.types import ClassMaps


def test_a_map_of_two_values_is_split_between_them():
    found = threshold(np.array([[0.2, 0.2], [0.2, 0.9]], dtype=np.float32))
    assert found is not None
    assert 0.2 < found < 0.9


def test_maps_without_contrast_stay():
    assert threshold(np.full((3, 3), 0.4, dtype=np.float32)) is None
    flat = ClassMaps(torch.full((1, 3, 3), 0.4), (0,))
    assert torch.equal(calibrated(flat).scores, flat.scores)


def test_the_threshold_of_each_map_becomes_one_half_and_order_stays():
    torch.manual_seed(0)
    maps = ClassMaps(torch.rand(2, 20, 20) ** torch.tensor([4.0, 0.5])[:, None, None], (3, 1))
    done = calibrated(maps)
    assert done.class_ids == (3, 1)
    for before, after in zip(maps.scores, done.scores, strict=True):
        found = threshold(before.numpy())
        assert found is not None
        clear = (before - found).abs() > 1e-6
        assert torch.equal((after > 0.5)[clear], (before > found)[clear])
        assert (after.flatten()[before.flatten().argsort()].diff() >= 0).all()


def test_thresholds_stay_within_bounds():
    values = np.zeros((10, 10), dtype=np.float32)
    values[0, 0] = 1e-3
    assert threshold(values) == pytest.approx(0.05)


def test_what_a_refiner_decided_is_not_calibrated():
    maps = ClassMaps(torch.rand(1, 4, 4), (0,), background=torch.rand(4, 4))
    assert calibrated(maps) is maps
