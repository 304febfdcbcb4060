"""Files by place: a folder of this machine, or an address on object storage (s3://, gs://, ...), behind the same verbs.

Addresses go through pyarrow's own file systems where it has one (S3, Google Cloud Storage, Azure, HDFS) and through
fsspec otherwise; credentials, regions and endpoints are found by the rules of those libraries (environment, profiles,
metadata of the machine). A place is only a name until it is used, so it travels to other processes and machines.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from clip_es.errors import ConfigError, DataError
from clip_es.store.disk import StoreError, make_folder, names_in, write_atomic

LARGEST = 2**31
"""Bytes of a file that is read whole."""

_ADDRESS = re.compile(r"(s3|gs|gcs|abfs|abfss|az|adl|hdfs|hf|memory|oci|oss|cos|r2|webhdfs):/{1,2}(?=[^/])")
_PYARROW = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs")
_MANY = 10_000_000


class Stored(NamedTuple):
    """A file of a place."""

    name: str
    """Below the place, with `/` between folders."""
    size: int
    """Bytes."""


def address_of(place: str | Path) -> str | None:
    """The address on object storage that is meant; None where it is a path of this machine.

    A `Path` made of an address has lost one of its two slashes, and gets it back.
    """
    text = str(place)
    scheme = _ADDRESS.match(text)
    return f"{scheme[1]}://{text[scheme.end() :]}".rstrip("/") if scheme else None


def place_of(place: str | Path) -> Place:
    """The place that a path or an address names."""
    address = address_of(place)
    return Folder(Path(place)) if address is None else Remote(address)


def place_and_name(file: str | Path) -> tuple[Place, str]:
    """The place of a single file, and its name there."""
    address = address_of(file)
    if address is None:
        path = Path(file)
        return Folder(path.parent), path.name
    head, _, name = address.rpartition("/")
    return Remote(head), name


class Place:
    """What a folder and an address have in common. Names are relative, and never lead out of the place."""

    def at(self, name: str) -> str:
        """The whole path or address of a file."""
        raise NotImplementedError

    def files(self, below: str = "") -> Iterator[Stored]:
        """Every file of a folder and its sub-folders, in the order of their names; none where there is no such folder.

        Raises DataError: it cannot be listed.
        """
        raise NotImplementedError

    def size(self, name: str) -> int:
        """Bytes of a file. Raises DataError: no such file, or it cannot be asked for."""
        raise NotImplementedError

    def read(self, name: str, start: int = 0, length: int | None = None, limit: int = LARGEST) -> bytes:
        """Bytes of a file, all of them or those of a range. Raises DataError: no such file, or larger than `limit`."""
        raise NotImplementedError

    def opened(self, name: str) -> Any:
        """A file to be read from bit by bit, from any position. Raises DataError."""
        raise NotImplementedError

    def arrow_file(self, name: str) -> Any:
        """The same as pyarrow's own kind of file. Raises DataError, ConfigError: pyarrow is missing."""
        return self.opened(name)

    def write(self, name: str, data: bytes, *, replace: bool = True) -> bool:
        """Write a file: whoever reads sees all of it or none. Without `replace` one that is there stays.

        Returns whether it was written. Raises StoreError.
        """
        raise NotImplementedError

    def remove(self, name: str) -> None:
        """Remove a file; nothing where there is none. Raises StoreError."""
        raise NotImplementedError

    def has(self, name: str) -> bool:
        """Whether there is such a file. Raises DataError: that cannot be asked for."""
        try:
            self.size(name)
        except FileNotThere:
            return False
        return True


class FileNotThere(DataError):
    """There is no such file."""


