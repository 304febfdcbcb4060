"""Work spread over processes, with a bounded number of tasks under way and none lost when a process dies."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


class Died:
    """In place of a result: a process died while this task was under way, perhaps over another one."""


def spread(
    work: Callable[[Task], Result], tasks: Iterable[tuple[int, Task]], workers: int, *, alone: bool = False
) -> Iterator[tuple[int, Task, Result | Died]]:
    """Each numbered task with its result, in order; `tasks` is read as far as processes need it.

    `workers` 0 does the work here. `alone`: one task at a time, so that a death belongs to its task.
    """
    if not workers:
        for number, task in tasks:
            yield number, task, work(task)
        return
    pool = _pool(workers)
    waiting: deque[tuple[int, Task, Future[Result]]] = deque()
    most = 1 if alone else 3 * workers
    try:
        source = iter(tasks)
        while True:
            while len(waiting) < most and (item := next(source, None)) is not None:
                try:
                    future = pool.submit(work, item[1])
                except BrokenProcessPool:
                    pool = _pool(workers)
                    future = pool.submit(work, item[1])
                waiting.append((*item, future))
            if not waiting:
                return
            number, task, future = waiting.popleft()
            try:
                result = future.result()
            except BrokenProcessPool:
                result = Died()
            yield number, task, result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _pool(workers: int) -> ProcessPoolExecutor:
    # Forking a process whose libraries already run threads can hang it, so workers start afresh.
    return ProcessPoolExecutor(workers, get_context("spawn"), initializer=_ignore_interrupts)


def _ignore_interrupts() -> None:
    # Ctrl-C is the main process's to handle.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
