"""Shards as tar files that `webdataset` reads: the files of a picture follow each other and share the part of their
name before the first dot.

KEY.json                 what `ShardRow.about` tells
KEY.mask.png ...         the files of `PARTS`, and KEY.picture.jpg (or another suffix) where shards carry pictures

KEY is the id with `%` and `.` as %25 and %2E, because a dot ends the key. No time, owner or order of work is in the
bytes: equal rows give an equal tar. Reading executes nothing and writes nothing; names only ever name a part.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, cast

from clip_es.errors import DataError
from clip_es.store.shards.rows import LARGEST_PART, ShardRow

_BLOCK = tarfile.BLOCKSIZE
_LARGEST_HEADER = 2**20
_MOST_MEMBERS = 16
"""Files of one picture."""


def key_of(image_id: str) -> str:
    """The part of a member's name before its first dot."""
    return image_id.replace("%", "%25").replace(".", "%2E")


def encode(rows: Sequence[ShardRow]) -> tuple[bytes, list[int]]:
    """A whole tar, and where the members of each row end in it."""
    file, ends = io.BytesIO(), []
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for row in rows:
            for name, data in {"json": row.json(), **row.files}.items():
                member = tarfile.TarInfo(f"{key_of(row.image_id)}.{name}")
                member.size, member.mode = len(data), 0o644
                archive.addfile(member, io.BytesIO(data))
            ends.append(file.tell())
    return file.getvalue(), ends


def decode(data: bytes, where: str) -> Iterator[ShardRow]:
    """The rows of a tar, or of a part of one that begins and ends between rows. Raises DataError."""
    key, parts = "", {}
    for name, content in members(io.BytesIO(data), len(data), where, whole=False):
        own, _, part = PurePosixPath(name).name.partition(".")
        if own != key and parts:
            yield _row(parts, where)
            parts = {}
        key = own
        if part in parts or len(parts) >= _MOST_MEMBERS:
            raise DataError("a picture has a file twice, or too many", where=f"{where}: {name}"[:300])
        parts[part] = content
    if parts:
        yield _row(parts, where)


def members(file: Any, size: int, where: str, whole: bool = True) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the plain files of an uncompressed tar, in order. Raises DataError as `places`."""
    for name, start, length in places(file, size, where, whole):
        file.seek(start)
        yield name, file.read(length)


def places(file: Any, size: int, where: str, whole: bool = True) -> Iterator[tuple[str, int, int]]:
    """Name, first byte and length of each plain file of a tar; only headers are read.

    Without `whole` the zeros at its end may be missing, as in a part that is cut out between two members.
    Raises DataError: no tar, damaged, cut off, or a file larger than `LARGEST_PART`.
    """
    file.seek(0)
    try:
        # Compression would have to be undone from the start for every picture.
        with tarfile.open(fileobj=cast(Any, _Headers(file)), mode="r:") as archive:
            last = -1
            while (member := archive.next()) is not None:
                cast(Any, archive).members = []  # It would remember all of them.
                if member.size < 0 or member.offset_data <= last:
                    raise DataError("a header of the tar leads backwards", where=f"{where}: {member.name}"[:300])
                last = member.offset_data
                if not member.isreg() or member.issparse():
                    continue
                _check_member(member, size, where)
                yield member.name, member.offset_data, member.size
            file.seek(archive.offset)
            head = file.read(_BLOCK)
    except (DataError, GeneratorExit):
        raise
    except Exception as error:  # tarfile raises many kinds for damaged archives.
        raise _no_tar(where, f"{type(error).__name__}: {error}"[:200]) from error
    # tarfile takes a damaged header behind the first member for the end; a tar ends with zeros.
    if head.strip(b"\0") or (whole and not head):
        raise _no_tar(where, "a damaged header" if head else "no end")


class _Headers:
    """A file as tarfile sees it: nothing it asks for is larger than headers are, whatever they claim."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, count: int = -1) -> bytes:
        """Bytes from the current position. Raises DataError: more than a header has."""
        if not 0 <= count <= _LARGEST_HEADER:
            raise DataError("a header of the tar is too large", expected=f"at most {_LARGEST_HEADER:,}", found=count)
        return self._file.read(count)


def _check_member(member: tarfile.TarInfo, size: int, where: str) -> None:
    end, named = member.offset_data + member.size, f"{where}: {member.name}"[:300]
    if end > size:
        raise DataError(
            "the tar is cut off", where=named, expected=f"{end:,} bytes", found=f"{size:,}", next_step="Copy it again."
        )
    if member.size > LARGEST_PART:
        raise DataError(
            "is too large for a file of one picture",
            where=named,
            expected=f"at most {LARGEST_PART:,} bytes",
            found=f"{member.size:,}",
        )


def _no_tar(where: str, found: str) -> DataError:
    return DataError(
        "is no sound tar, or a compressed one",
        where=where,
        expected="an uncompressed tar",
        found=found,
        next_step="Copy it again; uncompress .tar.gz first.",
    )


def _row(parts: dict[str, bytes], where: str) -> ShardRow:
    try:
        about = json.loads(parts.pop("json"))
    except (KeyError, ValueError, RecursionError) as error:
        raise DataError("a picture has no readable JSON", where=where, found=str(error)[:200]) from error
    return ShardRow.of(about, parts, where)
