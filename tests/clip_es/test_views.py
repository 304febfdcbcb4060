"""Views: where their pixels come from, and that their maps come back to the same place."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clip_es.config.views import ViewsConfig
from clip_es.errors import ConfigError
from clip_es.types import ClassMaps, Picture
from clip_es.views import Fused, View, certainty, views


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (ViewsConfig(), 1),
        (ViewsConfig(2), 2),
        (ViewsConfig(4, True), 8),
        (ViewsConfig(4, True, (1.0, 0.75, 1.25)), 18),
    ],
)
def test_views_are_counted_and_the_plain_one_comes_first(config, count):
    made = list(views(config, 16))
    assert len(made) == len(set(made)) == config.count == count
    assert made[0] == View()


def test_a_moved_picture_has_one_row_and_column_more_and_its_content_moved():
    picture = np.arange(32 * 48 * 3, dtype=np.uint32).astype(np.uint8).reshape(32, 48, 3)
    moved = View((8, 0)).apply(picture, 16)
    assert moved.shape == (48, 48, 3)
    assert np.array_equal(moved[8:40], picture)
    assert np.array_equal(moved[7], picture[1])  # mirrored at the edge
    assert np.array_equal(View(flip=True).apply(picture, 16), picture[:, ::-1])
    assert np.array_equal(View().apply(picture, 16), picture)


@pytest.mark.parametrize("view", list(views(ViewsConfig(4, True), 4)))
def test_a_map_comes_back_to_where_the_object_was(view):
    # A map as fine as the pixels, so that nothing is lost on the way.
    picture = np.zeros((16, 24, 3), dtype=np.uint8)
    picture[5:9, 3:10] = 200
    seen = view.apply(picture, 4)
    maps = torch.from_numpy(seen[..., 0].astype(np.float32) / 255)[None]
    back = view.undo(maps, (16, 24), 4, (16, 24))
    np.testing.assert_allclose(back[0], picture[..., 0].astype(np.float32) / 255, atol=1e-6)


def test_the_plain_view_of_a_grid_is_the_usual_enlarging():
    from clip_es.scaling import upsample

    maps = torch.rand(2, 3, 4)
    expected = upsample(ClassMaps(maps, (0, 1)), (50, 61)).scores
    assert torch.equal(View().undo(maps, (48, 64), 16, (50, 61)), expected)


def test_moves_of_a_constant_map_change_nothing():
    for view in views(ViewsConfig(4), 16):
        grid = (3 + bool(view.shift[0]), 4 + bool(view.shift[1]))
        back = view.undo(torch.full((1, *grid), 0.3), (48, 64), 16, (40, 60))
        torch.testing.assert_close(back, torch.full((1, 40, 60), 0.3))


def fused(views, power=0.0):
    made = Fused(power)
    for scores, background in views:
        made.add(ClassMaps(scores.clone(), tuple(range(len(scores))), background=background))
    return made.value()


def test_the_mean_of_views_does_not_depend_on_their_order():
    torch.manual_seed(0)
    maps = [(torch.rand(2, 5, 6), torch.rand(5, 6)) for _ in range(8)]
    one, other = fused(maps), fused(maps[::-1])
    torch.testing.assert_close(one.scores, other.scores, atol=1e-6, rtol=0)
    torch.testing.assert_close(one.scores, torch.stack([scores for scores, _ in maps]).mean(0))
    torch.testing.assert_close(one.background, torch.stack([background for _, background in maps]).mean(0))
    assert fused([(scores, None) for scores, _ in maps]).background is None


def shares(*rows):
    """Labels of a picture of one row of pixels, and the background that is left."""
    scores = torch.tensor(rows)[:, None]
    return scores, 1 - scores.sum(0)


def test_a_label_is_as_certain_as_its_mean_share_where_it_wins():
    scores, background = shares([0.9, 0.7, 0.1, 0.0], [0.0, 0.2, 0.2, 0.4])
    maps = ClassMaps(scores, (0, 1), background=background)
    # The first label wins two pixels; the second none, since background has 0.6 beside its 0.4.
    torch.testing.assert_close(certainty(maps), torch.tensor([0.8, 0.2]))
    alone = ClassMaps(scores[:1], (0,))  # no background of its own: what the label leaves
    torch.testing.assert_close(certainty(alone), torch.tensor([0.8]))
    assert certainty(ClassMaps(torch.zeros(1, 2, 2), (0,))).tolist() == pytest.approx([0.01])


def test_each_label_is_taken_from_the_views_that_are_sure_of_it():
    near = shares([0.8, 0.8, 0.0, 0.0], [0.1, 0.1, 0.3, 0.3])  # sure of the first label
    far = shares([0.2, 0.2, 0.0, 0.0], [0.0, 0.0, 0.9, 0.1])  # sure of the second
    both = fused([near, far], power=20.0)
    torch.testing.assert_close(both.scores[0], near[0][0], atol=1e-3, rtol=0)
    torch.testing.assert_close(both.scores[1], far[0][1], atol=1e-3, rtol=0)
    # Background where the first label stands is as `near` has it, where the second stands as `far` has it.
    torch.testing.assert_close(both.background[0, [0, 2]], torch.tensor([0.1, 0.1]), atol=0.02, rtol=0)
    weights = torch.tensor([[0.8], [0.2 / 2]]) ** 2  # in `far` the first label wins no pixel
    mean = (weights * torch.stack([near[0][0, 0], far[0][0, 0]])).sum(0) / weights.sum()
    torch.testing.assert_close(fused([near, far], power=2.0).scores[0, 0], mean)


def test_a_label_that_no_view_sees_stays_a_number_under_the_largest_power():
    nowhere = shares([0.0, 0.0, 0.0, 0.0], [0.9, 0.9, 0.0, 0.0])
    both = fused([nowhere, shares([0.02, 0.0, 0.0, 0.0], [0.1, 0.1, 0.1, 0.1])], power=100.0)
    assert both.background is not None
    assert bool(torch.isfinite(both.background).all())
    torch.testing.assert_close(both.scores[0], torch.tensor([[0.01, 0.0, 0.0, 0.0]]))
    torch.testing.assert_close(both.scores[1], nowhere[0][1])


def test_enlarged_views_are_not_moved():
    made = list(views(ViewsConfig(4, scales=(1.0, 0.5, 2.0)), 16))
    assert [view for view in made if view.scale == 2.0] == [View(scale=2.0)]
    assert len([view for view in made if view.scale == 0.5]) == 4


def test_settings_that_mean_nothing_are_refused():
    for scales in ((), (0.0,), (1.0, 1.0)):
        with pytest.raises(ConfigError):
            ViewsConfig(scales=scales)
    for power in (-1.0, 101.0):
        with pytest.raises(ConfigError, match="power"):
            ViewsConfig(certainty=power)


def test_whoever_reads_the_picture_itself_sees_the_view_too():
    rgb = np.random.default_rng(0).integers(0, 256, (30, 41, 3), dtype=np.uint8)
    picture = Picture("one", rgb, np.random.default_rng(1).integers(0, 256, (32, 48, 3), dtype=np.uint8), 16)
    assert View().of(picture).rgb is rgb
    np.testing.assert_array_equal(View(flip=True).of(picture).rgb, rgb[:, ::-1])
    moved = View((8, 0), flip=True).of(picture)
    np.testing.assert_array_equal(moved.rgb, moved.patches)
    assert moved.patches.shape == (48, 48, 3)
