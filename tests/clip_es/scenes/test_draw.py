"""The drawn world: determinism, masks that agree with labels, every class at several sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from clip_es.errors import ConfigError
from clip_es.scenes.captions import NAMES, TEMPLATES, all_words, caption, prompt
from clip_es.scenes.draw import BACKGROUNDS, CLASSES, COLOURS, SceneConfig, _sprite, draw_scene

VOCABULARY = Path(__file__).parents[3] / "prompts" / "scenes.yaml"


def test_the_same_numbers_give_the_same_bytes():
    one, two = draw_scene(3, 17), draw_scene(3, 17)
    assert np.array_equal(one.picture, two.picture)
    assert np.array_equal(one.mask, two.mask)
    assert one.objects == two.objects
    assert one.backgrounds == two.backgrounds


def test_another_index_or_seed_gives_another_scene():
    first = draw_scene(3, 17).picture
    assert not np.array_equal(first, draw_scene(3, 18).picture)
    assert not np.array_equal(first, draw_scene(4, 17).picture)


@pytest.mark.parametrize("size_hw", [(128, 128), (97, 201), (224, 193)])
def test_picture_and_mask_have_the_size_that_was_asked_for(size_hw):
    scene = draw_scene(1, 0, SceneConfig(size_hw))
    assert scene.picture.shape == (*size_hw, 3)
    assert scene.picture.dtype == np.uint8
    assert scene.mask.shape == size_hw
    assert scene.mask.dtype == np.uint8


def test_the_mask_holds_the_classes_of_the_objects_and_no_others():
    for index in range(60):
        scene = draw_scene(5, index)
        assert {*np.unique(scene.mask).tolist()} - {0} == {k + 1 for k in scene.class_ids}


def test_boxes_and_pixel_counts_fit_the_mask():
    for index in range(60):
        scene = draw_scene(6, index)
        for thing in scene.objects:
            x0, y0, x1, y1 = thing.box
            inside = scene.mask[y0:y1, x0:x1] == thing.class_id + 1
            assert inside.sum() >= thing.pixels > 0
            assert inside.any(0)[[0, -1]].all()
            assert inside.any(1)[[0, -1]].all()


def test_scenes_hold_one_to_five_objects_and_mostly_several_classes():
    scenes = [draw_scene(7, index) for index in range(200)]
    counts = [len(scene.objects) for scene in scenes]
    assert min(counts) == 1
    assert max(counts) <= 5
    assert np.mean([len(scene.class_ids) > 1 for scene in scenes]) > 0.75


def test_objects_span_a_tenth_to_two_thirds_of_the_frame():
    sides = []
    for index in range(200):
        for thing in draw_scene(8, index).objects:
            sides.append(max(thing.box[2] - thing.box[0], thing.box[3] - thing.box[1]) / 128)
    assert min(sides) < 0.2
    assert max(sides) > 0.6
    # A tilted object's box is somewhat longer than the object.
    assert max(sides) < 0.8


def test_a_background_goes_with_its_class_without_giving_it_away():
    at_sea = [("sea" in scene.backgrounds, "boat" in {CLASSES[k] for k in scene.class_ids})
              for scene in (draw_scene(9, index, SceneConfig((48, 48))) for index in range(1500))]  # fmt: skip
    sea_with_boat = np.mean([sea for sea, boat in at_sea if boat])
    sea_without = np.mean([sea for sea, boat in at_sea if not boat])
    assert 1.5 * sea_without < sea_with_boat < 0.5


@pytest.mark.parametrize("class_id", range(len(CLASSES)), ids=CLASSES)
@pytest.mark.parametrize("side", [14, 40, 120])
def test_every_class_is_drawn_at_every_size(class_id, side):
    paint, cover, colour = _sprite(np.random.default_rng(0), class_id, side)
    assert paint.shape == (*cover.shape, 3)
    assert 0.15 < (cover > 0.5).mean() < 1
    assert 0.7 * side <= max(cover.shape) <= 1.5 * side + 2
    assert colour in COLOURS


def test_every_class_and_background_occurs():
    scenes = [draw_scene(10, index, SceneConfig((64, 64))) for index in range(200)]
    assert {k for scene in scenes for k in scene.class_ids} == set(range(len(CLASSES)))
    assert {word for scene in scenes for word in scene.backgrounds} == set(BACKGROUNDS)


def test_surfaces_are_not_flat():
    scene = draw_scene(11, 0, SceneConfig((128, 128)))
    for value in np.unique(scene.mask):
        assert scene.picture[scene.mask == value].std() > 3


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"size_hw": (8, 64)}, "at least 16"),
        ({"objects": (3, 2)}, "fewest"),
        ({"scale": (0.5, 0.1)}, "scale"),
        ({"association": 1.5}, "0..1"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong, says):
    with pytest.raises(ConfigError, match=says):
        SceneConfig(**wrong)


def test_the_vocabulary_file_lists_these_classes_and_backgrounds():
    vocabulary = yaml.safe_load(VOCABULARY.read_text(encoding="utf-8"))
    assert tuple(entry["name"] for entry in vocabulary["classes"]) == CLASSES
    assert tuple(vocabulary["background"]) == BACKGROUNDS


def test_the_vocabulary_file_fuses_the_names_captions_use():
    vocabulary = yaml.safe_load(VOCABULARY.read_text(encoding="utf-8"))
    for entry in vocabulary["classes"]:
        assert {entry["name"], *entry["synonyms"]} == set(NAMES[entry["name"]])
        assert set(entry["prompt"].split()) <= set(all_words())


def caption_of(rng, scene):
    objects = scene.objects
    return caption(rng, [t.class_id for t in objects], [t.colour for t in objects], scene.backgrounds)


def test_captions_name_every_class_of_the_picture():
    rng = np.random.default_rng(0)
    plural = {"person": "people", "man": "men", "kitty": "kitties"}
    for index in range(300):
        scene = draw_scene(12, index, SceneConfig((48, 48)))
        text = caption_of(rng, scene).text
        for class_id in scene.class_ids:
            names = NAMES[CLASSES[class_id]]
            assert any(name in text or plural.get(name, name) in text for name in names), text


def test_captions_name_the_background_three_times_in_four():
    rng = np.random.default_rng(1)
    named = [bool(caption(rng, [0], ["red"], ("sky", "sea")).places) for _ in range(2000)]
    assert 0.7 < np.mean(named) < 0.8


def test_the_background_words_of_a_caption_are_those_it_returns():
    rng = np.random.default_rng(2)
    for _ in range(300):
        said = caption(rng, [4], ["red"], ("sky", "road"))
        assert {word for word in ("sky", "road") if word in said.text} == set(said.places)


def test_captions_count_objects_of_one_class():
    text = caption(np.random.default_rng(3), [9, 9, 9], ["white"] * 3, ()).text
    assert "three sheep" in text or "three lambs" in text


def test_the_nouns_of_a_caption_are_one_name_for_each_class():
    said = caption(np.random.default_rng(3), [9, 4, 9], ["white", "red", "white"], ())
    assert len(said.things) == 2
    assert {*said.things} <= {*NAMES["sheep"], *NAMES["car"]}


def test_a_prompt_is_a_sentence_about_one_noun():
    assert "an airplane" in prompt(np.random.default_rng(0), "airplane")


def test_captions_vary_in_frame_and_name():
    rng = np.random.default_rng(4)
    texts = {caption(rng, [4], ["red"], ("road",)).text for _ in range(400)}
    assert len(TEMPLATES) >= 15
    assert len(texts) > 200
    assert all(any(name in text for text in texts) for name in NAMES["car"])


def test_all_words_covers_what_captions_say():
    rng, known = np.random.default_rng(5), set(all_words())
    for index in range(200):
        scene = draw_scene(13, index, SceneConfig((48, 48)))
        text = caption_of(rng, scene).text
        assert {word.strip(".,") for word in text.split()} - {""} <= known
