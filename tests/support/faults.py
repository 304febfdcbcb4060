"""A disk that fails on demand: the n-th change below a folder is refused, or the power goes right after it."""

from __future__ import annotations

import builtins
import errno
import io
import os
import pathlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

KINDS: dict[str, int | None] = {
    "disk full": errno.ENOSPC,
    "permission": errno.EACCES,
    "I/O error": errno.EIO,
    "power cut": None,
}
"""What may happen, with the answer of the system."""


class PowerCut(BaseException):
    """Nothing runs after it."""


class Disk:
    """Counts the changes below a folder: files that are made, writes, renames, links, fsyncs, new folders."""

    def __init__(self, root: Path, kind: str = "", at: int = 0) -> None:
        """`at`: which change fails, from 1; 0: none."""
        self.root, self.kind, self.at = os.path.realpath(root), kind, at
        self.changes: list[str] = []
        self.off = False
        self._paths: dict[int, str] = {}
        self._unsure: dict[int, str] = {}
        """Files by inode that were written and not yet fsynced."""

    @property
    def struck(self) -> str:
        """The change that failed; empty where there were fewer."""
        return self.changes[self.at - 1] if 0 < self.at <= len(self.changes) else ""

    def ours(self, path: Any) -> bool:
        """Whether a path lies below the folder."""
        if isinstance(path, int):
            return path in self._paths
        return os.path.realpath(os.fspath(path)).startswith(self.root + os.sep)

    def change(self, what: str, path: Any, do: Callable[[], Any]) -> Any:
        """Do it, unless it is the one that fails."""
        if self.off:
            raise PowerCut
        self.changes.append(f"{what} {os.path.basename(str(self._paths.get(path, path)))}")
        if len(self.changes) == self.at and (code := KINDS[self.kind]) is not None:
            raise OSError(code, os.strerror(code), str(path))
        result = do()
        if len(self.changes) == self.at:
            self.off = True
            raise PowerCut
        return result

    def wrote(self, descriptor: int) -> None:
        """Note a file whose bytes are not yet safe."""
        self._unsure[os.fstat(descriptor).st_ino] = self._paths[descriptor]

    def lose(self) -> int:
        """What a power cut takes: the files that were not fsynced. Returns how many."""
        lost = 0
        for folder, _, names in os.walk(self.root):
            for name in names:
                path = os.path.join(folder, name)
                if os.lstat(path).st_ino in self._unsure:
                    os.unlink(path)
                    lost += 1
        return lost

    @contextmanager
    def __call__(self) -> Iterator[Disk]:
        """Stand between Python and the disk."""
        real = {name: getattr(os, name) for name in _WRAPPED}
        opened, closed, synced, unlinked, io_open = os.open, os.close, os.fsync, os.unlink, io.open

        def open_(path: Any, flags: int, *args: Any, **more: Any) -> int:
            if not flags & (os.O_WRONLY | os.O_RDWR) or not self.ours(path):
                return opened(path, flags, *args, **more)
            if self.off:
                raise PowerCut
            if flags & os.O_CREAT and not os.path.exists(path):
                descriptor = self.change("create", path, lambda: opened(path, flags, *args, **more))
            else:
                descriptor = opened(path, flags, *args, **more)
            self._paths[descriptor] = os.fspath(path)
            if flags & os.O_CREAT:
                self.wrote(descriptor)
            return descriptor

        def close(descriptor: int) -> None:
            self._paths.pop(descriptor, None)
            closed(descriptor)

        def write(descriptor: int, data: Any) -> int:
            if not self.ours(descriptor):
                return real["write"](descriptor, data)
            self.wrote(descriptor)
            return self.change("write", descriptor, lambda: real["write"](descriptor, data))

        def fsync(descriptor: int) -> None:
            if not self.ours(descriptor):
                return synced(descriptor)
            self.change("fsync", descriptor, lambda: synced(descriptor))
            self._unsure.pop(os.fstat(descriptor).st_ino, None)
            return None

        def sync() -> None:
            self._unsure.clear()

        def unlink(path: Any, *args: Any, **more: Any) -> None:
            if self.off and self.ours(path):
                return  # The machine is off.
            unlinked(path, *args, **more)

        def moved(name: str) -> Callable[..., None]:
            def move(source: Any, target: Any, *args: Any, **more: Any) -> None:
                if not self.ours(target):
                    return real[name](source, target, *args, **more)
                return self.change(name, target, lambda: real[name](source, target, *args, **more))

            return move

        def mkdir(path: Any, *args: Any, **more: Any) -> None:
            if not self.ours(path) or os.path.isdir(path) or not os.path.isdir(os.path.dirname(os.fspath(path))):
                return real["mkdir"](path, *args, **more)
            return self.change("mkdir", path, lambda: real["mkdir"](path, *args, **more))

        def file(path: Any, mode: str = "r", *args: Any, **more: Any) -> Any:
            if isinstance(path, int) or not set(mode) & set("wax+") or not self.ours(path):
                return io_open(path, mode, *args, **more)
            names = ("buffering", "encoding", "errors", "newline")
            asked = {**dict(zip(names, args, strict=False)), **more}
            raw = _Raw(path, mode.replace("b", "").replace("t", ""), self)
            buffer = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            text = {name: asked[name] for name in names[1:] if name in asked}
            return buffer if "b" in mode else io.TextIOWrapper(buffer, **text)

        changed = {name: moved(name) for name in ("rename", "replace", "link")} | {"mkdir": mkdir, "write": write}
        changed |= {"open": open_, "close": close, "fsync": fsync, "sync": sync, "unlink": unlink, "remove": unlink}
        with _patched(os, changed), _patched(io, {"open": file}), _patched(builtins, {"open": file}):
            accessor = getattr(pathlib, "_NormalAccessor", None)  # Python 3.10 keeps its own references.
            with _patched(accessor, {n: staticmethod(f) for n, f in (changed | {"open": file}).items()}):
                yield self


_WRAPPED = ("write", "rename", "replace", "link", "mkdir")


class _Raw(io.FileIO):
    """A file whose every write is a change of the disk."""

    def __init__(self, path: Any, mode: str, disk: Disk) -> None:
        self._disk = disk
        super().__init__(path, mode, opener=lambda name, flags: os.open(name, flags, 0o666))

    def write(self, data: Any) -> int:
        self._disk.wrote(self.fileno())
        return self._disk.change("write", self.fileno(), lambda: super(_Raw, self).write(data))

    def close(self) -> None:
        if not self.closed:
            self._disk._paths.pop(self.fileno(), None)
        super().close()


@contextmanager
def _patched(home: Any, names: dict[str, Any]) -> Iterator[None]:
    before = {name: getattr(home, name) for name in names if hasattr(home, name)} if home else {}
    try:
        for name in before:
            setattr(home, name, names[name])
        yield
    finally:
        for name, value in before.items():
            setattr(home, name, value)
