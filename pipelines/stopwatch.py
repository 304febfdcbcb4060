"""Seconds by stage, and the most memory so far."""

from __future__ import annotations

import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


class Stopwatch:
    """Seconds by stage, summed over pictures and threads: of the wall, or of another clock."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.seconds: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    def __getstate__(self) -> tuple[Callable[[], float], dict[str, float]]:
        return self.clock, dict(self.seconds)

    def __setstate__(self, state: tuple[Callable[[], float], dict[str, float]]) -> None:
        self.__init__(state[0])
        self.add(state[1])

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = self.clock()
        try:
            yield
        finally:
            self.add({stage: self.clock() - start})

    def add(self, seconds: Mapping[str, float]) -> None:
        """Take over what another stopwatch has measured."""
        with self._lock:
            for stage, value in seconds.items():
                self.seconds[stage] += value

    def since(self, before: Mapping[str, float]) -> dict[str, float]:
        """What has come since `dict(stopwatch.seconds)` was `before`."""
        return {stage: seconds - before.get(stage, 0.0) for stage, seconds in self.seconds.items()}


def timed(stage: str) -> Callable[[Function], Function]:
    """A method whose seconds go to `self.stopwatch` under the name of a stage."""

    def around(method: Function) -> Function:
        @wraps(method)
        def within(self: Any, *args: Any, **more: Any) -> Any:
            with self.stopwatch(stage):
                return method(self, *args, **more)

        return within  # pyright: ignore[reportReturnType]

    return around


def peak_memory() -> int | None:
    """The most memory this process has had at once, in bytes; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows.
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
