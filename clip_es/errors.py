"""The errors a user can meet. Each says what is wrong, where, what was expected, what was found and what to do next."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class ClipEsError(Exception):
    """Base of every error this package raises on purpose.

    The same facts stand in the message and on the fields, so a program can act on them.
    """

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        expected: object = None,
        found: object = None,
        next_step: str | None = None,
    ) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.expected = None if expected is None else str(expected)
        self.found = None if found is None else str(found)
        self.next_step = next_step
        parts = [f"{self.where}: {what}" if self.where else what]
        if self.expected is not None:
            parts.append(f"Expected {self.expected}.")
        if self.found is not None:
            parts.append(f"Found {self.found}.")
        if next_step:
            parts.append(next_step)
        super().__init__(" ".join(part if part.endswith((".", "?", "!")) else f"{part}." for part in parts))

    def __reduce__(self):
        # Fields are keyword-only, so the default recipe cannot rebuild the error in another process.
        return _rebuild, (type(self), self.what, self.where, self.expected, self.found, self.next_step)


def _rebuild(kind, what, where, expected, found, next_step):
    return kind(what, where=where, expected=expected, found=found, next_step=next_step)


class ConfigError(ClipEsError):
    """A setting that cannot work, before any image is touched."""


class DataError(ClipEsError):
    """A file of the user's that cannot be used: picture, annotation, list, mask."""


class ShapeError(ClipEsError):
    """Two things that must fit do not: sizes, grids, numbers of classes."""


class WeightsError(ClipEsError):
    """Weights that are missing, damaged, of another layout or of an unsupported model."""


def nearest(word: str, known: Iterable[str]) -> str:
    """The sentence `Nearest: 'aeroplane'`, or an empty string where nothing is close."""
    names = {name.lower(): name for name in known}
    close = get_close_matches(word.lower(), names, n=1, cutoff=0.6)
    return f"Nearest: {names[close[0]]!r}." if close else ""
