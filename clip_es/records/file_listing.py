"""Which files there are, without asking the disk for each: a question for each of a million pictures would be slow.

Names are kept as 64-bit hashes with Python's secret seed, so a million files take ten megabytes. Two names that share a
hash are as likely as one in ten million for a million files; the file would then be missed when it is opened.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from clip_es.decode import PICTURES
from clip_es.records.text_files import unreadable

MASKS = (".png",)

SEPARATOR = "__"
"""Stands in an image id for the / of a sub-folder."""


@runtime_checkable
class Origin(Protocol):
    """Where pictures come from that are no files of this machine."""

    def picture(self, name: str) -> Any:
        """The picture of a row (`clip_es.given.Elsewhere`), from what the row says of its file."""
        ...


class Place(NamedTuple):
    """Where files lie, and how they end."""

    folder: Path
    suffix: str
    prefix: int = 0
    """Characters of the id that name the sub-folder."""
    origin: Origin | None = None
    """What fetches the pictures, where `folder` is not one of this machine."""

    def path(self, image_id: str) -> Path:
        """The file of an id."""
        return self.folder / (image_id[self.prefix :] + self.suffix)


class Listing:
    """Files of some folders by id, each folder listed once.

    The id is the name without its suffix; with `nested`, those of sub-folders are joined before it by two underscores.
    Where there are several files of one id, the first folder and then the first suffix counts.
    """

    PICTURES = PICTURES
    MASKS = MASKS

    def __init__(self, *folders: Path, suffixes: tuple[str, ...], nested: bool = False) -> None:
        self.places: list[Place] = []
        self._where = folders, suffixes, nested
        rank = {suffix: i for i, suffix in enumerate(suffixes)}
        codes: dict[tuple[int, str], int] = {}
        order: list[tuple[int, int, str]] = []
        hashes, code_of = array("q"), array("i")
        for top in folders:
            for folder, prefix in _folders(top, nested):
                number = len(self.places)
                for name in _file_names(folder):
                    stem, dot, end = name.rpartition(".")
                    suffix = dot + end
                    if not stem or (place := rank.get(suffix.lower())) is None:
                        continue
                    code = codes.setdefault((number, suffix), len(self.places))
                    if code == len(self.places):
                        self.places.append(Place(folder, suffix, len(prefix)))
                        order.append((number, place, suffix))
                    hashes.append(hash(prefix + stem))
                    code_of.append(code)
        all_hashes, all_codes = np.frombuffer(hashes, np.int64), np.frombuffer(code_of, np.int32)
        preference = np.empty(len(order), np.int32)
        preference[sorted(range(len(order)), key=order.__getitem__)] = np.arange(len(order), dtype=np.int32)
        by_hash = np.lexsort((preference[all_codes], all_hashes))
        first = np.ones(len(by_hash), bool)
        first[1:] = all_hashes[by_hash[1:]] != all_hashes[by_hash[:-1]]
        self._hashes = array("q", all_hashes[by_hash[first]].tobytes())
        self._codes = array("i", all_codes[by_hash[first]].tobytes())

    def __len__(self) -> int:
        return len(self._hashes)

    def ids(self) -> list[str]:
        """Every id that has a file, sorted; the folders are listed once more for it."""
        folders, suffixes, nested = self._where
        return sorted(
            {
                prefix + PurePosixPath(name).stem
                for top in folders
                for folder, prefix in _folders(top, nested)
                for name in _file_names(folder)
                if PurePosixPath(name).suffix.lower() in suffixes
            }
        )

    def place(self, image_id: str) -> int | None:
        """Number in `places` of the file of an id."""
        wanted = hash(image_id)
        at = bisect_left(self._hashes, wanted)
        return self._codes[at] if at < len(self._hashes) and self._hashes[at] == wanted else None

    def find(self, image_id: str) -> Path | None:
        """The file of an id."""
        code = self.place(image_id)
        return None if code is None else self.places[code].path(image_id)


class Tree:
    """Which files lie below a folder; a sub-folder is listed when it is first asked for."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self._names: dict[str, array[int]] = {}

    def has(self, inner: str) -> bool:
        """Whether there is a file of this name, relative to the top, with / for sub-folders."""
        folder, _, name = inner.rpartition("/")
        names = self._names.get(folder)
        if names is None:
            names = self._names[folder] = array("q", map(hash, _file_names(self.top / folder)))
            if names:
                np.frombuffer(names, np.int64).sort()  # in place
        wanted = hash(name)
        at = bisect_left(names, wanted)
        # A disk that takes A.JPG for a.jpg knows better than the list of names.
        return (at < len(names) and names[at] == wanted) or (self.top / inner).is_file()


