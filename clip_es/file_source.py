"""Files that somebody brings: those of a folder, of a zip archive, or a single one; read without trusting them.

Names inside such files only ever look up what the source itself listed; nothing is unpacked, and nothing is written.
"""

from __future__ import annotations

import json
import os
import stat
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from clip_es.errors import ConfigError, DataError

LARGEST_FILE = 2**26
"""Bytes of one picture's file: 64 MiB."""

LARGEST_JSON = 2**29
"""Bytes of a JSON file about all pictures: 512 MiB."""

_MOST_MEMBERS = 4_000_000
_PIECE = 2**20


class Source:
    """Files by their relative names, with `/` between folders. Raises DataError: not there, or no usable archive."""

    def __init__(self, path: str | Path, suffixes: tuple[str, ...] = ("",)) -> None:
        """`suffixes`: of the files that are listed, in lower case; a single file is listed whatever its name."""
        self.path = Path(path)
        self._archive: zipfile.ZipFile | None = None
        self._members: Mapping[str, zipfile.ZipInfo] = {}
        if self.path.is_dir():
            self.names = tuple(sorted(n for n in _files_below(self.path) if n.lower().endswith(suffixes)))
        elif not self.path.is_file():
            raise DataError("there is no such folder or file", where=self.path, next_step="Check the path.")
        elif zipfile.is_zipfile(self.path):
            self._archive, self._members = _archive(self.path)
            self.names = tuple(sorted(name for name in self._members if name.lower().endswith(suffixes)))
        elif self.path.suffix.lower() == ".zip":
            raise DataError("is a damaged zip archive", where=self.path, next_step="Download it again.")
        else:
            self.names = (self.path.name,)

    def close(self) -> None:
        """Let go of the archive."""
        if self._archive:
            self._archive.close()

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def below(self, folder: str, suffix: str) -> list[str]:
        """Names that end in `suffix`, inside a folder called `folder` if there is one at any depth, else anywhere."""
        fitting = [name for name in self.names if name.lower().endswith(suffix)]
        return [name for name in fitting if folder in PurePosixPath(name).parts[:-1]] or fitting

    def find(self, name: str) -> str | None:
        """The first file with this last part, the one nearest to the top."""
        found = [known for known in self.names if PurePosixPath(known).name == name]
        return min(found, key=lambda known: (known.count("/"), known), default=None)

    def _path(self, name: str) -> Path:
        return self.path if self.path.is_file() else self.path / name

    def bytes(self, name: str, limit: int = LARGEST_FILE) -> bytes:
        """The content of a listed file. Raises DataError: unreadable, damaged, or larger than `limit`."""
        try:
            with self.opened(name) as file:
                pieces, total = [], 0
                # Asked for all at once, Python would set aside as many bytes as there might be.
                while total <= limit and (piece := file.read(_PIECE)):
                    pieces.append(piece)
                    total += len(piece)
            data = b"".join(pieces)
        except DataError:
            raise
        except Exception as error:  # Damaged archives raise many kinds.
            raise DataError("cannot be read", where=name, found=error, next_step="Export it again.") from error
        if len(data) > limit:
            raise DataError("is too large", where=name, expected=f"at most {limit:,} bytes")
        return data

    def opened(self, name: str) -> Any:
        """A listed file, to be read bit by bit. Raises DataError: it cannot be read, or is no plain file."""
        try:
            if self._archive:
                return self._archive.open(self._members[name])
            path = self._path(name)
            if not stat.S_ISREG(path.stat().st_mode):  # Reading a pipe would wait for ever.
                raise DataError("is no plain file", where=name)
            return path.open("rb")
        except DataError:
            raise
        except Exception as error:  # Damaged or locked archives raise many kinds.
            raise DataError("cannot be read", where=name, found=error, next_step="Export it again.") from error

    def text(self, name: str) -> str:
        """The content as UTF-8 text. Raises DataError."""
        try:
            return self.bytes(name).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError("is not UTF-8 text", where=name, found=error) from error

    def json(self, name: str, limit: int = LARGEST_FILE) -> dict[str, Any]:
        """The content as a JSON object. Raises DataError."""
        value = self.json_value(name, limit)
        if not isinstance(value, dict):
            raise DataError("is not a JSON object", where=name, found=type(value).__name__)
        return value

    def json_value(self, name: str, limit: int = LARGEST_FILE) -> Any:
        """The content as whatever JSON says. Raises DataError."""
        try:
            return json.loads(self.bytes(name, limit))
        except (ValueError, RecursionError, MemoryError) as error:
            raise DataError(
                "is not a JSON file, or ends in the middle",
                where=name,
                found=str(error)[:200],
                next_step="Export or download it again.",
            ) from error


def _files_below(root: Path) -> Iterator[str]:
    for folder, _, names in os.walk(root):
        inner = Path(folder).relative_to(root).as_posix()
        for name in names:
            yield name if inner == "." else f"{inner}/{name}"


def _archive(path: Path) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    try:
        archive = zipfile.ZipFile(path)
        members = {info.filename: info for info in archive.infolist() if not info.is_dir()}
    except Exception as error:  # zipfile raises many kinds for damaged archives.
        raise DataError("is a damaged zip archive", where=path, found=error, next_step="Download it again.") from error
    if len(members) > _MOST_MEMBERS:
        raise ConfigError("holds too many files", where=path, expected=f"at most {_MOST_MEMBERS:,}", found=len(members))
    return archive, members
