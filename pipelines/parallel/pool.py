"""What threads, processes and neither have in common: work is submitted, and a future stands for its result."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar, runtime_checkable

Item = TypeVar("Item")
Result = TypeVar("Result")


@runtime_checkable
class Pool(Protocol):
    """Whoever does work: `Here`, `Threads` or `Processes`."""

    most: int
    """Tasks that are worth having under way at a time."""

    def submit(self, work: Callable[..., Result], /, *args: Any) -> Future[Result]:
        """Begin `work(*args)`, or do it."""
        ...

    def __enter__(self) -> Pool: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None: ...


class Here:
    """Nobody else: the work is done by the one who submits it, when it is submitted."""

    most = 1

    def submit(self, work: Callable[..., Result], /, *args: Any) -> Future[Result]:
        """Do it. What it raises is kept for whoever asks for the result."""
        future: Future[Result] = Future()
        try:
            future.set_result(work(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def __enter__(self) -> Here:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        pass


def ahead(
    submit: Callable[[Item], Future[Result]], items: Iterable[Item], most: int, *, early: bool = False
) -> Generator[tuple[Item, Future[Result]], None, None]:
    """Each item with the future of its result, in order; `items` is read as far as `most` of them are under way.

    So memory does not grow with the number of items. `early`: hand out what is done before more is read, where reading
    the items is itself the work of the caller.
    """
    source, end = iter(items), object()
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    while True:
        while len(waiting) < max(1, most) and not (early and waiting and waiting[0][1].done()):
            item: Any = next(source, end)
            if item is end:
                break
            waiting.append((item, submit(item)))
        if not waiting:
            return
        yield waiting.popleft()
