"""Other words for a class: what the class name means, which words WordNet has for that meaning, which of them help.

A name may mean several things (mouse: animal or device). CLIP's own text space decides: each sense is put into a
sentence with its broader term and its gloss, and the sense that agrees best with the class and with the other classes
wins, unless the class's own synonyms settle it.
Source: CLIP-ES (CVPR 2023), section 3.2, synonym fusion. Differs: there the words were chosen by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float32
from torch import Tensor

from clip_es.errors import ConfigError
from clip_es.prompts.check import respell
from clip_es.prompts.vocabulary import ClassEntry, Vocabulary
from clip_es.prompts.wordnet import Sense, WordNet

_SEEN = "Tops animal artifact body food group object person phenomenon plant shape substance"
"""Topics of WordNet whose members can be seen in a picture."""

_CONTEXT = 5
"""How many of the other classes nearest to a sense speak for it."""

Relation = Literal["same", "more general", "more special"]

EncodeText = Callable[[Sequence[str]], Float32[Tensor, "text dim"]]
"""Sentences to unit vectors, as `Encoder.encode_text`."""


@dataclass(frozen=True)
class Meaning:
    """What a class name may mean."""

    sense: Sense
    exact: bool
    """Whether WordNet has the name; else this is the meaning of its last word (a potted plant is a plant)."""
    supported: int = 0
    """How many of the class's synonyms and aliases share it or are kinds of it."""
    agreement: float | None = None
    """Cosine of the sense with the class and its company, in CLIP's text space; None where it was not asked for."""


@dataclass(frozen=True)
class Candidate:
    """A word that may be fused into the prompt of a class."""

    word: str
    relation: Relation
    """To the class: the same thing, a broader term (chair: seat) or a narrower one (car: sedan)."""
    agreement: float
    """Cosine of the word with the class name in CLIP's text space."""
    change: float | None = None
    """Change of sharpness when the word joins the prompt; negative is better. None without pictures."""


def meanings(wordnet: WordNet, entry: ClassEntry) -> list[Meaning]:
    """What a class name may mean, only what can be seen; empty where WordNet knows none of its words.

    Looked up are the name, its parts where it is written in one word, its aliases, and last its final word alone.
    Meanings that the class's own synonyms and aliases share come first (a plant that is a houseplant is no factory),
    otherwise WordNet's order stands: commonest first.
    """
    spellings = [entry.name, respell(entry.name, wordnet) or entry.name, *entry.aliases]
    lasts = [words[-1] for spelling in spellings if len(words := spelling.replace("_", " ").split()) > 1]
    told = [{sense.key for sense in wordnet.senses(word)} for word in (*entry.synonyms, *entry.aliases)]
    for exact, words in ((True, spellings), (False, lasts)):
        for word in words:
            if found := [sense for sense in wordnet.senses(word) if sense.kind in _SEEN.split()]:
                return sorted((_meaning(wordnet, sense, exact, told) for sense in found), key=lambda m: -m.supported)
    return []


def most_likely(
    wordnet: WordNet,
    encode: EncodeText,
    vocabulary: Vocabulary,
    class_id: int,
    template: str | None = None,
    shown: Float32[Tensor, " dim"] | None = None,
) -> list[Meaning]:
    """The meanings of a class, the likeliest first by CLIP's text space.

    `shown` is the mean feature of pictures of the class, less that of all pictures; where it is given it speaks too.
    """
    entry, template = vocabulary.classes[class_id], template or vocabulary.templates[0]
    found = meanings(wordnet, entry)
    if not found:
        return []
    own = encode([template.replace("{}", respell(entry.name, wordnet) or entry.name)])[0]
    others = [other.prompt for k, other in enumerate(vocabulary.classes) if k != class_id]
    company = encode([template.replace("{}", word) for word in others]) if others else own[None]
    told = []
    for meaning in found:
        vector = sense_vector(wordnet, encode, meaning.sense, entry.name, template)
        company_says = (company @ vector).topk(min(_CONTEXT, len(company))).values.mean()
        voices = [own @ vector, company_says] + ([] if shown is None else [F.normalize(shown, dim=0) @ vector])
        told.append(replace(meaning, agreement=float(torch.stack(voices).mean())))
    return sorted(told, key=lambda meaning: (-meaning.supported, -(meaning.agreement or 0.0)))


