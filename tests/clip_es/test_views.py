"""Views: where their pixels come from, and that their maps come back to the same place."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clip_es.config.views import ViewsConfig
from clip_es.errors import ConfigError
from clip_es.types import Picture
from clip_es.views import Mean, View, views


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (ViewsConfig(), 1),
        (ViewsConfig(2), 2),
        (ViewsConfig(4, True), 8),
        (ViewsConfig(4, True, (1.0, 0.75, 1.25)), 24),
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
    from clip_es.types import ClassMaps

    maps = torch.rand(2, 3, 4)
    expected = upsample(ClassMaps(maps, (0, 1)), (50, 61)).scores
    assert torch.equal(View().undo(maps, (48, 64), 16, (50, 61)), expected)


def test_moves_of_a_constant_map_change_nothing():
    for view in views(ViewsConfig(4), 16):
        grid = (3 + bool(view.shift[0]), 4 + bool(view.shift[1]))
        back = view.undo(torch.full((1, *grid), 0.3), (48, 64), 16, (40, 60))
        torch.testing.assert_close(back, torch.full((1, 40, 60), 0.3))


def test_the_mean_of_views_does_not_depend_on_their_order():
    torch.manual_seed(0)
    maps = [torch.rand(2, 5, 6) for _ in range(8)]
    found = []
    for order in (maps, maps[::-1]):
        mean = Mean()
        for one in order:
            mean.add(one)
        found.append(mean.value())
    torch.testing.assert_close(*found, atol=1e-6, rtol=0)
    torch.testing.assert_close(found[0], torch.stack(maps).mean(0))


def test_settings_that_mean_nothing_are_refused():
    for scales in ((), (0.0,), (1.0, 1.0)):
        with pytest.raises(ConfigError):
            ViewsConfig(scales=scales)


def test_whoever_reads_the_picture_itself_sees_the_view_too():
    rgb = np.random.default_rng(0).integers(0, 256, (30, 41, 3), dtype=np.uint8)
    picture = Picture("one", rgb, np.random.default_rng(1).integers(0, 256, (32, 48, 3), dtype=np.uint8), 16)
    assert View().of(picture).rgb is rgb
    np.testing.assert_array_equal(View(flip=True).of(picture).rgb, rgb[:, ::-1])
    moved = View((8, 0), flip=True).of(picture)
    np.testing.assert_array_equal(moved.rgb, moved.patches)
    assert moved.patches.shape == (48, 48, 3)
