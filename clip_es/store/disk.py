"""Files that appear whole or not at all, and locks that end with their owner, however it ends."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import socket
import time
import warnings
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from clip_es.errors import ClipEsError

try:
    import fcntl
except ImportError:  # Windows: files are still written whole; only the refusal of a second run is missing.
    fcntl = None

_TEMPORARY = ".tmp-"
_LOCK = ".lock-"
_FORGOTTEN = 3600.0
"""Seconds after which an unfinished file counts as dead where the file system knows no locks."""

_SWEPT_AT_MOST = 50
"""Times that a file is written again after another process took its temporary file for a dead writer's. A folder that
exists and takes no files, as those of /proc, gives the same answer for ever."""

_KNOWS_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""Answers of file systems without locks."""

_NEXT_STEP = {
    errno.ENOSPC: "The disk is full: free some space",
    errno.EDQUOT: "The quota is used up: free some space",
    errno.EFBIG: "The file is larger than the system allows: raise the limit",
    errno.EROFS: "The file system is read-only: make it writable or choose another folder",
    errno.EACCES: "Permission is denied: make the folder writable or choose another",
    errno.EPERM: "Permission is denied: make the folder writable or choose another",
}


class StoreError(ClipEsError):
    """The disk does not take what it should. It concerns every picture, so the run stops; what is done stays."""

    @classmethod
    def of(cls, path: Path, error: OSError) -> StoreError:
        """The trouble in our words."""
        step = _NEXT_STEP.get(error.errno or 0, "Repair that")
        return cls(
            "cannot be written",
            where=path,
            found=error.strerror or str(error),
            next_step=f"{step}, then call again; a run with the same --out continues where it stopped.",
        )


def write_atomic(path: Path, data: bytes, *, durable: bool = False, replace: bool = True) -> bool:
    """Write a file under a temporary name in the same folder, then give it its name.

    Whoever reads sees the old file or the new one, never a part. `durable` waits until the bytes survive a power cut.
    Without `replace` an existing file is left alone; returns whether the file was written.
    Raises StoreError: the disk is full or read-only, or permission is denied; nothing is left behind.
    """
    path = Path(path)
    for again in reversed(range(_SWEPT_AT_MOST)):
        temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}")
        try:
            _write(temporary, data, durable)
            written = _publish(temporary, path, replace)
            if durable:
                _sync_folder(path.parent)
            return written
        except FileNotFoundError as error:
            # Between its closing and its renaming the file looks forgotten, and another process may have swept it.
            if not again or not path.parent.is_dir():
                raise StoreError.of(path, error) from error
        except OSError as error:
            raise StoreError.of(path, error) from error
        finally:
            _remove(temporary)
    raise AssertionError("the last attempt returns or raises")


