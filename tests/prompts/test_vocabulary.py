"""Vocabularies: the published words, the form of a user's file, and labels as annotation tools write them."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from clip_es.errors import ConfigError, DataError
from clip_es.prompts import ClassEntry, Vocabulary, load_vocabulary
from clip_es.prompts.templates import sentences
from clip_es.prompts.vocabulary_files import PACKAGED

VOC = [
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
]  # fmt: skip

BACKGROUND = (
    "ground", "land", "grass", "tree", "building", "wall", "sky", "lake", "water", "river", "sea", "railway",
    "railroad", "keyboard", "helmet", "cloud", "house", "mountain", "ocean", "road", "rock", "street", "valley",
    "bridge", "sign",
)  # fmt: skip


def written(tmp_path, text: str):
    file = tmp_path / "garden.yaml"
    file.write_text(text, encoding="utf-8")
    return load_vocabulary(file)


# packaged


def test_voc12_is_the_published_one():
    voc = load_vocabulary("voc12")
    assert list(voc.names) == VOC
    changed = {entry.name: entry.prompt for entry in voc.classes if entry.prompt != entry.name}
    assert changed == {
        "bird": "bird avian",
        "chair": "chair seat",
        "person": "person with clothes,people,human",
        "tvmonitor": "tvmonitor screen",
    }
    assert voc.background == BACKGROUND
    assert (voc.templates, voc.box_threshold) == (("a clean origami {}.",), 0.4)


def test_coco14_is_the_published_one():
    coco, voc = load_vocabulary("coco14"), load_vocabulary("voc12")
    assert len(coco.classes) == 80
    assert set(VOC) <= set(coco.names)
    changed = {index: entry.prompt for index, entry in enumerate(coco.classes) if entry.prompt != entry.name}
    assert changed == {
        0: "person with clothes,people,human",
        14: "bird avian",
        24: "backpack,bag",
        25: "umbrella,parasol",
        26: "handbag,purse",
        27: "necktie",
        31: "sknowboard",
        35: "glove",
        44: "dessertspoon",
        56: "chair seat",
        62: "tvmonitor screen",
        65: "remote control",
        78: "hairdrier,blowdrier",
    }
    assert [coco.names[k] for k in (3, 4, 9, 31, 57, 58, 60, 79)] == [
        "motorbike", "aeroplane", "traffic light", "snowboard", "sofa", "pottedplant", "diningtable", "toothbrush"
    ]  # fmt: skip
    assert coco.background == tuple(word for word in voc.background if word not in ("keyboard", "sign"))
    assert (coco.templates, coco.box_threshold) == (voc.templates, 0.7)


def test_scenes_is_packaged_too():
    scenes = load_vocabulary("scenes")
    assert len(scenes.classes) >= 12
    assert scenes.background


# labels


@pytest.mark.parametrize(
    ("label", "wanted"),
    [("potted plant", 15), ("tv/monitor", 19), ("Dining_Table", 10), ("DOG", 11), ("motor-bike", 13), ("cat", 7)],
)
def test_labels_match_whatever_their_case_and_blanks(label, wanted):
    assert load_vocabulary("voc12").class_id(label) == wanted


def test_cocos_own_names_are_aliases():
    official = {"motorcycle": 3, "airplane": 4, "couch": 57, "potted plant": 58, "dining table": 60, "tv": 62}
    coco = load_vocabulary("coco14")
    assert {name: coco.class_id(name) for name in official} == official


def test_an_unknown_label_offers_the_nearest_name():
    with pytest.raises(DataError) as caught:
        load_vocabulary("voc12").class_id("aeroplan")
    assert str(caught.value) == "'aeroplan' is not one of the 20 names of voc12. Nearest: 'aeroplane'."
    with pytest.raises(DataError, match="one of aeroplane, bicycle"):
        load_vocabulary("voc12").class_id("xyzzy")


def test_a_prompt_or_synonym_is_no_label():
    with pytest.raises(DataError):
        load_vocabulary("voc12").class_id("screen")


# a user's file


def test_a_full_file_is_read(tmp_path):
    garden = written(
        tmp_path,
        "name: my garden\nsource: my head\ntemplates: ['a {}.', 'the {}.']\nbox_threshold: 0.5\n"
        "classes: [rose, {name: bee, prompt: bee insect, synonyms: [insect], aliases: [honey bee]}]\n"
        "background: [sky]\n",
    )
    assert garden == Vocabulary(
        name="my garden",
        classes=(ClassEntry("rose"), ClassEntry("bee", "bee insect", ("insect",), ("honey bee",))),
        background=("sky",),
        templates=("a {}.", "the {}."),
        box_threshold=0.5,
        source="my head",
    )
    assert garden.class_id("honeybee") == 1


def test_a_plain_list_is_a_vocabulary(tmp_path):
    garden = written(tmp_path, "- rose\n- sign\n")
    assert (garden.name, garden.names, garden.templates) == ("garden", ("rose", "sign"), ("a photo of a {}.",))
    assert garden.classes[0].prompt == "rose"


def test_background_words_default_to_those_that_are_no_class(tmp_path):
    garden = written(tmp_path, "classes: [sign, {name: pond, prompt: pond, synonyms: [Lake]}]\n")
    assert garden.background == tuple(w for w in load_vocabulary("voc12").background if w not in ("sign", "lake"))
    assert written(tmp_path, "classes: [rose]\nbackground: []\n").background == ()


def test_a_vocabulary_cannot_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_vocabulary("voc12").name = "other"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes: [rose\nbackground: []\n", r"garden\.yaml, line 2: this is not valid YAML"),
        ("classes: [rose]\nclasses: [bee]\n", r"line 2.*'classes' stands twice"),
        ("a: &x [1]\nclasses: [*x]\n", r"line 2.*references"),
        ("classes: !!python/object/apply:os.system [ls]\n", "not valid YAML"),
        ("\x00", "not valid YAML"),
        ("[" * 5000, "not valid YAML"),
        ("just words\n", "Found str"),
        ("", "Found NoneType"),
        ("clases: [rose]\n", "Expected a list of names"),
        ("classes: [rose]\nbackgroud: [sky]\n", "no key 'backgroud'.*Nearest: 'background'"),
        ("classes: [{name: rose, sinonyms: [a]}]\n", "no key 'sinonyms'.*Nearest: 'synonyms'"),
        ("classes: []\n", "at least one class"),
        ("classes: rose\n", "'classes' must be a list"),
        ("classes: [rose, no]\n", "must be text.*Found False.*quotes"),
        ("classes: [7]\n", "Found 7"),
        ("classes: ['  ']\n", "must be text"),
        ("classes: [{prompt: rose}]\n", "the name of a class.*Found None"),
        ("classes: [tv monitor, TVmonitor]\n", r"'TVmonitor' \(TVmonitor\) cannot be told from 'tv monitor'"),
        ("classes: [bee, {name: fly, aliases: [Bee]}]\n", r"'Bee' \(fly\) cannot be told from 'bee' \(bee\)"),
        ("classes: [sky]\nbackground: [sky]\n", r"'sky' \(a background word\) cannot be told"),
        ("classes: [rose]\nbackground: [sky, sky]\n", r"'sky' \(a background word\) cannot be told"),
        ("classes: [rose]\ntemplate: a photo\n", r"\{\}"),
        ("classes: [rose]\ntemplate: '{} and {}'\n", r"\{\}"),
        ("classes: [rose]\ntemplate: 'a {}'\ntemplates: ['a {}']\n", "either"),
        ("classes: [rose]\ntemplates: []\n", "at least one template"),
        ("classes: [rose]\nbox_threshold: 40\n", r"0\.\.1"),
        ("classes: [rose]\nbox_threshold: yes\n", "must be a number"),
        ("classes: [rose]\n# " + "x" * 2**20 + "\n", "too large"),
    ],
    ids=lambda value: value[:24].encode("unicode_escape").decode() if isinstance(value, str) else None,
)
def test_a_bad_file_says_what_is_wrong(text, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        written(tmp_path, text)


def test_an_unknown_vocabulary_offers_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match="Nearest: 'voc12'"):
        load_vocabulary("voc2")
    with pytest.raises(ConfigError, match="no such vocabulary"):
        load_vocabulary(tmp_path)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "picture.yaml").write_bytes(bytes(range(256)))
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_vocabulary(tmp_path / "picture.yaml")


def test_an_alias_may_repeat_the_own_name():
    entry = ClassEntry("tvmonitor", aliases=("tv monitor", "TV"))
    assert Vocabulary("v", (entry,)).class_id("tv") == 0


def test_names_with_commas_are_a_vocabulary():
    words = load_vocabulary("traffic light, dog,tree,")
    assert words.names == ("traffic light", "dog", "tree")
    # The words of voc12 that are no class here compete for patches.
    assert words.background == tuple(word for word in BACKGROUND if word != "tree")
    assert words.class_id("traffic_light") == 0
    assert load_vocabulary("dog,").names == ("dog",)


@pytest.mark.parametrize("suffix", ["txt", "names", "lst"])
def test_a_text_file_of_names_is_a_vocabulary(tmp_path, suffix):
    (tmp_path / f"zoo.{suffix}").write_bytes("\ufeff# mine\r\nno\r\n\r\n  crème brûlée \r\nC: drive\r\n".encode())
    words = load_vocabulary(tmp_path / f"zoo.{suffix}")
    assert (words.name, words.names) == ("zoo", ("no", "crème brûlée", "C: drive"))


@pytest.mark.parametrize(
    ("text", "message"),
    [(b"# nothing\n", "at least one class"), (b"a\nA\n", "cannot be told from"), (b"\xff\xfea\0", "not UTF-8")],
)
def test_a_bad_list_of_names_says_what_is_wrong(tmp_path, text, message):
    (tmp_path / "zoo.txt").write_bytes(text)
    with pytest.raises(ConfigError, match=message):
        load_vocabulary(tmp_path / "zoo.txt")


@pytest.mark.parametrize(
    ("names", "message"), [(",", "at least one class"), ("cat,Cat", "cannot be told from"), ("x" * 5000, "no such")]
)
def test_a_bad_list_on_the_command_line_says_what_is_wrong(names, message):
    with pytest.raises(ConfigError, match=message):
        load_vocabulary(names)


def test_the_packaged_vocabularies_stand_in_one_table_with_what_they_hold():
    folder = Path(__file__).parents[2] / "prompts"
    found = {path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml")}
    assert set(PACKAGED) == found
    for name, what in PACKAGED.items():
        count = re.search(r"\d+", what)
        assert count is None or len(load_vocabulary(name).classes) == int(count[0]), name


def test_one_name_is_a_vocabulary_of_one_class_and_a_mistyped_one_is_not():
    assert load_vocabulary("cat").names == ("cat",)
    assert load_vocabulary("traffic light").names == ("traffic light",)
    with pytest.raises(ConfigError, match=r"Nearest: 'voc12'\. A class of this name alone: 'voc2012,'"):
        load_vocabulary("voc2012")
    with pytest.raises(ConfigError, match="there is no such vocabulary"):
        load_vocabulary("words.yaml")


def test_sentences_may_be_called_by_their_names():
    assert sentences(["origami", "my {}."]) == ("a clean origami {}.", "my {}.")


def test_an_ontology_of_autodistill_is_a_vocabulary(tmp_path):
    ontology = {"a ripe red apple": "apple", "a green pear": "pear", "an apple tree's fruit": "apple"}
    (tmp_path / "fruit.yaml").write_text("".join(f'"{caption}": {name}\n' for caption, name in ontology.items()))

    class CaptionOntology:
        """As autodistill's own, which imports the client of a hosted service."""

        def __init__(self) -> None:
            self.promptMap = list(ontology.items())

    for words in (tmp_path / "fruit.yaml", ontology, CaptionOntology()):
        found = load_vocabulary(words)
        assert found.names == ("apple", "pear")
        assert found.classes[0].prompt == "a ripe red apple"
        assert found.classes[0].synonyms == ("an apple tree's fruit",)


