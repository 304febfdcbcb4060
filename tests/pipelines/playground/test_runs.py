"""A run is looked through from its least sure picture on; what is painted becomes an edit of it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from clip_es.errors import ConfigError, DataError
from clip_es.masks import read_confidence, read_mask
from clip_es.pipelines.exchange.history import digest
from clip_es.pipelines.exchange.import_masks import imported_ids, restore
from clip_es.pipelines.exchange.run_folder import Run
from clip_es.pipelines.exchange.worst import rank
from clip_es.pipelines.playground.runs import RunView, page_of
from clip_es.store.disk import Lock

DOT = json.dumps([{"label": 2, "radius": 3, "points": [[10.5, 10.5]]}])


@pytest.fixture
def made(made_up_run, tmp_path):
    return made_up_run(tmp_path, 8)


@pytest.fixture
def view(made):
    return RunView(Run.open(made.run))


def test_the_order_is_that_of_worst(view):
    for by in ("expected-miou", "mean-confidence"):
        expected = [one.image_id for one in rank(view.run, by).pictures]
        assert [one.image_id for one in view.chosen(by)] == expected


def test_pictures_are_filtered_by_what_occurs_in_them(view, made):
    shown = {one.image_id for one in view.chosen("expected-miou", 3)}
    assert shown == {name for name, mask in made.decided.items() if (mask == 3).any()}
    open_ones = {one.image_id for one in view.chosen("expected-miou", 255)}
    assert open_ones == {name for name, mask in made.masks.items() if (mask == 255).any()}


def test_pages_hold_twelve_and_a_wrong_number_shows_the_nearest(view):
    chosen = view.chosen("expected-miou") * 4
    assert len(page_of(chosen, 1)[0]) == 12
    assert page_of(chosen, 99)[1:] == (3, 3)
    assert page_of([], 5) == ([], 1, 1)


def test_painted_pixels_are_an_edit_and_nothing_else_changes(view, made):
    name = "001.plain"
    before, opened = made.masks[name], view.open(name)
    pixels = view.save(name, opened.seen, DOT)
    after = read_mask(made.run / "masks" / f"{name}.png")
    dot = np.hypot(*(np.mgrid[: before.shape[0], : before.shape[1]] - 10.0)) <= 3
    assert (after[dot] == 2).all()
    assert np.array_equal(after[~dot], before[~dot])
    changed = before != after
    assert pixels == changed.sum() > 0
    sure = read_confidence(made.run / "confidence" / f"{name}.png")
    assert (sure[changed] == 1).all()
    assert np.array_equal(sure[~changed], made.confidence[name][~changed])
    assert imported_ids(made.run) == {name}
    assert [one.image_id for one in view.chosen("expected-miou", None, "edited")] == [name]
    assert view.open(name).edited


def test_restore_takes_an_edit_back(view, made):
    name = "001.plain"
    view.save(name, view.open(name).seen, DOT)
    assert restore(Run.open(made.run)) == [name]
    assert np.array_equal(read_mask(made.run / "masks" / f"{name}.png"), made.masks[name])
    assert view.open(name).edited is False


def test_a_mask_that_somebody_else_has_changed_is_not_painted_over(view, made):
    name = "001.plain"
    first, second = view.open(name), view.open(name)
    view.save(name, first.seen, DOT)
    other = json.dumps([{"label": 1, "radius": 5, "points": [[20, 20]]}])
    with pytest.raises(DataError, match="another mask of this picture by now"):
        view.save(name, second.seen, other)
    again = view.open(name)
    assert again.seen == digest(read_mask(made.run / "masks" / f"{name}.png"))
    assert view.save(name, again.seen, other) > 0


def test_strokes_that_change_nothing_save_nothing(view, made):
    name = "001.plain"
    assert view.save(name, view.open(name).seen, "[]") == 0
    assert not (made.run / "imports").exists()


def test_a_refused_edit_leaves_the_run_as_it_was(view, made):
    name = "001.plain"
    seen = view.open(name).seen
    with pytest.raises(DataError, match="no strokes"):
        view.save(name, seen, '[{"label": 77, "radius": 3, "points": [[1, 1]]}]')
    with pytest.raises(DataError, match="no picture of this run"):
        view.save("../../etc/passwd", seen, DOT)
    lock = Lock.take(made.run, "import")
    with lock, pytest.raises(ConfigError, match="an import into this run is going on"):
        view.save(name, seen, DOT)
    assert np.array_equal(read_mask(made.run / "masks" / f"{name}.png"), made.masks[name])


def test_every_picture_has_a_thumbnail(view):
    assert all(view.thumbnail(name).startswith("data:image/jpeg") for name in view.run.image_ids)
    assert view.thumbnail("nowhere") == ""
