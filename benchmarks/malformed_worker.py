"""One process of the campaign in malformed.py: reads spoilt files under limits and tells what came of each.

Told on standard output, one JSON object a line: {"ready": ...} once, then for each case {"start": [reader, number]} and
what came of it. A case is the same whoever reads it and after whatever others: its number decides every random choice.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import shutil
import sys
import time
import traceback
from pathlib import Path
from typing import Any

_WRITES = {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}
_NEVER = {
    *("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pty.spawn", "ctypes.dlopen", "exec"),
    *("socket.connect", "socket.getaddrinfo", "socket.bind", "urllib.Request", "pickle.find_class", "code.__new__"),
}
"""What no reader has a reason for: other programs, the network, code or names out of a file."""


class Guard:
    """Notes every file that is written or read, and everything that is run, through Python's audit events."""

    def __init__(self, readable: list[Path]) -> None:
        self.readable = [str(path) for path in readable]
        self.installed = tuple(f"{Path(path).resolve()}{os.sep}" for path in (sys.prefix, sys.base_prefix))
        self.writable = ""
        self.events: list[str] | None = None
        sys.addaudithook(self._hook)

    def watch(self, folder: Path) -> None:
        """From now on only this folder may be written to."""
        self.writable, self.events = f"{folder.resolve()}{os.sep}", []

    def done(self) -> list[str]:
        """What was out of bounds."""
        found, self.events = self.events or [], None
        return found

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.events is None:
            return
        if event == "exec" and getattr(arguments[0], "co_filename", "").startswith(self.installed):
            return  # a module of a library that is loaded only now
        if event in _NEVER:
            self.events.append(f"{event} {str(arguments)[:200]}")
        elif event == "open":
            path, _, flags = (*arguments, None, None)[:3]
            writing = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) if isinstance(flags, int) else False
            self._path("write" if writing else "read", path)
        elif event in _WRITES:
            self._path("write", arguments[0])

    def _path(self, what: str, path: Any) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return  # an open file
        events, self.events = self.events, None  # looking at the path is no event of the reader's
        try:
            full = os.path.realpath(os.fsdecode(path))
            inside = f"{full}{os.sep}".startswith(self.writable)
            if what == "read":
                inside = inside or full.startswith(tuple(self.readable))
            if not inside and events is not None:
                events.append(f"{what} {full[:300]}")
        except (OSError, ValueError):  # no such path can exist
            pass
        finally:
            self.events = events


def main() -> None:
    """Read cases as told by the arguments."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--plan", required=True, help="JSON: [[reader, first case, cases], ...]")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--keep", type=Path, required=True, help="where files that made trouble are kept")
    parser.add_argument("--memory", type=int, required=True, help="MiB of address space beyond what a start takes")
    arguments = parser.parse_args()
    keep = arguments.keep.absolute()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]

    import malformed_mutations
    from malformed_readers import READERS, TRAPS

    from clip_es.errors import ClipEsError

    home, case = arguments.folder / "home", arguments.folder / "case"
    shutil.rmtree(case, ignore_errors=True)
    home.mkdir(parents=True, exist_ok=True)
    os.chdir(arguments.folder)
    plan = json.loads(arguments.plan)
    readers = {reader.name: reader for reader in (*READERS, *TRAPS)}
    seeds = {}
    for name, _, _ in plan:
        reader = readers[name]
        seeds[name] = list(reader.seeds(home))
        for sound in seeds[name]:  # each has to be accepted, or the campaign would show nothing
            _case(case, reader.file, sound)
            reader.read(case / reader.file, home)
    used = _status("VmSize")
    _limit((used + arguments.memory) * 2**20)
    for name, _, _ in plan:  # and within the limits, too, or every case would be refused for want of memory
        reader = readers[name]
        _case(case, reader.file, seeds[name][0])
        reader.read(case / reader.file, home)
    import clip_es

    guard = Guard(
        [
            home.resolve(),
            Path(sys.prefix).resolve(),
            Path(sys.base_prefix).resolve(),
            Path("/proc"),
            Path("/sys/fs/cgroup"),
        ]
        + [Path(file).resolve().parents[1] for file in (clip_es.__file__, __file__)]
        + [Path("/dev/null"), Path("/usr/share/zoneinfo"), Path("/sys/devices/system/cpu")]
    )
    _tell({"ready": True, "vm_mib": used})
    for name, first, count in plan:
        reader = readers[name]
        gc.collect()
        at_start = _status("VmRSS")
        for number in range(first, first + count):
            _tell({"start": [name, number]})
            rng = random.Random(f"{arguments.seed}/{name}/{number}")
            sound, other = rng.choice(seeds[name]), rng.choice(seeds[name])
            spoil = reader.below if reader.below and rng.random() < 0.5 else malformed_mutations.spoil
            data = spoil(sound, rng, other)
            path = _case(case, reader.file, data)
            _reset_peak()
            before, start = _status("VmRSS"), time.process_time()
            guard.watch(case)
            result, detail = "accepted", ""
            try:
                reader.read(path, home)
            except ClipEsError as error:
                result, detail = "refused", f"{type(error).__name__}: {error}"[:300]
            except BaseException as error:
                result, detail = "wrong error", "".join(traceback.format_exception(error))[-3000:]
            escapes = guard.done()
            seconds = time.process_time() - start
            growth = max(_status("VmHWM") - before, 0)
            told = {"end": [name, number], "result": result, "seconds": round(seconds, 3), "mib": growth}
            told |= {"bytes": len(data)}
            if result == "wrong error":
                told["detail"] = detail
            if escapes:
                told["escapes"] = escapes[:5]
            if result == "wrong error" or escapes:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{name.replace(' ', '-')}-{number}-{reader.file}").write_bytes(data)
            _tell(told)
        gc.collect()
        _tell({"reader": name, "kept_mib": _status("VmRSS") - at_start})


def _case(folder: Path, name: str, data: bytes) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / name).write_bytes(data)
    return folder / name


def _tell(what: dict) -> None:
    sys.stdout.write(json.dumps(what) + "\n")


def _limit(memory: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**28, 2**28))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _status(key: str) -> int:
    """MiB of a line of the kernel's table (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) // 1024
    raise SystemExit("the campaign needs Linux's /proc")


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    main()
