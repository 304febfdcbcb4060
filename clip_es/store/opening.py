"""Before a run is written: which part of it a call does, and whether the place is the run's own.

A run in a folder and one in shards refuse the same things in the same words.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TypeVar

from clip_es.errors import ConfigError
from clip_es.records.dataset import printable
from clip_es.store.differences import describe
from clip_es.store.disk import Lock, make_folder
from clip_es.store.manifest import FILE, Manifest

Item = TypeVar("Item")


def parse_shard(text: str) -> tuple[int, int]:
    """`2/8` as (2, 8). Raises ConfigError: not of the form i/n with 1 <= i <= n."""
    index, _, count = text.partition("/")
    numbers = [int(part) if part.isascii() and part.isdigit() else 0 for part in (index.strip(), count.strip())]
    _check_shard(numbers[0], numbers[1], found=text)
    return numbers[0], numbers[1]


def shard(items: Sequence[Item], index: int, count: int) -> Sequence[Item]:
    """Part `index` of `count`, 1 <= index <= count: every count-th item, so the parts differ by one item at most.

    Raises ConfigError.
    """
    _check_shard(index, count)
    return items[index - 1 :: count]


def claim(folder: Path, shard: tuple[int, int]) -> Lock:
    """The lock of a call's part of a run, (i, n); its name is `iofn`.

    Raises ConfigError: no part of a whole, or another process writes it. StoreError.
    """
    index, count = shard
    _check_shard(index, count)
    make_folder(folder)
    name = f"{index}of{count}"
    lock = Lock.take(folder, name)
    if lock is None:
        raise ConfigError(
            f"another run is writing shard {index}/{count} of this folder",
            where=folder,
            found=Lock.holder(folder, name),
            next_step="Wait for it or stop it, or pass another --out.",
        )
    return lock


def refuse_foreign(place: object, names: Collection[str]) -> None:
    """`names`: what lies where there is no run.yaml. Raises ConfigError: there is something."""
    if names:
        raise ConfigError(
            "there is something that is not a run",
            where=place,
            expected=f"a new or empty one, or one with {FILE}",
            found=", ".join(sorted(map(printable, names))[:8]),
            next_step="Pass another --out.",
        )


def refuse_other_settings(place: object, there: Manifest, wanted: Manifest) -> None:
    """Raises ConfigError: the run that is there has other settings than the one that is wanted."""
    if not there.differences(wanted):
        return
    rows = describe(there, wanted)
    raise ConfigError(
        "there is a run with other settings",
        where=place,
        expected="; ".join(f"{what} {before}" for what, before, _ in rows),
        found="; ".join(f"{what} {now}" for what, _, now in rows),
        next_step="Pass another --out, or the settings of its run.yaml.",
    )


def _check_shard(index: int, count: int, found: str | None = None) -> None:
    if not 1 <= index <= count:
        raise ConfigError(
            "a shard is one part of several",
            expected="i/n with 1 <= i <= n, such as --shard 2/8",
            found=found or f"{index}/{count}",
        )
