"""What can be computed by hand: divergences, discrepancies, priors, what a masked convolution can see."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from clip_es.errors import ConfigError, ShapeError
from clip_es.segmentor.zero_shot import blocks, labels, losses
from clip_es.segmentor.zero_shot.context import ContextualModule, kl_divergence
from clip_es.segmentor.zero_shot.features import Crops, Example, Geometry

ONES = torch.ones(1, 2, 2, dtype=torch.bool)


def test_the_divergence_of_the_standard_normal_is_zero():
    zero = torch.zeros(1, 3, 2, 2)
    assert float(kl_divergence(zero, zero, ONES)) == 0


def test_the_divergence_of_a_shifted_normal_is_half_its_square():
    shifted = torch.full((1, 3, 2, 2), 1.5)
    assert float(kl_divergence(shifted, torch.zeros_like(shifted), ONES)) == pytest.approx(1.5**2 / 2)
    half = ONES.clone()
    half[..., 0] = False
    shifted[..., 0] = 99
    assert float(kl_divergence(shifted, torch.zeros_like(shifted), half)) == pytest.approx(1.5**2 / 2)


def test_the_discrepancy_of_two_points_has_a_closed_form():
    a, b = torch.zeros(1, 4), torch.full((1, 4), 1.5)
    squared = 4 * 1.5**2
    expected = math.sqrt(sum(1 - math.exp(-squared / (2 * width)) for width in losses.BANDWIDTHS))
    assert float(losses.mmd(a, b)) == pytest.approx(expected, rel=1e-6)


def test_the_discrepancy_is_symmetric_and_zero_for_equal_sets():
    rng = torch.Generator().manual_seed(1)
    a, b = torch.randn(7, 5, generator=rng), torch.randn(9, 5, generator=rng)
    assert float(losses.mmd(a, b)) == pytest.approx(float(losses.mmd(b, a)), abs=1e-6)
    assert float(losses.mmd(a, a)) == 0
    assert float(losses.mmd(a, b)) > 0.1


def test_equal_sets_give_no_gradient_rather_than_nan():
    a = torch.ones(3, 4, requires_grad=True)
    losses.mmd(a, torch.ones(3, 4)).backward()
    assert a.grad is not None
    assert bool((a.grad == 0).all())


def test_the_discrepancy_over_classes_has_one_term_for_each_class():
    maps, target = torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    maps[0, 0, 0, 0] = 1.0
    # Raster order 0 1 0 1: four runs, two classes; only the class-0 term differs from nothing.
    grid = torch.tensor([[[0, 1], [0, 1]]])
    runs = float(losses.content("mmd-runs", maps, target, grid))
    assert runs == pytest.approx(float(losses.mmd(torch.ones(1, 1), torch.zeros(1, 1))) / 4, rel=1e-6)
    one = float(losses.mmd(torch.tensor([[1.0], [0.0]]), torch.zeros(2, 1)))
    assert float(losses.content("mmd", maps, target, grid)) == pytest.approx(one / 2, rel=1e-6)


@pytest.mark.parametrize(("seen", "unseen", "extra"), [(15, 5, 9.0), (29, 4, 14.0), (167, 15, 59.0)])
def test_the_prior_gives_unseen_classes_their_share(seen: int, unseen: int, extra: float):
    prior = labels.class_prior(seen, unseen, extra_weight=extra)
    assert prior.sum() == pytest.approx(1)
    mass = unseen * (1 + extra) / (seen + unseen * (1 + extra))
    assert prior[seen:].sum() == pytest.approx(mass)


def test_the_unseen_mass_can_be_given():
    prior = labels.class_prior(3, 2, unseen_mass=0.5)
    np.testing.assert_allclose(prior, [1 / 6] * 3 + [1 / 4] * 2)
    with pytest.raises(ConfigError, match="one of two ways"):
        labels.class_prior(3, 2)
    with pytest.raises(ConfigError, match="share"):
        labels.class_prior(3, 2, unseen_mass=1.5)


def test_every_output_allowed_labels_every_ignored_cell():
    scores = torch.randn(1, 8, 3, 3, generator=torch.Generator().manual_seed(2))
    empty = torch.full((1, 3, 3), 255)
    assert bool((labels.top_p_labels(empty, scores, range(5, 7), 8) != 255).all())
    assert bool((labels.top_p_labels(empty, scores, range(5, 7), 0) == 255).all())


def test_a_closed_gate_lets_nothing_through_and_an_open_one_chooses_by_score():
    scores = torch.zeros(1, 5, 2, 2)
    scores[:, 3] = 1.0
    empty = torch.full((1, 2, 2), 255)
    maps = torch.zeros(1, 2, 2, 2)
    assert bool((labels.gated_labels(empty, scores, maps, range(2, 4), threshold=0.5) == 255).all())
    maps[0, 0, 0] = 1.0  # the localizer says class 2 in the first row
    maps[0, :, 1, 1] = 1.0  # and either in the last cell
    scores[0, 2, 0, 0] = 2.0  # where the scores say so too in the first cell alone
    got = labels.gated_labels(empty, scores, maps, range(2, 4), threshold=0.5)
    assert got[0].tolist() == [[2, 255], [255, 3]]
    known = labels.gated_labels(torch.zeros_like(empty), scores, maps, range(2, 4), threshold=0.5)
    assert bool((known == 0).all())


@pytest.mark.parametrize("size", [3, 5, 7])
def test_a_masked_convolution_sees_only_what_came_before(size: int):
    side = 5
    stack = torch.nn.Sequential(
        blocks.MaskedConv2d("A", 1, 4, size), torch.nn.Tanh(), blocks.MaskedConv2d("B", 4, 2, size)
    ).double()
    jacobian = torch.autograd.functional.jacobian(stack, torch.randn(1, 1, side, side, dtype=torch.float64))
    assert isinstance(jacobian, torch.Tensor)
    moved = jacobian[0].abs().sum(dim=0).reshape(side * side, side * side)  # of each output by each input
    for cell in range(side * side):
        assert float(moved[cell, cell:].sum()) == 0
    assert float(moved[2 * side + 2].sum()) > 0


def two_blocks() -> torch.Tensor:
    return torch.tensor([[[0, 1, 0], [1, 0, 1], [0, 0, 1]], [[0, 0, 1], [1, 1, 0], [1, 0, 1]]])


def train_pixelcnn(
    draw: Callable[[], torch.Tensor], condition: blocks.Condition, steps: int
) -> tuple[blocks.PixelCNN, float]:
    """The model, and the nats of a block of another draw."""
    torch.manual_seed(0)
    model = blocks.PixelCNN(torch.nn.functional.normalize(torch.randn(3, 8), dim=1), layers=3, maps=16)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        loss = model.loss(draw(), condition)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        return model, 9 * float(model.eval().loss(draw(), condition))


def test_two_equally_likely_blocks_cost_log_2_unless_the_condition_tells_the_answer():
    seen = two_blocks().repeat(4, 1, 1)
    assert train_pixelcnn(lambda: seen, "none", 200)[1] == pytest.approx(math.log(2), abs=0.05)
    assert train_pixelcnn(lambda: seen, "own-label", 200)[1] < 0.1  # published: solved without the blocks


def test_a_block_condition_does_not_leak_random_labels():
    rng = torch.Generator().manual_seed(3)

    def noise() -> torch.Tensor:
        return torch.randint(0, 3, (128, 3, 3), generator=rng)

    # Of 9 log 3 nats the commonest class tells at most log 3, whatever the model makes of it.
    assert train_pixelcnn(noise, "majority", 60)[1] > 8 * math.log(3) - 0.1
    assert train_pixelcnn(noise, "own-label", 60)[1] < math.log(3)


def test_the_pixelcnn_draws_the_blocks_it_has_seen():
    seen = two_blocks().repeat(16, 1, 1)
    model, _ = train_pixelcnn(lambda: seen, "majority", 120)
    drawn = model.sample(blocks.majority(seen), generator=torch.Generator().manual_seed(1))
    known = (drawn[:, None] == two_blocks()[None]).flatten(2).all(dim=2).any(dim=1)
    assert float(known.float().mean()) > 0.8
    preset = model.sample(torch.full((4,), 2), preset=5)
    assert bool((preset.flatten(1)[:, :5] == 2).all())


def test_the_empirical_sampler_renames_the_commonest_class():
    sampler = blocks.EmpiricalSampler(torch.tensor([[[0, 0, 0], [0, 1, 1], [0, 0, 255]]]))
    assert sampler.sample(torch.tensor([7]))[0].tolist() == [[7, 7, 7], [7, 1, 1], [7, 7, 7]]
    with pytest.raises(ConfigError, match="no block"):
        blocks.EmpiricalSampler(torch.zeros(0, 3, 3, dtype=torch.long))


def test_blocks_are_cut_where_something_is_visible_and_laid_out_again():
    grid = torch.arange(81).reshape(1, 9, 9)
    assert bool((blocks.lay_out(blocks.cut_blocks(grid)[None]) == grid).all())
    grid[:, :3, :3] = 255
    assert len(blocks.cut_blocks(grid)) == 8
    with pytest.raises(ShapeError, match="smaller than a block"):
        blocks.cut_blocks(grid[:, :2])
    with pytest.raises(ShapeError, match="square"):
        blocks.lay_out(torch.zeros(1, 3, 3, 3, dtype=torch.long))


def test_no_visible_cell_costs_nothing():
    maps = torch.randn(1, 3, 2, 2)
    empty = torch.full((1, 2, 2), 255)
    assert float(losses.classification(maps, empty)) == 0
    for kind in ("mmd-runs", "mmd", "mse", "l1", "none"):
        assert float(losses.content(kind, maps, maps + 1, empty)) == 0


def test_the_published_module_cannot_weight_below_a_half_nor_spread_less_than_one():
    torch.manual_seed(0)
    seen = torch.randn(1, 4, 6, 6)
    reaches = torch.randn(1, 24, 6, 6)
    parity = ContextualModule(4, 8, selector="relu-sigmoid", free_variance=False, bounded=True)
    free = ContextualModule(4, 8)
    assert float(parity.weights(reaches).min().detach()) >= 0.5
    assert float(parity(seen).log_variance.min().detach()) >= 0
    torch.testing.assert_close(free.weights(reaches).sum(dim=1), torch.ones(1, 6, 6))
    assert float(free.weights(reaches).min().detach()) < 0.3
    with pytest.raises((ConfigError, TypeCheckError), match="selector"):  # The latter where annotations are enforced.
        ContextualModule(4, selector="sharp")  # pyright: ignore


def test_padding_is_never_taken_for_part_of_a_picture():
    geometry = Geometry((24, 40), (32, 48), (4, 6))  # Cells of 8 pixels; the last row and column are padding.
    assert geometry.inside().astype(int).tolist() == [[1, 1, 1, 1, 1, 0]] * 3 + [[0] * 6]
    labels = geometry.labels(np.ones((24, 40), np.uint8))
    example = Example("a", np.zeros((2, 4, 6), np.float16), labels, geometry)
    # A crop larger than the map is filled up; that is outside as well.
    _, found, _, inside = Crops([example], batch=1, side=8, seed=0)(0)
    assert int(inside.sum()) == 15
    assert bool((found[0][inside[0]] == 1).all())
    assert bool((found[0][~inside[0]] == 255).all())
