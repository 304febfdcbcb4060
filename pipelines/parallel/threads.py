"""Work done ahead of the one who needs it: pictures are decoded while the encoder is busy with others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int, most: int
) -> Generator[tuple[Item, Result | Exception], None, None]:
    """Each item with its result, or with the exception it met, in order.

    At most `most` items are under way or waiting to be taken, so memory does not grow with their number. Decoding and
    resizing leave Python's lock, so threads are enough. `threads` 0: everything here, one by one.
    """
    if threads < 1:
        for item in items:
            yield item, _tried(work, item)
        return
    source = iter(items)
    with ThreadPoolExecutor(threads, thread_name_prefix="ahead") as pool:
        waiting: deque[tuple[Item, Future[Result | Exception]]] = deque()

        def fill() -> None:
            for item in islice(source, max(1, most) - len(waiting)):
                waiting.append((item, pool.submit(_tried, work, item)))

        try:
            fill()
            while waiting:
                item, future = waiting.popleft()
                result = future.result()
                fill()
                yield item, result
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _tried(work: Callable[[Item], Result], item: Item) -> Result | Exception:
    try:
        return work(item)
    except Exception as error:
        return error
