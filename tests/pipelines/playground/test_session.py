"""A picture is encoded once; words, refiners and the threshold work on what is known."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

from clip_es.config.run import DEFAULT, RunConfig
from clip_es.errors import ClipEsError, ConfigError, DataError
from clip_es.masks import leave_open
from clip_es.pipelines.masks.maker import MaskMaker
from clip_es.pipelines.playground.cache import Cache
from clip_es.pipelines.playground.session import Asked, Playground
from clip_es.pipelines.playground.uploads import Uploads
from clip_es.pipelines.playground.words import Words


def test_a_look_gives_the_mask_that_the_method_gives(playground, bring, scenes_encoder):
    key, names = bring(0)
    look = playground.look(Asked(key, Words.typed(names)))
    mask = MaskMaker(scenes_encoder, playground.vocabulary)(playground.uploads.get(key).path, names).mask
    assert look.names == tuple(names)
    assert np.array_equal(look.labels(look.threshold), mask.labels)
    assert np.array_equal(look.confidence, mask.confidence)
    assert look.threshold == 0.95


def test_every_step_is_seen_with_what_it_changed(playground, bring):
    key, names = bring(1)
    look = playground.look(Asked(key, Words.typed(names), "clip-es", ("affinity", "crf")))
    assert [step.name for step in look.steps] == ["clip-es", "affinity", "crf"]
    assert look.steps[0].moved is None
    assert all(0 <= step.moved <= 1 for step in look.steps[1:])
    assert all(step.maps.shape == (len(names), 96, 112) for step in look.steps)
    plain = playground.look(Asked(key, Words.typed(names), "clip-es", ("affinity",)))
    assert np.array_equal(plain.steps[1].maps, look.steps[1].maps)
    assert look.steps[2].moved == float((plain.decided != look.decided).mean())


def test_neither_threshold_nor_words_nor_refiners_encode_again(playground, bring):
    key, names = bring(2)
    asked = Asked(key, Words.typed(names))
    look = playground.look(asked)
    for threshold in np.linspace(0, 1, 21):
        assert np.array_equal(
            playground.look(asked).labels(threshold), leave_open(look.decided, look.confidence, threshold)
        )
    assert (look.labels(1.01) == 255).all()
    assert not (look.labels(0.0) == 255).any()
    other = playground.look(replace(asked, words=Words.typed(names, "sentence", f"{names[0]}: quite another word")))
    assert not np.array_equal(other.steps[0].maps, look.steps[0].maps)
    playground.look(replace(asked, refine=("affinity",)))
    playground.look(replace(asked, words=Words.typed(names[:1])))
    assert "encode" not in other.seconds or other.seconds["encode"] == 0
    assert playground.encoded(asked) == 1
    assert sum(playground.encodes.values()) == 1


def test_methods_are_compared_and_one_that_cannot_answer_stops_no_other(playground, bring):
    key, names = bring(3)
    bad = replace(DEFAULT, mask=replace(DEFAULT.mask, calibration="otsu"))
    playground.config = bad
    found = dict(playground.compare(Asked(key, Words.typed(names), refine=()), ["clip-es", "patch-text"]))
    assert found["clip-es"].names == tuple(names)
    assert isinstance(found["patch-text"], ClipEsError)


def test_two_visitors_at_once_get_what_each_would_get_alone(playground, bring, scenes_encoder, tmp_path):
    brought = [bring(index) for index in (4, 5)]
    found: dict[str, np.ndarray] = {}

    def visit(key: str, names: list[str]) -> None:
        for _ in range(3):
            found[key] = playground.look(Asked(key, Words.typed(names), refine=("affinity",))).decided

    threads = [threading.Thread(target=visit, args=one) for one in brought]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for key, names in brought:
        alone = Playground(scenes_encoder, playground.vocabulary, DEFAULT, playground.uploads)
        expected = alone.look(Asked(key, Words.typed(names), refine=("affinity",))).decided
        assert np.array_equal(found[key], expected)
    assert set(playground.encodes.values()) == {1}


def test_labels_that_clip_sees_are_classes_with_a_confidence(playground, bring):
    key, _ = bring(6)
    found = playground.find_labels(key, Words())
    assert set(found) <= set(playground.vocabulary.names)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert all(0.5 <= sure <= 1 for sure in found.values())


def test_what_cannot_be_asked_is_told(playground, bring):
    key, names = bring(7)
    with pytest.raises(DataError, match="there is no picture yet"):
        playground.look(Asked("", Words.typed(names)))
    with pytest.raises(DataError, match="no label is named"):
        playground.look(Asked(key, Words()))
    with pytest.raises(ConfigError, match="there is no such method"):
        playground.look(Asked(key, Words.typed(names), "nonsense"))
    assert not playground.encodes


def test_the_oldest_result_goes_first_and_the_latest_stays():
    cache: Cache[np.ndarray] = Cache(100)
    cache.put("a", np.zeros(60, np.uint8))
    cache.put("b", np.zeros(60, np.uint8))
    assert cache.get("a") is None
    assert cache.get("b") is not None
    cache.put("c", np.zeros(1000, np.uint8))
    assert cache.get("b") is None
    assert cache.get("c") is not None


def test_settings_of_the_command_line_are_those_of_the_looks(scenes_encoder, playground, bring, tmp_path):
    key, names = bring(8)
    config: RunConfig = replace(DEFAULT, mask=replace(DEFAULT.mask, threshold=0.3))
    mine = Playground(scenes_encoder, playground.vocabulary, config, playground.uploads)
    assert mine.look(Asked(key, Words.typed(names), refine=())).threshold == 0.3
    assert isinstance(mine.uploads, Uploads)
