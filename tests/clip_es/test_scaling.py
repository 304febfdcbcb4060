"""Min-max scaling and enlarging."""

import numpy as np
import pytest
import torch

from clip_es.scaling import min_max, upsample
from clip_es.types import ClassMaps


def test_each_map_is_stretched_on_its_own():
    maps = torch.tensor([[[1.0, 2.0], [3.0, 5.0]], [[10.0, 10.0], [10.0, 30.0]]])
    expected = torch.tensor([[[0, 0.25], [0.5, 1]], [[0, 0], [0, 1]]])
    torch.testing.assert_close(min_max(maps), expected, atol=1e-6, rtol=0)


def test_a_constant_map_becomes_zero():
    assert (min_max(torch.full((2, 3, 3), 7.0)) == 0).all()


def test_a_tiny_map_stays_below_one_and_a_second_pass_lifts_it():
    once = min_max(torch.tensor([[[0.0, 1e-7]]]))
    assert once.max() == pytest.approx(0.5)
    assert min_max(once).max() == pytest.approx(1, abs=1e-6)


def test_no_map_stays_no_map():
    assert min_max(torch.zeros(0, 4, 4)).shape == (0, 4, 4)
    assert upsample(ClassMaps(torch.zeros(0, 1, 1), ()), (5, 6)).scores.shape == (0, 5, 6)


def test_upsampling_uses_half_pixel_centres_and_repeats_the_edge():
    maps = ClassMaps(torch.tensor([[[0.0, 1.0]]]), (3,), background=torch.tensor([[1.0, 0.0]]))
    up = upsample(maps, (2, 4))
    assert up.scores[0].tolist() == [[0, 0.25, 0.75, 1]] * 2
    assert up.background is not None
    assert up.background.tolist() == [[1, 0.75, 0.25, 0]] * 2
    assert up.class_ids == (3,)


def test_maps_of_the_right_size_come_back_unchanged():
    maps = ClassMaps(torch.rand(2, 3, 4), (0, 1))
    assert upsample(maps, (3, 4)) is maps


@pytest.mark.parametrize("size_hw", [(375, 500), (17, 400), (1, 1), (16, 1), (333, 501)])
def test_upsampling_equals_opencv(size_hw):
    cv2 = pytest.importorskip("cv2")
    grid = tuple(-(-side // 16) for side in size_hw)
    maps = torch.rand(3, *grid, generator=torch.Generator().manual_seed(0))
    ours = upsample(ClassMaps(maps, (0, 1, 2)), size_hw).scores.numpy()
    theirs = [cv2.resize(one.numpy(), size_hw[::-1], interpolation=cv2.INTER_LINEAR) for one in maps]
    assert np.abs(ours - np.stack(theirs)).max() <= 2e-7