def append(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Add bytes to the end of a file, all or none; `durable`: they survive a power cut. Raises StoreError."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            before = os.fstat(descriptor).st_size
            if os.write(descriptor, data) != len(data):
                os.ftruncate(descriptor, before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if durable:
            _sync_folder(path.parent)
    except OSError as error:
        raise StoreError.of(path, error) from error


def drop_torn_line(path: Path) -> None:
    """Cut a file after its last line break, if a kill or a power cut left half a line. Raises StoreError."""
    try:
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(path, whole)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError.of(path, error) from error


def make_folder(path: Path) -> None:
    """Make a folder and those above it. Raises StoreError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError.of(path, error) from error


def names_in(folder: Path) -> list[str]:
    """Names in a folder, without our own temporary files and locks; files of dead writers are removed on the way."""
    names = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(_TEMPORARY):
                    _sweep(folder / entry.name)
                elif not entry.name.startswith(_LOCK):
                    names.append(entry.name)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise StoreError.of(folder, error) from error
    return names


class Lock:
    """A file that one process at a time holds. The kernel takes it back when the process ends, even by SIGKILL.

    Where the file system knows no locks the file itself is the lock. One that a dead process of this machine left is
    taken over; one of another machine, whose processes cannot be asked, is refused by name until it is removed.
    """

    def __init__(self, path: Path, lock: BaseFileLock) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def take(cls, folder: Path, name: str) -> Lock | None:
        """Hold the lock `name` of a folder; None where another process holds it. Raises StoreError."""
        path = folder / f"{_LOCK}{name}"
        try:
            kind = FileLock if _knows_locks(folder) else SoftFileLock
            lock = kind(str(path), timeout=0, thread_local=False)
            lock.acquire()
        except Timeout:
            return None
        except OSError as error:
            raise StoreError.of(path, error) from error
        try:
            if not isinstance(lock, SoftFileLock):
                _sign(path)
        except BaseException:  # Ctrl-C just now must not leave a lock that nobody can give back.
            lock.release()
            raise
        return cls(path, lock)

    @classmethod
    def wait_for(cls, folder: Path, name: str) -> Lock:
        """Hold the lock as soon as it is free. Raises StoreError."""
        while (lock := cls.take(folder, name)) is None:
            time.sleep(0.02)
        return lock

    @staticmethod
    def holder(folder: Path, name: str) -> str:
        """Who holds the lock, in words, and what to do where that cannot be known."""
        path = folder / f"{_LOCK}{name}"
        try:
            told = path.read_text(errors="replace").split()
        except OSError:
            return "another process"
        if told[:1] == ["process"]:
            return " ".join(told)
        if len(told) < 2:
            return "another process"
        return f"process {told[0]} on {told[1]}; if it has ended, remove {path}"

    @property
    def held(self) -> bool:
        """Whether this object still holds it."""
        return self._lock.is_locked

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Give the lock back and remove its file; a second call does nothing."""
        if self.held:
            if not isinstance(self._lock, SoftFileLock):
                _remove(self.path)  # While it is still held: afterwards the file may be another's.
            self._lock.release()


_lock_support: dict[int, bool] = {}
"""Whether a file system knows locks, by its device."""


def _knows_locks(folder: Path) -> bool:
    """Try one on a file of our own."""
    device = folder.stat().st_dev
    if device not in _lock_support:
        probe = folder / f"{_TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}"
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            _lock_support[device] = _lock(descriptor, supported=True)
        except OSError as error:
            if error.errno not in _KNOWS_NO_LOCKS:
                raise
            _lock_support[device] = False
        finally:
            os.close(descriptor)
            _remove(probe)
    return _lock_support[device]


def _sign(path: Path) -> None:
    """Write into a lock who holds it, and say so where another machine did not give it back."""
    own = f"process {os.getpid()} on {socket.gethostname()}"
    with contextlib.suppress(OSError):  # On a full disk the lock holds all the same, without a name.
        before = path.read_text(errors="replace")[:200]
        path.write_text(own)
        if before.startswith("process") and not before.endswith(f" on {socket.gethostname()}"):
            warnings.warn(f"{path.parent}: took over the lock that {before} did not give back", stacklevel=3)


def _write(path: Path, data: bytes, durable: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        _lock(descriptor)  # As long as it is held, `_sweep` knows that the writer lives.
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)  # Before the renaming: network file systems report a full disk only here.


def _publish(temporary: Path, path: Path, replace: bool) -> bool:
    if not replace:
        try:
            os.link(temporary, path)
            return True
        except FileExistsError:
            return False
        except FileNotFoundError:
            raise
        except OSError:  # A file system without hard links.
            if path.exists():
                return False
    temporary.replace(path)
    return True


def _lock(descriptor: int, *, supported: bool = False) -> bool:
    """Whether the file is now ours; so it counts where the system knows no locks, which `supported` raises."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if supported or error.errno not in _KNOWS_NO_LOCKS:
            raise
    return True


def _sweep(path: Path) -> None:
    """Remove a temporary file whose writer is dead."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return
    try:
        if fcntl is None:
            dead = time.time() - os.fstat(descriptor).st_mtime > _FORGOTTEN
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            dead = True
    except BlockingIOError:
        dead = False
    except OSError:
        dead = time.time() - os.fstat(descriptor).st_mtime > _FORGOTTEN
    finally:
        os.close(descriptor)
    if dead:
        _remove(path)


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except OSError:
        return  # Gone already, or the disk is in trouble, which the caller reports better.


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
