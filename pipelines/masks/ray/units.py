"""What a worker of a cluster does with a unit, and where it puts the results: back to the caller, or into a shard.

On CPUs a unit is one task. On GPUs it is two: a process that holds the model on its GPU finds the labels, and a task on
any free core does what follows at full size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from clip_es.config.run import RunConfig
from clip_es.pipelines.masks.maker import MaskMaker
from clip_es.pipelines.masks.method import Decide, Refined, masks
from clip_es.pipelines.masks.run import Shelf, Store, make_masks
from clip_es.pipelines.parallel.executor import Executor, Failure, Flow, Portable
from clip_es.pipelines.stopwatch import Stopwatch
from clip_es.refine import workers_help
from clip_es.store.cams import KeepCams
from clip_es.store.found_labels import FoundLabels
from clip_es.store.shards.store import Sink, Unit
from clip_es.types import ImageRecord, PseudoMask


@runtime_checkable
class Destination(Protocol):
    """Where the results of one unit go."""

    def begin(self) -> Store:
        """What takes them, one by one."""
        ...

    def end(self, store: Any, seconds: dict[str, float], node: str) -> Any:
        """What the caller gets once all are there."""
        ...


@dataclass
class UnitResult:
    """What a worker hands back for a unit; takes the place of the run folder there."""

    keep: KeepCams
    saved: list[tuple[ImageRecord, PseudoMask, dict[str, np.ndarray] | None, FoundLabels | None]] = field(
        default_factory=list
    )
    failed: list[tuple[ImageRecord, str, Exception]] = field(default_factory=list)
    cams: list[tuple[ImageRecord, dict[str, np.ndarray]]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    node: str = ""

    def save(
        self,
        record: ImageRecord,
        mask: PseudoMask,
        cams: dict[str, np.ndarray] | None = None,
        found: FoundLabels | None = None,
    ) -> None:
        """As `RunStore.save`."""
        self.saved.append((record, mask, cams, found))

    def save_cams(self, record: ImageRecord, cams: dict[str, np.ndarray]) -> None:
        """As `RunStore.save_cams`."""
        self.cams.append((record, cams))

    def fail(self, record: ImageRecord, stage: str, error: Exception) -> None:
        """As `RunStore.fail`."""
        self.failed.append((record, stage, error))


@dataclass(frozen=True)
class Returned:
    """Results go back to the caller, masks and all."""

    keep: KeepCams

    def begin(self) -> UnitResult:
        """As `Destination.begin`."""
        return UnitResult(self.keep)

    def end(self, store: UnitResult, seconds: dict[str, float], node: str) -> UnitResult:
        """As `Destination.end`."""
        store.seconds, store.node = seconds, node
        return store


@dataclass(frozen=True)
class UnitDone:
    """All that the caller learns of a unit that a worker has written."""

    finished: int
    failed: int
    seconds: dict[str, float]
    node: str


@dataclass(frozen=True)
class Written:
    """Results become a shard that the worker writes by itself."""

    sink: Sink
    unit: Unit

    def begin(self) -> Any:
        """As `Destination.begin`."""
        return self.sink.writer(self.unit)

    def end(self, store: Any, seconds: dict[str, float], node: str) -> UnitDone:
        """As `Destination.end`. Raises StoreError."""
        entry = store.commit()
        return UnitDone(len(entry.ids), len(entry.failures), seconds, node)


Submit = Callable[[Sequence[ImageRecord], Destination], Any]
"""Begins a unit on the cluster; returns a reference to what its destination's `end` gives."""


def submitter(ray: Any, maker: MaskMaker, batch_size: int, device: str, gpus: float) -> Submit:
    """How a unit is handed out."""
    # A task that dies is not repeated by Ray: it would repeat the whole unit, again and again.
    once = {"num_cpus": 1, "max_retries": 0}
    # In a list a reference stays one: a worker fetches the model once, not once for each unit.
    shared = [ray.put(maker)]
    # max_calls 0: by default Ray ends a process that used a GPU after one task, and with it the model it holds.
    onto = {**once, "num_gpus": gpus, "max_calls": 0} if gpus else once
    if not gpus or not workers_help(maker.config):
        whole = ray.remote(**onto)(_make_unit)
        return lambda some, to: whole.remote(shared, some, to, batch_size, device)
    first, second = ray.remote(**onto)(_refined_unit), ray.remote(**once)(_decided_unit)
    return lambda some, to: second.remote(first.remote(shared, some, batch_size, device), maker.config, to)


def _make_unit(
    shared: list[Any], some: Sequence[ImageRecord], destination: Destination, batch_size: int, device: str
) -> Any:
    """A unit from pictures to masks."""
    maker = _held(shared[0], device)
    before = dict(maker.stopwatch.seconds)
    store = destination.begin()
    make_masks(some, maker, store, batch_size=batch_size, workers=0)
    return destination.end(store, maker.stopwatch.since(before), _node())


@dataclass
class RefinedUnit:
    """What a GPU hands on: pictures that need no network any more, in CPU memory."""

    refined: list[tuple[ImageRecord, Refined]] = field(default_factory=list)
    failed: list[tuple[ImageRecord, str, Exception]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    node: str = ""


class _HandOver(Executor):
    """Leaves the last step to another machine."""

    def __init__(self, unit: RefinedUnit) -> None:
        super().__init__(lambda one: unit.failed.append((one.record, one.stage, one.error)))
        self.unit = unit

    def apart(self, stage: str, step: Portable[Any, Any], flow: Flow) -> Flow:
        """Take the pictures out of the flow."""
        for record, (refined,) in flow:
            self.unit.refined.append((record, refined.light()))
        return ()


def _refined_unit(shared: list[Any], some: Sequence[ImageRecord], batch_size: int, device: str) -> RefinedUnit:
    """The first half of a unit: all that needs the model."""
    maker = _held(shared[0], device)
    before = dict(maker.stopwatch.seconds)
    unit = RefinedUnit(node=_node())
    list(masks(some, maker, _HandOver(unit), batch_size))
    unit.seconds = maker.stopwatch.since(before)
    return unit


def _decided_unit(unit: RefinedUnit, config: RunConfig, destination: Destination) -> Any:
    """The second half: full size, on any core."""
    torch.set_num_threads(1)
    stopwatch = Stopwatch()
    stopwatch.add(unit.seconds)
    store = destination.begin()
    shelf = Shelf(store, config.mask, stopwatch)
    for failure in unit.failed:
        shelf.failed(Failure(*failure))
    executor = Executor(shelf.failed)
    decided = executor.apart("refine", Decide(config, stopwatch), ((record, (one,)) for record, one in unit.refined))
    shelf.keep(((record, made) for record, (made,) in decided), executor)
    return destination.end(store, dict(stopwatch.seconds), unit.node)


def _node() -> str:
    import ray

    return ray.get_runtime_context().get_node_id()


_makers: dict[Any, MaskMaker] = {}


def _held(reference: Any, device: str) -> MaskMaker:
    """The model of this worker process, fetched and put on its device by the first task."""
    if reference not in _makers:
        import ray

        torch.set_num_threads(1)
        _makers.clear()
        maker: Any = ray.get(reference)
        _makers[reference] = maker.to(device)
    return _makers[reference]
