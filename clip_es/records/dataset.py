"""What every reader returns, and the rules they share: one row per entry, the first of two kept, labels looked up."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

from clip_es.errors import ClipEsError, DataError
from clip_es.types import ImageRecord

ClassId = Callable[[str], int]
"""From a class name to its 0-based id; raises DataError for a name it does not know."""

OnBadLabel = Literal["fail", "skip"]
"""An unknown label fails its picture, or is left out while the picture's other labels are used."""

STAGE = "records"
"""Stage of the rows that readers write; pictures that fail later carry another one."""

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")

LARGEST_TEXT = 2**26
"""Bytes. A list of a million pictures has 30 MB; what is larger than 64 MiB is not a list."""


@dataclass(frozen=True)
class Problem:
    """One row of failures.csv: an entry or a picture that could not be used, and why."""

    image_id: str
    """The id as far as it is known, shortened, control characters spelled out; not safe as a file name."""
    error: str
    """Class of the error, such as `DataError`."""
    reason: str
    """What is wrong, where, what was expected, what was found and what to do next."""
    stage: str = STAGE

    @classmethod
    def of(cls, image_id: str, error: BaseException, stage: str = STAGE) -> Problem:
        """The row for an error that was met with a picture."""
        reason = str(error) or type(error).__name__
        return cls(printable(image_id), type(error).__name__, printable(reason, 2000), stage)


@dataclass(frozen=True)
class Dataset:
    """The usable pictures of a data set, in its order, and what is wrong with the others."""

    name: str
    records: tuple[ImageRecord, ...]
    problems: tuple[Problem, ...] = ()
    truth: Mapping[str, Path] = field(default_factory=dict)
    """Ground-truth mask by image id; only files that exist, only ids of `records`."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Labels that `on_bad_label="skip"` dropped, and how often."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "truth", MappingProxyType(dict(self.truth)))
        object.__setattr__(self, "left_out", MappingProxyType(dict(self.left_out)))

    def fingerprint(self) -> str:
        """SHA-256 over ids, labels and stated sizes, in order; where the files lie does not matter."""
        digest = hashlib.sha256()
        for record in self.records:
            digest.update(f"{record.image_id}\t{record.class_ids}\t{record.size_hw}\n".encode())
        return digest.hexdigest()


class Labels:
    """Looks labels up, and counts those that were left out."""

    def __init__(self, class_id: ClassId, on_bad_label: OnBadLabel) -> None:
        self._class_id = class_id
        self._skip = on_bad_label == "skip"
        self.left_out: dict[str, int] = {}

    def ids(self, names: Iterable[str], where: object) -> tuple[int, ...]:
        """0-based class ids in the order of the names, each once.

        Raises DataError: a name is unknown (unless it is to be skipped), or no name is left.
        """
        found: dict[int, None] = {}
        for name in names:
            try:
                found[self._class_id(name)] = None
            except DataError as error:
                if self._skip:
                    self.left_out[name] = self.left_out.get(name, 0) + 1
                    continue
                step = "Fix the file, or pass --on-bad-label skip."
                raise DataError(
                    error.what,
                    where=where,
                    expected=error.expected,
                    found=error.found,
                    next_step=f"{error.next_step} {step}" if error.next_step else step,
                ) from None
        if not found:
            raise DataError(
                "lists no object",
                where=where,
                expected="at least one label that the vocabulary knows",
                next_step="Label the picture, or take it out of the list.",
            )
        return tuple(found)


class Entry(NamedTuple):
    """One line of a list: what it calls the picture, where it stands, and how it becomes a record."""

    image_id: str
    where: str
    read: Callable[[], ImageRecord]


def collect(
    name: str, entries: Iterable[Entry], labels: Labels, find_truth: Callable[[str], Path | None], source: object
) -> Dataset:
    """Read every entry, keep the first of two with one id, and note what could not be read.

    Raises DataError: the source holds no entry at all.
    """
    records: dict[str, ImageRecord] = {}
    problems: list[Problem] = []
    first: dict[str, str] = {}
    for entry in entries:
        try:
            if entry.image_id in first:
                raise DataError(
                    f"{printable(entry.image_id)!r} is listed twice; the first entry counts",
                    where=entry.where,
                    found=f"the same id at {first[entry.image_id]}",
                    next_step="Take one of the two out, or rename the picture.",
                )
            first[entry.image_id] = entry.where
            records[entry.image_id] = entry.read()
        except ClipEsError as error:
            problems.append(Problem.of(entry.image_id, error))
        except OSError as error:
            problems.append(Problem.of(entry.image_id, unreadable(entry.where, error)))
    if not first:
        raise DataError("lists no picture", where=source, expected="at least one entry", found="none")
    truth = {image_id: mask for image_id in records if (mask := find_truth(image_id)) is not None}
    return Dataset(name, tuple(records.values()), tuple(problems), truth, labels.left_out)


def read_lines(path: Path) -> Iterator[tuple[int, str | DataError]]:
    """Lines of a UTF-8 text file with their numbers, blank ones left out; any line ending, with or without a mark.

    A line that is not text comes as the error it is, so that the others go on.
    Raises DataError: the file is missing, too large, or UTF-16.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_TEXT + 1)
    except OSError as error:
        raise unreadable(path, error) from error
    if len(data) > LARGEST_TEXT:
        raise DataError("is too large for a list of pictures", where=path, expected=f"at most {LARGEST_TEXT:,} bytes")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError("is a UTF-16 file", where=path, expected="UTF-8", next_step="Save it as UTF-8.")
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path.name} line {number}"
        try:
            text = line.decode()
        except UnicodeDecodeError:
            found = printable(line.decode(errors="replace"), 60)
            yield number, DataError("is not UTF-8 text", where=where, found=repr(found), next_step="Save it as UTF-8.")
            continue
        if "\0" in text:
            found = repr(printable(text, 60))
            yield number, DataError("holds a zero byte", where=where, found=found, next_step="Write the line anew.")
            continue
        yield number, text


