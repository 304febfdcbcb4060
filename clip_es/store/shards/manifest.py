"""Which shards a run has: one small JSON for each, written once the shard is whole. A file without one does not count.

    OUT/manifest/000012-1a2b3c4d.json
    OUT/shards/000012-1a2b3c4d-5e6f7a8b.tar

The number is that of the unit of work, then come eight digits of the hash of its picture ids, then of the shard's own
bytes. So whoever does a unit again writes the same entry, and never over the file that another entry names.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

from clip_es.errors import DataError
from clip_es.records.dataset import Problem
from clip_es.storage import FileNotThere, Place
from clip_es.store.shards.forms import FORMS, FormName
from clip_es.store.shards.inner import inner_path
from clip_es.store.shards.rows import ShardRow

FOLDER = "manifest"
SHARDS = "shards"
_VERSION = 1
_LARGEST_ENTRY = 2**28
_READERS = 16
"""Entries that are asked for at a time; object storage answers each after some hundredths of a second."""

MERGED = "merged-"
"""Before the number of an entry that holds the rows of several others."""

_NAME = re.compile(rf"({MERGED})?[0-9]{{6,9}}-[0-9a-f]{{8}}")
_FILE = re.compile(rf"{SHARDS}/({MERGED})?[0-9]{{6,9}}-[0-9a-f]{{8}}-[0-9a-f]{{8}}\.(tar|parquet)")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Entry:
    """One unit of work that is finished: its shard, and the pictures that failed."""

    name: str
    form: FormName
    file: str
    """Below the run; empty where no picture of the unit succeeded."""
    bytes: int
    sha256: str
    settings_sha256: str
    ids: tuple[str, ...]
    """The pictures in the shard, in its order."""
    ends: tuple[int, ...] = ()
    """Where the members of each picture end in a tar."""
    pictures: bool = False
    """Whether the shard carries the pictures' own files."""
    failures: tuple[Problem, ...] = ()
    replaces: tuple[str, ...] = ()
    """Names of entries whose rows this one holds; they do not count any more."""

    @property
    def path(self) -> str:
        """Where the entry lies below the run."""
        return path_of(self.name)

    def json(self) -> bytes:
        """As it is written."""
        told = {"version": _VERSION, **asdict(self)}
        return (json.dumps(told, ensure_ascii=False) + "\n").encode(errors="replace")

    def inner(self, place: Place, number: int, part: str) -> Path:
        """The name of a file of the row `number` of its shard; `part` as in `PARTS`, or picture."""
        start = number if not self.ends else self.ends[number - 1] if number else 0
        length = self.ends[number] - start if self.ends else 1
        return inner_path(place.at(self.file), start, length, part)


def path_of(name: str) -> str:
    """Where the entry of this name lies below a run."""
    return f"{FOLDER}/{name}.json"


def name_of(number: int, image_ids: Iterable[str], before: str = "") -> str:
    """The name of a unit of work: its number, and a hash of its pictures."""
    return f"{before}{number:06d}-{hashlib.sha256(chr(10).join(image_ids).encode()).hexdigest()[:8]}"


def is_name(text: str) -> bool:
    """Whether this may be the name of an entry."""
    return _NAME.fullmatch(text) is not None


def commit(
    place: Place, name: str, form: FormName, rows: Sequence[ShardRow], settings_sha256: str, **more: Any
) -> Entry:
    """Write a shard, then its entry. Killed in between, nothing is there that counts. Raises StoreError."""
    file, digest, data, ends = "", hashlib.sha256(b"").hexdigest(), b"", []
    if rows:
        data, ends = FORMS[form].encode(rows)
        digest = hashlib.sha256(data).hexdigest()
        file = f"{SHARDS}/{name}-{digest[:8]}{FORMS[form].suffix}"
        place.write(file, data)
    ids = tuple(row.image_id for row in rows)
    pictures = bool(rows) and all(row.picture is not None for row in rows)
    entry = Entry(name, form, file, len(data), digest, settings_sha256, ids, tuple(ends), pictures, **more)
    place.write(entry.path, entry.json())
    return entry


