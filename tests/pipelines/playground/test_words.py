"""Words typed by a visitor: what they mean, and what is refused."""

from __future__ import annotations

import pytest

from clip_es.errors import ConfigError, DataError
from clip_es.pipelines.playground.words import MOST_LABELS, Words, said_by
from clip_es.prompts import Vocabulary
from clip_es.prompts.vocabulary import ClassEntry

BASE = Vocabulary(
    "farm",
    (ClassEntry("cat", "cat kitten", ("kitten",)), ClassEntry("tv", aliases=("television",))),
    background=("grass", "sky"),
    templates=("a photo of a {}.",),
)


def test_words_of_the_vocabulary_itself_change_nothing():
    said = said_by(BASE, ["cat", "television"], "sentence")
    assert said == "cat: cat kitten\ntv: tv"
    words = Words.typed(["cat", "television"], "sentence", said, "a photo of a {}.", "grass\nsky", BASE)
    assert words.vocabulary(BASE) is BASE
    assert words.ids(BASE) == (0, 1)
    mean = said_by(BASE, ["cat"], "mean")
    assert mean == "cat: cat; kitten"
    assert Words.typed(["cat"], "mean", mean).vocabulary(BASE) is BASE


def test_synonyms_are_one_sentence_or_several():
    fused = Words.typed(["cat"], "sentence", "cat: cat; feline").vocabulary(BASE)
    assert fused.classes[0].prompt == "cat feline"
    several = Words.typed(["cat"], "mean", "cat: cat; feline").vocabulary(BASE)
    assert several.classes[0].synonyms == ("feline",)
    assert fused.name == "farm, changed"


def test_a_new_word_becomes_a_class_and_leaves_the_background():
    words = Words.typed(["cat", "Grass"])
    grown = words.vocabulary(BASE)
    assert grown.names == ("cat", "tv", "Grass")
    assert grown.background == ("sky",)
    assert words.ids(grown) == (0, 2)


def test_background_words_can_be_taken_away():
    assert Words.typed(["cat"], background="", base=BASE).vocabulary(BASE).background == ()
    assert Words.typed(["cat"]).vocabulary(BASE).background == ("grass", "sky")


def test_an_edited_line_stays_when_labels_or_the_mode_change():
    said = "cat: tiger\ntv: tv"
    assert said_by(BASE, ["cat", "tv", "cow"], "mean", said) == "cat: tiger\ntv: tv\ncow: cow"
    assert said_by(BASE, ["cat"], "mean", "cat: cat kitten") == "cat: cat; kitten"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": [f"word{i}" for i in range(MOST_LABELS + 1)]}, "too many labels"),
        ({"labels": ["x" * 201]}, "too long"),
        ({"labels": ["cat"], "said": "cat tiger"}, "label: word; word"),
        ({"labels": ["cat"], "said": "cat: ;"}, "label: word; word"),
        ({"labels": ["cat"], "templates": "no place"}, "names the class with {}"),
        ({"labels": ["cat"], "background": "\n".join(f"word{i}" for i in range(301))}, "too many lines"),
    ],
)
def test_what_cannot_be_read_is_refused(fields, message):
    with pytest.raises((ConfigError, DataError), match=message):
        Words.typed(**fields)


def test_without_a_label_there_is_nothing_to_ask():
    with pytest.raises(DataError, match="no label is named"):
        Words().ids(BASE)
