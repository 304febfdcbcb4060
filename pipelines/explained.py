"""Help as it is read: whole paragraphs in place of the lines of the source, and no line wider than the terminal."""

from __future__ import annotations

import io
import shutil
import sys
import textwrap
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from inspect import cleandoc
from types import MappingProxyType
from typing import Any, get_args, get_origin, get_type_hints

from clip_es.config.settings import Settings


def explain(kind: Any, _seen: set[Any] | None = None) -> None:
    """Give tyro the docstring of each field of a dataclass and of those inside it, without the breaks between lines.

    It joins lines before it takes their indentation away, and so breaks where the source does.
    """
    import docstring_parser  # tyro's own reader of them

    seen = set() if _seen is None else _seen
    kind = get_origin(kind) or kind
    if kind in seen or not (isinstance(kind, type) and is_dataclass(kind)):
        return
    seen.add(kind)
    told: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        if is_dataclass(owner):
            # A class of a notebook, or of a package without its source, is told as tyro tells it.
            with suppress(OSError, TypeError):
                params = docstring_parser.parse_from_object(owner).params
                told |= {one.arg_name: one.description for one in params if one.description}
    for one in fields(kind):
        if one.name in told and "help" not in one.metadata:
            one.metadata = MappingProxyType({**one.metadata, "help": _paragraphs(told[one.name])})
    hints = get_type_hints(kind, include_extras=True)
    for one in fields(kind):
        for inner in _inside(hints[one.name]):
            explain(inner, seen)
        if Settings in _inside(hints[one.name]):
            held = one.default if one.default is not MISSING else one.default_factory()  # pyright: ignore[reportCallIssue]
            for row in fields(held):  # pyright: ignore[reportArgumentType]
                explain(type(getattr(held, row.name)), seen)


def _inside(hint: Any) -> list[Any]:
    return [hint, *(part for inner in get_args(hint) for part in _inside(inner))]


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in cleandoc(text).split("\n\n"))


class Printed(io.StringIO):
    """What is printed meanwhile; as coloured as standard output would have it."""

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """That of standard output, which may have no lines for boxes."""
        return getattr(sys.__stdout__, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        """As standard output."""
        return sys.__stdout__ is not None and sys.__stdout__.isatty()


def fitted(text: str) -> str:
    """The text with no line wider than the terminal; what stands in boxes is so already."""
    width = max(shutil.get_terminal_size().columns, 20)
    lines = []
    for line in text.split("\n"):
        if len(line) <= width or line[:1] in "│╭╰" or "\x1b" in line:
            lines.append(line)
        else:
            indent = " " * 4 if line.startswith("usage:") else ""
            lines += textwrap.wrap(
                line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
            )
    return "\n".join(lines)
