"""Vectors of class names from a user's file: text or npy, read without executing anything.

Text: one word and its numbers a line, blanks between, as GloVe, fastText and word2vec write them; a first line with the
two sizes may stand before. Words of several parts are written with `_` or `-`. npy: a float array [name d] with the
names, one a line, in a text file beside it (FILE.txt).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from clip_es.errors import DataError, nearest

_PARTS = re.compile(r"[\s_/-]+")
_LONGEST = 2**20
"""Of a line; more is no file of word vectors."""


@dataclass(frozen=True)
class WordVectors:
    """Rows of unit length for some names."""

    names: tuple[str, ...]
    vectors: Float32[np.ndarray, "name d"]
    averaged: dict[str, tuple[str, ...]]
    """Names the file does not have as one word, and the words whose vectors were averaged."""


def load_word_vectors(path: str | Path, names: Sequence[str]) -> WordVectors:
    """The vectors of `names`, looked for as they are, joined, in lower case, and then as the mean of their parts.

    Rows come out with unit length; before they are averaged, parts have unit length too.
    Raises DataError: no such file, not numbers, NaN or zeros, another width, or a name without a vector.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataError("there is no such file of word vectors", where=path, expected="a text file or an .npy")
    wanted = {spelling for name in names for spelling in (*spellings(name), *parts(name))}
    table = _from_npy(path) if path.suffix == ".npy" else _from_text(path, wanted)
    rows: list[np.ndarray] = []
    averaged: dict[str, tuple[str, ...]] = {}
    for name in names:
        known = next((spelling for spelling in spellings(name) if spelling in table), None)
        if known is not None:
            rows.append(_unit(table[known], path, known))
            continue
        words = parts(name)
        found = [word for word in words if word in table]
        if not words or len(found) < len(words) or len(words) == 1:
            lacking = [word for word in words if word not in table] or [name]
            hint = nearest(lacking[0], table)
            raise DataError(
                f"has no vector of '{name}'",
                where=path,
                expected=f"a row '{spellings(name)[0]}'" + (f", or one of each of {', '.join(words)}" if words else ""),
                found=f"nothing for {', '.join(repr(word) for word in lacking)} among {len(table)} rows that were read",
                next_step=hint or "Add the row, or rename the class.",
            )
        rows.append(_unit(np.mean([_unit(table[word], path, word) for word in found], axis=0), path, name))
        averaged[name] = tuple(found)
    return WordVectors(tuple(names), np.stack(rows).astype(np.float32), averaged)


def spellings(name: str) -> tuple[str, ...]:
    """How a name may stand in a file: as it is, joined by `_`, `-` or nothing, in lower case."""
    words = [word for word in _PARTS.split(name) if word]
    joined = [joint.join(words) for joint in ("_", "-", "")]
    return tuple(dict.fromkeys([name, *joined, name.lower(), *(word.lower() for word in joined)]))


def parts(name: str) -> tuple[str, ...]:
    """The words of a name, in lower case."""
    return tuple(word.lower() for word in _PARTS.split(name) if word)


def _from_text(path: Path, wanted: set[str]) -> dict[str, np.ndarray]:
    """Rows of the wanted words; others are passed over, so that a file of gigabytes is read in one pass."""
    table: dict[str, np.ndarray] = {}
    width: int | None = None
    for number, line in _lines(path):
        where = f"{path.name} line {number}"
        pieces = line.rsplit(None) if width is None else line.rsplit(None, width)
        if number == 1 and len(pieces) == 2 and all(piece.isdigit() for piece in pieces):
            continue
        if width is None:
            width = len(pieces) - 1
            if width < 1:
                raise DataError("is no line of word vectors", where=where, expected="a word and numbers")
        word, numbers = pieces[0], pieces[1:]
        if word not in wanted or word in table:
            continue
        try:
            row = np.array([float(piece) for piece in numbers], dtype=np.float64)
        except ValueError as error:
            raise DataError("holds something that is no number", where=where, found=str(error)) from error
        if len(row) != width:
            raise DataError("has another width than the first line", where=where, expected=width, found=len(row))
        table[word] = _finite(row, where, word)
    if width is None:
        raise DataError("holds no word vectors", where=path, found="an empty file")
    return table


def _from_npy(path: Path) -> dict[str, np.ndarray]:
    beside = path.with_suffix(".txt")
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            "is no array of numbers",
            where=path,
            found=str(error).splitlines()[0] if str(error) else type(error).__name__,
            next_step="Save it with numpy.save from a float array; pickled objects are not read.",
        ) from error
    if array.ndim != 2 or array.dtype.kind != "f":
        raise DataError("must be a float array [name d]", where=path, found=f"{array.dtype} {list(array.shape)}")
    if not beside.is_file():
        raise DataError("has no names", where=path, expected=f"{beside.name} beside it, one name a line")
    names = [line.strip() for _, line in _lines(beside) if line.strip()]
    if len(names) != len(array):
        raise DataError("has not one row for each name", where=path, expected=f"{len(names)} rows", found=len(array))
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise DataError("names a row twice", where=beside, found=", ".join(twice[:5]))
    return {name: row.astype(np.float64) for name, row in zip(names, array, strict=True)}


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8-sig", errors="strict") as file:
            for number, line in enumerate(file, start=1):
                if len(line) > _LONGEST:
                    raise DataError("is no text file of word vectors", where=path, found="a line of a million letters")
                if line.strip():
                    yield number, line
    except UnicodeDecodeError as error:
        raise DataError(
            "is no UTF-8 text", where=path, found=error, next_step="Binary word2vec files: save them as text."
        ) from error
    except OSError as error:
        raise DataError("cannot be read", where=path, found=error.strerror) from error


def _finite(row: np.ndarray, where: object, word: str) -> np.ndarray:
    if not np.isfinite(row).all():
        raise DataError(
            f"the vector of '{word}' is not finite", where=where, found="NaN or infinity", next_step="Mend the row."
        )
    return row


def _unit(row: np.ndarray, where: object, word: str) -> np.ndarray:
    length = float(np.linalg.norm(_finite(row, where, word)))
    if length == 0:
        raise DataError(f"the vector of '{word}' is all zeros", where=where, next_step="Remove or mend the row.")
    return row / length


def concatenated(first: Iterable[np.ndarray], second: Iterable[np.ndarray]) -> Float32[np.ndarray, "name d"]:
    """Two vectors of each name side by side, each of unit length before and the whole after."""
    joined = np.concatenate([np.stack(list(first)), np.stack(list(second))], axis=1) / np.sqrt(2)
    return joined.astype(np.float32)


def centred(vectors: Float32[np.ndarray, "name d"]) -> Float32[np.ndarray, "name d"]:
    """Less the mean of all names, and again of unit length: CLIP's vectors of names have much in common."""
    moved = vectors - vectors.mean(axis=0)
    lengths = np.linalg.norm(moved, axis=1, keepdims=True)
    return (moved / np.where(lengths > 0, lengths, 1)).astype(np.float32)
