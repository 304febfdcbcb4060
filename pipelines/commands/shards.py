"""`clip-es shards ls|verify|merge`: the shards of a run, on a disk or on object storage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from clip_es.errors import ConfigError, DataError
from clip_es.pipelines.console import counted, say, show_table, summarize, track
from clip_es.storage import Place, Stored, place_of
from clip_es.store.manifest import Manifest
from clip_es.store.shards import manifest
from clip_es.store.shards.manifest import Entry
from clip_es.store.shards.store import Totals
from clip_es.store.shards.upkeep import check_entry, left_over, merge, recover, take_back

RunFlag = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]


def _entries(run: Path) -> list[Entry | DataError]:
    """What the manifest lists, in the order of the data set. Raises DataError, ConfigError: no run in shards."""
    if not Manifest.read(run).sharded:
        raise ConfigError(
            "is a run with a file for each mask",
            where=run,
            expected="a run in shards, as `clip-es masks ... --form webdataset` makes it",
        )
    return list(manifest.entries(place_of(run)))[::-1]


@dataclass(frozen=True, kw_only=True)
class ShardsLs:
    """List the shards of a run: pictures, bytes, failures of each."""

    run_folder: RunFlag
    """The --out of `clip-es masks`: a folder or an address."""
    shown: int = 20
    """Shards that are listed one by one."""

    def run(self) -> int:
        """Print the table and the totals; exit code 1 where an entry of the manifest is damaged."""
        found, total, failed = _entries(self.run_folder), Totals(), 0
        damaged = [one for one in found if isinstance(one, DataError)]
        rows = []
        for one in found:
            if isinstance(one, Entry):
                total.add(one)
                failed += len(one.failures)
                rows.append((one.file or one.name, len(one.ids), one.bytes, len(one.failures)))
        if rows:
            show_table("Shards", ("shard", "pictures", "bytes", "failed"), rows[: self.shown])
        if len(rows) > self.shown:
            say(f"... and {len(rows) - self.shown:,} more (--shown)")
        for error in damaged:
            say(f"{error}")
        say(f"{total.shards:,} shards, {total.rows:,} pictures, {total.bytes:,} bytes, {failed:,} failed")
        counts = {"shards": total.shards, "pictures": total.rows, "bytes": total.bytes}
        summarize({**counts, "failed": failed, "damaged": len(damaged)})
        return 1 if damaged else 0


@dataclass(frozen=True, kw_only=True)
class ShardsVerify:
    """Read every shard of a run and compare it with the manifest; exit code 1 where something is wrong."""

    run_folder: RunFlag
    """The --out of `clip-es masks`: a folder or an address."""
    repair: bool = False
    """Take back what is wrong, so that the next call of `clip-es masks` with the same --out makes it again; list whole
    shards that a damaged or missing entry left out, and remove the other files that no entry names. Not while such a
    call is running."""

    def run(self) -> int:
        """Name every problem."""
        place, found, good, problems = place_of(self.run_folder), _entries(self.run_folder), Totals(), 0
        ids: Counter[str] = Counter()
        for one in track(found, "shards", len(found)):
            error = one if isinstance(one, DataError) else check_entry(place, one)
            if error is None and isinstance(one, Entry):
                good.add(one)
                ids.update(one.ids)
                continue
            problems += 1
            say(f"{error}")
            if self.repair:
                take_back(place, one)
        if twice := sum(count - 1 for count in ids.values()):
            say(f"{counted(twice, 'picture')} in two shards: the first counts")
        spare = left_over(place)
        if spare:
            size = sum(file.size for file in spare)
            say(f"{counted(len(spare), 'file')} without an entry, {size:,} bytes")
        if self.repair:
            self._mend(place, spare, set(ids))
        say(f"{good.shards:,} shards, {good.rows:,} pictures as the manifest says; {counted(problems, 'problem')}")
        summarize({"shards": good.shards, "pictures": good.rows, "problems": problems, "without_entry": len(spare)})
        return 1 if problems and not self.repair else 0

    @staticmethod
    def _mend(place: Place, spare: Sequence[Stored], known: set[str]) -> None:
        """Whole shards get their entry back, other files go."""
        for file in spare:
            entry = recover(place, file, known)
            if entry:
                known.update(entry.ids)
                say(f"{entry.file}: listed again, {counted(len(entry.ids), 'picture')}")
            else:
                place.remove(file.name)
                say(f"{file.name}: removed")
        say("What is missing now is made again by the same call of `clip-es masks`.")


@dataclass(frozen=True, kw_only=True)
class ShardsMerge:
    """Join small shards of a run to larger ones, such as those of failures done again or of many small units.

    Killed at any moment, every picture is still in one shard that counts. Not while `clip-es masks` is running.
    """

    run_folder: RunFlag
    """The --out of `clip-es masks`: a folder or an address."""
    rows_per_shard: int = 4096
    """Pictures of a shard."""
    megabytes: int = 512
    """Most megabytes of a shard; as much memory is needed."""

    def run(self) -> int:
        """Merge, and tell how many are left."""
        if self.rows_per_shard < 1 or self.megabytes < 1:
            raise ConfigError("a shard holds something", found=(self.rows_per_shard, self.megabytes))
        found = _entries(self.run_folder)
        for one in found:
            if isinstance(one, DataError):
                raise one
        entries = [one for one in found if isinstance(one, Entry)]
        made = 0
        for joined in merge(place_of(self.run_folder), entries, self.rows_per_shard, self.megabytes * 10**6):
            made += 1
            say(f"{joined.file}: {counted(len(joined.ids), 'picture')} of {len(joined.replaces)} shards")
        left = list(manifest.entries(place_of(self.run_folder))) if made else found
        summarize({"shards_before": len(found), "shards": len(left)})
        say(f"{len(found):,} shards became {len(left):,}" if made else "Nothing to merge.")
        return 0
