"""`clip-es prompts check`: leaks, duplicates, prompts too long, names that CLIP reads badly."""

from __future__ import annotations

import pytest

from clip_es.errors import ConfigError
from clip_es.pipelines import cli
from clip_es.prompts import ClassEntry
from clip_es.prompts.check import (
    Words,
    barely_known,
    check_file,
    check_words,
    count_tokens,
    leaks,
    meanings_of,
    respell,
)
from clip_es.prompts.synonyms import meanings
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


def words(*classes: str | ClassEntry, background=(), templates=("a photo of a {}.",)) -> Words:
    entries = tuple(ClassEntry(entry) if isinstance(entry, str) else entry for entry in classes)
    return Words(entries, tuple(background), tuple(templates))


def told(found) -> list[tuple[str, bool, str]]:
    return [(finding.kind, finding.serious, finding.what) for finding in found]


@pytest.mark.parametrize("name", ["voc12", "coco14", "scenes"])
def test_packaged_vocabularies_have_nothing_serious(name, wordnet):
    assert not [finding for finding in check_file(name, wordnet) if finding.serious]


def test_the_names_of_voc_that_are_written_in_one_word_are_found(wordnet):
    found = [finding.what for finding in check_file("voc12", wordnet)]
    assert len(found) == 3
    assert "class 'pottedplant': CLIP reads 3 pieces; try 'potted plant'" in found[1]


def test_names_are_taken_apart_where_both_parts_are_words():
    assert respell("pottedplant") == "potted plant"
    assert respell("diningtable") == "dining table"
    assert respell("traffic_light") == "traffic light"
    assert respell("potted plant") is None
    assert respell("motorbike") is None


def test_words_of_the_language_are_not_taken_apart(wordnet):
    for word in ("surfboard", "aeroplane", "songbird", "fire hydrant"):
        assert respell(word, wordnet) is None
    assert respell("tvmonitor", wordnet) == "tv monitor"


def test_a_background_word_that_is_a_class_or_a_word_for_it_leaks():
    sofa = ClassEntry("sofa", "sofa couch", ("couch",), ("settee",))
    for word in ("sofa", "Couch", "settee", "SOFA-couch"):
        assert leaks(word, sofa).certain
    assert leaks("floor", sofa) is None


def test_the_last_word_of_a_name_leaks():
    assert leaks("sign", ClassEntry("stop sign")).reason == "'stop sign' is a kind of 'sign'"
    assert leaks("plant", ClassEntry("pottedplant")).certain
    assert leaks("stop", ClassEntry("stop sign")) is None


def test_words_of_the_same_broader_or_narrower_meaning_leak(wordnet):
    def leak(word: str, name: str):
        entry = ClassEntry(name)
        return leaks(word, entry, wordnet, meanings_of(wordnet, meanings(wordnet, entry)[:1]))

    assert leak("couch", "sofa") == ("it means 'sofa'", True)
    assert leak("vehicle", "car") == ("'car' is a kind of 'vehicle'", True)
    assert leak("sedan", "car") == ("'sedan' is a kind of 'car'", False)
    assert leak("tree", "pottedplant") is None
    assert leak("rock", "person") is None
    assert leak("road", "car") is None


def test_duplicates_are_found():
    found = told(
        check_words(
            words(
                ClassEntry("sofa", synonyms=("couch",)),
                ClassEntry("couch", prompt="Sofa"),
                background=("sky", "grass", "Sky"),
            )
        )
    )
    assert ("duplicate", True, "'couch' stands for 'couch' and 'sofa'. Keep one.") in found
    assert any("'sofa', 'couch' have the same prompt 'sofa'" in what for _, _, what in found)
    assert any("'sky', 'Sky'" in what for _, _, what in found)


def test_a_prompt_may_have_77_tokens():
    assert count_tokens("a photo of a cat.") == 8
    fits = words(ClassEntry("cat", " ".join(["cat"] * 70)))
    assert count_tokens(f"a photo of a {fits.classes[0].prompt}.") == 77
    assert not check_words(fits)
    (finding,) = check_words(words(ClassEntry("cat", " ".join(["cat"] * 71))))
    assert told([finding]) == [
        ("too long", True, "class 'cat': 78 tokens in 'a photo of a {}.', and CLIP reads 77. Name fewer synonyms.")
    ]


def test_one_class_and_a_thousand_classes():
    assert check_words(words("cat")) == []
    many = [f"{a} {b}" for a in ("red", "blue", "old", "new") for b in (f"thing{i}" for i in range(250))]
    found = check_words(words(*many, "red thing7", background=("sky", "new thing249")))
    assert [finding.kind for finding in found if finding.serious] == ["leak", "duplicate"]


def test_every_fault_of_an_unusable_file_is_told_at_once(tmp_path, wordnet):
    file = tmp_path / "bad.yaml"
    file.write_text(
        "classes: [sofa, {name: tv, synonyms: [television]}, television, pottedplant]\n"
        "background: [sofa, plant, sky, sky]\ntemplate: a {}.\n"
    )
    found = check_file(file, wordnet)
    assert [finding.kind for finding in found if finding.serious] == [
        "unusable",
        "leak",
        "leak",
        "duplicate",
        "duplicate",
    ]
    assert "sofa" in found[0].what


def test_what_is_no_vocabulary_is_refused(tmp_path):
    for content in ("", "3", "{a: 1}", "[", "classes: &x [*x]", "classes: yes"):
        (tmp_path / "no.yaml").write_text(content)
        with pytest.raises(ConfigError):
            check_file(tmp_path / "no.yaml")
    with pytest.raises(ConfigError, match="no such vocabulary"):
        check_file(tmp_path / "gone.yaml")


def test_the_exit_code_tells(tmp_path, capsys, wordnet):
    assert cli.main(["prompts", "check", "voc12"]) == 0
    assert "0 serious, 3 worth a look" in capsys.readouterr().out
    (tmp_path / "bad.yaml").write_text("classes: [sofa]\nbackground: [couch]\n")
    assert cli.main(["prompts", "check", str(tmp_path / "bad.yaml")]) == 1
    assert "1 serious" in capsys.readouterr().out


def test_without_wordnet_spellings_are_still_compared(monkeypatch, capsys):
    def gone(folder=None):
        raise ConfigError("WordNet's data is not installed")

    monkeypatch.setattr("clip_es.pipelines.commands.prompts.load_wordnet", gone)
    assert cli.main(["prompts", "check", "voc12"]) == 0
    assert "Meanings are not compared. WordNet's data is not installed" in " ".join(capsys.readouterr().out.split())


def test_names_that_the_tokenizer_spells_letter_by_letter_are_told_from_rare_words():
    assert barely_known("xqzv") == ("x", "q", "z", "v")
    assert barely_known("red qwertzuiop") == ("q", "wer", "t", "zu", "io", "p")
    assert barely_known("\N{ZEBRA FACE}")
    assert barely_known("???")
    assert not any(map(barely_known, ("cat", "tv", "fire hydrant", "firehydrant", "capybara", "okapi", "K\u00f6ter")))
