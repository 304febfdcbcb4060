"""Masks that also hold classes which a model is not to be trained on.

Source: SAZS and LSeg train on pictures with held-out classes, whose pixels then teach what these classes are not.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from clip_es.errors import DataError
from clip_es.masks import read_mask
from clip_es.segmentor.data.pairs import Pair
from clip_es.types import UNDECIDED

WithUnseen = Literal["drop", "ignore", "keep"]
"""drop: pictures with an unseen class are not trained on. ignore: they are, without its pixels. keep: its pixels are
background, as published."""


def without_unseen(pairs: Sequence[Pair], unseen: Collection[int]) -> list[Pair]:
    """Pairs whose mask holds none of these values. Raises DataError: none is left."""
    kept = [pair for pair in pairs if not np.isin(read_mask(pair.mask), sorted(unseen)).any()]
    if not kept:
        raise DataError(
            "every picture holds an unseen class",
            found=f"{len(pairs)} pictures",
            next_step="Name fewer classes, or pass --pictures-with-unseen ignore.",
        )
    return kept


def seen_labels(count: int, unseen: Collection[int], pictures: WithUnseen) -> UInt8[np.ndarray, " 256"]:
    """The label in training of each mask value below `count`: the seen ones in their order, without gaps."""
    table = np.full(256, UNDECIDED, dtype=np.uint8)
    seen = [value for value in range(count) if value not in unseen]
    table[seen] = np.arange(len(seen))
    if pictures == "keep":
        table[sorted(unseen)] = 0
    return table
