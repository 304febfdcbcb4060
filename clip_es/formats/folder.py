"""The folder of an export: a mark that says what it is, files that appear whole, and lists that grow on the disk."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from clip_es.errors import ConfigError
from clip_es.store.disk import Lock, StoreError, make_folder, names_in, write_atomic
from clip_es.store.tables import json_text

MARK = "clip-es-export.json"
"""Says which run and format the folder holds, and whether the export came to its end."""

_LARGEST_MARK = 2**20
_PART = ".part"


class ExportFolder:
    """A folder that one export at a time writes; `with ExportFolder.open(...) as folder:` lets go of it.

    An export that was stopped begins again in the same folder and replaces what is there. A finished one is never
    touched, because a person may have edited it since.
    """

    def __init__(self, path: Path, about: Mapping[str, Any], lock: Lock) -> None:
        self.path = path
        self.unfinished = ExitStack()
        """What is to be given up when the folder is left before its end."""
        self._about = dict(about)
        self._lock = lock

    @classmethod
    def open(cls, path: str | Path, about: Mapping[str, Any]) -> ExportFolder:
        """Make the folder, or take up one whose export was stopped.

        Raises ConfigError: it holds something else, another or a finished export, or another process writes it.
        StoreError: the disk refuses.
        """
        path = Path(path)
        if path.exists() and not path.is_dir():
            raise ConfigError("an export needs a folder", where=path, found="a file", next_step="Pass another --out.")
        make_folder(path)
        lock = Lock.take(path, "export")
        if lock is None:
            holder = Lock.holder(path, "export")
            raise ConfigError("another export is writing this folder", where=path, found=holder)
        try:
            _check(path, about)
            folder = cls(path, about, lock)
            folder.write(MARK, _mark(about, finished=False))
            return folder
        except BaseException:
            lock.release()
            raise

    def write(self, name: str, data: bytes | str) -> None:
        """A file, whole or not at all; `name` is relative and comes from our own code. Raises StoreError."""
        target = self.path / name
        make_folder(target.parent)
        # Without its mark nobody would know after a power cut what this folder is.
        write_atomic(target, data.encode() if isinstance(data, str) else data, durable=name == MARK)

    def growing(self, name: str) -> GrowingFile:
        """A text file to be written piece by piece; without its `finish` nothing of it stays. Raises StoreError."""
        file = GrowingFile(self.path / name)
        self.unfinished.callback(file.give_up)
        return file

    def growing_json(self, name: str, *lists: str) -> GrowingJson:
        """A JSON object with long lists, likewise. Raises StoreError."""
        return GrowingJson(self.growing(name), {row: self.growing(f"{name}.{row}") for row in lists})

    def finish(self, figures: Mapping[str, Any]) -> None:
        """Mark the export as finished, once its files are safe and what a power cut left is gone."""
        for folder, _, _ in os.walk(self.path):
            names_in(Path(folder))
        if hasattr(os, "sync"):
            os.sync()
        self.write(MARK, _mark({**self._about, **figures}, finished=True))

    def __enter__(self) -> ExportFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.unfinished.close()
        self._lock.release()


class GrowingFile:
    """A text file written piece by piece under another name; `finish` gives it its own. Raises StoreError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._part = path.with_name(path.name + _PART)
        make_folder(path.parent)
        try:
            self._file = self._part.open("wb")
        except OSError as error:
            raise StoreError.of(self._part, error) from error

    def add(self, text: str) -> None:
        """Append text."""
        try:
            self._file.write(text.encode())
        except OSError as error:
            raise StoreError.of(self.path, error) from error

    def add_file(self, other: GrowingFile) -> None:
        """Append what another one holds, and remove that."""
        try:
            other._file.close()
            with other._part.open("rb") as source:
                shutil.copyfileobj(source, self._file)
        except OSError as error:
            raise StoreError.of(self.path, error) from error
        other.give_up()

    def give_up(self) -> None:
        """Close and remove what is not finished; does nothing after `finish`."""
        with suppress(OSError):
            self._file.close()
        self._part.unlink(missing_ok=True)

    def finish(self) -> None:
        """Let the file appear."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._part.replace(self.path)
        except OSError as error:
            raise StoreError.of(self.path, error) from error


class GrowingJson:
    """A JSON object with long lists, written one entry at a time: memory does not grow with their length."""

    def __init__(self, whole: GrowingFile, lists: Mapping[str, GrowingFile]) -> None:
        self._whole = whole
        self._lists = dict(lists)
        self._begun: set[str] = set()

    def add(self, name: str, entry: Mapping[str, Any]) -> None:
        """Append an entry to a list."""
        separator = ",\n" if name in self._begun else "\n"
        self._begun.add(name)
        self._lists[name].add(separator + json.dumps(entry, ensure_ascii=False))

    def finish(self, head: Mapping[str, Any]) -> None:
        """Write `head`, then the lists, as one file."""
        rows = ",\n".join(f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in head.items())
        self._whole.add("{" + rows)
        for name, entries in self._lists.items():
            self._whole.add(f",\n{json.dumps(name)}: [")
            self._whole.add_file(entries)
            self._whole.add("\n]")
        self._whole.add("}\n")
        self._whole.finish()


def read_mark(path: Path) -> dict[str, Any]:
    """What the mark of a folder says; empty where there is none or it is damaged."""
    try:
        with (path / MARK).open("rb") as file:
            mark = json.loads(file.read(_LARGEST_MARK))
        return mark if isinstance(mark, dict) else {}
    except (OSError, ValueError, RecursionError):
        return {}


def _mark(about: Mapping[str, Any], *, finished: bool) -> str:
    return json_text({**about, "finished": finished})


def _check(path: Path, about: Mapping[str, Any]) -> None:
    others = names_in(path)
    if not others:
        return
    mark = read_mark(path)
    if not mark:
        raise ConfigError(
            "the folder holds something that is not an export",
            where=path,
            expected="a new or empty folder",
            found=", ".join(sorted(repr(name)[1:-1] for name in others)[:8]),
            next_step="Pass another --out.",
        )
    if mark.get("finished"):
        raise ConfigError(
            "the folder holds a finished export, and somebody may have edited it",
            where=path,
            next_step="Pass another --out, or remove the folder first.",
        )
    if others == [MARK]:
        return  # Nothing was written yet.
    differing = [key for key, value in about.items() if mark.get(key) != json.loads(json.dumps(value))]
    if differing:
        raise ConfigError(
            "the folder holds the beginning of another export",
            where=path,
            expected="; ".join(f"{key} = {mark.get(key)}"[:200] for key in differing),
            found="; ".join(f"{key} = {about[key]}"[:200] for key in differing),
            next_step="Pass another --out.",
        )