class Listing:
    """Files of some folders by id, each folder listed once: a question for each of a million pictures would be slow."""

    PICTURES = (".jpg", ".jpeg", ".png")
    MASKS = (".png",)

    def __init__(self, *folders: Path, suffixes: tuple[str, ...]) -> None:
        self._files: dict[str, tuple[Path, str]] = {}
        rank: dict[str, int] = {}
        for folder in folders:
            for name in _file_names(folder):
                stem, dot, suffix = name.rpartition(".")
                wanted = (dot + suffix).lower()
                if stem and wanted in suffixes and suffixes.index(wanted) < rank.get(stem, len(suffixes)):
                    rank[stem] = suffixes.index(wanted)
                    self._files[stem] = folder, name

    def find(self, image_id: str) -> Path | None:
        """The file of an id; where there are several, the first folder and then the first suffix counts."""
        found = self._files.get(image_id)
        return found[0] / found[1] if found else None

    def ids(self) -> list[str]:
        """Every id that has a file, sorted."""
        return sorted(self._files)


def _file_names(folder: Path) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            # Whatever is not surely a folder may be a picture: links are followed only when the file is opened.
            yield from (entry.name for entry in entries if not entry.is_dir(follow_symlinks=False))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise unreadable(folder, error) from error


def unreadable(where: object, error: OSError) -> DataError:
    """The same trouble in our words."""
    missing = isinstance(error, FileNotFoundError)
    return DataError(
        "does not exist" if missing else f"cannot be read: {error.strerror or error}",
        where=error.filename or where,
        next_step="Check the path." if missing else "Check the file and its permissions.",
    )


def refuse(error: DataError) -> Callable[[], ImageRecord]:
    """The reading of an entry that is already known to be bad."""

    def read() -> ImageRecord:
        raise error

    return read


def printable(text: str, longest: int = 200) -> str:
    """The text on one line, shortened, with control characters and lone surrogates spelled out."""
    if len(text) > longest:
        text = text[: longest - 3] + "..."
    return _UNPRINTABLE.sub(lambda match: ascii(match[0])[1:-1], text)
