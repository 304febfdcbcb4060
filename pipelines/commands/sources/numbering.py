"""Classes that a data set numbers in its own order, and the same classes as a vocabulary numbers them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from clip_es.errors import ConfigError, DataError
from clip_es.prompts import Vocabulary, load_vocabulary
from clip_es.records import Dataset
from clip_es.types import UNDECIDED


def check_order(vocabulary: Vocabulary, packaged: str) -> None:
    """Do nothing where a set that numbers its classes can be read with a vocabulary.

    The vocabulary may have other words for the classes, but in the set's own order. Raises ConfigError: it has the
    names of the set in another order.
    """
    own = load_vocabulary(packaged)
    moved = [(name, own.names[k]) for k, name in enumerate(vocabulary.names[: len(own.names)]) if name != own.names[k]]
    if moved and set(vocabulary.names) == set(own.names):
        raise ConfigError(
            f"the labels of this data set are numbers in the order of {packaged}; {vocabulary.name} has another one",
            expected=f"{moved[0][1]!r} in the place of {moved[0][0]!r}",
            next_step=f"Pass --vocabulary {packaged}, or bring the classes into its order.",
        )


def has(vocabulary: Vocabulary, name: str) -> bool:
    """Whether a class is called so, or so in other spelling."""
    try:
        vocabulary.class_id(name)
    except DataError:
        return False
    return True


def with_classes_of(vocabulary: Vocabulary, dataset: Dataset, truth_names: tuple[str, ...]) -> Dataset:
    """The data set with its truth numbered as in the vocabulary; the ground truth's own label k + 1 is
    `truth_names[k]`.

    A class the vocabulary lacks becomes background, or 255 where the ground truth has no background.
    """
    if truth_names == vocabulary.names or not len(dataset.truth):
        return dataset
    table = np.full(256, UNDECIDED, dtype=np.uint8)
    table[0] = 0
    missing = []
    for label, name in enumerate(truth_names, start=1):
        try:
            table[label] = vocabulary.class_id(name) + 1
        except DataError:
            missing.append(name)
            table[label] = 0 if dataset.has_background else UNDECIDED
    notes = dataset.notes
    if missing:
        counts_as = "background" if dataset.has_background else "ignored"
        more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
        notes += (f"Not in {vocabulary.name}, so {counts_as} in the ground truth: {', '.join(missing[:10])}{more}.",)
    before = dataset.truth_table
    return replace(dataset, truth_table=table if before is None else table[before], notes=notes)
