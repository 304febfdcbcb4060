"""Phrases with masks: PhraseCut's layout, a table of one's own, and scenes; what is wrong in them is told."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from clip_es.errors import ConfigError, DataError
from clip_es.records.phrases.phrasecut import PhraseCut, speaks_of
from clip_es.records.phrases.table import PhraseTable, as_binary
from clip_es.scenes.captions import AMBIGUOUS, NAMES
from clip_es.scenes.phrases import NEVER_SAID, NEVER_THERE, ScenePhrases, ScenePhrasesConfig


def task(image_id, phrase, *polygons, **more):
    """An entry as the published files have them; each polygon becomes an instance of its own."""
    boxes = []
    for polygon in polygons:
        x, y = [point[0] for point in polygon], [point[1] for point in polygon]
        boxes.append([min(x), min(y), max(x) - min(x) + 1, max(y) - min(y) + 1])
    structure = {"name": phrase, "attributes": [], "relation_descriptions": []}
    return {
        "task_id": f"{image_id}__{phrase}",
        "image_id": image_id,
        "ann_ids": [1],
        "instance_boxes": boxes,
        "Polygons": [[list(polygon)] for polygon in polygons],
        "phrase": phrase,
        "phrase_structure": structure,
    } | more


SQUARE = ([2, 1], [5, 1], [5, 3], [2, 3])
"""Columns 2..5 and rows 1..3, edges included: 12 pixels."""


@pytest.fixture
def root(tmp_path):
    (tmp_path / "images").mkdir()
    for image_id, size in ((1, (12, 8)), (2, (6, 10)), (150417, (6, 6))):
        pixels = np.random.default_rng(image_id).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"images/{image_id}.jpg")
    sizes = [{"image_id": 1, "width": 12, "height": 8, "split": "train", "coco_id": None}]
    (tmp_path / "image_data_split.json").write_text(json.dumps(sizes))
    (tmp_path / "name_att_rel_count.json").write_text(json.dumps({"name": [["cat", 2]], "att": [], "rel": []}))
    return tmp_path


def write(root, split, tasks):
    (root / f"refer_{split}.json").write_text(json.dumps(tasks))


def test_a_mask_holds_the_pixels_whose_centres_lie_in_a_polygon(root):
    write(root, "train", [task(1, "white cat", SQUARE, ([7.4, 4.5], [9.5, 4.5], [9.5, 6.6])), task(2, "dog", SQUARE)])
    data = PhraseCut(root)
    assert [tuple(sample) for sample in data.samples] == [(0, "white cat"), (1, "dog")]
    expected = np.zeros((8, 12), bool)
    expected[1:4, 2:6] = True
    expected[5, 8:10] = expected[6, 9] = True  # coordinates keep their fractions
    assert np.array_equal(data.mask(0), expected)
    assert data.mask(1).shape == (10, 6)  # the size comes from the picture where no file states it
    assert data.mask(1).sum() == 12
    assert data.picture(0).shape == (8, 12, 3)
    assert data.image_id(1) == 2
    np.testing.assert_allclose(data.polygons(0)[1], [[7.4, 4.5], [9.5, 4.5], [9.5, 6.6]], rtol=1e-6)


def test_splits_can_be_joined(root):
    write(root, "val", [task(1, "cat", SQUARE)])
    write(root, "miniv", [task(1, "cat", SQUARE), task(2, "cat", SQUARE)])
    data = PhraseCut(root, "val_miniv")
    assert [sample.picture for sample in data.samples] == [0, 0, 1]
    assert data.texts == ("cat",)
    assert data.by_text == {"cat": [0, 1, 2]}
    assert data.by_picture == {0: [0, 1], 1: [2]}
    assert data.holds(1, "cat")
    assert not data.holds(1, "dog")


def test_what_the_paper_leaves_out_is_left_out(root):
    flat = task(2, "line", SQUARE) | {"instance_boxes": [[2, 1, 0, 4]]}
    write(root, "train", [task(150417, "cat", SQUARE), flat, task(2, "nothing"), task(1, "two sheep", SQUARE)])
    data = PhraseCut(root)
    assert [sample.text for sample in data.samples] == ["two sheep"]
    assert data.left_out == {"annotated with a wrong size": 1, "without an area": 2, "of classes left out": 0}
    assert data.problems == ()


def test_phrases_of_unseen_classes_are_left_out(root):
    write(root, "train", [task(1, text, SQUARE) for text in ("two Cats", "catalogue", "potted plant", "buses", "tree")])
    data = PhraseCut(root, without=("cat", "potted plant", "bus"))
    assert data.texts == ("catalogue", "tree")
    assert data.left_out["of classes left out"] == 3
    assert not speaks_of("plant in a pot", ("potted plant",))


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (7, "not a phrase with its region"),
        ({"image_id": 1}, "not a phrase with its region"),
        (task(1, "cat", SQUARE) | {"image_id": "1"}, "needs a number and a phrase"),
        (task(1, "  ", SQUARE), "needs a number and a phrase"),
        (task(3, "cat", SQUARE), "the picture 3, which is not there"),
        (task(1, "cat", SQUARE, Polygons=[[[[1, 2, 3]]]]), "no list of [x, y]"),
        (task(1, "cat", SQUARE, Polygons=[[[[1, float("nan")], [1, 2]]]]), "no list of [x, y]"),
        (task(1, "cat", SQUARE, Polygons=5), "no lists of lists"),
    ],
)
def test_one_bad_entry_is_a_problem_and_no_more(root, bad, reason):
    write(root, "train", [bad, task(2, "dog", SQUARE)])
    data = PhraseCut(root)
    assert data.texts == ("dog",)
    (problem,) = data.problems
    assert problem.image_id == "refer_train.json entry 0"
    assert reason in problem.reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{}", "not a JSON list"),
        ("[1, 2", "damaged JSON"),
        ("[1 2]", "damaged JSON"),
        ("[]", "no entry that can be used"),
    ],
)
def test_a_damaged_file_is_named(root, text, reason):
    (root / "refer_train.json").write_text(text)
    with pytest.raises(DataError, match=reason):
        PhraseCut(root)


def test_a_missing_part_is_named(root, tmp_path):
    with pytest.raises(DataError, match=r"refer_test\.json"):
        PhraseCut(root, "test")
    with pytest.raises(DataError, match="no split 'all'"):
        PhraseCut(root, "all")
    with pytest.raises(DataError, match="layout of VGPhraseCut_v0"):
        PhraseCut(tmp_path / "elsewhere")


def test_the_fingerprint_is_of_phrases_not_of_places(root, tmp_path_factory):
    write(root, "train", [task(1, "cat", SQUARE)])
    first = PhraseCut(root).fingerprint()
    write(root, "train", [task(1, "cat", SQUARE), task(1, "dog", SQUARE)])
    assert PhraseCut(root).fingerprint() != first


# ---------------------------------------------------------------- a table of one's own


def test_a_table_names_pictures_phrases_and_masks(tmp_path):
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.array([[0, 3, 255, 0, 0]] * 4, np.uint8)).save(tmp_path / "masks/m.png")
    Image.fromarray(np.array([[0, 255, 255, 0, 0]] * 4, np.uint8)).save(tmp_path / "masks/white.png")
    rows = ["image,phrase,mask", 'a.png,"a cat, white",m.png', "a.png,cat,white.png"]
    bad = ["b.png,cat,m.png", "a.png,,m.png", "a.png,cat", "../a.png,cat,m.png", 'a.png,"cat,m.png']
    (tmp_path / "table.csv").write_text("\n".join(rows + bad))
    data = PhraseTable(tmp_path, tmp_path / "table.csv", tmp_path / "masks")
    assert [tuple(sample) for sample in data.samples] == [(0, "a cat, white"), (0, "cat")]
    assert data.mask(0)[0].tolist() == [False, True, False, False, False]  # beside others 255 is undecided
    assert data.mask(1)[0].tolist() == [False, True, True, False, False]  # alone it is the object
    assert data.picture(0).shape == (4, 5, 3)
    assert [problem.image_id for problem in data.problems] == [f"table.csv line {n}" for n in range(4, 9)]
    assert as_binary(np.zeros((1, 2), np.uint8)).sum() == 0


def test_a_table_that_cannot_be_used_is_named(tmp_path):
    with pytest.raises(DataError, match="is not a folder"):
        PhraseTable(tmp_path / "none", tmp_path / "table.csv")
    (tmp_path / "table.csv").write_text("image,labels\n")
    with pytest.raises(DataError, match="image,phrase,mask"):
        PhraseTable(tmp_path, tmp_path / "table.csv")
    (tmp_path / "table.csv").write_text("image,phrase,mask\nx.png,cat,y.png\n")
    with pytest.raises(DataError, match=r"x\.png"):
        PhraseTable(tmp_path, tmp_path / "table.csv")


# ---------------------------------------------------------------- scenes


@pytest.fixture(scope="module")
def scenes():
    return ScenePhrases(ScenePhrasesConfig(30))


def class_of(text):
    found = {
        kind for kind, names in NAMES.items() for name in names if name not in AMBIGUOUS and f" {name} " in f" {text} "
    }
    assert len(found) == 1
    return found.pop()


def test_training_never_says_what_is_kept_for_the_test(scenes):
    for text in scenes.texts:
        assert not any(name in text for name in NEVER_SAID)
        assert f"the {NEVER_THERE[class_of(text)]}" not in text
    for kind, names in NAMES.items():
        assert set(names) - {*NEVER_SAID} - AMBIGUOUS, kind


def test_a_phrase_has_the_mask_of_its_class_and_is_true(scenes):
    from clip_es.scenes.draw import CLASSES

    kinds = set()
    for number, sample in enumerate(scenes.samples):
        scene = scenes._scenes[sample.picture]
        kind = CLASSES.index(class_of(sample.text))
        assert np.array_equal(scenes.mask(number), scene.mask == kind + 1)
        assert scenes.mask(number).any()
        assert scenes.holds(sample.picture, sample.text)
        colours = {thing.colour for thing in scene.objects if thing.class_id == kind}
        if sample.text.split()[0] in colours:
            assert len(colours) == 1
            kinds.add("colour")
        elif " the " in sample.text:
            assert sample.text.split()[-1] in scene.backgrounds
            kinds.add("place")
        else:
            kinds.add("name")
    assert kinds == {"name", "colour", "place"}


def test_what_is_not_there_is_known(scenes):
    number, text = next((n, t) for n, t in scenes.samples if t.startswith("red "))
    reds = [n for n in range(30) if scenes.holds(n, text)]
    name = text.removeprefix("red ")
    assert number in reds
    assert all(scenes.holds(n, name) for n in reds if name in scenes.texts)
    assert len(reds) < 30
    assert not scenes.holds(0, "a phrase nobody has said")


def test_parts_say_names_synonyms_or_places():
    config = {part: ScenePhrasesConfig(16, part=part) for part in ("names", "synonyms", "places")}
    said = {part: ScenePhrases(one).texts for part, one in config.items()}
    assert set(said["synonyms"]) <= set(NEVER_SAID)
    assert set(said["names"]) <= {name for names in NAMES.values() for name in names} - set(NEVER_SAID)
    assert all(text.endswith(f"the {NEVER_THERE[class_of(text)]}") for text in said["places"])
    assert len(said["places"]) > 1


def test_classes_can_be_left_unspoken():
    spoken = {class_of(text) for text in ScenePhrases(ScenePhrasesConfig(10, without=("boat", "cow"))).texts}
    assert spoken
    assert not spoken & {"boat", "cow"}
    only = ScenePhrases(ScenePhrasesConfig(40, part="names"), only=("boat", "cow"))
    assert {class_of(text) for text in only.texts} == {"boat", "cow"}
    hidden = ScenePhrases(ScenePhrasesConfig(6, without=("boat", "cow"), hide=True))
    assert len(hidden._scenes) == 6
    assert all(not {2, 6} & set(scene.class_ids) for scene in hidden._scenes)
    with pytest.raises(ConfigError, match="three classes"):
        ScenePhrasesConfig(without=tuple(NAMES)[2:], hide=True)
    with pytest.raises(ConfigError, match="'unicorn' is no class"):
        ScenePhrasesConfig(without=("unicorn",))
    with pytest.raises(ConfigError, match="nothing can be said"):
        ScenePhrases(ScenePhrasesConfig(1, without=tuple(NAMES)))


def test_the_same_seed_gives_the_same_phrases_and_pictures(scenes):
    again = ScenePhrases(ScenePhrasesConfig(5))
    assert again.samples == scenes.samples[: len(again.samples)]
    assert np.array_equal(again.picture(4), scenes.picture(4))
    assert torch.from_numpy(again.mask(0)).any()