def sense_vector(
    wordnet: WordNet, encode: EncodeText, sense: Sense, word: str, template: str
) -> Float32[Tensor, " dim"]:
    """A sense in CLIP's text space: its words and the word with its broader term, in sentences, and its gloss."""
    broader = wordnet.more_general(sense)[:1]
    phrases = [f"{word}, {other}" for other in (*sense.words[:3], *(s.words[0] for s in broader)) if other != word]
    sentences = [template.replace("{}", phrase) for phrase in phrases or [word]]
    gloss = " ".join(f"{word}: {sense.gloss}".split(";")[0].split()[:25])
    return F.normalize(encode([*sentences, gloss]).mean(0), dim=0)


def candidates(
    wordnet: WordNet, vocabulary: Vocabulary, class_id: int, sense: Sense, special: bool = False
) -> list[tuple[str, Relation]]:
    """Words for a sense that no other class and no background word has; `special` adds its direct kinds.

    The broader term is left out where it covers another class too: seat for chair, but not vehicle for car beside bus.
    """
    entry = vocabulary.classes[class_id]
    own = {_plain(word) for word in (entry.name, respell(entry.name, wordnet) or entry.name)}
    others = [other for k, other in enumerate(vocabulary.classes) if k != class_id]
    taken = {_plain(word) for other in others for word in (other.name, *other.synonyms, *other.aliases)}
    taken |= {_plain(word) for word in vocabulary.background}
    found: dict[str, Relation] = {}

    def add(words: Iterable[str], relation: Relation) -> None:
        for word in words:
            if _plain(word) not in own | taken and word.isascii():
                found.setdefault(word, relation)

    add([*sense.words, *entry.aliases], "same")
    for broader in wordnet.more_general(sense)[:1]:
        covered = wordnet.more_special(broader) | {broader.key}
        if not any(meaning.sense.key in covered for other in others for meaning in meanings(wordnet, other)[:1]):
            add(broader.words[:2], "more general")
    if special:
        for kind in wordnet.kinds(sense):
            add(kind.words[:1], "more special")
    return list(found.items())


def rank(
    encode: EncodeText,
    entry: ClassEntry,
    words: Sequence[tuple[str, Relation]],
    template: str,
    sharpness_with: Callable[[ClassEntry], float] | None = None,
) -> list[Candidate]:
    """The words, those first that lower sharpness most, or that agree best with the class name where no picture is.

    `sharpness_with` is the sharpness of the data set with the class put into words as a given entry says.
    """
    if not words:
        return []
    vectors = encode([template.replace("{}", word) for word in (entry.name, *(word for word, _ in words))])
    agreement = (vectors[1:] @ vectors[0]).tolist()
    before = sharpness_with(entry) if sharpness_with else 0.0
    rows = []
    for (word, relation), cosine in zip(words, agreement, strict=True):
        change = sharpness_with(fuse(entry, [word])) - before if sharpness_with else None
        rows.append(Candidate(word, relation, cosine, change))
    return sorted(rows, key=lambda row: -row.agreement if row.change is None else row.change)


def fuse(entry: ClassEntry, words: Sequence[str]) -> ClassEntry:
    """The entry with more synonyms, in its sentence (`bird avian`) and in its list, so that either form can be used."""
    new = [word for word in dict.fromkeys(words) if word not in entry.synonyms and word != entry.name]
    joint = "," if "," in entry.prompt else " "
    return replace(entry, prompt=joint.join([entry.prompt, *new]), synonyms=(*entry.synonyms, *new))


def with_entry(vocabulary: Vocabulary, class_id: int, entry: ClassEntry) -> Vocabulary:
    """The vocabulary with one class put into other words."""
    classes = list(vocabulary.classes)
    classes[class_id] = entry
    return replace(vocabulary, classes=tuple(classes))


def no_meaning(entry: ClassEntry) -> ConfigError:
    """What to say where WordNet knows none of a name's words."""
    return ConfigError(
        f"WordNet has no noun for '{entry.name}'",
        next_step="Add an alias it knows to the class, for example {name: tvmonitor, aliases: [television]}.",
    )


def _meaning(wordnet: WordNet, sense: Sense, exact: bool, told: Sequence[set[str]]) -> Meaning:
    covered = wordnet.more_special(sense) | {sense.key} if any(told) else set()
    return Meaning(sense, exact, sum(bool(keys & covered) for keys in told))


def _plain(word: str) -> str:
    return "".join(character for character in word.casefold() if character.isalnum())
