"""From words to a `TextBank`: one unit vector for each class and each background word."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from clip_es.encoder import Encoder
from clip_es.errors import ConfigError
from clip_es.prompts.templates import check_template
from clip_es.prompts.vocabulary import ClassEntry, Vocabulary
from clip_es.types import TextBank

Synonyms = Literal["sentence", "mean", "none"]
"""How a class is put into words: its prompt, synonyms fused into one sentence (the paper's form); the mean vector of
its name and each synonym in sentences of their own; or its bare name."""


def build_bank(
    encoder: Encoder,
    vocabulary: Vocabulary,
    *,
    templates: Sequence[str] | None = None,
    synonyms: Synonyms = "sentence",
    background: bool = True,
    encode: Callable[[Sequence[str]], Tensor] | None = None,
) -> TextBank:
    """Unit vectors of all classes, then of the background words.

    `templates` default to the vocabulary's. The vector of a word is the mean of its unit vectors over the templates,
    made unit again; with `synonyms="mean"` that of a class is the mean over its words, made unit again. `encode` takes
    the place of `encoder.encode_text`.
    Raises ConfigError: a template without `{}`, or an unknown way with synonyms. DataError: a sentence is too long for
    the text tower.
    Source: CLIP-ES (CVPR 2023), section 3.2. Differs: nothing for one template and `sentence`.
    """
    used = tuple(vocabulary.templates if templates is None else templates)
    if not used:
        raise ConfigError("there must be at least one template", where=f"vocabulary '{vocabulary.name}'")
    for template in used:
        check_template(template, "templates")
    rows = class_words(vocabulary, synonyms)
    if background:
        rows += [(word,) for word in vocabulary.background]

    words = list(dict.fromkeys(word for row in rows for word in row))
    sentences = [template.replace("{}", word) for word in words for template in used]
    vectors = (encode or encoder.encode_text)(sentences).unflatten(0, (len(words), len(used)))
    by_word = dict(zip(words, F.normalize(vectors.mean(1), dim=-1), strict=True))
    bank = [by_word[row[0]] if len(row) == 1 else _mean([by_word[word] for word in row]) for row in rows]

    told = [encoder.source, encoder.config.half_weights, used, rows]
    return TextBank(
        names=vocabulary.names + (vocabulary.background if background else ()),
        vectors=torch.stack(bank),
        class_count=len(vocabulary.classes),
        source=hashlib.sha256(json.dumps(told).encode()).hexdigest(),
    )


def class_words(vocabulary: Vocabulary, synonyms: Synonyms) -> list[tuple[str, ...]]:
    """What each class is called in sentences, several words where synonyms have sentences of their own."""
    return [_words(entry, synonyms) for entry in vocabulary.classes]


def _mean(vectors: Sequence[Tensor]) -> Tensor:
    return F.normalize(torch.stack(list(vectors)).mean(0), dim=-1)


def _words(entry: ClassEntry, synonyms: Synonyms) -> tuple[str, ...]:
    if synonyms == "sentence":
        return (entry.prompt,)
    if synonyms == "mean":
        return tuple(dict.fromkeys((entry.name, *entry.synonyms)))
    if synonyms == "none":
        return (entry.name,)
    raise ConfigError("unknown way with synonyms", expected="sentence, mean or none", found=synonyms)
