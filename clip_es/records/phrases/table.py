"""Phrases with masks, for training and scoring a segmenter that takes prompts: a base class, a reader of a table."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8

from clip_es.config.stages import ImageConfig
from clip_es.errors import ClipEsError, DataError
from clip_es.images import read_picture
from clip_es.masks import read_mask
from clip_es.records.dataset import Problem
from clip_es.records.text_files import csv_cells, inner_path, printable, read_lines, unreadable
from clip_es.types import UNDECIDED, ImageRecord

COLUMNS = ("image", "phrase", "mask")


class Phrase(NamedTuple):
    """One sample: a phrase about a picture. Its mask belongs to the place of the sample in its set."""

    picture: int
    """Number of the picture in its set."""
    text: str
    """The phrase, as written."""


class PhraseSet(ABC):
    """Pictures, phrases about them, and where each phrase is. Subclasses read a data set."""

    name: str
    """What the set is called in reports."""
    supervision: str = "masks"
    """What a decoder trained on it has seen, in words."""
    samples: Sequence[Phrase]
    """In the order of the data set."""
    problems: tuple[Problem, ...] = ()
    """Entries that could not be used."""

    @abstractmethod
    def picture(self, number: int) -> UInt8[np.ndarray, "h w 3"]:
        """A picture by its number. Raises DataError: missing or damaged."""

    @abstractmethod
    def mask(self, sample: int) -> Bool[np.ndarray, "h w"]:
        """Where the phrase of a sample is, at the size of its picture. Raises DataError: missing or damaged."""

    def holds(self, picture: int, text: str) -> bool:
        """Whether a phrase is known to be true of a picture. Here: whether the picture has a sample of it."""
        return text in self._said.get(picture, ())

    def fingerprint(self) -> str:
        """SHA-256 over all samples, in order; where the files lie does not matter."""
        digest = hashlib.sha256()
        for number, text in self.samples:
            digest.update(f"{number}\t{text}\n".encode())
        return digest.hexdigest()

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """Every phrase once, in order of first use."""
        return tuple(dict.fromkeys(sample.text for sample in self.samples))

    @cached_property
    def by_text(self) -> dict[str, list[int]]:
        """The samples of each phrase."""
        found: dict[str, list[int]] = {}
        for number, sample in enumerate(self.samples):
            found.setdefault(sample.text, []).append(number)
        return found

    @cached_property
    def by_picture(self) -> dict[int, list[int]]:
        """The samples of each picture."""
        found: dict[int, list[int]] = {}
        for number, sample in enumerate(self.samples):
            found.setdefault(sample.picture, []).append(number)
        return found

    @cached_property
    def _said(self) -> dict[int, set[str]]:
        return {
            picture: {self.samples[number].text for number in numbers} for picture, numbers in self.by_picture.items()
        }


class PhraseTable(PhraseSet):
    """A CSV with the header `image,phrase,mask`: files below two folders; a mask is 0 where the phrase is not.

    Masks are palette or 8-bit grey PNGs; 255 beside other values means undecided and counts as not there, 255 alone as
    there. Raises DataError: a folder, the table or its header is missing, or no row can be used.
    """

    def __init__(self, images: str | Path, table: str | Path, masks: str | Path | None = None) -> None:
        """`masks`: folder of the masks; None: that of the pictures."""
        self.images, source = Path(images), Path(table)
        self.masks = self.images if masks is None else Path(masks)
        for folder in (self.images, self.masks):
            if not folder.is_dir():
                raise DataError("is not a folder", where=folder, next_step="Check the path.")
        self.name = f"phrases of {source.name}"
        rows = read_lines(source)
        header = next(rows, (1, ""))[1]
        columns = [cell.strip().lower() for cell in header.split(",")] if isinstance(header, str) else []
        if any(columns.count(name) != 1 for name in COLUMNS):
            raise DataError(
                "does not have the columns `image`, `phrase` and `mask` once each",
                where=source,
                expected="a first line `image,phrase,mask`",
                found=repr(printable(str(header), 80)),
            )
        pictures: dict[str, int] = {}
        samples: list[Phrase] = []
        files: list[Path] = []
        problems: list[Problem] = []
        for number, line in rows:
            where = f"{source.name} line {number}"
            try:
                image, text, mask = _row(line, where, columns)
                for folder, name in ((self.images, image), (self.masks, mask)):
                    if not (folder / inner_path(name, where)).is_file():
                        raise DataError(
                            f"lists {printable(name)!r}, which is not there",
                            where=where,
                            expected=f"a file in {folder}",
                        )
            except ClipEsError as error:
                problems.append(Problem.of(where, error))
                continue
            except OSError as error:  # such as a name of thousands of characters
                problems.append(Problem.of(where, unreadable(where, error)))
                continue
            samples.append(Phrase(pictures.setdefault(image, len(pictures)), text))
            files.append(self.masks / mask)
        if not samples:
            raise DataError(
                "has no row that can be used", where=source, found=problems[0].reason if problems else "no row"
            )
        self.samples, self.problems, self._files = tuple(samples), tuple(problems), files
        self._pictures = list(pictures)

    def picture(self, number: int) -> UInt8[np.ndarray, "h w 3"]:
        """A picture by its number. Raises DataError: missing or damaged."""
        return read_rgb(self.images / self._pictures[number])

    def mask(self, sample: int) -> Bool[np.ndarray, "h w"]:
        """Where the phrase of a sample is. Raises DataError: missing or damaged."""
        return as_binary(read_mask(self._files[sample]))


def read_rgb(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """A picture file, upright, as RGB. Raises DataError: missing or damaged."""
    return read_picture(ImageRecord("picture", path, ()), 1, ImageConfig()).rgb


def as_binary(labels: UInt8[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Labels to a yes or no: anything but 0; and not 255, unless that is the only other value."""
    only_white = not ((labels != 0) & (labels != UNDECIDED)).any()
    return labels != 0 if only_white else (labels != 0) & (labels != UNDECIDED)


def _row(line: str | DataError, where: str, columns: list[str]) -> tuple[str, str, str]:
    """Picture, phrase and mask of a line. Raises DataError: it is no such row."""
    cells = line if isinstance(line, DataError) else csv_cells(line, where)
    if isinstance(cells, DataError):
        raise cells
    if len(cells) != len(columns):
        raise DataError("has another number of columns", where=where, expected=len(columns), found=len(cells))
    image, text, mask = (cells[columns.index(name)].strip() for name in COLUMNS)
    if not text:
        raise DataError("has an empty phrase", where=where, next_step="Say what the mask shows.")
    return image, text, mask
