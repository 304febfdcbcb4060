"""COCO's run-length masks: column by column, the lengths of 0, 1, 0, ... as text of six-bit letters.

Source: the COCO API's description of its mask format. Written in numpy, so that exporting needs no further library and
reading refuses what would make compiled code write outside its memory; tests compare it with pycocotools.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int64

from clip_es.errors import DataError

_LETTERS = 7
"""Most letters of one number: 35 bits."""


def encode(mask: Bool[np.ndarray, "h w"]) -> str:
    """The text pycocotools writes for this mask."""
    return text(runs(mask))


def runs(mask: Bool[np.ndarray, "h w"]) -> Int64[np.ndarray, " run"]:
    """The lengths of 0, 1, 0, ... column by column; the first may be 0."""
    flat = mask.ravel(order="F")
    edges = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]))
    counts = np.diff(edges)
    return np.concatenate(([0], counts)) if flat.size and flat[0] else counts


def text(counts: Int64[np.ndarray, " run"]) -> str:
    """Run lengths as pycocotools writes them."""
    # From the fourth on, a length is told by its difference from the one before the last.
    numbers = counts.astype(np.int64)
    numbers[3:] -= counts[1:-2]
    letters = np.zeros((len(numbers), _LETTERS), dtype=np.uint8)
    used = np.zeros(letters.shape, dtype=bool)
    going = np.ones(len(numbers), dtype=bool)
    for place in range(_LETTERS):
        bits = numbers & 31
        numbers = numbers >> 5
        more = going & np.where(bits & 16, numbers != -1, numbers != 0)
        letters[:, place] = bits + 32 * more + 48
        used[:, place] = going
        going = more
    return letters[used].tobytes().decode("ascii")


def decode(counts: object, size_hw: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """The mask of a text or of a list of lengths. Raises DataError: not such a thing, or of another size."""
    lengths = read(counts, size_hw)
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(size_hw[1], size_hw[0]).T


def read(counts: object, size_hw: tuple[int, int]) -> Int64[np.ndarray, " run"]:
    """The run lengths that a text or a list tells. Raises DataError: not such a thing, or of another size."""
    height, width = size_hw
    lengths = _lengths(counts)
    if (lengths < 0).any() or (lengths > height * width).any() or int(lengths.sum()) != height * width:
        raise DataError(
            "the run lengths of a mask do not fill its picture",
            expected=f"{height} x {width} = {height * width} pixels",
            found="a negative or too long run" if (lengths < 0).any() else f"{float(lengths.sum()):.0f} pixels",
        )
    return lengths


def _lengths(counts: object) -> Int64[np.ndarray, " run"]:
    if isinstance(counts, list):
        if not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**40 for n in counts):
            raise DataError("the run lengths of a mask must be whole numbers from 0 on", found=str(counts)[:60])
        return np.array(counts, dtype=np.int64)
    wrong = DataError("the run lengths of a mask are damaged", found=repr(counts)[:60])
    if not isinstance(counts, str) or not counts.isascii():
        raise wrong
    letters = np.frombuffer(counts.encode(), dtype=np.uint8).astype(np.int64) - 48
    if not len(letters):
        return letters
    last = np.flatnonzero((letters & 32) == 0)
    if (letters < 0).any() or (letters > 63).any() or not len(last) or last[-1] != len(letters) - 1:
        raise wrong
    first = np.concatenate(([0], last[:-1] + 1))
    place = np.arange(len(letters)) - np.repeat(first, last - first + 1)
    if (place >= _LETTERS).any():
        raise wrong
    numbers = np.add.reduceat((letters & 31) << (5 * place), first)
    numbers -= np.where(letters[last] & 16, np.int64(1) << (5 * (place[last] + 1)), 0)
    # Differences back to lengths, for every second one apart.
    for start in (1, 2):
        numbers[start::2] = np.cumsum(numbers[start::2])
    return numbers
