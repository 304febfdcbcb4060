"""The words of a data set: its classes, their prompts, and what else may be in a picture."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from clip_es.errors import ConfigError, DataError, nearest
from clip_es.prompts.templates import check_template
from clip_es.types import MAX_CLASSES

TEMPLATE = "a photo of a {}."
"""Of a vocabulary that names none: neutral. CLIP-ES's own is `--template origami`, and that of voc12 and coco14."""

_IGNORED = str.maketrans("", "", " _-/\t")


@dataclass(frozen=True)
class ClassEntry:
    """One class."""

    name: str
    """As labels spell it."""
    prompt: str = ""
    """What stands in the sentence for it; the name where nothing else is said."""
    synonyms: tuple[str, ...] = ()
    """Other words for it, each a sentence of its own where synonyms are averaged."""
    aliases: tuple[str, ...] = ()
    """Other spellings in labels; never part of a sentence."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", self.prompt or self.name)


@dataclass(frozen=True)
class Vocabulary:
    """The words of a data set.

    Raises ConfigError: no class or too many, a name or spelling twice, a background word that is a class, a template
    without `{}`, a threshold outside 0..1.
    """

    name: str
    classes: tuple[ClassEntry, ...]
    """In the order of the class ids."""
    background: tuple[str, ...] = ()
    """What else competes for a patch."""
    templates: tuple[str, ...] = (TEMPLATE,)
    """Sentences with `{}` where the class stands."""
    box_threshold: float = 0.4
    """Share of a map's maximum above which a patch opens a box, where the run does not set its own."""
    source: str = ""

    def __post_init__(self) -> None:
        where = f"vocabulary '{self.name}'"
        if not self.classes:
            raise ConfigError("there must be at least one class", where=where, found="none")
        if not self.templates:
            raise ConfigError("there must be at least one template", where=where)
        for template in self.templates:
            check_template(template, where)
        if not 0 <= self.box_threshold <= 1:
            raise ConfigError("box_threshold is out of range", where=where, expected="0..1", found=self.box_threshold)
        _refuse_repeats(
            [(entry.name, (entry.name, *entry.aliases)) for entry in self.classes]
            + [("a background word", (word,)) for word in self.background],
            where,
        )

    def for_masks(self) -> Vocabulary:
        """This vocabulary. Raises ConfigError: it has more classes than an 8-bit mask can hold."""
        if len(self.classes) > MAX_CLASSES:
            raise ConfigError(
                "an 8-bit mask cannot hold this number of classes",
                where=f"vocabulary '{self.name}'",
                expected=f"at most {MAX_CLASSES}",
                found=len(self.classes),
                next_step="Split the vocabulary.",
            )
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in the order of the class ids."""
        return tuple(entry.name for entry in self.classes)

    def class_id(self, name: str) -> int:
        """0-based id of a label: its exact name, or one that differs in case, blanks, `_`, `-`, `/`, or an alias.

        Raises DataError: no class is called so; the nearest name is offered.
        """
        exact, loose = self._ids
        found = exact.get(name, loose.get(loosely(name)))
        if found is not None:
            return found
        hint = nearest(name, [word for entry in self.classes for word in (entry.name, *entry.aliases)])
        raise DataError(
            f"'{name}' is not one of the {len(self.classes)} names of {self.name}",
            expected=None if hint else f"one of {', '.join(self.names[:20])}{', ...' if len(self.names) > 20 else ''}",
            next_step=hint or None,
        )

    @cached_property
    def _ids(self) -> tuple[dict[str, int], dict[str, int]]:
        exact = {entry.name: index for index, entry in enumerate(self.classes)}
        loose = {loosely(w): index for index, entry in enumerate(self.classes) for w in (entry.name, *entry.aliases)}
        return exact, loose


def loosely(name: str) -> str:
    """What two spellings of one name have in common: neither case nor blanks, `_`, `-` or `/` count."""
    return name.casefold().translate(_IGNORED)


def _refuse_repeats(owners: Iterable[tuple[str, tuple[str, ...]]], where: object) -> None:
    """`owners`: what a word stands for, and its spellings. A label must not be able to mean two of them."""
    taken: dict[str, tuple[str, str]] = {}
    for owner, spellings in owners:
        for loose, word in {loosely(word): word for word in reversed(spellings)}.items():
            if other := taken.get(loose):
                raise ConfigError(
                    f"'{word}' ({owner}) cannot be told from '{other[0]}' ({other[1]})",
                    where=where,
                    expected="each name, alias and background word once; case, blanks, _, - and / do not count",
                    next_step="Rename or remove one of the two.",
                )
            taken[loose] = (word, owner)
