"""Pictures in shards: tars as `webdataset` reads them, and Parquet files, each with their labels.

In a tar the files of a picture follow each other and share their name before its first dot: the picture
(`000.jpg`), and its labels in `000.json` or `000.cls` (a class id). In Parquet a column holds the bytes of the
pictures, or Hugging Face's pairs of bytes and path. Labels are what is called labels, label, classes, class, ... there,
names or 0-based ids; numbers whose names a file of Hugging Face's declares are those names. The id of a picture is the
name of its file of shards, two underscores, and its own name or row.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from clip_es.errors import DataError
from clip_es.records.dataset import At, ClassId, Dataset, Entry, Labels, OnBadLabel, check_id, collect, refuse
from clip_es.records.file_listing import PICTURES, SEPARATOR, Place
from clip_es.records.labels.cells import FIELDS
from clip_es.records.labels.declared import labels_of, names_in_parquet
from clip_es.records.labels.lines import Asked
from clip_es.records.packed_records import Records, Row
from clip_es.records.stored.pictures import LARGEST_PICTURE, PartsOf, RowsOf, parquet_file
from clip_es.records.text_files import printable
from clip_es.storage import Place as Storage
from clip_es.storage import place_and_name, place_of

SUFFIXES = (".tar", ".parquet")
_LARGEST_LABELS = 2**24
"""Bytes of the labels of one picture."""
_BUFFER = 2**20
_MOST_SHARDS = 2**15 - 1
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_NAMES = ("classes", "class_names")


class _Sample(NamedTuple):
    """A picture of a shard: its name there, where it lies, its labels as they stand there."""

    name: str
    suffix: str
    at: str
    labels: Any
    names: tuple[str, ...] = ()
    """Those of its numbers, where the shard declares them."""


def shards(
    files: Sequence[str],
    *,
    class_id: ClassId,
    class_count: int | None = None,
    on_bad_label: OnBadLabel = "fail",
    labelled: bool = True,
    image_field: str | None = None,
    label_field: str | None = None,
) -> Dataset:
    """Read which pictures there are, and their labels.

    `files`: paths or addresses, with `*` and `{000..099}` for several. `image_field`, `label_field`: columns of Parquet
    and keys of a tar's JSON; None: the only column of bytes, and the first of the usual names. No picture is decoded;
    of a tar the headers and labels are read, of Parquet the column of labels.

    Raises DataError: no such file, none of its kind, or nothing in it; one that ends in the middle or is damaged is a
    row of `Dataset.problems`, and so is what is wrong with one picture. ConfigError: Parquet without pyarrow.
    """
    names = expanded(files)
    asked = Asked(class_id, class_count, lambda: ())
    lookup, records = Labels(asked.name_or_id, on_bad_label, labelled), Records()
    where = partial(At, "shards" if len(names) > 1 else PurePosixPath(names[0]).name, "picture")

    def read(shard: str, place: int, sample: _Sample) -> Row:
        image_id = f"{shard}{SEPARATOR}{sample.name}".replace("/", SEPARATOR)
        check_id(image_id, f"{shard}: {printable(sample.name)}")
        where = f"{shard}: {printable(sample.name)}"
        ids = lookup.ids(labels_of(sample.labels, sample.names, where) if labelled else (), image_id)
        return Row(image_id, place, ids, None, sample.at)

    def entries() -> Iterator[Entry]:
        number = 0
        for file in names:
            storage, name = place_and_name(file)
            shard = PurePosixPath(name).stem
            open_samples = _tar_samples if name.endswith(".tar") else _table_samples
            try:
                for sample in open_samples(storage, name, image_field, label_field if labelled else ""):
                    number += 1
                    origin = sample.labels if isinstance(sample.labels, DataError) else None
                    image_id = f"{shard}{SEPARATOR}{sample.name}"
                    if origin is not None:
                        yield Entry(image_id, number, refuse(origin))
                        continue
                    source = PartsOf(storage, name) if name.endswith(".tar") else RowsOf(storage, name, sample.suffix)
                    suffix = sample.suffix if name.endswith(".tar") else ""
                    place = records.place(Place(Path(storage.at(name)), suffix, len(shard) + 2, source))
                    yield Entry(image_id, number, partial(read, shard, place, sample))
            except DataError as error:  # What came before is sound.
                if len(names) == 1 and not number:
                    raise
                number += 1
                yield Entry(shard, number, refuse(error))

    return collect("shards", entries(), lookup, records, None, names[0], where)


def expanded(files: Sequence[str]) -> list[str]:
    """The files that are meant, in order: `{000..099}` as numbers of as many digits, `*` as what is there.

    Raises DataError: there is none, one is of another kind, or too many.
    """
    found: list[str] = []
    for pattern in files:
        for one in _numbered(pattern):
            found += _globbed(one) if "*" in one else [one]
    for file in found:
        if PurePosixPath(file).suffix.lower() not in SUFFIXES:
            raise DataError(
                "is no file of shards",
                where=file,
                expected=" or ".join(SUFFIXES),
                next_step="Uncompress .tar.gz first.",
            )
    if not 0 < len(found) <= _MOST_SHARDS:
        raise DataError("there must be shards", expected=f"1 to {_MOST_SHARDS:,} files", found=f"{len(found):,}")
    return list(dict.fromkeys(found))


def _numbered(pattern: str) -> Iterator[str]:
    braces = _BRACES.search(pattern)
    if braces is None:
        yield pattern
        return
    first, last = int(braces[1]), int(braces[2])
    for number in islice(range(first, last + 1), _MOST_SHARDS + 1):
        yield from _numbered(pattern[: braces.start()] + str(number).zfill(len(braces[1])) + pattern[braces.end() :])


def _globbed(pattern: str) -> list[str]:
    top = pattern.partition("*")[0].rpartition("/")[0]
    inner = pattern[len(top) + 1 :] if top else pattern
    fitting = re.compile("[^/]*".join(re.escape(part) for part in inner.split("*")))
    storage = place_of(top or ".")
    return [storage.at(file.name) for file in storage.files() if fitting.fullmatch(file.name)]


def _tar_samples(storage: Storage, name: str, image: str | None, label: str | None) -> Iterator[_Sample]:
    """The pictures of a tar. Raises DataError: it is damaged; those before the damage have come."""
    from clip_es.store.shards.tars import places

    where, key = storage.at(name), ""
    parts: dict[str, tuple[int, int]] = {}
    with storage.opened(name) as opened:
        file: Any = io.BufferedReader(opened, _BUFFER)
        size = file.seek(0, io.SEEK_END)
        ended: DataError | None = None
        try:
            for member, start, length in places(file, size, where):
                path = PurePosixPath(member)
                own = str(path.parent / path.name.partition(".")[0]).removeprefix("./")
                if own != key and parts:
                    yield from _sample(file, key, parts, where, label)
                    parts = {}
                key = own
                parts["." + path.name.partition(".")[2].lower()] = start, length
        except DataError as error:
            ended = error
        if parts:
            yield from _sample(file, key, parts, where, label)
        if ended is not None:
            raise ended


def _sample(file: Any, key: str, parts: dict[str, tuple[int, int]], where: str, label: str | None) -> Iterator[_Sample]:
    """The picture among the files of one name, if there is one."""
    # Masks are pictures too, and have another word before the suffix.
    suffix = next((end for end in parts if end in PICTURES or end.removeprefix(".picture") in PICTURES), None)
    if suffix is None:
        return
    start, length = parts[suffix]
    if length > LARGEST_PICTURE:
        error = DataError("is too large for a picture", where=f"{where}: {key}", found=f"{length:,} bytes")
        yield _Sample(key, suffix, "", error)
        return
    labels: Any = None
    try:
        if label == "":
            labels = ()
        elif ".json" in parts:
            told = json.loads(_part(file, parts[".json"], where, key))
            named = [label] if label else [*_NAMES, *FIELDS]
            labels = next((told[one] for one in named if one in told), None) if isinstance(told, dict) else told
        elif ".cls" in parts:
            labels = _part(file, parts[".cls"], where, key).decode("ascii").strip()
    except DataError as error:
        labels = error
    except (ValueError, RecursionError) as error:
        labels = DataError("the labels cannot be read", where=f"{where}: {printable(key)}", found=str(error)[:200])
    yield _Sample(key, suffix, f"{start}+{length}", labels)


def _part(file: Any, at: tuple[int, int], where: str, key: str) -> bytes:
    if at[1] > _LARGEST_LABELS:
        raise DataError("the labels are too large", where=f"{where}: {printable(key)}", found=f"{at[1]:,} bytes")
    file.seek(at[0])
    return file.read(at[1])


def _table_samples(storage: Storage, name: str, image: str | None, label: str | None) -> Iterator[_Sample]:
    """The rows of a Parquet file; the suffix of a sample is its column of pictures. Raises DataError."""
    where, file = storage.at(name), parquet_file(storage, name)
    schema = file.schema_arrow
    column = image or _picture_column(schema, where)
    wanted = label if label is not None else next((one for one in (*_NAMES, *FIELDS) if one in schema.names), None)
    for one in filter(None, (column, wanted)):
        if one not in schema.names:
            raise DataError("there is no such column", where=where, expected=", ".join(schema.names)[:300], found=one)
    row, names = 0, tuple(names_in_parquet(schema, wanted)) if wanted else ()
    try:
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            values = file.read_row_group(group, columns=[wanted]).column(0).to_pylist() if wanted else [()] * count
            for value in values:
                yield _Sample(str(row), column, str(row), value, names)
                row += 1
    except (DataError, GeneratorExit):
        raise
    except Exception as error:  # pyarrow raises many kinds for damaged files.
        raise DataError("a row group is damaged", where=where, found=str(error)[:200]) from error


def _picture_column(schema: Any, where: str) -> str:
    """The only column of bytes, or of pairs with bytes. Raises DataError."""
    found = [each.name for each in schema if str(each.type) in ("binary", "large_binary") or _is_pair(each.type)]
    if "picture" in found:  # as our own shards call it
        return "picture"
    if len(found) != 1:
        raise DataError(
            "it is not clear which column holds the pictures",
            where=where,
            expected="one column of bytes",
            found=printable(", ".join(found) or f"columns {', '.join(schema.names)}", 300),
            next_step="Name it with --image-field.",
        )
    return found[0]


def _is_pair(kind: Any) -> bool:
    """Whether a column is Hugging Face's kind for pictures: a struct with bytes."""
    return str(kind).startswith("struct<") and "bytes: binary" in str(kind)
