"""Background words: what goes with the classes, and nothing that means one of them."""

from __future__ import annotations

import pytest
import torch

from clip_es.errors import ConfigError
from clip_es.pipelines import cli
from clip_es.prompts import ClassEntry, Vocabulary, load_vocabulary
from clip_es.prompts.background import general_words, propose, related
from clip_es.prompts.check import check_file
from clip_es.prompts.wordnet import NOT_INSTALLED, WordNet, load_wordnet


@pytest.fixture(scope="module")
def wordnet() -> WordNet:
    pytest.importorskip("nltk", reason="nltk is not installed (extra `wordnet`)")
    try:
        return load_wordnet()
    except ConfigError as error:
        if error.what != NOT_INSTALLED:
            raise
        pytest.skip(str(error))


def vocabulary(*names: str, background: tuple[str, ...] = ()) -> Vocabulary:
    return Vocabulary("test", tuple(map(ClassEntry, names)), background)


def kept(found) -> list[str]:
    return [row.word for row in found if row.left_out is None]


def test_the_general_list_begins_with_the_words_of_the_paper():
    assert general_words()[:25] == load_vocabulary("voc12").background
    assert len(set(general_words())) == len(general_words()) >= 60


def test_what_means_a_class_is_left_out(wordnet):
    found = propose(vocabulary("boat", "lake", "house", "oak tree"), wordnet)
    reasons = {row.word: row.left_out for row in found}
    assert reasons["lake"] == "it is the class 'lake'"
    assert reasons["tree"] == "'oak tree' is a kind of 'tree'"
    assert reasons["building"] == "'house' is a kind of 'building'"
    assert {"sky", "grass", "road"} <= set(kept(found))
    assert [row.left_out is None for row in found] == sorted((row.left_out is None for row in found), reverse=True)


def test_own_background_words_are_kept(wordnet):
    assert "runway" in kept(propose(vocabulary("aeroplane", background=("runway",)), wordnet))


def test_glosses_name_surroundings(wordnet):
    # "a body of (usually fresh) water surrounded by land": the land is no part of a lake.
    assert "land" in set(related(wordnet, wordnet.sense("lake.n.01"))) | set(general_words())
    for word in related(wordnet, wordnet.sense("car.n.01")):
        assert word not in wordnet.adjectives


def test_without_wordnet_spellings_alone_are_compared():
    found = {row.word: row.left_out for row in propose(vocabulary("sky", "stop sign", "couch"))}
    assert found["sky"] == "it is the class 'sky'"
    assert found["sign"] == "'stop sign' is a kind of 'sign'"
    assert found["grass"] is None


def test_words_that_go_best_with_the_classes_come_first():
    def encode(sentences):
        near = {"a cat.": 0.0, "a carpet.": 0.1, "a floor.": 0.2}
        angles = torch.tensor([near.get(sentence, 1.0) for sentence in sentences])
        return torch.stack([angles.cos(), angles.sin()], dim=1)

    words = Vocabulary("test", (ClassEntry("cat"),), templates=("a {}.",))
    found = propose(words, encode=encode)
    assert kept(found)[:2] == ["carpet", "floor"]
    assert (found[0].nearest, found[0].agreement) == ("cat", pytest.approx(0.995, abs=1e-3))


@pytest.mark.parametrize("count", [1, 200])
def test_few_and_many_classes(wordnet, count):
    names = sorted({word.words[0] for word in wordnet.kinds(wordnet.sense("furniture.n.01"))} | {"furniture"})
    names += [f"thing {i}" for i in range(count)]
    found = propose(vocabulary(*names[:count]), wordnet)
    assert "sky" in kept(found)


@pytest.mark.parametrize("name", ["voc12", "scenes"])
def test_what_is_proposed_passes_the_check(wordnet, tmp_path, name):
    out = tmp_path / "words.yaml"
    assert cli.main(["prompts", "background", "--vocabulary", name, "--apply", str(out), "--most", "30"]) == 0
    assert len(load_vocabulary(out).background) == 30
    assert load_vocabulary(out).classes == load_vocabulary(name).classes
    assert not [finding for finding in check_file(out, wordnet) if finding.kind == "leak"]
