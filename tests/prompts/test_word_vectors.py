"""Vectors of names from a user's file, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clip_es.errors import DataError
from clip_es.prompts.word_vectors import centred, load_word_vectors

TEXT = """5 3
cat 1 0 0
fire 0 2 0
hydrant 0 0 4
potted_plant 0.6 0.8 0
Boat 3 4 0
"""


@pytest.fixture
def words(tmp_path: Path) -> Path:
    path = tmp_path / "words.vec"
    path.write_text(TEXT)
    return path


def test_names_of_several_words_are_joined_or_averaged(words: Path):
    got = load_word_vectors(words, ["cat", "potted plant", "fire hydrant", "Boat"])
    half = 1 / np.sqrt(2)
    np.testing.assert_allclose(got.vectors, [[1, 0, 0], [0.6, 0.8, 0], [0, half, half], [0.6, 0.8, 0]], atol=1e-6)
    assert got.averaged == {"fire hydrant": ("fire", "hydrant")}


def test_an_array_is_read_with_its_names_and_never_unpickled(tmp_path: Path):
    np.save(tmp_path / "v.npy", np.array([[3.0, 4.0], [0.0, 2.0]]))
    (tmp_path / "v.txt").write_text("cat\ndog\n")
    np.testing.assert_allclose(load_word_vectors(tmp_path / "v.npy", ["dog", "cat"]).vectors, [[0, 1], [0.6, 0.8]])
    (tmp_path / "v.txt").write_text("cat\n")
    with pytest.raises(DataError, match="one row for each name"):
        load_word_vectors(tmp_path / "v.npy", ["cat"])
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="no array of numbers"):
        load_word_vectors(tmp_path / "o.npy", ["cat"])


def test_a_missing_row_names_the_nearest(words: Path):
    with pytest.raises(DataError, match=r"no vector of 'boot'.*Nearest: 'Boat'"):
        load_word_vectors(words, ["boot", "Boat"])
    with pytest.raises(DataError, match="nothing for 'truck'"):
        load_word_vectors(words, ["fire truck"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("dog nan 0 0", "not finite"),
        ("dog 0 0 0", "all zeros"),
        ("dog one 0 0", "no number"),
        ("dog 1 0", "another width"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(words: Path, line: str, message: str):
    words.write_text(TEXT + line + "\n")
    with pytest.raises(DataError, match=message):
        load_word_vectors(words, ["cat", "dog"])
    assert load_word_vectors(words, ["cat"]).names == ("cat",)  # of no concern to those who do not ask for it


def test_files_that_are_no_text_are_refused(tmp_path: Path):
    path = tmp_path / "w.vec"
    path.write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(DataError, match="UTF-8"):
        load_word_vectors(path, ["cat"])
    path.write_bytes(b"")
    with pytest.raises(DataError, match="holds no word vectors"):
        load_word_vectors(path, ["cat"])
    with pytest.raises(DataError, match="no such file"):
        load_word_vectors(tmp_path / "nothing", ["cat"])


def test_centred_vectors_have_nothing_in_common_and_unit_length():
    rows = np.array([[1.0, 0.1, 0.0], [1.0, 0.0, 0.1], [1.0, -0.1, -0.1]], dtype=np.float32)
    got = centred(rows)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(got[:, 0], 0, atol=1e-6)
    assert float((got @ got.T).min()) < -0.3
