"""What is wrong with the words of a vocabulary: leaks, duplicates, prompts too long, names CLIP reads badly."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import yaml

from clip_es.encoder.tokenize import pieces, tokenize
from clip_es.errors import ConfigError
from clip_es.prompts.vocabulary import ClassEntry
from clip_es.prompts.vocabulary_files import PACKAGED, load_vocabulary
from clip_es.safe_yaml import load_yaml

if TYPE_CHECKING:
    from clip_es.prompts.synonyms import Meaning
    from clip_es.prompts.wordnet import WordNet

CONTEXT = 77
"""Tokens that CLIP's text tower can read, start and end included."""

Meant = tuple[set[str], set[str], set[str]]
"""What a class is, what is more general and what is more special, as WordNet's sense keys."""

Kind = Literal["unusable", "leak", "duplicate", "too long", "spelling"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or looks wrong."""

    kind: Kind
    serious: bool
    """Whether masks will suffer for certain; the others are worth a look."""
    what: str
    """What, where, and what to do."""


class Leak(NamedTuple):
    """Why a background word would take the patches of a class."""

    reason: str
    certain: bool
    """Not certain where the word is only a kind of the class: grass is a plant, but hardly the one that is meant."""


@dataclass(frozen=True)
class Words:
    """The words of a vocabulary as a file has them, whether or not they make a usable one."""

    classes: tuple[ClassEntry, ...]
    background: tuple[str, ...]
    templates: tuple[str, ...]


def check_file(name_or_path: str | Path, wordnet: WordNet | None = None) -> list[Finding]:
    """Everything that is wrong with a packaged vocabulary or a YAML file, the serious things first.

    Unlike `load_vocabulary` it does not stop at the first fault. Raises ConfigError: there is no such file, or nothing
    in it can be taken for classes.
    """
    findings: list[Finding] = []
    try:
        vocabulary = load_vocabulary(name_or_path)
        words = Words(vocabulary.classes, vocabulary.background, vocabulary.templates)
    except ConfigError as error:
        if str(name_or_path) in PACKAGED:
            raise
        words = _words_of(Path(name_or_path), error)
        findings.append(Finding("unusable", True, str(error)))
    findings += check_words(words, wordnet)
    return sorted(findings, key=lambda finding: not finding.serious)


def check_words(words: Words, wordnet: WordNet | None = None) -> list[Finding]:
    """Findings about 1 to some thousand classes, in the order leaks, duplicates, lengths, spellings."""
    return [*_leaks(words, wordnet), *_duplicates(words), *_lengths(words), *_spellings(words, wordnet)]


@functools.cache
def respell(name: str, wordnet: WordNet | None = None) -> str | None:
    """A name as CLIP's tokenizer knows it better (`pottedplant`: potted plant), or None where it is fine as it is.

    `_` and `-` become blanks. A word that falls into pieces is parted where both parts are words CLIP knows: with
    WordNet if that has no such word (it has surfboard), without it if CLIP then reads fewer pieces.
    """
    parts = name.replace("_", " ").replace("-", " ").replace("/", " ").split()
    better = " ".join(_parted(part, wordnet) or part for part in parts)
    return better if better and better != name else None


@functools.lru_cache(maxsize=65536)
def barely_known(name: str) -> tuple[str, ...]:
    """Pieces of those words of a name that CLIP's tokenizer takes apart nearly letter by letter; empty for a good name.

    Such a word (`xqzv`, another script, an emoji) is too rare in English text to have pieces of its own.
    """
    found: list[str] = []
    for word in name.split():
        parts = [piece.removesuffix("</w>") for piece in pieces(word)]
        if word.isdecimal():
            continue
        if (len(parts) > 1 and len(word) < 2 * len(parts)) or not any(map(str.isalnum, word)):
            found += parts if word.isascii() else [f"{word}: {len(parts)} pieces"]
    return tuple(found)


def count_tokens(text: str) -> int:
    """Tokens of a sentence, start and end included."""
    return tokenize([text], context=2**31).shape[1]


def meanings_of(wordnet: WordNet, found: Sequence[Meaning]) -> tuple[set[str], set[str], set[str]]:
    """Sense keys of a class with these meanings: what it is, what is more general, what is more special.

    The special ones are empty where only the last word of the name is known: a tree is a plant but no potted plant.
    """
    same = {meaning.sense.key for meaning in found}
    general = {sense.key for meaning in found for sense in wordnet.more_general(meaning.sense)}
    special = {key for meaning in found if meaning.exact for key in wordnet.more_special(meaning.sense)}
    return same, general, special


def leaks(word: str, entry: ClassEntry, wordnet: WordNet | None = None, meant: Meant | None = None) -> Leak | None:
    """Why a background word would compete with a class that it means, or None.

    Spellings are always compared; meanings where WordNet and `meant` (`meanings_of` the class) are given.
    """
    own = {_plain(name): name for name in (*entry.aliases, *entry.synonyms, *entry.prompt.split(","), entry.name)}
    if name := own.get(_plain(word)):
        same = f"it is the class '{entry.name}'" if name == entry.name else f"it is '{name}', a word for '{entry.name}'"
        return Leak(same, True)
    last = (respell(entry.name, wordnet) or entry.name).split()[-1]
    if _plain(word) == _plain(last) and len(_plain(last)) > 2:
        return Leak(f"'{entry.name}' is a kind of '{word}'", True)
    if wordnet is None or meant is None:
        return None
    same, general, special = meant
    senses = [sense for sense in wordnet.senses(word) if sense.kind not in {"act", "cognition", "communication"}][:2]
    if {sense.key for sense in senses} & same:
        return Leak(f"it means '{entry.name}'", True)
    # The first sense only: 'rock' is a person in its third.
    first = {sense.key for sense in senses[:1]}
    if first & general:
        return Leak(f"'{entry.name}' is a kind of '{word}'", True)
    if first & special:
        return Leak(f"'{word}' is a kind of '{entry.name}'", False)
    return None


def _leaks(words: Words, wordnet: WordNet | None) -> list[Finding]:
    from clip_es.prompts.synonyms import meanings

    found = []
    meant = [meanings_of(wordnet, meanings(wordnet, entry)[:1]) if wordnet else None for entry in words.classes]
    for word in words.background:
        for entry, known in zip(words.classes, meant, strict=True):
            if leak := leaks(word, entry, wordnet, known):
                advice = "Take it out, or it takes the class's patches"
                found.append(Finding("leak", leak.certain, f"background word '{word}': {leak.reason}. {advice}."))
                break
    return found


def _duplicates(words: Words) -> list[Finding]:
    owners: dict[str, set[str]] = defaultdict(set)
    spelled: dict[str, str] = {}
    for entry in words.classes:
        for word in (entry.name, *entry.aliases, *entry.synonyms):
            owners[_plain(word)].add(entry.name)
            spelled.setdefault(_plain(word), word)
    found = [
        Finding("duplicate", True, f"'{spelled[word]}' stands for {' and '.join(map(repr, sorted(names)))}. Keep one.")
        for word, names in owners.items()
        if len(names) > 1
    ]
    prompts: dict[str, list[str]] = defaultdict(list)
    for entry in words.classes:
        prompts[" ".join(entry.prompt.casefold().split())].append(entry.name)
    found += [
        Finding(
            "duplicate", True, f"{', '.join(map(repr, names))} have the same prompt '{prompt}': nothing parts them."
        )
        for prompt, names in prompts.items()
        if len(names) > 1
    ]
    plain = [_plain(word) for word in words.background]
    repeated = dict.fromkeys(w for w, p in zip(words.background, plain, strict=True) if plain.count(p) > 1)
    if repeated:
        listed = ", ".join(map(repr, repeated))
        found.append(Finding("duplicate", True, f"background words that stand twice: {listed}. Keep one of each."))
    return found


def _lengths(words: Words) -> list[Finding]:
    found = []
    longest = max(words.templates, key=count_tokens, default="{}")
    for what, text in [(f"class '{e.name}'", e.prompt) for e in words.classes] + [
        (f"background word '{word}'", word) for word in words.background
    ]:
        tokens = count_tokens(longest.replace("{}", text))
        if tokens > CONTEXT:
            found.append(
                Finding(
                    "too long",
                    True,
                    f"{what}: {tokens} tokens in {longest!r}, and CLIP reads {CONTEXT}. Name fewer synonyms.",
                )
            )
    return found


def _spellings(words: Words, wordnet: WordNet | None) -> list[Finding]:
    found = []
    for what, text in [("class", entry.prompt) for entry in words.classes] + [
        ("background word", word) for word in words.background
    ]:
        better = respell(text, wordnet)
        if better and better != text:
            pieces, fewer = count_tokens(text) - 2, count_tokens(better) - 2
            hint = f"CLIP reads {pieces} pieces; try '{better}' ({fewer} words it knows)"
            found.append(Finding("spelling", False, f"{what} '{text}': {hint}, as `prompt` where the label is fixed."))
    return found


def _parted(word: str, wordnet: WordNet | None) -> str | None:
    """The two words CLIP knows that a word falls into, the commonest where there are several; None for a good word."""
    if not word.isascii() or not word.isalpha() or len(word) < 5 or (wordnet and wordnet.knows(word)):
        return None
    pieces = count_tokens(word) - 2
    if pieces < 2 or (wordnet is None and pieces < 3):
        return None
    ways = []
    for cut in range(2, len(word) - 1):
        first, second = _token(word[:cut].lower()), _token(word[cut:].lower())
        if first and second:
            # Later tokens are rarer words, and most pairs of letters are no words at all.
            ways.append((min(cut, len(word) - cut) < 3, max(first, second), cut))
    return f"{word[: min(ways)[2]]} {word[min(ways)[2] :]}" if ways else None


@functools.lru_cache(maxsize=65536)
def _token(word: str) -> int | None:
    """The token of a word that is a single one, else None."""
    ids = tokenize([word], context=2**31)[0].tolist()
    return ids[1] if len(ids) == 3 else None


def _words_of(path: Path, error: ConfigError) -> Words:
    """What can be taken for words in a file that is no usable vocabulary."""
    try:
        text = path.read_text(encoding="utf-8")
        if len(text) > 2**20:
            raise error
        content = load_yaml(text)
    except (OSError, ValueError, yaml.YAMLError):
        raise error from None
    content = {"classes": content} if isinstance(content, list) else content
    if not isinstance(content, dict) or not isinstance(content.get("classes"), list):
        raise error
    entries = [
        ClassEntry(
            name=str(item["name"]),
            prompt=str(item.get("prompt", "")),
            synonyms=_texts(item.get("synonyms")),
            aliases=_texts(item.get("aliases")),
        )
        if isinstance(item, dict) and "name" in item
        else ClassEntry(str(item))
        for item in content["classes"]
    ]
    templates = _texts(content.get("templates")) or _texts([content["template"]] if "template" in content else [])
    return Words(tuple(entries), _texts(content.get("background")), templates)


def _texts(value: object) -> tuple[str, ...]:
    return tuple(str(item) for item in value) if isinstance(value, Sequence) and not isinstance(value, str) else ()


def _plain(word: str) -> str:
    return "".join(character for character in word.casefold() if character.isalnum())
