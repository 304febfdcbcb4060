"""Text files line by line, whatever their size, and text that may be shown."""

from __future__ import annotations

import codecs
import csv
import os
import re
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from zipfile import BadZipFile

from clip_es.errors import DataError

LARGEST_TEXT = 2**30
"""Bytes. A list of a million pictures has 30 MB; what is larger than 1 GiB is not a list."""

LONGEST_LINE = 2**20
"""Bytes. What is longer is one bad entry."""

_CHUNK = 2**18
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


def read_lines(path: Path, opened: Any = None) -> Iterator[tuple[int, str | DataError]]:
    """Lines of a text file with their numbers, blank ones left out; any line ending. UTF-8, or UTF-16 with its mark.

    Only a piece of the file is in memory at a time. A line that is not text comes as the error it is, so that the
    others go on. `opened`: the file, where it is open already, as a member of an archive is.
    Raises DataError: the file is missing, damaged or too large.
    """
    for number, line in enumerate(_raw_lines(path, opened), start=1):
        if line is None:
            where = f"{path.name} line {number}"
            yield number, DataError("is too long for a line", where=where, expected=f"at most {LONGEST_LINE:,} bytes")
            continue
        if not line.strip():
            continue
        try:
            text = line.decode()
        except UnicodeDecodeError:
            found = repr(printable(line[:200].decode(errors="replace"), 60))
            where = f"{path.name} line {number}"
            yield number, DataError("is not UTF-8 text", where=where, found=found, next_step="Save it as UTF-8.")
            continue
        if "\0" in text:
            where, found = f"{path.name} line {number}", repr(printable(text, 60))
            yield number, DataError("holds a zero byte", where=where, found=found, next_step="Write the line again.")
            continue
        yield number, text


def _raw_lines(path: Path, opened: Any) -> Iterator[bytes | None]:
    """The lines without their endings; None for one that is too long."""
    try:
        with opened or path.open("rb") as file:
            status = None if opened else os.fstat(file.fileno())
            if status and stat.S_ISREG(status.st_mode) and status.st_size > LARGEST_TEXT:
                raise _too_large(path)
            total, rest, skipping = 0, b"", False
            wide: codecs.IncrementalDecoder | None = None
            while chunk := file.read(_CHUNK):
                if total == 0:
                    if chunk.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                        # What is no character of it becomes one that no name has.
                        wide = codecs.getincrementaldecoder("utf-16")("replace")
                    chunk = chunk.removeprefix(codecs.BOM_UTF8)
                total += len(chunk)
                if wide:
                    chunk = wide.decode(chunk).encode()
                if total > LARGEST_TEXT:
                    raise _too_large(path)
                lines = (rest + chunk).splitlines(keepends=True)
                # The last one may go on in the next chunk; so may the two bytes of one line ending.
                rest = lines.pop() if lines else b""
                for line in lines:
                    yield None if skipping or len(line) > LONGEST_LINE + 2 else line.rstrip(b"\r\n")
                    skipping = False
                if len(rest) > LONGEST_LINE:
                    skipping, rest = True, b"\r" if rest.endswith(b"\r") else b"."
            if rest:
                for line in rest.splitlines():
                    yield None if skipping else line
                    skipping = False
    except OSError as error:
        raise unreadable(path, error) from error
    except (BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:  # a member of an archive
        raise DataError("cannot be read", where=path, found=error, next_step="Export it again.") from error


def _too_large(path: Path) -> DataError:
    return DataError("is too large for a list of pictures", where=path, expected=f"at most {LARGEST_TEXT:,} bytes")


def read_whole(path: Path, largest: int, what: str, start: int = 0) -> bytes:
    """The bytes of a file from `start`. Raises DataError: it cannot be read, or has more than `largest` bytes."""
    pieces, total = [], 0
    try:
        with path.open("rb") as file:
            file.seek(start)
            while total <= largest and (piece := file.read(_CHUNK)):
                pieces.append(piece)
                total += len(piece)
    except OSError as error:
        raise unreadable(path, error) from error
    if total > largest:
        raise DataError(f"is too large for {what}", where=path, expected=f"at most {largest:,} bytes")
    return b"".join(pieces)


def csv_cells(line: str, where: str, delimiter: str = ",") -> list[str] | DataError:
    """Cells of one line. No name holds a line break, so an opening quote without an end spoils only its own line."""
    try:
        return next(csv.reader([line], strict=True, skipinitialspace=True, delimiter=delimiter))
    except csv.Error as error:
        return DataError(
            "is not a row of a CSV file",
            where=where,
            found=f"{error}: {printable(line, 60)!r}",
            next_step="Close the quotes and double those inside a name.",
        )


def check_inside(name: str, where: object) -> None:
    """Raises DataError: a name that is not, or may not be, that of a file below the folder it is looked for in."""
    if not name or name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/"):
        raise DataError(
            f"names the picture {printable(name)!r}",
            where=where,
            expected="a file name relative to the folder of the pictures, with / for sub-folders and without '..'",
            next_step="Correct the name.",
        )


def inner_path(name: str, where: object) -> PurePosixPath:
    """The name of a file below a folder as a path. Raises DataError as `check_inside`."""
    check_inside(name, where)
    return PurePosixPath(name)


def unreadable(where: object, error: OSError) -> DataError:
    """The same trouble in our words."""
    missing = isinstance(error, FileNotFoundError)
    return DataError(
        "does not exist" if missing else f"cannot be read: {error.strerror or error}",
        where=error.filename or where,
        next_step="Check the path." if missing else "Check the file and its permissions.",
    )


def printable(text: str, longest: int = 200) -> str:
    """The text on one line, shortened, with control characters and lone surrogates spelled out."""
    if len(text) > longest:
        text = text[: longest - 3] + "..."
    return _UNPRINTABLE.sub(lambda match: ascii(match[0])[1:-1], text)
