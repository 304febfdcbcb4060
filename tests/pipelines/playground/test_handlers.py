"""From the fields of the page to its pieces."""

from __future__ import annotations

import json

import pytest

from clip_es.config.methods import ClipSegConfig
from clip_es.errors import DataError
from clip_es.pipelines.exchange.run_folder import Run
from clip_es.pipelines.playground.asking import Asking
from clip_es.pipelines.playground.handlers import Fields, Handlers
from clip_es.pipelines.playground.runs import RunView

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def handlers(playground, made_up_run, tmp_path):
    made = made_up_run(tmp_path / "made", 3)
    asking = Asking(playground.encoder, ClipSegConfig(), playground.uploads)
    return Handlers(playground, asking, RunView(Run.open(made.run)), "scenes")


def fields(photo, labels, refine=("affinity",)):
    return Fields.of((photo, labels, "sentence", None, None, None, "clip-es", list(refine)))


def test_pieces_of_the_page_show_names_as_text(handlers, bring):
    key, names = bring(0)
    shown = handlers.look(fields(key, [names[0], HOSTILE]))
    for piece in (shown.mask, shown.steps, handlers.compare(fields(key, [HOSTILE]), ["clip-es", "patch-text"], None)):
        assert "&lt;img src=x onerror=alert(1)&gt;" in piece
        assert HOSTILE not in piece
    assert '<span class="encoded">1</span> time' in shown.status
    assert "clip-es masks folder" in shown.command


def test_the_slider_gives_another_mask_of_the_same_encoding(handlers, bring):
    key, names = bring(1)
    first = handlers.look(fields(key, names))
    mask, status, command = handlers.mask(fields(key, names), 0.9)
    assert mask != first.mask
    assert "--mask.threshold 0.9" in command
    assert '<span class="encoded">1</span>' in status
    assert sum(handlers.playground.encodes.values()) == 1


def test_an_upload_that_is_no_picture_gets_a_message(handlers, tmp_path):
    (tmp_path / "text.png").write_text("text")
    photo, told = handlers.upload(str(tmp_path / "text.png"))
    assert photo is None
    assert 'role="alert"' in told
    assert "not a picture" in told
    assert handlers.upload(None)[0] is None


def test_a_scene_is_drawn_for_weights_that_know_scenes(handlers):
    assert handlers.draws
    photo, names, told = handlers.draw()
    assert f"{photo.size_hw[1]} x {photo.size_hw[0]} pixels" in told
    assert 2 <= len(names) == len(set(names))
    assert handlers.look(fields(photo.key, names)).mask
    assert [path.name for path in handlers.playground.uploads.folder.iterdir()] == [photo.path.name]
    handlers.weights = "ViT-B/16"
    assert not handlers.draws


def test_a_method_that_does_not_take_a_refiner_is_compared_without_it(handlers, bring):
    key, names = bring(1)
    found = handlers.compare(fields(key, names, ("affinity", "par")), ["clip-es", "patch-text"], None)
    assert found.count("<figure") == 2
    assert found.count("Without affinity, which it does not take.") == 1
    assert handlers.playground.taken("clip-es", ("affinity", "par")) == ("affinity", "par")


def test_clipseg_is_asked_in_words(handlers, bring):
    key, names = bring(2)
    told = handlers.ask(key, f"{names[0]}\n{HOSTILE}\n", None, None, 0.0, 0.3)
    assert told.count("<section") == 2
    assert HOSTILE not in told
    assert "not weakly supervised" in told
    assert "nothing to look for" in handlers.ask(key, None, None, None, 0.0, 0.3)


def test_a_picture_of_the_run_is_opened_painted_and_saved(handlers):
    strip, number = handlers.browse("expected-miou", "all classes", "all", 7)
    assert number == 1
    assert strip.count("<button") == 3
    opened = json.loads(handlers.open("001.plain"))
    assert opened["labels"][-1] == [255, "undecided (255)"]
    assert {name for _, name in opened["labels"]} >= {"background", "cat", "dog"}
    dot = [{"label": 3, "radius": 4, "points": [[9, 9]]}]
    saved = json.loads(handlers.save("001.plain", opened["seen"], dot))
    assert saved["saved"]
    assert saved["seen"] != opened["seen"]
    assert "edited" in handlers.browse("expected-miou", "all classes", "edited", 1)[0]
    with pytest.raises(DataError, match="another mask"):
        handlers.save("001.plain", opened["seen"], dot)


def test_without_a_run_it_is_said_how_to_open_one(playground):
    asking = Asking(playground.encoder, ClipSegConfig(), playground.uploads)
    told, _ = Handlers(playground, asking, None, "scenes").browse("expected-miou", "all classes", "all", 1)
    assert "clip-es ui RUN" in told
