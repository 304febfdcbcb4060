"""The rows that pixels are compared with: text vectors of words, each of which belongs to a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float32, Int64
from torch import Tensor

from clip_es.encoder import Encoder
from clip_es.encoder.tokenize import pieces
from clip_es.errors import ConfigError, ShapeError


@dataclass(frozen=True)
class TextTable:
    """Rows of text vectors and the class each belongs to; class 0 is background."""

    names: tuple[str, ...]
    """Of the classes, background first."""
    rows: Float32[Tensor, "row dim"]
    owners: Int64[Tensor, " row"]
    """Class of each row, 0..len(names) - 1; a class without rows is never predicted."""

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names):
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            raise ConfigError("a class is named twice", found=", ".join(twice), next_step="Name each class once.")
        if len(self.names) < 2:
            raise ConfigError("there is no class to look for", expected="at least one name", found="none")
        if self.rows.ndim != 2 or self.owners.shape != self.rows.shape[:1]:
            raise ShapeError(
                "each row of a text table belongs to one class",
                expected=f"[{len(self.owners)} dim]",
                found=list(self.rows.shape),
            )

    def by_class(self) -> Float32[Tensor, "class word dim"]:
        """The rows of each class, filled up with its first; a class answers with its best row, so this changes nothing.

        Raises ConfigError: a class has no row.
        """
        counts = torch.bincount(self.owners, minlength=len(self.names))
        if not bool(counts.all()):
            empty = [name for name, count in zip(self.names, counts.tolist(), strict=True) if not count]
            raise ConfigError("a class has no words", found=", ".join(empty), next_step="Name a background word.")
        parts = [self.rows[self.owners == k] for k in range(len(self.names))]
        most = int(counts.max())
        return torch.stack([torch.cat([part, part[:1].expand(most - len(part), -1)]) for part in parts])


def text_table(
    encoder: Encoder,
    words: Sequence[Sequence[str]],
    background: Sequence[str] = (),
    templates: Sequence[str] = ("a photo of a {}.",),
) -> TextTable:
    """Rows for classes, each with its name and synonyms, and for background words.

    The row of a word is the mean of its unit vectors over the templates, made unit again.
    Raises ConfigError: no class, an empty name, one of which the tokenizer reads nothing, two names that are the same
    to it, or a template without {}. DataError: a sentence is too long for the text tower.
    """
    if not words:
        raise ConfigError("there is no class to look for", expected="at least one name", found="an empty list")
    for row in words:
        if not row or not all(word.strip() for word in row):
            raise ConfigError("a class has no name", found=list(map(list, words)))
    if "background" in (row[0] for row in words):
        raise ConfigError(
            "'background' is the first label of every mask already",
            found="background among the classes",
            next_step="Leave it out; --background says what counts as background.",
        )
    flat = [template for template in templates if "{}" not in template]
    if flat or not templates:
        raise ConfigError(
            "a template has no place for the class, so that all classes would have the same text",
            expected="a sentence with {}, such as 'a photo of a {}.'",
            found=repr(flat[0]) if flat else "no template",
        )
    check_readable([word for row in words for word in row], background)
    check_apart([row[0] for row in words])
    wanted = [*background, *(word for row in words for word in row)]
    owners = [0] * len(background) + [k for k, row in enumerate(words, start=1) for _ in row]
    sentences = [template.replace("{}", word) for word in wanted for template in templates]
    vectors = encoder.encode_text(sentences).unflatten(0, (len(wanted), len(templates))).mean(1)
    names = ("background", *(row[0] for row in words))
    return TextTable(names, F.normalize(vectors, dim=-1).float().cpu(), torch.tensor(owners))


def check_readable(names: Sequence[str], background: Sequence[str] = ()) -> None:
    """Raises ConfigError: the tokenizer reads nothing of a name, so every such name would be the same class."""
    for what, words in (("class name", names), ("background word", background)):
        silent = [word for word in words if not pieces(word) or not _visible(word)]
        if silent:
            raise ConfigError(
                f"CLIP's tokenizer reads nothing of a {what}",
                expected="a word, best an English one in lower case",
                found=", ".join(map(repr, silent[:5])),
                next_step="Name the class in other words.",
            )


def _visible(word: str) -> bool:
    """Whether there is more than blanks and characters that only control how others are shown."""
    return any(letter.isprintable() and not letter.isspace() for letter in word)


def check_apart(names: Sequence[str]) -> None:
    """Raises ConfigError: two names are one to the tokenizer, which knows no capitals and no runs of blanks."""
    read: dict[tuple[str, ...], str] = {}
    for name in names:
        if (known := read.get(pieces(name))) is not None:
            same = name if known == name else f"{known!r} and {name!r}, which CLIP reads alike"
            raise ConfigError("a class is named twice", found=same, next_step="Name each class once.")
        read[pieces(name)] = name