@pytest.mark.parametrize("content", [{"clases": ["cat"]}, {}, {"a cat": 3.5}, {"a cat": ""}])
def test_what_is_neither_a_vocabulary_nor_an_ontology_is_refused(content):
    with pytest.raises(ConfigError, match="this is no vocabulary"):
        load_vocabulary(content)


@pytest.mark.parametrize(
    "words",
    [
        {0: "dog", 1: "cat"},
        {1: "cat", 0: "dog"},
        {np.int64(0): "dog", np.int64(1): "cat"},
        {"0": "dog", "1": "cat"},
        {"dog": 0, "cat": 1},
        {"cat": np.int64(1), "dog": np.int64(0)},
        {"path": "data", "nc": 2, "names": {0: "dog", 1: "cat"}},
        {"names": ["dog", "cat"]},
    ],
    ids=str,
)
def test_names_with_their_numbers_are_a_vocabulary_in_the_order_of_the_numbers(words, tmp_path):
    assert load_vocabulary(words).names == ("dog", "cat")
    plain = json.loads(json.dumps({str(key): value for key, value in words.items()}, default=int))
    (tmp_path / "words.yaml").write_text(yaml.safe_dump(plain))
    assert load_vocabulary(tmp_path / "words.yaml").names == ("dog", "cat")


@pytest.mark.parametrize(
    "words", [{1: "dog", 2: "cat"}, {"dog": 0, "cat": 2}, {0: "dog", "1": "cat", "x": "y"}, {"a": 3}]
)
def test_numbers_with_a_gap_are_refused(words):
    with pytest.raises(ConfigError, match="numbered from 0 without gaps"):
        load_vocabulary(words)


def test_a_set_of_names_has_the_same_ids_in_every_process():
    names = ("cat", "dog", "sofa", "tree", "zebra")
    assert load_vocabulary(set(names)).names == names
