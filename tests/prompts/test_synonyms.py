"""Synonyms: which meaning is meant, which words it has, and how they join a prompt."""

from __future__ import annotations

import hashlib
import re

import pytest
import torch
import torch.nn.functional as F

from clip_es.errors import ConfigError
from clip_es.pipelines import cli
from clip_es.pipelines.commands.prompts import including
from clip_es.prompts import ClassEntry, Vocabulary, load_vocabulary
from clip_es.prompts.synonyms import candidates, fuse, meanings, most_likely, rank, with_entry
from clip_es.prompts.wordnet import NOT_INSTALLED, WordNet, load_wordnet
from clip_es.prompts.write import vocabulary_text, write_vocabulary

pytest.importorskip("nltk", reason="nltk is not installed (extra `wordnet`)")

TOPICS = {
    0: "animal rodent rodents cat dog horse tails ears bodies feline",
    1: "computer electronic device keyboard laptop cursor screen monitor machine",
    2: "sofa couch lounge seat chair furniture",
}


def topical(sentences: list[str]) -> torch.Tensor:
    """A stand-in for CLIP's text tower: a topic is an axis, and every other word a faint direction of its own."""
    rows = torch.zeros(len(sentences), 64)
    for row, sentence in zip(rows, sentences, strict=True):
        for word in re.findall(r"[a-z]+", sentence.lower()):
            axis = next((k for k, words in TOPICS.items() if word in words.split()), None)
            if axis is not None:
                row[axis] += 1
            else:
                row[8 + int(hashlib.md5(word.encode()).hexdigest(), 16) % 56] += 0.2
    return F.normalize(rows, dim=1)


@pytest.fixture(scope="module")
def wordnet() -> WordNet:
    try:
        return load_wordnet()
    except ConfigError as error:
        if error.what != NOT_INSTALLED:
            raise
        pytest.skip(str(error))


def vocabulary(*names: str | ClassEntry, background: tuple[str, ...] = ()) -> Vocabulary:
    entries = tuple(ClassEntry(name) if isinstance(name, str) else name for name in names)
    return Vocabulary("test", entries, background)


def test_company_decides_what_a_mouse_is(wordnet):
    animals = most_likely(wordnet, topical, vocabulary("mouse", "cat", "dog", "horse"), 0)
    devices = most_likely(wordnet, topical, vocabulary("mouse", "keyboard", "laptop", "computer"), 0)
    assert animals[0].sense.key == "mouse.n.01"
    assert devices[0].sense.key == "mouse.n.04"
    assert animals[0].agreement > animals[1].agreement


def test_pictures_speak_too(wordnet):
    alone = vocabulary("mouse")
    shown = torch.zeros(64)
    shown[1] = 0.3
    assert most_likely(wordnet, topical, alone, 0, shown=shown)[0].sense.key == "mouse.n.04"


def test_a_synonym_settles_the_meaning(wordnet):
    factory, flower = ClassEntry("plant"), ClassEntry("plant", synonyms=("houseplant",))
    assert meanings(wordnet, factory)[0].sense.key == "plant.n.01"
    assert meanings(wordnet, flower)[0].sense.key == "plant.n.02"


def test_names_in_one_word_and_unknown_names_are_taken_apart(wordnet):
    assert [m.sense.key for m in meanings(wordnet, ClassEntry("diningtable"))] == ["dining_table.n.01"]
    plant = meanings(wordnet, ClassEntry("pottedplant"))
    assert not plant[0].exact
    assert "plant.n.02" in {meaning.sense.key for meaning in plant}
    assert meanings(wordnet, ClassEntry("xyzzy")) == []


def test_things_that_cannot_be_seen_are_no_meanings(wordnet):
    assert "plant.n.04" not in {m.sense.key for m in meanings(wordnet, ClassEntry("plant"))}


def test_candidates_are_synonyms_and_the_broader_term(wordnet):
    sofa = wordnet.sense("sofa.n.01")
    found = dict(candidates(wordnet, vocabulary("sofa"), 0, sofa))
    assert found == {"couch": "same", "lounge": "same", "seat": "more general"}


def test_a_broader_term_that_covers_another_class_is_left_out(wordnet):
    sofa = wordnet.sense("sofa.n.01")
    assert "seat" not in dict(candidates(wordnet, vocabulary("sofa", "chair"), 0, sofa))


def test_words_of_other_classes_and_of_the_background_are_left_out(wordnet):
    words = vocabulary("sofa", ClassEntry("bench", synonyms=("lounge",)), background=("couch",))
    assert dict(candidates(wordnet, words, 0, wordnet.sense("sofa.n.01"))) == {}


def test_kinds_come_where_they_are_asked_for(wordnet):
    car = wordnet.sense("car.n.01")
    assert "sedan" not in dict(candidates(wordnet, vocabulary("car"), 0, car))
    assert dict(candidates(wordnet, vocabulary("car"), 0, car, special=True))["sedan"] == "more special"


