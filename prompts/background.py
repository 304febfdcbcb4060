"""Background words for any vocabulary: what may stand beside the classes and means none of them.

Two sources. A general list of grounds, waters, skies and surfaces; and WordNet, whose glosses say where a thing is at
home (boat: "a small vessel for travel on water") and whose relations say what it is part of. Words that mean a class,
or a synonym of one, or something more general or more special, would take the class's own patches and are left out.
Source: CLIP-ES (CVPR 2023), section 3.2, class-related background set. Differs: there the words were chosen by hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files

from clip_es.prompts.check import Meant, leaks, meanings_of
from clip_es.prompts.synonyms import EncodeText, Meaning, meanings, most_likely
from clip_es.prompts.vocabulary import Vocabulary
from clip_es.prompts.wordnet import Sense, WordNet

GENERAL = "background60.txt"
"""The general list that comes with the package."""

_PLACES = frozenset({"object", "plant", "phenomenon"})
"""Topics whose nouns, met in a gloss, are surroundings. Matter is not: the general list has water, sand and snow."""

_STRUCTURES = ("structure.n.01", "way.n.06", "surface.n.01", "area.n.01", "room.n.01", "track.n.09")
"""Made things that are surroundings all the same: roads, buildings, rooms."""


@dataclass(frozen=True)
class Proposal:
    """A background word, or one that was left out."""

    word: str
    origin: str
    """`general list`, or the class whose entry in WordNet names it."""
    left_out: str | None = None
    """Why it would compete with a class; None for a word that may be used."""
    nearest: str = ""
    """The class it agrees with most in CLIP's text space."""
    agreement: float | None = None
    """Cosine with that class; None where it was not asked for."""


def general_words() -> tuple[str, ...]:
    """The packaged list."""
    lines = (files("clip_es.prompts") / GENERAL).read_text(encoding="utf-8").splitlines()
    return tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))


def propose(
    vocabulary: Vocabulary,
    wordnet: WordNet | None = None,
    encode: EncodeText | None = None,
    related_per_class: int = 3,
) -> list[Proposal]:
    """Background words for a vocabulary; those left out come last, each with its reason.

    With WordNet, words from the classes' entries join the general list and meanings are compared; without, spellings
    alone. With `encode` (CLIP's text tower) the words that go best with the classes come first.
    """
    origins = dict.fromkeys((*vocabulary.background, *general_words()), "general list")
    meant: list[Meant | None] = [None] * len(vocabulary.classes)
    if wordnet:
        likely = [_meaning(wordnet, vocabulary, k, encode) for k in range(len(vocabulary.classes))]
        meant = [meanings_of(wordnet, some) for some in likely]
        for entry, meaning in zip(vocabulary.classes, likely, strict=True):
            words = dict.fromkeys(word for some in meaning for word in related(wordnet, some.sense))
            for word in list(words)[:related_per_class]:
                origins.setdefault(word, f"WordNet: {entry.name}")
    rows = []
    for word, origin in origins.items():
        found = (leaks(word, e, wordnet, known) for e, known in zip(vocabulary.classes, meant, strict=True))
        rows.append(Proposal(word, origin, next((leak.reason for leak in found if leak), None)))
    if encode:
        rows = _with_agreement(rows, vocabulary, encode)
    return sorted(rows, key=lambda row: (row.left_out is not None, -(row.agreement or 0.0)))


def _meaning(wordnet: WordNet, vocabulary: Vocabulary, class_id: int, encode: EncodeText | None) -> list[Meaning]:
    """The likeliest meaning of a class: by CLIP's text space where it is at hand, else the commonest."""
    found = meanings(wordnet, vocabulary.classes[class_id])
    if encode and len(found) > 1:
        found = most_likely(wordnet, encode, vocabulary, class_id)
    return found[:1]


def related(wordnet: WordNet, sense: Sense) -> Iterator[str]:
    """Surroundings of a sense: nouns of its gloss and of its broader term's that name places or plants."""
    parts, wholes = wordnet.parts_and_wholes(sense)
    for whole in (wordnet.sense(key) for key in sorted(wholes)):
        if whole.kind in _PLACES:
            yield whole.words[0]
    for told in (sense, *wordnet.more_general(sense)[:1]):
        for word in re.findall(r"[a-z]{3,}", told.gloss.split(";")[0].lower()):
            first = next(iter(wordnet.senses(word)), None)
            if first is None or word not in first.words or first.key in parts or word in wordnet.adjectives:
                continue
            if _surrounds(wordnet, first):
                yield word


def _surrounds(wordnet: WordNet, sense: Sense) -> bool:
    above = {broader.key for broader in wordnet.more_general(sense)} | {sense.key}
    if sense.kind == "artifact":
        return bool(above & set(_STRUCTURES))
    return sense.kind in _PLACES and "part.n.03" not in above and "unit.n.03" not in above


def _with_agreement(rows: Sequence[Proposal], vocabulary: Vocabulary, encode: EncodeText) -> list[Proposal]:
    template = vocabulary.templates[0]
    classes = encode([template.replace("{}", entry.name) for entry in vocabulary.classes])
    words = encode([template.replace("{}", row.word) for row in rows])
    cosine, nearest = (words @ classes.T).max(dim=1)
    return [
        Proposal(row.word, row.origin, row.left_out, vocabulary.names[k], c)
        for row, k, c in zip(rows, nearest.tolist(), cosine.tolist(), strict=True)
    ]
