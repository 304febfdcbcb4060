"""Strokes become labels by a rule that can be checked by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from clip_es.errors import DataError
from clip_es.pipelines.playground.brush import Stroke, paint, read_strokes


def test_a_dot_covers_the_pixels_whose_middle_is_within_its_radius():
    mask = paint(np.zeros((5, 5), np.uint8), [Stroke(3, 1.0, ((2.5, 2.5),))])
    assert mask.tolist() == [[0, 0, 0, 0, 0], [0, 0, 3, 0, 0], [0, 3, 3, 3, 0], [0, 0, 3, 0, 0], [0, 0, 0, 0, 0]]


def test_a_line_covers_what_lies_between_its_points():
    mask = paint(np.zeros((3, 6), np.uint8), [Stroke(1, 0.5, ((0.5, 1.5), (5.5, 1.5)))])
    assert mask.tolist() == [[0] * 6, [1] * 6, [0] * 6]


def test_strokes_lie_over_each_other_in_their_order_and_may_leave_the_picture():
    strokes = [Stroke(1, 9.0, ((2, 2),)), Stroke(255, 0.6, ((0.5, 0.5), (-40.0, -40.0))), Stroke(2, 1, ((90, 90),))]
    mask = paint(np.zeros((4, 4), np.uint8), strokes)
    assert mask[0, 0] == 255
    assert (mask.ravel()[1:] == 1).all()


def test_painting_leaves_the_mask_it_began_with():
    before = np.zeros((4, 4), np.uint8)
    paint(before, [Stroke(1, 9.0, ((2, 2),))])
    assert not before.any()


def test_strokes_of_the_page_are_read():
    text = json.dumps([{"label": 2, "radius": 3, "points": [[1, 2], [3.5, 4]]}])
    assert read_strokes(text, {0, 2}) == [Stroke(2, 3.0, ((1.0, 2.0), (3.5, 4.0)))]


@pytest.mark.parametrize(
    "content",
    [
        "no json",
        "{}",
        "[1]",
        '[{"label": 9, "radius": 3, "points": [[1, 2]]}]',
        '[{"label": true, "radius": 3, "points": [[1, 2]]}]',
        '[{"label": 1, "radius": 0, "points": [[1, 2]]}]',
        '[{"label": 1, "radius": NaN, "points": [[1, 2]]}]',
        '[{"label": 1, "radius": 3, "points": []}]',
        '[{"label": 1, "radius": 3, "points": [[1, NaN]]}]',
        '[{"label": 1, "radius": 3, "points": [[1, 1e9]]}]',
        '[{"label": 1, "radius": 3, "points": [[1]]}]',
        "[" * 100_000,
        json.dumps([{"label": 1, "radius": 1, "points": [[0, 0]]}] * 5001),
    ],
)
def test_anything_else_is_refused(content):
    with pytest.raises(DataError, match="no strokes of the brush"):
        read_strokes(content, {0, 1})