class ByName:
    """In which folders there is a picture of a name, with its suffix or without: 24 bytes for each picture."""

    def __init__(self, names: Iterable[str]) -> None:
        """`names`: relative to the top, with / for sub-folders."""
        folders: dict[str, int] = {}
        hashes, places = array("q"), array("i")
        for inner in names:
            folder, _, name = inner.rpartition("/")
            place = folders.setdefault(folder, len(folders))
            for known in (name, name.rpartition(".")[0]):
                hashes.append(hash(known))
                places.append(place)
        order = np.argsort(np.frombuffer(hashes, np.int64), kind="stable")
        self._hashes = np.frombuffer(hashes, np.int64)[order]
        self._places = np.frombuffer(places, np.int32)[order]
        self._folders = list(folders)
        self._parts = {part for folder in folders for part in folder.split("/") if part}

    def folders(self, name: str) -> list[str]:
        """The folders that have one, in the order in which they came."""
        first, last = np.searchsorted(self._hashes, hash(name)), np.searchsorted(self._hashes, hash(name), "right")
        return [self._folders[k] for k in np.unique(self._places[first:last]).tolist()]

    def knows_one(self, parts: Iterable[str]) -> bool:
        """Whether a folder is called like one of these."""
        return not self._parts.isdisjoint(parts)


def picture_names(top: Path, suffixes: tuple[str, ...] = PICTURES) -> Iterator[str]:
    """Names of the pictures in a folder and its sub-folders, relative to it, in order; hidden ones are left out.

    Raises DataError: a folder cannot be listed.
    """
    for folder, _ in _folders(top, nested=True):
        inner = folder.relative_to(top).as_posix()
        for name in sorted(_file_names(folder)):
            if not name.startswith(".") and PurePosixPath(name).suffix.lower() in suffixes:
                yield name if inner == "." else f"{inner}/{name}"


def _folders(top: Path, nested: bool) -> Iterator[tuple[Path, str]]:
    """A folder, then those below it by name, each with the prefix of its ids.

    Links to folders are followed after all others, so that a folder has the name of its own place where it is reached
    both ways; none is visited twice.
    """
    seen: set[tuple[int, int]] = set()
    waiting, linked = [(top, "")], deque[tuple[Path, str]]()
    while waiting or linked:
        folder, prefix = waiting.pop() if waiting else linked.popleft()
        if not nested:
            yield folder, prefix
            return
        try:
            status = folder.stat()
        except OSError:  # Gone, or a link that leads nowhere.
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        yield folder, prefix
        real, links = _folder_names(folder)
        waiting.extend((folder / name, f"{prefix}{name}{SEPARATOR}") for name in reversed(real))
        linked.extend((folder / name, f"{prefix}{name}{SEPARATOR}") for name in links)


def _file_names(folder: Path) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            # Whatever is not surely a folder may be a picture: links are followed only when the file is opened.
            yield from (entry.name for entry in entries if not entry.is_dir(follow_symlinks=False))
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: no name a file could have
        return
    except OSError as error:
        raise unreadable(folder, error) from error


def _folder_names(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the folders in a folder, sorted: real ones, and links to some. Hidden ones are left out."""
    real, links = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    real.append(entry.name)
                elif entry.is_symlink() and entry.is_dir():
                    links.append(entry.name)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise unreadable(folder, error) from error
    return sorted(real), sorted(links)
