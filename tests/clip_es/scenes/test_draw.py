"""The drawn world: determinism, masks that agree with labels, every class at several sizes, captions that are true."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from clip_es.errors import ConfigError
from clip_es.scenes.captions import (
    AMBIGUOUS,
    FITTING,
    NAMES,
    TEMPLATES,
    Told,
    _plural,
    _truths,
    all_words,
    caption,
    prompt,
    told,
)
from clip_es.scenes.draw import BACKGROUNDS, CLASSES, COLOURS, CONDITIONS, SceneConfig, _sprite, draw_scene
from clip_es.scenes.world import KINDS, LOWER, UPPER

VOCABULARY = Path(__file__).parents[3] / "prompts" / "scenes.yaml"


def test_the_same_numbers_give_the_same_bytes():
    one, two = draw_scene(3, 17), draw_scene(3, 17)
    assert np.array_equal(one.picture, two.picture)
    assert np.array_equal(one.mask, two.mask)
    assert one.objects == two.objects
    assert one.backgrounds == two.backgrounds
    assert one.condition == two.condition


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
    assert np.mean([len(scene.class_ids) > 1 for scene in scenes]) > 0.7


def sides(seed, config, count=200):
    scenes = [draw_scene(seed, index, config) for index in range(count)]
    boxes = [thing.box for scene in scenes for thing in scene.objects]
    return np.array([max(x1 - x0, y1 - y0) for x0, y0, x1, y1 in boxes]) / min(config.size_hw)


def test_without_extremes_objects_span_a_tenth_to_two_thirds_of_the_frame():
    share = sides(8, SceneConfig(extremes=0))
    assert share.max() > 0.6
    # A tilted object's box is somewhat longer than the object; others may hide part of it.
    assert share.max() < 0.8
    assert np.mean(share < 0.1) < 0.06


def test_with_extremes_some_things_fill_the_frame_and_some_are_far_below_a_patch():
    share = sides(8, SceneConfig((112, 112)), 400)
    assert np.mean(share > 0.95) > 0.005
    assert 0.03 < np.mean(share < 0.1) < 0.15


def test_a_condition_holds_for_a_share_of_the_pictures_and_changes_no_mask():
    usual, always = SceneConfig((48, 48)), SceneConfig((48, 48), conditions=1.0)
    scenes = [draw_scene(21, index, usual) for index in range(400)]
    assert 0.24 < np.mean([bool(scene.condition) for scene in scenes]) < 0.36
    assert {scene.condition for scene in scenes} == {"", *CONDITIONS}
    for index, scene in enumerate(scenes[:50]):
        assert np.array_equal(draw_scene(21, index, always).mask, scene.mask)


def test_conditions_look_as_they_are_called():
    scenes = [draw_scene(22, index, SceneConfig((48, 48), conditions=1.0)) for index in range(300)]
    light = {name: np.mean([s.picture.mean() for s in scenes if s.condition == name]) for name in CONDITIONS}
    assert light["dark"] < 0.5 * light["blurry"] < 0.5 * light["bright"]
    grey = [s.picture.astype(int) for s in scenes if s.condition == "black and white"]
    assert max(np.abs(picture[..., 0] - picture[..., 1]).mean() for picture in grey) < 4


def test_shadows_darken_the_ground_and_belong_to_the_background():
    from clip_es.scenes.draw import _shade, _Stage

    stage = _Stage(np.full((40, 40, 3), 100, np.float32), np.zeros((40, 40), np.uint8), 0, (0.0, 0.0))
    _shade(stage, 5, 10, (20, 20))
    darkest = np.unravel_index(stage.canvas[..., 0].argmin(), (40, 40))
    assert darkest == (24, 20)
    assert stage.canvas.min() == pytest.approx(58, abs=3)
    assert (stage.canvas[:22] == 100).all()
    assert not stage.owner.any()


def test_company_is_met_more_often_than_strangers():
    scenes = [draw_scene(23, index, SceneConfig((32, 32))) for index in range(900)]
    met = [
        {CLASSES[k] for k in scene.class_ids} for scene in scenes if scene.objects[0].class_id == CLASSES.index("chair")
    ]
    company = set(KINDS["chair"].company.split())
    assert np.mean([bool(company & classes) for classes in met]) > 0.3


def test_every_kind_is_at_home_somewhere_and_goes_with_kinds_that_exist():
    for name, kind in KINDS.items():
        assert set(kind.company.split()) <= set(CLASSES), name
        assert set(kind.colours.split()) <= set(COLOURS), name
        assert set(kind.home) <= {*UPPER, *LOWER}, name
    assert len(KINDS) >= 30
    assert len(BACKGROUNDS) >= 12


def test_a_background_goes_with_its_class_without_giving_it_away():
    at_sea = [("sea" in scene.backgrounds, "boat" in {CLASSES[k] for k in scene.class_ids})
              for scene in (draw_scene(9, index, SceneConfig((32, 32))) for index in range(1000))]  # fmt: skip
    sea_with_boat = np.mean([sea for sea, boat in at_sea if boat])
    sea_without = np.mean([sea for sea, boat in at_sea if not boat])
    assert 1.3 * sea_without < sea_with_boat < 0.5


@pytest.mark.parametrize("class_id", range(len(CLASSES)), ids=CLASSES)
@pytest.mark.parametrize("side", [14, 40, 120])
def test_every_class_is_drawn_at_every_size(class_id, side):
    paint, cover, colour = _sprite(np.random.default_rng(0), class_id, side)
    assert paint.shape == (*cover.shape, 3)
    assert 0.15 < (cover > 0.5).mean() < 1
    assert 0.7 * side <= max(cover.shape) <= 1.5 * side + 2
    assert colour in COLOURS


def test_every_class_and_background_occurs():
    scenes = [draw_scene(10, index, SceneConfig((64, 64))) for index in range(300)]
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
        ({"conditions": -0.1}, "0..1"),
        ({"extremes": 9}, "0..3"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong, says):
    with pytest.raises(ConfigError, match=says):
        SceneConfig(**wrong)


def test_the_vocabulary_file_lists_these_classes_and_backgrounds():
    vocabulary = yaml.safe_load(VOCABULARY.read_text(encoding="utf-8"))
    assert tuple(entry["name"] for entry in vocabulary["classes"]) == CLASSES
    assert tuple(vocabulary["background"]) == BACKGROUNDS


def test_the_vocabulary_file_fuses_the_names_captions_use_unless_they_mean_two_kinds():
    vocabulary = yaml.safe_load(VOCABULARY.read_text(encoding="utf-8"))
    for entry in vocabulary["classes"]:
        names = {entry["name"], *entry.get("synonyms", ())}
        assert names - AMBIGUOUS == set(NAMES[entry["name"]]) - AMBIGUOUS
        assert set(entry["prompt"].split()) <= set(all_words())


def test_ambiguous_names_are_those_of_two_kinds():
    often = [name for names in NAMES.values() for name in names]
    assert {name for name in often if often.count(name) > 1} == AMBIGUOUS


def test_names_have_frequencies_that_sum_to_one():
    assert list(NAMES) == list(CLASSES)
    for names in NAMES.values():
        assert sum(names.values()) == pytest.approx(1)


def thing(name, colour="red", share=0.1, cut=False):
    return Told(CLASSES.index(name), colour, share, cut)


def caption_of(rng, scene):
    return caption(rng, told(scene), scene.backgrounds, scene.condition)


def test_captions_name_only_what_is_there_and_always_the_largest():
    rng = np.random.default_rng(0)
    for index in range(300):
        scene = draw_scene(12, index, SceneConfig((48, 48)))
        said = caption_of(rng, scene)
        there = [NAMES[CLASSES[k]] for k in scene.class_ids]
        assert all(any(name in names for names in there) for name in said.things)
        assert set(said.places) <= set(scene.backgrounds)
        assert said.things
        for name in said.things:
            assert name in said.text or _plural(name) in said.text


def test_large_things_are_nearly_always_named_and_small_ones_often_not():
    rng = np.random.default_rng(1)
    objects = [thing("car", share=0.14), thing("cow", share=0.06), thing("duck", share=0.005)]
    named = [caption(rng, objects, ()).things for _ in range(3000)]
    share = [
        np.mean([any(name in NAMES[kind] for name in things) for things in named]) for kind in ("car", "cow", "duck")
    ]
    assert share[0] > 0.9
    assert share[1] > 0.75
    assert 0.35 < share[2] < 0.6


def test_captions_name_the_background_three_times_in_four():
    rng = np.random.default_rng(1)
    objects = [thing("car", share=0.12), thing("cow", share=0.12)]
    assert 0.72 < np.mean([bool(caption(rng, objects, ("sky", "sea")).places) for _ in range(2000)]) < 0.78


def test_frames_about_one_thing_alone_leave_no_room_for_a_background():
    rng = np.random.default_rng(1)
    said = [caption(rng, [thing("car", share=0.01)], ("sky", "sea")) for _ in range(500)]
    small = [one for one in said if "small" in one.text]
    assert len(small) > 50
    assert not any(one.places for one in small)
    assert not any("small a " in one.text for one in small)


def test_the_background_words_of_a_caption_are_those_it_returns():
    rng = np.random.default_rng(2)
    for _ in range(300):
        said = caption(rng, [thing("car")], ("sky", "road"))
        assert {word for word in ("sky", "road") if word in said.text} == set(said.places)


def test_captions_count_objects_of_one_class():
    rng = np.random.default_rng(3)
    texts = [caption(rng, [thing("sheep"), thing("sheep"), thing("sheep")], ()).text for _ in range(50)]
    assert all("sheep" in text or "lambs" in text for text in texts)
    assert any("three" in text for text in texts)


def test_the_nouns_of_a_caption_are_one_name_for_each_class():
    rng = np.random.default_rng(3)
    said = caption(rng, [thing("sheep", "white", 0.2), thing("car", share=0.2), thing("sheep", "white", 0.2)], ())
    assert len(said.things) <= 2
    assert {*said.things} <= {*NAMES["sheep"], *NAMES["car"]}


def test_frames_are_used_only_where_they_are_true():
    near = [thing("cat", share=0.5, cut=True)]
    small = [thing("cat", share=0.01)]
    crowd = [thing(name) for name in ("cat", "dog", "cow", "horse")]

    def truths(objects, kinds, condition=""):
        groups = {t.class_id: [t] for t in objects}
        return set(
            _truths(groups, [CLASSES.index(k) for k in kinds], {t.class_id: t.share for t in objects}, condition)
        )

    assert truths(near, ["cat"]) == {"near", "large", "cut", "alone", ""}
    assert truths(small, ["cat"], "dark") == {"small", "alone", "dark"}
    assert truths(crowd, ["cat", "dog"]) == {"more", "busy", ""}


def test_half_of_the_pictures_of_a_condition_are_told_to_have_it():
    rng = np.random.default_rng(5)
    objects = [thing("cat"), thing("dog")]
    texts = [caption(rng, objects, (), "blurry").text for _ in range(1000)]
    frames = [frame.split("{}")[0] for frame in FITTING["blurry"]]
    share = np.mean([any(text.startswith(frame) for frame in frames) for text in texts])
    assert 0.35 < share < 0.6
    assert not any(text.startswith("a blurry") for text in (caption(rng, objects, ()).text for _ in range(300)))


def test_conditions_have_frames():
    assert set(CONDITIONS) <= set(FITTING)


def test_a_prompt_is_a_sentence_about_one_noun():
    assert "an airplane" in prompt(np.random.default_rng(0), "airplane")


def test_captions_vary_in_frame_and_name():
    rng = np.random.default_rng(4)
    texts = {caption(rng, [thing("car")], ("road",)).text for _ in range(400)}
    assert len(TEMPLATES) >= 15
    assert len(texts) > 180
    assert all(any(name in text for text in texts) for name in NAMES["car"])


@pytest.mark.parametrize(
    ("one", "many"),
    [("calf", "calves"), ("bus", "buses"), ("watch", "watches"), ("pony", "ponies"), ("potted plant", "potted plants"),
     ("goldfish", "goldfish"), ("man", "men"), ("boy", "boys")],
)  # fmt: skip
def test_plurals(one, many):
    assert _plural(one) == many


def test_all_words_covers_what_captions_say():
    rng, known = np.random.default_rng(5), set(all_words())
    for index in range(300):
        scene = draw_scene(13, index, SceneConfig((48, 48)))
        text = caption_of(rng, scene).text
        assert {word.strip(".,") for word in text.split()} - {""} <= known
