"""What the classes of an extension are known by: word vectors, CLIP's text, or both."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from clip_es.encoder import load_encoder
from clip_es.errors import ConfigError
from clip_es.prompts.bank import build_bank
from clip_es.prompts.vocabulary import ClassEntry, Vocabulary
from clip_es.prompts.vocabulary_files import load_vocabulary
from clip_es.prompts.word_vectors import centred, concatenated, load_word_vectors

BACKGROUND = "background"

Conditions = Literal["clip", "words", "both"]

LEAK = (
    "CLIP has seen the unseen classes in pictures and texts: figures with CLIP text, or with a frozen CLIP as the "
    "backbone, cannot be compared with those of word vectors on a backbone that has not."
)


@dataclass(frozen=True)
class Named:
    """What the classes are known by."""

    kind: Conditions
    words: Path | None
    weights: str
    templates: tuple[str, ...] | None = None


def vectors_of(
    order: Sequence[str], named: Named, vocabulary: str | None, device: str
) -> tuple[Tensor, dict[str, Any]]:
    """The vector of each class [class d], a row of zeros for the background; and what to say of them.

    With both, word vectors come first.

    Raises ConfigError, DataError: no file where one is needed, or a class without a vector.
    """
    told: dict[str, Any] = {"conditions": named.kind}
    parts: list[np.ndarray] = []
    if named.kind in ("words", "both"):
        if named.words is None:
            raise ConfigError("there is no file of word vectors", next_step="Pass --words FILE, or --conditions clip.")
        rows, averaged = _word_rows(order, named.words)
        told |= {"words": str(named.words), "averaged": averaged, "words_sha256": digest(named.words)}
        parts.append(rows)
    if named.kind in ("clip", "both"):
        parts.append(_clip_rows(order, named, vocabulary, device, told))
    joined = parts[0] if len(parts) == 1 else concatenated(parts[0], parts[1])
    if BACKGROUND in order:
        joined[list(order).index(BACKGROUND)] = 0
    return torch.from_numpy(joined.astype(np.float32)), told


def _word_rows(order: Sequence[str], path: Path) -> tuple[np.ndarray, dict[str, list[str]]]:
    named = [name for name in order if name != BACKGROUND]
    known = load_word_vectors(path, named)
    rows = known.vectors
    if BACKGROUND in order:
        rows = np.insert(rows, list(order).index(BACKGROUND), 0, axis=0)
    return rows, {name: list(words) for name, words in known.averaged.items()}


def _clip_rows(
    order: Sequence[str], named: Named, vocabulary: str | None, device: str, told: dict[str, Any]
) -> np.ndarray:
    encoder = load_encoder(named.weights, device=device)
    known = load_vocabulary(vocabulary) if vocabulary is not None else None
    entries = {entry.name: entry for entry in known.classes} if known else {}
    classes = tuple(entries.get(name, ClassEntry(name)) for name in order if name != BACKGROUND)
    background = known.background if known else load_vocabulary("voc12").background
    taken = {entry.name for entry in classes}
    words = Vocabulary("extend", classes, tuple(word for word in background if word not in taken))
    bank = build_bank(encoder, words, templates=named.templates or (known.templates if known else None))
    rows = bank.vectors.float().cpu().numpy()
    by_name = dict(zip(bank.names, rows, strict=True))
    told |= {"clip": named.weights, "clip_sha256": encoder.source, "comparable": LEAK}
    found = centred(np.stack([by_name[name] for name in order if name != BACKGROUND]).astype(np.float32))
    if BACKGROUND not in order:
        return found
    # No one vector stands for all that is background; there are real pixels of it enough.
    return np.insert(found, list(order).index(BACKGROUND), 0, axis=0)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
