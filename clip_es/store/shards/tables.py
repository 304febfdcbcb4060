"""Shards as Parquet: one row for each picture, its files as columns of bytes.

Columns: image_id, height, width, class_ids, classes, label_confidence, sure, settings_sha256; mask_png, labels_png,
confidence_png, cams_npz, instances_json (null where a run has none); picture and picture_name (null where shards carry
no pictures). Row groups are small, so that a training reads few bytes for one picture; PNGs are not compressed again.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

from clip_es.errors import ConfigError, DataError
from clip_es.store.shards.rows import LARGEST_PART, PARTS, PICTURE, ShardRow

ROWS_OF_A_GROUP = 16
_LARGEST_GROUP = 2**30
"""Bytes of a row group that is read into memory."""


def encode(rows: Sequence[ShardRow]) -> tuple[bytes, list[int]]:
    """A whole Parquet file; its rows are found by number, so no ends are told."""
    pyarrow, parquet = _libraries()
    columns: dict[str, list[Any]] = {name: [] for name in _schema(pyarrow).names}
    for row in rows:
        pictures = [name for name in row.files if PICTURE.fullmatch(name)]
        values: dict[str, Any] = {**row.about(), **{_column(name): row.files.get(name) for name in PARTS}}
        if pictures:
            values |= {"picture": row.files[pictures[0]], "picture_name": pictures[0]}
        for name, column in columns.items():
            column.append(values.get(name))
    table = pyarrow.table(columns, schema=_schema(pyarrow))
    file = io.BytesIO()
    parquet.write_table(
        table, file, row_group_size=ROWS_OF_A_GROUP, compression="none", use_dictionary=False, write_statistics=False
    )
    return file.getvalue(), []


def decode(data: bytes, where: str) -> Iterator[ShardRow]:
    """The rows of a Parquet file. Raises DataError."""
    file = opened(io.BytesIO(data), where)
    for group in range(file.num_row_groups):
        yield from group_rows(file, group, where)


def opened_file(file: Any, where: str) -> Any:
    """Any Parquet file. Raises DataError: it is none, or damaged. ConfigError: pyarrow is missing."""
    _, parquet = _libraries()
    try:
        found = parquet.ParquetFile(file)
        _ = found.schema_arrow
    except Exception as error:  # pyarrow raises many kinds for damaged files.
        raise DataError("is no Parquet file", where=where, found=_told(error)) from error
    return found


def opened(file: Any, where: str) -> Any:
    """A Parquet file with the columns of a shard. Raises DataError: none, or other columns."""
    found = opened_file(file, where)
    kinds = dict(zip(found.schema_arrow.names, found.schema_arrow.types, strict=True))
    wanted = _schema(_libraries()[0])
    wrong = [f"{each.name} {kinds.get(each.name, 'missing')}" for each in wanted if kinds.get(each.name) != each.type]
    if wrong:
        raise DataError(
            "the columns are not those of a shard",
            where=where,
            expected=", ".join(f"{each.name} {each.type}" for each in wanted),
            found="; ".join(wrong)[:300],
        )
    return found


def group_rows(file: Any, group: int, where: str) -> list[ShardRow]:
    """The rows of one row group of an opened file. Raises DataError."""
    try:
        told = file.metadata.row_group(group)
        size = sum(max(told.column(number).total_uncompressed_size, 0) for number in range(told.num_columns))
        if size > _LARGEST_GROUP or told.num_rows > 2**20:
            raise DataError("a row group is too large", where=where, expected=f"at most {_LARGEST_GROUP:,} bytes")
        values = file.read_row_group(group).to_pylist()
    except DataError:
        raise
    except Exception as error:
        raise DataError("a row group is damaged", where=where, found=_told(error)) from error
    return [_row(value, where) for value in values]


def _row(values: dict[str, Any], where: str) -> ShardRow:
    files = {name: values[_column(name)] for name in PARTS if values[_column(name)] is not None}
    if values["picture"] is not None:
        files[str(values["picture_name"])] = values["picture"]
    if any(len(data) > LARGEST_PART for data in files.values()):
        raise DataError("holds a file that is too large", where=where, expected=f"at most {LARGEST_PART:,} bytes")
    return ShardRow.of(values, files, where)


def _column(part: str) -> str:
    return part.replace(".", "_")


def _schema(pyarrow: Any) -> Any:
    text, number, data = pyarrow.string(), pyarrow.int32(), pyarrow.binary()
    return pyarrow.schema(
        [
            ("image_id", text),
            ("height", number),
            ("width", number),
            ("class_ids", pyarrow.list_(number)),
            ("classes", pyarrow.list_(text)),
            ("label_confidence", pyarrow.list_(pyarrow.float64())),
            ("sure", pyarrow.float64()),
            ("settings_sha256", text),
            *((_column(name), data) for name in PARTS),
            ("picture", data),
            ("picture_name", text),
        ]
    )


def _libraries() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError(
            "Parquet needs the extra `storage`", next_step="pip install 'clip-es[storage]', or --form webdataset."
        ) from error
    return pyarrow, parquet


def _told(error: BaseException) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return "".join(letter if letter.isprintable() else " " for letter in lines[0][:200])