@dataclass(frozen=True)
class Folder(Place):
    """A folder of this machine."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def at(self, name: str) -> str:
        """The path of a file."""
        return str(self._path(name))

    def files(self, below: str = "") -> Iterator[Stored]:
        """As `Place.files`; temporary files and locks of runs are none, those of dead writers are removed."""
        folder = self._path(below) if below else self.path
        for name in sorted(names_in(folder)):
            inner = f"{below}/{name}" if below else name
            path = folder / name
            try:
                status = path.stat()
            except OSError:
                continue  # gone, or a link that leads nowhere
            if stat.S_ISDIR(status.st_mode) and not path.is_symlink():
                yield from self.files(inner)
            elif stat.S_ISREG(status.st_mode):
                yield Stored(inner, status.st_size)

    def size(self, name: str) -> int:
        """Bytes of a file."""
        try:
            status = self._path(name).stat()
        except OSError as error:
            raise _unreadable(self.at(name), error) from error
        if not stat.S_ISREG(status.st_mode):  # Reading a pipe would wait for ever.
            raise DataError("is no plain file", where=self.at(name))
        return status.st_size

    def read(self, name: str, start: int = 0, length: int | None = None, limit: int = LARGEST) -> bytes:
        """Bytes of a file."""
        wanted = _within(self.size(name), start, length, limit, self.at(name))
        try:
            with self._path(name).open("rb") as file:
                file.seek(start)
                return file.read(wanted)
        except OSError as error:
            raise _unreadable(self.at(name), error) from error

    def opened(self, name: str) -> Any:
        """A file to be read from."""
        self.size(name)
        try:
            return self._path(name).open("rb")
        except OSError as error:
            raise _unreadable(self.at(name), error) from error

    def arrow_file(self, name: str) -> Any:
        """A file to be read from by pyarrow."""
        self.size(name)
        try:
            import pyarrow

            return pyarrow.OSFile(self.at(name))
        except ImportError as error:
            raise ConfigError(
                "Parquet needs the extra `storage`", where=self.at(name), next_step="pip install 'clip-es[storage]'"
            ) from error
        except OSError as error:
            raise _unreadable(self.at(name), error) from error

    def write(self, name: str, data: bytes, *, replace: bool = True) -> bool:
        """Write a file, and its folder where there is none."""
        path = self._path(name)
        make_folder(path.parent)
        return write_atomic(path, data, durable=True, replace=replace)

    def remove(self, name: str) -> None:
        """Remove a file."""
        try:
            self._path(name).unlink(missing_ok=True)
        except OSError as error:
            raise StoreError.of(self._path(name), error) from error

    def _path(self, name: str) -> Path:
        return self.path / _inner(name, self.path)


@dataclass(frozen=True)
class Remote(Place):
    """An address on object storage."""

    address: str

    def __str__(self) -> str:
        return self.address

    def at(self, name: str) -> str:
        """The address of a file."""
        return f"{self.address}/{_inner(name, self.address)}"

    def files(self, below: str = "") -> Iterator[Stored]:
        """As `Place.files`."""
        from pyarrow import fs

        inner = _inner(below, self.address) if below else ""
        system, top = _connected(self.address)
        where = f"{top}/{inner}" if inner else top
        try:
            found = system.get_file_info(fs.FileSelector(where, recursive=True, allow_not_found=True))
        except _TROUBLES as error:
            raise _unreadable(self.at(below) if below else self.address, error) from error
        if len(found) > _MANY:
            raise DataError("holds too many files", where=self.address, expected=f"at most {_MANY:,}")
        # Some systems begin a path with a slash that the top does not have.
        start = len(top.strip("/")) + 1
        files = (Stored(info.path.strip("/")[start:], info.size or 0) for info in found if info.is_file)
        yield from sorted(file for file in files if file.name)

    def size(self, name: str) -> int:
        """Bytes of a file."""
        system, path = self._found(name)
        try:
            info = system.get_file_info(path)
        except _TROUBLES as error:
            raise _unreadable(self.at(name), error) from error
        if not info.is_file:
            raise _missing(self.at(name))
        return int(info.size or 0)

    def read(self, name: str, start: int = 0, length: int | None = None, limit: int = LARGEST) -> bytes:
        """Bytes of a file."""
        try:
            with self.opened(name) as file:
                wanted = _within(file.size(), start, length, limit, self.at(name))
                return file.read_at(wanted, start)
        except _TROUBLES as error:
            raise _unreadable(self.at(name), error) from error

    def opened(self, name: str) -> Any:
        """A file to be read from."""
        system, path = self._found(name)
        try:
            return system.open_input_file(path)
        except _TROUBLES as error:
            raise _unreadable(self.at(name), error) from error

    def write(self, name: str, data: bytes, *, replace: bool = True) -> bool:
        """Write a file: object storage shows it once it has all of it."""
        system, path = self._found(name)
        if not replace and self.has(name):
            return False
        try:
            if system.type_name not in ("s3", "gcs"):  # these know no folders
                system.create_dir(str(PurePosixPath(path).parent), recursive=True)
            with system.open_output_stream(path) as file:
                file.write(data)
        except _TROUBLES as error:
            raise StoreError(
                "cannot be written",
                where=self.at(name),
                found=_told(error),
                next_step="Check the address, the credentials and the network, then call again; the run continues.",
            ) from error
        return True

    def remove(self, name: str) -> None:
        """Remove a file."""
        system, path = self._found(name)
        try:
            system.delete_file(path)
        except FileNotFoundError:
            return
        except _TROUBLES as error:
            raise StoreError("cannot be removed", where=self.at(name), found=_told(error)) from error

    def _found(self, name: str) -> tuple[Any, str]:
        """The file system, and the path of a file there. Raises DataError, ConfigError."""
        inner = _inner(name, self.address)
        system, top = _connected(self.address)
        return system, f"{top}/{inner}"


_TROUBLES = (OSError, ValueError, NotImplementedError, RuntimeError)
"""What pyarrow and fsspec raise where storage does not answer as it should; pyarrow's own errors are among them."""


