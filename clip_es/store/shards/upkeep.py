"""Shards looked after: compared with their manifest, taken back, joined."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from clip_es.errors import DataError
from clip_es.storage import Place, Stored
from clip_es.store.shards import manifest
from clip_es.store.shards.forms import FORMS, FormName
from clip_es.store.shards.manifest import Entry
from clip_es.store.shards.rows import ShardRow


def read_rows(place: Place, entry: Entry) -> list[ShardRow]:
    """All rows of a shard. Raises DataError: missing, or not what its entry says."""
    if not entry.file:
        return []
    data = place.read(entry.file, limit=entry.bytes)
    where = place.at(entry.file)
    if len(data) != entry.bytes or hashlib.sha256(data).hexdigest() != entry.sha256:
        raise DataError(
            "is not the shard that its manifest lists",
            where=where,
            expected=f"{entry.bytes:,} bytes, sha256 {entry.sha256[:12]}...",
            found=f"{len(data):,} bytes, sha256 {hashlib.sha256(data).hexdigest()[:12]}...",
            next_step="`clip-es shards verify --repair` takes it back.",
        )
    rows = list(FORMS[entry.form].decode(data, where))
    if tuple(row.image_id for row in rows) != entry.ids:
        raise DataError("holds other pictures than its manifest says", where=where, expected=f"{len(entry.ids)} rows")
    if any(row.settings_sha256 != entry.settings_sha256 for row in rows):
        raise DataError("holds rows of another run", where=where)
    return rows


def check_entry(place: Place, entry: Entry) -> DataError | None:
    """What is wrong with a shard; None where nothing is."""
    try:
        read_rows(place, entry)
    except DataError as error:
        return error
    return None


def take_back(place: Place, damaged: Entry | DataError) -> int:
    """Remove an entry, so that its pictures count as unfinished; returns how many there were. Raises StoreError."""
    if isinstance(damaged, Entry):
        place.remove(damaged.path)
        return 1
    for file in list(place.files(manifest.FOLDER)):
        if place.at(file.name) == damaged.where:
            place.remove(file.name)
            return 1
    return 0


def left_over(place: Place) -> list[Stored]:
    """Files of shards that no entry names, and entries that a merge has replaced."""
    used = set()
    for entry in manifest.entries(place):
        if isinstance(entry, Entry):
            used |= {entry.file, entry.path}
        elif entry.where:
            used.add(entry.where)  # A damaged one may name any of them.
    files = [file for folder in (manifest.SHARDS, manifest.FOLDER) for file in place.files(folder)]
    return [file for file in files if file.name not in used and place.at(file.name) not in used]


def recover(place: Place, file: Stored, known: set[str]) -> Entry | None:
    """Write the entry of a whole shard that has none, where it holds pictures that are not `known`; None: it does not.

    The name of a shard ends with the beginning of its hash, so a torn one is told from a whole one. Raises StoreError.
    """
    stem, _, suffix = file.name.rpartition(".")
    name, _, digest = stem.removeprefix(f"{manifest.SHARDS}/").rpartition("-")
    form: FormName | None = next((one for one, row in FORMS.items() if row.suffix == f".{suffix}"), None)
    if form is None or not manifest.is_name(name):
        return None
    try:
        data = place.read(file.name)
        if hashlib.sha256(data).hexdigest()[:8] != digest:
            return None
        rows = list(FORMS[form].decode(data, place.at(file.name)))
    except DataError:
        return None
    if not rows or {row.settings_sha256 for row in rows} != {rows[0].settings_sha256}:
        return None
    if known.issuperset(row.image_id for row in rows):
        return None
    return manifest.commit(place, name, form, rows, rows[0].settings_sha256)


def merge(place: Place, entries: Sequence[Entry], rows: int, size: int) -> Iterator[Entry]:
    """Join neighbours of one form as long as a shard stays within `rows` pictures and `size` bytes.

    The new entry names those it replaces before they are removed, so that each picture counts once at any moment.
    Raises DataError: a shard is damaged; the others are left as they are. StoreError.
    """
    number = 1 + max((_merge_number(entry.name) for entry in entries), default=0)
    for some in _groups(entries, rows, size):
        read = [row for entry in some for row in read_rows(place, entry)]
        unique = list({row.image_id: row for row in reversed(read)}.values())[::-1]
        done = {row.image_id for row in unique}
        failed = {one.image_id: one for entry in some for one in entry.failures if one.image_id not in done}
        ids = [row.image_id for row in unique] or sorted(failed)
        yield manifest.commit(
            place,
            manifest.name_of(number, ids, manifest.MERGED),
            some[0].form,
            unique,
            some[0].settings_sha256,
            failures=tuple(failed[name] for name in sorted(failed)),
            replaces=tuple(entry.name for entry in some),
        )
        number += 1
        for entry in some:
            place.remove(entry.path)
        for entry in some:
            if entry.file:
                place.remove(entry.file)


def _merge_number(name: str) -> int:
    return int(name.removeprefix(manifest.MERGED).split("-")[0]) if name.startswith(manifest.MERGED) else 0


def _groups(entries: Sequence[Entry], rows: int, size: int) -> Iterator[list[Entry]]:
    """Neighbours that become one shard; those that stay alone are left out."""
    forms: dict[tuple[FormName, str], list[Entry]] = {}
    for entry in entries:
        group = forms.setdefault((entry.form, entry.settings_sha256), [])
        if group and (
            sum(len(one.ids) for one in group) + len(entry.ids) > rows
            or sum(one.bytes for one in group) + entry.bytes > size
        ):
            if len(group) > 1:
                yield list(group)
            group.clear()
        group.append(entry)
    yield from (group for group in forms.values() if len(group) > 1)
