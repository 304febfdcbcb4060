"""Folds of few-shot and zero-shot segmentation: PASCAL-5i and COCO-20i, by formula or from lists of the published form.

A fold's test classes are unseen while training on its other classes. Class ids are 0-based in the order of VOC and of
the COCO label file. PASCAL lists are text, one pair a line: `<image id>__<two-digit class, 1..20>`. COCO lists of the
published form are pickles of `class id -> list of pictures`; they are read operation by operation, never unpickled
(`clip_es.records.labels.pickled`), or as JSON of the same content.
Source: OSLSM (PASCAL-5i), FWB (COCO-20i), the lists of HSNet; SAZS uses the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from clip_es.errors import ConfigError, DataError
from clip_es.records.dataset import read_lines
from clip_es.records.labels.pickled import plain_pickle

Benchmark = Literal["pascal", "coco"]
CLASSES: dict[Benchmark, int] = {"pascal": 20, "coco": 80}
FOLDS = 4


@dataclass(frozen=True)
class Fold:
    """Which classes are seen and which are tested."""

    benchmark: Benchmark
    number: int
    """0..3."""
    train: tuple[int, ...]
    test: tuple[int, ...]


@dataclass(frozen=True)
class Episode:
    """A picture and one class that is in it."""

    image_id: str
    class_id: int
    """0-based."""


def fold(benchmark: Benchmark, number: int) -> Fold:
    """The classes of a fold: {5i .. 5i + 4} of PASCAL, {i, i + 4, .., i + 76} of COCO are tested.

    Raises ConfigError: no such fold.
    """
    if benchmark not in CLASSES or number not in range(FOLDS):
        raise ConfigError("there is no such fold", expected="pascal or coco, 0..3", found=f"{benchmark}, {number}")
    test = range(5 * number, 5 * number + 5) if benchmark == "pascal" else range(number, 80, FOLDS)
    return Fold(benchmark, number, tuple(k for k in range(CLASSES[benchmark]) if k not in test), tuple(test))


def read_pairs(path: Path, benchmark: Benchmark = "pascal") -> list[Episode]:
    """The pairs of a list: text of PASCAL's form, or COCO's `{class: [picture, ..]}` as .pkl or .json.

    Raises DataError: no such file, a line of another form, or a class out of range.
    """
    if path.suffix.lower() in {".json", ".pkl"}:
        return _from_table(path, benchmark)
    episodes = []
    for number, line in read_lines(path):
        if isinstance(line, DataError):
            raise line
        name, joined, value = line.rpartition("__")
        if not joined or not value.isdigit() or not 1 <= int(value) <= CLASSES[benchmark] or not name:
            raise DataError(
                "is no pair of a picture and a class",
                where=f"{path}, line {number}",
                expected=f"<image id>__<class, 01..{CLASSES[benchmark]}>",
                found=repr(line[:80]),
            )
        episodes.append(Episode(name, int(value) - 1))
    return episodes


def fold_lists(folder: Path, which: Fold, split: Literal["train", "val"]) -> list[Episode]:
    """Pairs of a fold from a folder of the published form: `fold0.txt .. fold3.txt` (or .pkl, .json) in `trn` (or
    `train`) and `val`.

    The training list of a PASCAL fold is those of the other three, one behind the other; a COCO fold has its own. `val`
    is a fold's own.
    Raises DataError: a file is missing or wrong, or a pair's class is not of the fold.
    """
    places = [folder / "val"] if split == "val" else [folder / "trn", folder / "train"]
    own = split == "val" or which.benchmark == "coco"
    numbers = [which.number] if own else [k for k in range(FOLDS) if k != which.number]
    allowed = which.test if split == "val" else which.train
    found: list[Episode] = []
    for number in numbers:
        names = [place / f"fold{number}{suffix}" for place in places for suffix in (".txt", ".pkl", ".json")]
        path = next((name for name in names if name.is_file()), names[0])
        for episode in read_pairs(path, which.benchmark):
            if episode.class_id not in allowed:
                raise DataError("a class is not of this fold", where=path, expected=allowed, found=episode.class_id)
            found.append(episode)
    return found


def draw_episodes(pictures: Mapping[int, Sequence[str]], count: int, seed: int = 0) -> list[Episode]:
    """`count` draws: a class uniformly, then one of its pictures uniformly, as COCO-20i is tested (1000, seed 0).

    Raises DataError: there is no class with a picture.
    """
    classes = [k for k in sorted(pictures) if pictures[k]]
    if not classes:
        raise DataError("no class has a picture", expected="at least one", found="none")
    rng = np.random.default_rng(seed)
    chosen = [classes[i] for i in rng.integers(len(classes), size=count)]
    return [Episode(pictures[k][int(rng.integers(len(pictures[k])))], k) for k in chosen]


def cycle(episodes: Sequence[Episode], count: int) -> list[Episode]:
    """`count` episodes in order, from the beginning again: PASCAL-5i is tested on 1000 of a list of some hundred."""
    return [episodes[i % len(episodes)] for i in range(count)] if episodes else []


def _from_table(path: Path, benchmark: Benchmark) -> list[Episode]:
    try:
        content = plain_pickle(path) if path.suffix.lower() == ".pkl" else json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise TypeError(type(content).__name__)
        pairs = [(int(key), str(name)) for key, names in content.items() for name in names]
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise DataError("cannot be read", where=path, expected="{class: [picture, ..]}", found=error) from error
    wrong = [key for key, _ in pairs if not 0 <= key < CLASSES[benchmark]]
    if wrong:
        raise DataError("a class is out of range", where=path, expected=f"0..{CLASSES[benchmark] - 1}", found=wrong[0])
    return [Episode(Path(name).stem, key) for key, name in pairs]
