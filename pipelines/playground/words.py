"""The words that a visitor has typed, as a vocabulary."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import get_args

from clip_es.errors import ConfigError, DataError
from clip_es.prompts import Synonyms, Vocabulary
from clip_es.prompts.templates import sentences
from clip_es.prompts.vocabulary import ClassEntry

MOST_LABELS = 24
"""Labels of one picture; each has its own maps."""

_MOST_LINES, _LONGEST = 300, 200


@dataclass(frozen=True)
class Words:
    """What a visitor asks with. Everything but the labels may be empty: then the vocabulary's own words count."""

    labels: tuple[str, ...] = ()
    """Names or aliases of the vocabulary's classes, or new words, which become classes of their own."""
    synonyms: Synonyms = "sentence"
    said: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Words for some labels in place of the vocabulary's. With `sentence` they are joined into one sentence, as the
    paper has it; with `mean` each has a sentence of its own; with `none` the name alone counts."""
    templates: tuple[str, ...] = ()
    background: tuple[str, ...] | None = None

    @classmethod
    def typed(
        cls,
        labels: Iterable[str],
        synonyms: Synonyms = "sentence",
        said: str = "",
        templates: str = "",
        background: str | None = None,
        base: Vocabulary | None = None,
    ) -> Words:
        """From the fields of the page: `said` has lines of `label: word; word`, the others one entry on each line.

        Fields that say what `base` says count as not filled in. Raises ConfigError: a line that cannot be read.
        DataError: too many labels.
        """
        names = tuple(
            dict.fromkeys(filter(None, (_word(name, "the labels") for text in labels for name in text.split(";"))))
        )
        if len(names) > MOST_LABELS:
            raise DataError("these are too many labels at once", expected=f"at most {MOST_LABELS}", found=len(names))
        pairs: dict[str, tuple[str, ...]] = {}
        for line in _lines(said, "the words of the labels"):
            label, colon, rest = line.partition(":")
            words = tuple(filter(None, (word.strip() for word in rest.split(";"))))
            if not colon or not label.strip() or not words:
                raise ConfigError(
                    "a line of words names a label and what it is called",
                    where="the words of the labels",
                    expected="label: word; word",
                    found=repr(line),
                )
            pairs[label.strip()] = words
        used = sentences(tuple(_lines(templates, "the sentences")))
        others = None if background is None else tuple(_lines(background, "the background words"))
        if base is not None:
            used, others = () if used == base.templates else used, None if others == base.background else others
        return cls(names, synonyms, tuple(pairs.items()), used, others)

    def vocabulary(self, base: Vocabulary) -> Vocabulary:
        """The vocabulary with these words. Raises ConfigError, DataError: words that cannot stand beside each other."""
        classes = list(base.classes)
        for label in self.labels:
            if _find(base, label) is None:
                classes.append(ClassEntry(label))
        grown = replace(base, classes=tuple(classes), background=_beside(base.background, classes[len(base.classes) :]))
        for label, words in self.said:
            place = _find(grown, label)
            if place is None:
                continue  # A line for a label that was taken away again; it counts when the label comes back.
            entry = classes[place]
            others = tuple(dict.fromkeys(word for word in words if word != entry.name))
            classes[place] = (
                replace(entry, prompt=" ".join(words))
                if self.synonyms == "sentence"
                else replace(entry, synonyms=others)
            )
        background = grown.background if self.background is None else self.background
        made = replace(grown, classes=tuple(classes), background=background)
        if self.templates:
            made = replace(made, templates=self.templates)
        if made == base:
            return base
        name = base.name if base.name.endswith("changed") else f"{base.name}, changed"
        return replace(made, name=name).for_masks()

    def ids(self, vocabulary: Vocabulary) -> tuple[int, ...]:
        """The classes of the labels, in the order of the visitor's. Raises DataError: none is named."""
        if not self.labels:
            raise DataError("no label is named yet", next_step="Type or choose what is in the picture.")
        return tuple(dict.fromkeys(vocabulary.class_id(label) for label in self.labels))


def said_by(vocabulary: Vocabulary, labels: Iterable[str], synonyms: Synonyms, said: str = "") -> str:
    """The lines of words for the labels: as the vocabulary has them, but those of `said` that were edited stay."""
    edited: dict[str, str] = {}
    for line in said.splitlines():
        label = line.partition(":")[0].strip()
        if label and line.strip() not in {_line(vocabulary, label, mode) for mode in get_args(Synonyms)}:
            edited[label] = line.strip()
    lines = []
    for label in (one.strip() for text in labels for one in text.split(";")):
        if label:
            line = _line(vocabulary, label, synonyms)
            lines.append(edited.get(line.partition(":")[0], line))
    return "\n".join(dict.fromkeys(lines))


def _line(vocabulary: Vocabulary, label: str, synonyms: Synonyms) -> str:
    place = _find(vocabulary, label)
    entry = ClassEntry(label) if place is None else vocabulary.classes[place]
    words = (entry.prompt,) if synonyms == "sentence" else (entry.name, *entry.synonyms)
    return f"{entry.name}: {'; '.join(words)}"


def _find(vocabulary: Vocabulary, label: str) -> int | None:
    try:
        return vocabulary.class_id(label)
    except DataError:
        return None


def _beside(background: tuple[str, ...], added: list[ClassEntry]) -> tuple[str, ...]:
    """Background words that are none of the new classes."""
    if not added:
        return background
    new = Vocabulary("added", tuple(added))
    return tuple(word for word in background if _find(new, word) is None)


def _lines(text: str, where: str) -> list[str]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > _MOST_LINES:
        raise ConfigError("these are too many lines", where=where, expected=f"at most {_MOST_LINES}", found=len(lines))
    return [_word(line, where, 20 * _LONGEST) for line in lines]


def _word(text: str, where: str, longest: int = _LONGEST) -> str:
    word = text.strip()
    if len(word) > longest or any(ord(letter) < 32 or 0xD800 <= ord(letter) < 0xE000 for letter in word):
        raise ConfigError(
            "is too long, or holds control characters",
            where=where,
            expected=f"at most {longest} characters",
            found=ascii(word)[:60],
        )
    return word
