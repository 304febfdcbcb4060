"""The one way to spread work over threads: decoding, resizing, anything that leaves Python's lock."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")


class Threads:
    """A `Pool` of threads. `with Threads(4) as pool:`; leaving it drops what has not begun and waits for the rest."""

    def __init__(self, threads: int, most: int | None = None) -> None:
        """`most`: tasks under way at a time; None: two for each thread."""
        self.most = 2 * threads if most is None else most
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="ahead")

    def submit(self, work: Callable[..., Result], /, *args: Any) -> Future[Result]:
        """Begin `work(*args)` as soon as a thread is free."""
        return self._pool.submit(work, *args)

    def __enter__(self) -> Threads:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
