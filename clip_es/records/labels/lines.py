"""What every file of labels becomes: pictures, each with its labels as text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from clip_es.errors import DataError
from clip_es.file_source import Source
from clip_es.records.dataset import At, ClassId
from clip_es.records.text_files import printable, read_lines

LARGEST = 2**31
"""Bytes of a JSON or XML file of labels."""

UNLABELED = "no label in the file"
"""Why a picture is left out that a labelling tool lists without any."""


class Line(NamedTuple):
    """A picture as the file names it, and its labels as text."""

    image: str
    labels: tuple[str, ...]
    left_out: str = ""
    """Why the picture is not used, where it has no label and that is no mistake."""


Lines = Iterator[tuple[int, Line | DataError]]
"""Numbers of entries with what stands there; a bad entry comes as the error it is."""


class LabelTable(NamedTuple):
    """How a file of labels, or a folder of them, is read."""

    lines: Lines
    class_id: ClassId
    """From the text of a label to its class."""
    where: Callable[[int], object]
    """Where the entry of a number stands, for messages."""
    classes: tuple[str, ...] = ()
    """The classes that the file declares, used or not."""
    numbers: bool = False
    """Whether labels of digits are class ids, and not names."""
    anywhere: bool = False
    """Whether pictures are named by where they lay elsewhere: an address, another machine's path, another folder."""


class Asked(NamedTuple):
    """What a reader is told besides the file."""

    class_id: ClassId
    class_count: int | None
    pictures: Callable[[], Iterable[str]]
    """Names of all pictures, for a file that does not name them."""
    field: str | None = None
    """The column or field that holds the labels."""
    separator: str | None = None
    """What stands between several labels of one cell; None: `;` or `|`."""

    @property
    def name_or_id(self) -> ClassId:
        """Names first, so that a class may be called 7; then whole numbers as 0-based ids."""
        return partial(_name_or_id, self)


def _name_or_id(asked: Asked, text: str) -> int:
    try:
        return asked.class_id(text)
    except DataError:
        number = int(text) if is_number(text) and len(text) < 6 else -1
        if number < 0:
            raise
    if asked.class_count is not None and number >= asked.class_count:
        raise DataError(f"lists the class id {number}", expected=f"0..{asked.class_count - 1}, counted from 0")
    return number


def is_number(text: str) -> bool:
    """Whether a label may be the number of a class; 007 is a name."""
    return text.isascii() and text.isdigit() and (text == "0" or not text.startswith("0"))


def merged(lines: Lines) -> Lines:
    """One line for each picture, with the labels of all its entries, as the first of them is numbered.

    Memory: every picture with its labels. An error comes where it stands.
    """
    entries: dict[str, tuple[int, dict[str, None], str]] = {}
    for number, line in lines:
        if isinstance(line, DataError):
            yield number, line
        else:
            _, labels, _ = entries.setdefault(line.image, (number, {}, line.left_out))
            labels.update(dict.fromkeys(line.labels))
    for image, (number, labels, left_out) in entries.items():
        yield number, Line(image, tuple(labels), "" if labels else left_out)


def beside(name: str, image: str) -> str:
    """A picture that is named as seen from a file of labels; where both lie in one tree, that is where it is."""
    if "/" not in name or "://" in image or image.startswith("/"):
        return image
    return (PurePosixPath(name).parent / image.replace("\\", "/")).as_posix()


class LabelFiles(Source):
    """The files of labels that are named, with what stands in each at its beginning."""

    def __init__(self, path: str | Path, suffixes: tuple[str, ...] = ("",)) -> None:
        super().__init__(path, suffixes)
        self._last: tuple[str, Any] = ("", None)

    def nearest(self) -> list[str]:
        """The names, those nearest to the top first."""
        return sorted((name for name in self.names if _visible(name)), key=lambda name: (name.count("/"), name))

    def tree(self, name: str) -> Any:
        """What a JSON file holds; the last one stays in memory. Raises DataError."""
        if self._last[0] != name:
            self._last = ("", None)
            self._last = (name, self.json_value(name, LARGEST))
        return self._last[1]

    def lines(self, name: str) -> Iterator[tuple[int, str | DataError]]:
        """Lines of a text file. Raises DataError."""
        with self.opened(name) as file:
            yield from read_lines(Path(name), file)

    def at(self, names: tuple[str, ...], unit: str) -> Callable[[int], object]:
        """Where an entry stands: its number in the file, or the file itself where `unit` is file."""
        if unit == "file":
            return lambda number: PurePosixPath(names[number - 1]).name
        if len(names) == 1:
            return partial(At, PurePosixPath(names[0]).name, unit)
        return partial(At, self.path.name, unit)


def _visible(name: str) -> bool:
    return not any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def text_of(value: object) -> str | None:
    """A label: text, or a whole number as text; None for anything else."""
    if isinstance(value, str):
        return value.strip() or None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def texts_of(value: object) -> tuple[str, ...] | None:
    """Labels: one or a list of them; None where something else stands there."""
    items = value if isinstance(value, list) else [value]
    found = [text_of(item) for item in items]
    return None if None in found else tuple(text for text in found if text)


def labelled(image: str, labels: Iterable[str]) -> Line:
    """The line of a picture in a tool that also lists those without a label."""
    names = tuple(dict.fromkeys(labels))
    return Line(image, names, "" if names else UNLABELED)


def bad_entry(what: str, where: object, expected: str, found: object) -> DataError:
    """The error of an entry that is not as its format says."""
    return DataError(
        what, where=where, expected=expected, found=printable(repr(found), 80), next_step="Mend the entry."
    )
