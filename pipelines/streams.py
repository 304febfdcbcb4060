"""Standard output and error as a program meets them: closed, full, of a narrow encoding, or kept for one line."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any


def settle() -> None:
    """Make every stream take every text: one that is closed takes nothing, a narrow encoding gets escapes."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            # The number must be taken, or the next file that is opened gets it and is printed into.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def tell(text: str) -> None:
    """A line on standard error, if that takes it: what is wrong with it shall not hide what is told."""
    _write(f"clip-es: {text}\n")


def tell_fault() -> None:
    """The exception that is being handled, as a fault of this package."""
    _write(traceback.format_exc())
    tell("This is a fault of clip-es. What was finished is safe. Please report it with the lines above.")


def _write(text: str) -> None:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):
        drop(sys.stderr)


def drop(stream: Any) -> None:
    """Nothing that is still waiting to be printed shall fail once more when Python ends."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


@contextmanager
def only_line() -> Iterator[Callable[[str], None]]:
    """Keep standard output for one line: whatever else is printed meanwhile, by other processes too, goes to standard
    error. Yields what prints the line."""
    out, kept = sys.stdout, None
    with suppress(OSError, ValueError):  # In a test or a notebook it is no file.
        if out.fileno() == 1:
            out.flush()
            kept = os.dup(1)
            os.dup2(2, 1)

    def line(text: str) -> None:
        nonlocal kept
        if kept is not None:
            with suppress(OSError, ValueError):
                out.flush()
            os.dup2(kept, 1)
            os.close(kept)
            kept = None
        out.write(f"{text}\n")
        out.flush()

    try:
        with redirect_stdout(sys.stderr):
            yield line
    finally:
        if kept is not None:
            os.dup2(kept, 1)
            os.close(kept)
