"""Python's garbage collector, out of the way where there is nothing to collect."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Import large libraries without looking for garbage meanwhile.

    What an import makes stays. The collector, which counts new objects, looks through all of it again and again: that
    took a quarter of the time of importing torch and half of numba's.
    """
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            if not gc.get_freeze_count():  # what the program itself has frozen would thaw
                gc.freeze()
                gc.unfreeze()  # all of it is now the oldest generation, without having been looked through
            gc.enable()
