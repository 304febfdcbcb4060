"""Who does the steps of the method, and what becomes of a picture that one of them cannot do."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from clip_es.images import buckets
from clip_es.pipelines.parallel.pool import Here, Pool, ahead
from clip_es.types import EncodedImage, ImageRecord, Picture

Item = TypeVar("Item")
Asked = TypeVar("Asked", contravariant=True)
Answered = TypeVar("Answered", covariant=True)

Flow = Iterable[tuple[ImageRecord, tuple[Any, ...]]]
"""Pictures on their way: the record, and what the next step is asked with."""


@runtime_checkable
class Portable(Protocol[Asked, Answered]):
    """A step that another process may do."""

    def __call__(self, item: Asked, /) -> Answered:
        """Do it here."""
        ...

    def pack(self, item: Asked, /) -> tuple[Any, ...]:
        """A function and its arguments, to be called elsewhere."""
        ...

    def unpack(self, item: Asked, answer: Any, /) -> Answered:
        """The result, from what that function answered."""
        ...


@dataclass(frozen=True)
class Failure:
    """A picture that ends here."""

    record: ImageRecord
    stage: str
    error: Exception
    reached: tuple[Any, ...] = ()
    """What the step was asked with."""


@dataclass(frozen=True)
class Many:
    """A step for several pictures at once. It is given what the flow brings, in tuples where that is several things."""

    step: Callable[[list[Any]], list[Any]]
    alone: Callable[..., Any]
    """The same for one picture; done where a batch fails."""
    key: Callable[[Any], Hashable]
    """Equal for pictures that may go together."""


def _grid(picture: Picture) -> Hashable:
    return picture.grid_hw


def raised(failure: Failure) -> None:
    """A failure as an exception, for those who have one picture only."""
    raise failure.error


class Executor:
    """Does each step here, one picture after the other, or with the pools it is given.

    A picture that fails leaves the flow: `failed` is told, and the others go on unless it raises.
    """

    def __init__(
        self, failed: Callable[[Failure], object] = raised, *, readers: Pool | None = None, workers: Pool | None = None
    ) -> None:
        """`readers` decode ahead of the encoder, `workers` do what needs no encoder; None: here."""
        self.failed = failed
        self.readers, self.workers = readers or Here(), workers or Here()

    def ahead(self, stage: str, step: Callable[[ImageRecord], Item], records: Iterable[ImageRecord]) -> Flow:
        """A step that is done for further pictures while the first are looked at."""
        pool = self.readers
        for record, future in ahead(lambda one: pool.submit(step, one), records, pool.most):
            yield from self._passed(record, stage, (record,), future.result)

    def together(
        self, stage: str, step: Callable[[list[Picture]], list[EncodedImage]], pictures: Flow, batch_size: int
    ) -> Flow:
        """A step that takes pictures of one grid together; asks the next with picture, encoding and labels.

        A batch that fails, for want of memory most likely, is done picture by picture, so that only what cannot be done
        is lost.
        """
        many = Many(step, lambda picture: step([picture])[0], _grid)
        for record, (picture,), one in self._shared(stage, many, pictures, batch_size, 4 * batch_size):
            yield record, (picture, one, record.class_ids)

    def batched(self, stage: str, many: Many, flow: Flow, batch_size: int) -> Flow:
        """A step that takes several pictures together."""
        for record, _, one in self._shared(stage, many, flow, batch_size, 2 * batch_size):
            yield record, (one,)

    def each(self, stage: str, step: Callable[..., Any], flow: Flow) -> Flow:
        """A step that takes one picture."""
        for record, args in flow:
            yield from self._passed(record, stage, args, lambda args=args: step(*args))

    def apart(self, stage: str, step: Portable[Any, Any], flow: Flow) -> Flow:
        """A step that needs no encoder, so that the workers may do it, in the order in which pictures come."""
        pool = self.workers
        if isinstance(pool, Here):
            yield from self.each(stage, step, flow)
            return

        def submit(item: tuple[ImageRecord, tuple[Any, ...]]) -> Future[Any]:
            return pool.submit(*step.pack(item[1][0]))

        for (record, args), future in ahead(submit, flow, pool.most, early=True):
            yield from self._passed(
                record, stage, args, lambda one=args[0], future=future: step.unpack(one, future.result())
            )

    def _shared(
        self, stage: str, many: Many, flow: Flow, batch_size: int, hold: int
    ) -> Iterator[tuple[ImageRecord, tuple[Any, ...], Any]]:
        """The record, what the step was asked with, and its result."""
        for batch in buckets(flow, batch_size, hold=hold, key=lambda pair: many.key(pair[1][0])):
            asked = [args[0] if len(args) == 1 else args for _, args in batch]
            found = self._tried(many.step, asked)
            for number, (record, args) in enumerate(batch):
                if not isinstance(found, Exception):
                    yield record, args, found[number]
                    continue
                for _, (one,) in self._passed(record, stage, args, lambda args=args: many.alone(*args)):
                    yield record, args, one

    def _passed(self, record: ImageRecord, stage: str, args: tuple[Any, ...], work: Callable[[], Any]) -> Flow:
        """The picture with its result; nothing where it failed."""
        result = self._tried(work)
        if isinstance(result, Exception):
            self.failed(Failure(record, stage, result, args))
        else:
            yield record, (result,)

    @staticmethod
    def _tried(work: Callable[..., Any], *args: Any) -> Any:
        """The result, or the exception in its place: the one place where a picture may fail."""
        try:
            return work(*args)
        except Exception as error:
            return error
