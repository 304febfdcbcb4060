"""Waiting for another process, however busy the machine is."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

SECONDS = 600
"""No test is expected to take that long; a machine with many tests at once may."""


def until(condition: Callable[[], object], process: subprocess.Popen) -> None:
    """Return when something holds or the process has ended. AssertionError: neither happened for ten minutes."""
    end = time.monotonic() + SECONDS
    while not condition() and process.poll() is None:
        assert time.monotonic() < end, f"nothing happened for {SECONDS} seconds"
        time.sleep(0.01)
