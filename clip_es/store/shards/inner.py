"""Files inside shards under names that a path can carry, so that whoever reads masks and pictures reads them there too.

    shard:/data/run/shards/000012-1a2b3c4d-5e6f7a8b.tar@10240+9216@labels.png
    shard:s3:/bucket/run/shards/000012-1a2b3c4d-5e6f7a8b.parquet@17+1@labels.png

Between the signs stand the first byte and the length of a row of a tar, or the number of a row of a Parquet file. One
row is read at a time, with all its files.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from clip_es.errors import DataError
from clip_es.storage import place_and_name
from clip_es.store.shards import tables, tars
from clip_es.store.shards.rows import LARGEST_PART, PICTURE, ShardRow

_INNER = re.compile(r"shard:(?P<file>.+)@(?P<start>[0-9]+)\+(?P<length>[0-9]+)@(?P<part>[a-z.]+)", re.S)
_LARGEST_ROW = 4 * LARGEST_PART


def inner_path(shard: str, start: int, length: int, part: str) -> Path:
    """The name of a file of a row of a shard; `part` as in `PARTS`, or picture."""
    return Path(f"shard:{shard}@{start}+{length}@{part}")


def content_of(path: Path) -> bytes | None:
    """The bytes of a file inside a shard; None where the path is that of a file of its own.

    Raises DataError: the shard cannot be read, or does not hold it.
    """
    found = _INNER.fullmatch(str(path)) if str(path).startswith("shard:") else None
    if found is None:
        return None
    row = _row(found["file"], int(found["start"]), int(found["length"]), os.getpid())
    part = found["part"]
    data = row.picture if PICTURE.fullmatch(part) else row.files.get(part)
    if data is None:
        raise DataError("is not in the shard", where=path, found=", ".join(sorted(row.files)))
    return data


@lru_cache(maxsize=8)
def _row(file: str, start: int, length: int, process: int) -> ShardRow:
    """The last rows stay, since picture, labels and confidence are asked for one after the other."""
    if file.endswith(".parquet"):
        _, firsts = _table(file, process)
        group = max(at for at, first in enumerate(firsts) if first <= start) if start < firsts[-1] else -1
        if group < 0:
            raise DataError("has fewer rows than its manifest says", where=file, expected=f"row {start}")
        return _group(file, group, process)[start - firsts[group]]
    place, name = place_and_name(file)
    rows = list(tars.decode(place.read(name, start, length, limit=_LARGEST_ROW), file))
    if len(rows) != 1:
        raise DataError("holds another row than its manifest says", where=file, found=f"{len(rows)} at {start:,}")
    return rows[0]


@lru_cache(maxsize=32)
def _table(file: str, process: int) -> tuple[Any, tuple[int, ...]]:
    """An opened Parquet file, and the first row of each of its groups, then the number of all."""
    place, name = place_and_name(file)
    opened = tables.opened(place.arrow_file(name), file)
    firsts = [0]
    for group in range(opened.num_row_groups):
        firsts.append(firsts[-1] + opened.metadata.row_group(group).num_rows)
    return opened, tuple(firsts)


@lru_cache(maxsize=2)
def _group(file: str, group: int, process: int) -> list[ShardRow]:
    return tables.group_rows(_table(file, process)[0], group, file)
