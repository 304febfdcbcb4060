"""WordNet for real: its senses, its relations, and every place it may lie in."""

from __future__ import annotations

import builtins
import zipfile
from pathlib import Path

import pytest

from clip_es.errors import ConfigError
from clip_es.prompts import wordnet as module
from clip_es.prompts.wordnet import NOT_INSTALLED, WordNet, load_wordnet

nltk_data = pytest.importorskip("nltk.data", reason="nltk is not installed (extra `wordnet`)")


@pytest.fixture(scope="module")
def wordnet() -> WordNet:
    try:
        return load_wordnet()
    except ConfigError as error:
        if error.what != NOT_INSTALLED:
            raise
        pytest.skip(str(error))


def keys(wordnet: WordNet, word: str) -> list[str]:
    return [sense.key for sense in wordnet.senses(word)]


def test_a_mouse_is_an_animal_and_a_device(wordnet):
    kinds = {sense.key: sense.kind for sense in wordnet.senses("mouse")}
    assert kinds["mouse.n.01"] == "animal"
    assert kinds["mouse.n.04"] == "artifact"
    (device,) = [sense for sense in wordnet.senses("mouse") if sense.key == "mouse.n.04"]
    assert device.words == ("mouse", "computer mouse")
    assert "electronic device" in device.gloss


def test_a_sofa_is_a_couch(wordnet):
    assert wordnet.senses("sofa")[0].words == ("sofa", "couch", "lounge")


@pytest.mark.parametrize("spelling", ["dining table", "dining_table", "Dining-Table", "dining tables"])
def test_spelling_and_plural_do_not_matter(wordnet, spelling):
    assert keys(wordnet, spelling) == ["dining_table.n.01"]


def test_joined_names_and_nonsense_are_unknown(wordnet):
    assert not wordnet.knows("tvmonitor")
    assert not wordnet.knows("")
    assert wordnet.knows("television")


def test_single_places_are_no_things(wordnet):
    assert "paris.n.01" not in keys(wordnet, "Paris")


def test_relations_go_up_down_and_sideways(wordnet):
    car = wordnet.sense("car.n.01")
    assert wordnet.more_general(car)[0].key == "motor_vehicle.n.01"
    assert {"sedan.n.01", "cab.n.03"} <= wordnet.more_special(car)
    assert "sedan.n.01" in {kind.key for kind in wordnet.kinds(car)}
    parts, wholes = wordnet.parts_and_wholes(wordnet.sense("window.n.01"))
    assert "windowpane.n.01" in parts | {"windowpane.n.01"}
    assert wholes == {"building.n.01"} or "building.n.01" in wholes


def test_adjectives_are_told_apart(wordnet):
    assert "flat" in wordnet.adjectives
    assert "river" not in wordnet.adjectives


def test_the_zip_file_that_nltk_downloads_is_read(wordnet, tmp_path, monkeypatch):
    if wordnet.place.suffix == ".zip":
        pytest.skip("the data is that zip file already")
    archive = tmp_path / "corpora" / "wordnet.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as file:
        for name in ("index.noun", "data.noun", "noun.exc"):
            file.write(wordnet.place / name, f"wordnet/{name}")
    monkeypatch.setattr(nltk_data, "path", [str(tmp_path)])
    found = load_wordnet()
    assert found.place == archive
    assert keys(found, "sofa") == ["sofa.n.01"]
    assert found.adjectives == frozenset()


def test_nltk_is_left_as_it_was(wordnet):
    before = list(nltk_data.path)
    module._load.cache_clear()
    load_wordnet(wordnet.place)
    assert nltk_data.path == before


def test_missing_data_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(nltk_data, "path", [str(tmp_path)])
    monkeypatch.setattr(module, "_missing", lambda place: ["data.noun"])
    with pytest.raises(ConfigError, match="apt-get install wordnet-base") as error:
        load_wordnet()
    assert "nltk.download('wordnet')" in str(error.value)
    assert "--wordnet" in str(error.value)


def test_a_folder_that_is_not_wordnet_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"Found no index\.noun, data\.noun, noun\.exc"):
        load_wordnet(tmp_path)


def test_damaged_files_are_refused(tmp_path: Path):
    for name in ("index.noun", "data.noun", "noun.exc"):
        (tmp_path / name).write_bytes(b"torn apart\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_wordnet(tmp_path)


def test_without_nltk_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "nltk":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"clip-es\[wordnet\]"):
        load_wordnet()
