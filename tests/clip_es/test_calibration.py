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


def otsu_by_hand(values):
    """The cut of 256 equal bins whose two sides' means differ most, weighted by their sizes."""
    counts, edges = np.histogram(values, 256)
    centres = (edges[:-1] + edges[1:]) / 2
    best = (-1.0, 0.0)
    for cut in range(1, 256):
        low, high = counts[:cut], counts[cut:]
        if low.sum() and high.sum():
            gap = (low @ centres[:cut]) / low.sum() - (high @ centres[cut:]) / high.sum()
            best = max(best, (float(low.sum()) * float(high.sum()) * gap**2, -float(centres[cut - 1])))
    return -best[1]


def test_otsu_is_the_cut_found_by_hand_on_many_maps():
    rng = np.random.default_rng(0)
    for _ in range(1000):
        values = rng.beta(rng.uniform(0.3, 1), rng.uniform(1, 4), (12, 12)).astype(np.float32)
        if (values > 0.5).mean() > 0.5:
            continue
        expected = min(max(otsu_by_hand(values), 0.05), 0.95)
        # Two cuts may be equally good, with nothing between them.
        found = threshold(values)
        low, high = sorted((expected, found))
        assert high - low < 1e-6 or not ((values > low + 1e-3) & (values < high - 1e-3)).any()


def test_an_object_that_fills_the_picture_is_not_cut_in_two():
    rows = np.linspace(0.55, 1, 20, dtype=np.float32)[:, None].repeat(20, 1)
    rows[0, 0] = 0
    assert threshold(rows) == 0.5
    maps = ClassMaps(torch.from_numpy(rows)[None], (0,))
    assert int((calibrated(maps).scores > 0.5).sum()) == 399


def test_a_small_object_is_split_from_its_surroundings():
    values = np.full((20, 20), 0.1, dtype=np.float32)
    values[:3, :3] = 0.45
    found = threshold(values)
    assert found is not None
    assert 0.1 < found < 0.45
