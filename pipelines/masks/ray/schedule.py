"""Who does which unit: whoever is free does the next one, and what a dead worker held is done again."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from clip_es.errors import ClipEsError

U = TypeVar("U")


@dataclass
class Shares:
    """Who did what."""

    pictures: Counter[str] = field(default_factory=Counter)
    """Finished and failed pictures of each machine, by Ray's id of it."""
    lost: int = 0
    """Units whose worker or machine died."""


@dataclass
class Schedule(Generic[U]):
    """Hands units out to a cluster and takes back what came of them.

    At most two units for each core and GPU are under way, whoever joins or leaves, and a unit is taken from the list
    only when there is room: neither memory here nor what waits in the cluster grows with their number.
    """

    ray: Any
    submit: Callable[[U], Any]
    """Begins a unit; returns a reference to its result."""
    keep: Callable[[U, Any], object]
    """Takes the result of a unit."""
    lost: Callable[[U, Exception], Iterable[U]]
    """What to do in place of a unit whose worker died."""
    gpus: float = 0.0
    """Share of a GPU that a unit takes."""

    def run(self, units: Iterable[U]) -> int:
        """Do all units; returns how many were lost on the way. Raises what a unit raised, where it is no death."""
        ray, begun, again = self.ray, iter(units), deque[U]()
        under_way: dict[Any, U] = {}
        lost = 0
        try:
            while True:
                self._hand_out(begun, again, under_way)
                if not under_way:
                    return lost
                ready, _ = ray.wait(list(under_way), num_returns=1, timeout=5)  # the cluster may have grown meanwhile
                for reference in ready:
                    unit = under_way.pop(reference)
                    try:
                        result = ray.get(reference)
                    except ray.exceptions.RayError as error:
                        again.extend(self.lost(unit, self._death(error)))
                        lost += 1
                        continue
                    self.keep(unit, result)
        finally:
            for reference in under_way:
                ray.cancel(reference, force=True)

    def _hand_out(self, begun: Iterator[U], again: deque[U], under_way: dict[Any, U]) -> None:
        there = self.ray.cluster_resources()
        most = 2 * max(1, int(there.get("CPU", 1) + (there.get("GPU", 0) / self.gpus if self.gpus else 0)))
        while len(under_way) < most:
            # What was lost comes last, as one of its pictures may end the next worker too.
            unit = next(begun, None)
            if unit is None:
                if not again:
                    return
                unit = again.popleft()
            under_way[self.submit(unit)] = unit

    def _death(self, error: Exception) -> Exception:
        """The death of a worker; an error that a worker raised is raised here."""
        exceptions = self.ray.exceptions
        cause = getattr(error, "cause", None) or error
        # A task also fails because the one before it died.
        died = isinstance(cause, exceptions.RayError) and not isinstance(cause, exceptions.RayTaskError)
        if isinstance(error, exceptions.RayTaskError) and not died:
            raise (cause if isinstance(cause, ClipEsError) else error) from error
        return cause


def died(error: Exception) -> ClipEsError:
    """The error of a picture that ended its workers."""
    return ClipEsError(
        "the worker died with this picture, twice",
        found=f"{type(error).__name__}; probably out of memory",
        next_step="Call again on machines with more memory; what was finished is kept.",
    )