def entries(place: Place) -> Iterator[Entry | DataError]:
    """All entries that count, the last first; a damaged one as the error it is, so that the others are still read."""
    # Backwards, because a merge is told before what it replaces, and the later merge before the earlier.
    names = [file.name for file in place.files(FOLDER) if file.name.endswith(".json")][::-1]
    replaced: set[str] = set()
    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(names), 4 * _READERS):
            some = names[start : start + 4 * _READERS]
            for name, one in zip(some, pool.map(partial(_tried, place), some), strict=True):
                if isinstance(one, FileNotThere):
                    continue  # A merge has replaced it meanwhile.
                if isinstance(one, Entry) and one.path != name:
                    one = _damaged(place.at(name), "another name inside")
                if isinstance(one, Entry):
                    replaced.update(one.replaces)
                    if one.name in replaced:
                        continue
                yield one


def read_entry(place: Place, name: str) -> Entry:
    """The entry in a file below the run. Raises DataError: missing, or not as entries are."""
    return parse_entry(place.read(name, limit=_LARGEST_ENTRY), place.at(name))


def parse_entry(data: bytes, where: str) -> Entry:
    """The entry that was written so. Raises DataError."""
    try:
        told = json.loads(data)
        version = told.pop("version")
        told["ids"], told["ends"] = tuple(told["ids"]), tuple(told["ends"])
        told["replaces"] = tuple(told["replaces"])
        told["failures"] = tuple(Problem(**_texts(one)) for one in told["failures"])
        entry = Entry(**told)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(where, f"{type(error).__name__}: {error}"[:200]) from error
    if version != _VERSION:
        raise DataError("is of another version", where=where, expected=_VERSION, found=repr(version)[:40])
    wrong = _wrong(entry)
    if wrong:
        raise _damaged(where, wrong)
    return entry


def failures(found: Iterable[Entry], finished: set[str]) -> list[Problem]:
    """The pictures that failed and no shard holds, each once."""
    failed = {one.image_id: one for entry in found for one in entry.failures if one.image_id not in finished}
    return [failed[image_id] for image_id in sorted(failed)]


def _tried(place: Place, name: str) -> Entry | DataError:
    try:
        return read_entry(place, name)
    except DataError as error:
        return error


def _texts(told: Any) -> dict[str, str]:
    if not isinstance(told, dict) or not all(isinstance(value, str) for value in told.values()):
        raise TypeError("a failure is four texts")
    return told


def _wrong(entry: Entry) -> str | None:
    """What of an entry cannot be; None where all can."""
    texts = (entry.name, entry.form, entry.file, entry.sha256, entry.settings_sha256, *entry.ids, *entry.replaces)
    if not all(isinstance(text, str) for text in texts):
        return "something else than text"
    if not isinstance(entry.pictures, bool):
        return "something else than yes or no"
    if entry.form not in get_args(FormName):
        return f"the form {entry.form!r:.40}"
    if not _NAME.fullmatch(entry.name) or not all(map(_NAME.fullmatch, entry.replaces)):
        return "a name that is none"
    if bool(entry.file) != bool(entry.ids) or (entry.file and not _FILE.fullmatch(entry.file)):
        return f"the file {entry.file!r:.80}"
    if not _DIGEST.fullmatch(entry.sha256) or not _DIGEST.fullmatch(entry.settings_sha256):
        return "a hash that is none"
    numbers = (entry.bytes, *entry.ends)
    if not all(isinstance(number, int) and 0 <= number < 2**40 for number in numbers):
        return "a number that is none"
    rising = all(a < b for a, b in zip((0, *entry.ends), entry.ends, strict=False))
    if not rising or (entry.ends and entry.ends[-1] > entry.bytes):
        return "ends that do not rise"
    if entry.ids and len(entry.ends) != (len(entry.ids) if entry.form == "webdataset" else 0):
        return "not one end for each picture"
    return None


def _damaged(where: str, found: str) -> DataError:
    return DataError(
        "is no entry of a manifest",
        where=where,
        found=found,
        next_step="`clip-es shards verify --repair` takes it back; the next call of `clip-es masks` makes it again.",
    )