def test_words_are_ranked_by_agreement_without_pictures():
    rows = rank(topical, ClassEntry("sofa"), [("laptop", "same"), ("couch", "same")], "a {}.")
    assert [row.word for row in rows] == ["couch", "laptop"]
    assert rows[0].agreement > rows[1].agreement
    assert rows[0].change is None


def test_words_are_ranked_by_sharpness_with_pictures():
    figures = {"sofa": 0.5, "sofa couch": 0.6, "sofa lounge": 0.3}
    rows = rank(
        topical,
        ClassEntry("sofa"),
        [("couch", "same"), ("lounge", "same")],
        "a {}.",
        lambda entry: figures[entry.prompt],
    )
    assert [(row.word, pytest.approx(row.change)) for row in rows] == [("lounge", -0.2), ("couch", 0.1)]
    assert rank(topical, ClassEntry("sofa"), [], "a {}.") == []


def test_fusion_writes_one_sentence_and_keeps_the_list():
    bird = fuse(ClassEntry("bird"), ["avian"])
    assert (bird.prompt, bird.synonyms) == ("bird avian", ("avian",))
    assert bird == load_vocabulary("voc12").classes[2]
    assert fuse(bird, ["avian", "bird"]) == bird
    person = ClassEntry("person", "person with clothes,people", ("people",))
    assert fuse(person, ["human"]).prompt == "person with clothes,people,human"


@pytest.mark.parametrize("name", ["voc12", "coco14", "scenes"])
def test_a_written_vocabulary_reads_back_as_it_was(tmp_path, name):
    packaged = load_vocabulary(name)
    write_vocabulary(packaged, tmp_path / "new" / "copy.yaml", ["a remark " * 40])
    assert load_vocabulary(tmp_path / "new" / "copy.yaml") == packaged


def test_words_that_yaml_reads_otherwise_survive(tmp_path):
    odd = vocabulary("no", "7", "a: b", "null", "Ärmel", background=("on", "1.5"))
    odd = with_entry(odd, 4, ClassEntry("Ärmel", aliases=("yes",)))
    (tmp_path / "odd.yaml").write_text(vocabulary_text(odd, ["source: a test"]), encoding="utf-8")
    again = load_vocabulary(tmp_path / "odd.yaml")
    assert (again.classes, again.background) == (odd.classes, odd.background)


def test_a_word_that_is_no_class_joins_the_company():
    words, class_id = including(load_vocabulary("voc12"), "Sofa")
    assert (words.names[class_id], len(words.classes)) == ("sofa", 20)
    words, class_id = including(load_vocabulary("voc12"), "grass")
    assert (words.names[class_id], len(words.classes)) == ("grass", 21)
    assert "grass" not in words.background


def test_the_command_proposes_couch_for_sofa(wordnet, capsys, tmp_path):
    weights = tiny_weights(tmp_path)
    best = tmp_path / "words.yaml"
    flags = ["--class", "sofa", "--weights", weights, "--apply", str(best), "--wordnet", str(wordnet.place)]
    assert run("prompts suggest", *flags) == 0
    told = capsys.readouterr().out
    assert "couch" in told
    assert "lounge" in told
    entry = load_vocabulary(best).classes[load_vocabulary("voc12").class_id("sofa")]
    assert entry.synonyms
    assert entry.prompt == f"sofa {entry.synonyms[0]}"
    assert run("prompts suggest", "--class", "xyzzy", "--weights", weights) == 2
    assert "WordNet has no noun for 'xyzzy'" in capsys.readouterr().err
    assert run("prompts suggest", "--class", "sofa", "--weights", weights, "--sense", "dog.n.01") == 2
    assert "'sofa' has no such sense. Expected sofa.n.01" in capsys.readouterr().err


def test_the_command_ranks_by_sharpness_over_pictures(wordnet, capsys, tmp_path):
    from clip_es.scenes.dataset import ScenesConfig, make

    root = make(tmp_path / "scenes", ScenesConfig(train=0, val=4, seed=11, side=(64, 72)))
    shown = {name for file in (root / "Annotations").iterdir() for name in re.findall(r"<name>(\w+)", file.read_text())}
    flags = ["--vocabulary", "scenes", "--root", str(root), "--split", "val", "--weights", tiny_weights(tmp_path)]
    flags += ["--cache", str(tmp_path / "cache")]
    name = next(iter(sorted(shown & {"cat", "car", "bird", "boat", "train", "person", "bottle"})))
    code = run("prompts suggest", "--class", name, "--special", *flags)
    told = capsys.readouterr()
    assert code == 0, told.err
    assert "change of sharpness" in told.out
    assert run("prompts suggest", "--class", "sofa", *flags) == 2
    assert "no picture with several labels shows this class" in capsys.readouterr().err


def run(command: str, *args: str) -> int:
    return cli.main([*command.split(), *args])


def tiny_weights(folder) -> str:
    from clip_es.encoder import CLIP, TowerSizes

    torch.manual_seed(0)
    sizes = TowerSizes(patch=16, width=64, layers=2, grid=4, embed=32, text_width=64, text_layers=1)
    torch.save(CLIP(sizes).state_dict(), folder / "tiny.pt")
    return str(folder / "tiny.pt")
