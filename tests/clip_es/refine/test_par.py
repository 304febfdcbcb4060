"""Pixel-adaptive refinement: numbers that can be checked by hand, and the published formula in plain loops."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from clip_es.config.run import DEFAULT, MaskConfig, ParConfig
from clip_es.errors import ConfigError
from clip_es.masks import decide
from clip_es.refine import at_full_size
from clip_es.refine.par import AROUND, neighbour_weights, neighbours, par, pass_on
from clip_es.types import ClassMaps, Picture

NEAR = ParConfig(dilations=(1,), iterations=1, position_weight=0.0)


def picture(rgb):
    return Picture("p", np.asarray(rgb, np.uint8), np.zeros((16, 16, 3), np.uint8), 16)


def two_halves(height=6, width=8):
    rgb = np.full((height, width, 3), 40, np.uint8)
    rgb[:, width // 2 :] = 200
    return rgb


def test_neighbours_come_ring_by_ring_and_the_border_is_repeated():
    values = torch.arange(9.0).reshape(1, 3, 3)
    near = [v[0] for v in neighbours(values, (1, 2))]
    assert len(near) == 16
    assert near[0].tolist() == [[0, 0, 1], [0, 0, 1], [3, 3, 4]]  # up and left
    assert near[4].tolist() == [[1, 2, 2], [4, 5, 5], [7, 8, 8]]  # right
    assert near[8 + 7].tolist() == [[8, 8, 8]] * 3  # two down, two right


def test_on_one_colour_a_pixel_becomes_the_mean_of_its_neighbours():
    weights = neighbour_weights(torch.full((3, 3, 3), 7.0), NEAR)
    torch.testing.assert_close(weights, torch.full((8, 3, 3), 1 / 8))
    values = torch.zeros(1, 3, 3)
    values[0, 1, 1] = 1
    expected = [[1 / 8, 1 / 8, 1 / 8], [1 / 8, 0, 1 / 8], [1 / 8, 1 / 8, 1 / 8]]
    torch.testing.assert_close(pass_on(values, weights, NEAR)[0], torch.tensor(expected))


def test_position_alone_prefers_the_nearer():
    config = replace(NEAR, dilations=(1, 2), position_weight=1.0)
    weights = neighbour_weights(torch.zeros(3, 5, 5), config)[:, 2, 2] * 2 - 1 / 16
    far = np.array([d * np.hypot(y, x) for d in (1, 2) for y, x in AROUND])
    expected = np.exp(-((far / far.std(ddof=1) / 0.3) ** 2))
    np.testing.assert_allclose(weights, expected / expected.sum(), atol=1e-6)


def test_nothing_crosses_an_edge_of_the_picture():
    maps = ClassMaps(torch.zeros(1, 6, 8), (3,))
    maps.scores[0, :, :4] = 1
    found = par(picture(two_halves()), maps, ParConfig(dilations=(1, 2), position_weight=0.0))
    torch.testing.assert_close(found.scores, maps.scores, atol=1e-6, rtol=0)


def test_a_hole_is_filled_from_pixels_of_its_colour():
    maps = ClassMaps(torch.zeros(1, 6, 8), (3,))
    maps.scores[0, :, :4] = 0.9
    maps.scores[0, 2, 2:4] = 0
    found = par(picture(two_halves()), maps, ParConfig(dilations=(1, 2), iterations=2))
    labels = decide((6, 8), found, MaskConfig(threshold=0.0)).labels
    assert (labels[:, :4] == 4).all()
    assert (labels[:, 4:] == 0).all()


@pytest.mark.parametrize("known", [False, True])
def test_probabilities_sum_to_one_at_the_size_of_the_picture(known):
    rng = np.random.default_rng(0)
    background = torch.rand(2, 3) if known else None
    maps = ClassMaps(torch.rand(2, 2, 3), (0, 5), background=background)
    found = par(picture(rng.integers(0, 256, (20, 31, 3))), maps, ParConfig())
    assert found.background is not None
    assert found.scores.shape == (2, 20, 31)
    torch.testing.assert_close(found.scores.sum(0) + found.background, torch.ones(20, 31))


def test_no_iteration_gives_the_shares_of_the_scores():
    maps = ClassMaps(torch.tensor([[[0.75, 0.0]], [[0.5, 0.0]]]), (0, 1))
    found = par(picture(np.zeros((1, 2, 3))), maps, ParConfig(iterations=0))
    torch.testing.assert_close(found.background, torch.tensor([[1 / 6, 1.0]]))
    torch.testing.assert_close(found.scores[:, 0, 0], torch.tensor([0.5, 1 / 3]))


def test_a_picture_without_labels_and_a_pixel_without_scores_are_background():
    found = par(picture(two_halves()), ClassMaps(torch.zeros(0, 6, 8), ()), ParConfig())
    torch.testing.assert_close(found.background, torch.ones(6, 8))
    nothing = ClassMaps(torch.zeros(1, 6, 8), (0,), background=torch.zeros(6, 8))
    assert par(picture(two_halves()), nothing, ParConfig()).scores.max() == 0


def test_it_computes_the_published_formula():
    rng = np.random.default_rng(1)
    rgb, values = rng.integers(0, 256, (5, 6, 3)).astype(np.float64), rng.random((5, 6))
    config = ParConfig(dilations=(1, 3), iterations=1)
    expected = np.zeros((5, 6))
    steps = [(d * y, d * x) for d in config.dilations for y, x in AROUND]
    far = np.array([np.hypot(*step) for step in steps])
    nearness = np.exp(-((far / far.std(ddof=1) / 0.3) ** 2))
    for y in range(5):
        for x in range(6):
            places = [(np.clip(y + dy, 0, 4), np.clip(x + dx, 0, 5)) for dy, dx in steps]
            near = np.array([rgb[place] for place in places])
            closeness = np.exp(-((np.abs(near - rgb[y, x]) / near.std(0, ddof=1) / 0.3) ** 2).mean(1))
            weights = closeness / closeness.sum() + 0.01 * nearness / nearness.sum()
            expected[y, x] = weights @ [values[place] for place in places] / 1.01
    weights = neighbour_weights(torch.from_numpy(rgb).float().permute(2, 0, 1), config)
    found = pass_on(torch.from_numpy(values).float()[None], weights, config)[0]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_it_is_a_refiner_at_full_size():
    config = replace(DEFAULT, refine=("affinity", "par"))
    ((name, refine),) = at_full_size(config)
    found = refine(picture(two_halves()), ClassMaps(torch.rand(1, 2, 2), (0,)))
    assert name == "par"
    assert found.scores.shape == (1, 6, 8)


@pytest.mark.parametrize("wrong", [{"dilations": ()}, {"dilations": (0,)}, {"colour": 0.0}, {"iterations": -1}])
def test_settings_that_cannot_work_are_refused(wrong):
    with pytest.raises(ConfigError):
        ParConfig(**wrong)