def _connected(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path there. Raises ConfigError."""
    # A connection does not survive the fork with which data loaders begin their workers.
    return _connection(address, os.getpid())


@lru_cache(maxsize=64)
def _connection(address: str, process: int) -> tuple[Any, str]:
    scheme = address.partition("://")[0]
    try:
        from pyarrow import fs
    except ImportError as error:
        raise ConfigError(
            "object storage needs the extra `storage`", where=address, next_step="pip install 'clip-es[storage]'"
        ) from error
    try:
        if scheme in _PYARROW:
            return fs.FileSystem.from_uri(address)
        import fsspec

        system, path = fsspec.core.url_to_fs(address)
        return fs.PyFileSystem(fs.FSSpecHandler(system)), path
    except (ImportError, *_TROUBLES) as error:
        raise ConfigError(
            "this address cannot be used",
            where=address,
            found=_told(error),
            next_step=f"Check it; `{scheme}://` may need a library of its own, which fsspec names.",
        ) from error


def _inner(name: str, where: object) -> str:
    """A name that stays below its place. Raises DataError."""
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or name.startswith(("/", "\\")) or "\0" in name or ":" in parts[0]:
        raise DataError("a name leads out of its place", where=where, found=repr(name)[:80])
    return name


def _within(size: int, start: int, length: int | None, limit: int, where: str) -> int:
    """How many bytes to read. Raises DataError."""
    wanted = size - start if length is None else length
    if start < 0 or wanted < 0 or start + wanted > size:
        raise DataError("ends too early", where=where, expected=f"{start + max(wanted, 0):,} bytes", found=f"{size:,}")
    if wanted > limit:
        raise DataError("is too large", where=where, expected=f"at most {limit:,} bytes", found=f"{wanted:,}")
    return wanted


def _told(error: BaseException) -> str:
    lines = str(getattr(error, "strerror", None) or error).splitlines() or [type(error).__name__]
    return "".join(letter if letter.isprintable() else " " for letter in lines[0][:300])


def _missing(where: str) -> FileNotThere:
    return FileNotThere("there is no such file", where=where, next_step="Check the name.")


def _unreadable(where: str, error: BaseException) -> DataError:
    if isinstance(error, FileNotFoundError):
        return _missing(where)
    return DataError("cannot be read", where=where, found=_told(error), next_step="Check the address and the access.")
