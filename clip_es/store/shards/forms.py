"""The forms that results take besides a run folder's files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

from clip_es.store.shards import tables, tars
from clip_es.store.shards.rows import ShardRow

FormName = Literal["webdataset", "parquet"]


class Form(NamedTuple):
    """One kind of shard."""

    what: str
    suffix: str
    encode: Callable[[Sequence[ShardRow]], tuple[bytes, list[int]]]
    """All bytes of a shard, and where each row ends where rows are found by their place."""
    decode: Callable[[bytes, str], Iterator[ShardRow]]
    """The rows of it; the text names it in messages. Raises DataError."""


FORMS: dict[FormName, Form] = {
    "webdataset": Form("tar files that webdataset reads", ".tar", tars.encode, tars.decode),
    "parquet": Form("Parquet, one row for each picture", ".parquet", tables.encode, tables.decode),
}
