"""Masks by the machines of a Ray cluster: the pictures are cut into units, and whoever is free does the next one.

The calling process is the only one that writes the run folder, so a run can be stopped and continued, here or on a
cluster, and no machine but this one needs it; all must see the pictures under the same paths. A unit whose worker or
machine dies is done again by another, picture by picture, so that one that kills its workers costs only itself.

On CPUs a unit is one task. On GPUs it is two: a process that holds the model on its GPU finds the labels, and a task on
any free core does what follows at full size.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from clip_es.config.run import RunConfig
from clip_es.errors import ClipEsError, ConfigError
from clip_es.pipelines.masks.maker import MaskMaker
from clip_es.pipelines.masks.method import Decide, Refined, masks
from clip_es.pipelines.masks.run import Shelf, make_masks
from clip_es.pipelines.parallel.executor import Executor, Failure, Flow, Portable
from clip_es.pipelines.stopwatch import Stopwatch
from clip_es.refine import workers_help
from clip_es.store.found_labels import FoundLabels
from clip_es.store.run import KeepCams, RunStore
from clip_es.types import ImageRecord, PseudoMask

TRIES = 2
"""How often a picture is tried alone before it counts as failed."""


@dataclass
class Shares:
    """Who did what."""

    pictures: Counter[str] = field(default_factory=Counter)
    """Finished and failed pictures of each machine, by Ray's id of it."""
    lost: int = 0
    """Units whose worker or machine died."""


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


def run_on_ray(
    records: Sequence[ImageRecord],
    maker: MaskMaker,
    store: RunStore,
    *,
    address: str | None = None,
    device: str = "auto",
    gpus: float | None = None,
    batch_size: int = 8,
    unit: int = 32,
    done: Callable[[], object] = lambda: None,
) -> Shares:
    """`make_masks` on a Ray cluster: make and store the masks of records that the store does not have yet.

    `maker` must be on the CPU here; `device` says where the workers put it: cpu, cuda, or auto, which is cuda where the
    cluster has a GPU. `gpus`: share of a GPU that a unit takes; None is 1 on cuda and 0 on the CPU. `address`: of the
    cluster, as `ray.init` takes it; None is RAY_ADDRESS, or where that is not set a cluster of this machine alone.
    `unit`: pictures handed out at a time. A task takes one core and one thread, so on CPUs the bytes are those of a
    local run with one thread. Machines may join and leave while it runs; at most two units for each core and GPU are
    under way, so memory does not grow with the number of pictures. `done` is called once for each picture.
    Raises ConfigError: ray is not installed, no cluster answers, the cluster has no such device, or a refiner cannot
    run at all. StoreError: the disk does not take the files. Nothing that was finished is lost, and the same call
    continues.
    Limits: one process writes everything; beyond that, give each cluster a `--shard`.
    """
    if unit < 1:
        raise ConfigError("a unit holds at least one picture", expected="unit >= 1", found=unit)
    if maker.encoder.device.type != "cpu":
        raise ConfigError("the model travels to the workers from the CPU", found=maker.encoder.device)
    shares, tries = Shares(), Counter[str]()
    waiting = deque(tuple(records[start : start + unit]) for start in range(0, len(records), unit))
    under_way: dict[Any, tuple[ImageRecord, ...]] = {}
    with _cluster(address) as ray:
        device, gpus = _workers(ray, maker, device, gpus)
        submit = _submitter(ray, maker, store.keep, batch_size, device, gpus)
        try:
            while waiting or under_way:
                there = ray.cluster_resources()
                most = 2 * max(1, int(there.get("CPU", 1) + (there.get("GPU", 0) / gpus if gpus else 0)))
                while waiting and len(under_way) < most:
                    some = waiting.popleft()
                    under_way[submit(some)] = some
                ready, _ = ray.wait(list(under_way), num_returns=1, timeout=5)  # the cluster may have grown meanwhile
                for reference in ready:
                    some = under_way.pop(reference)
                    try:
                        result = ray.get(reference)
                    except ray.exceptions.RayError as error:
                        cause = getattr(error, "cause", None) or error
                        if isinstance(error, ray.exceptions.RayTaskError) and not _lost(ray, cause):
                            raise (cause if isinstance(cause, ClipEsError) else error) from error
                        shares.lost += 1
                        for record in _again(some, tries, waiting):
                            store.fail(record, "worker", _died(cause))
                            done()
                        continue
                    _keep(result, store, maker)
                    shares.pictures[result.node] += len(some)
                    for _ in some:
                        done()
        finally:
            for reference in under_way:
                ray.cancel(reference, force=True)
    return shares


def _workers(ray: Any, maker: MaskMaker, device: str, gpus: float | None) -> tuple[str, float]:
    """Where the workers compute, and the share of a GPU that each takes."""
    there = ray.cluster_resources().get("GPU", 0)
    if device == "auto":
        device = "cuda" if there and not maker.exact else "cpu"
    share = gpus if gpus is not None else 1.0 if device.startswith("cuda") else 0.0
    if share > there:
        raise ConfigError(
            "no machine of the cluster has the GPU that was asked for",
            expected=f"{share:g} GPU for each worker",
            found=f"{there:g} in all of the cluster",
            next_step="Pass --device cpu, or add a machine with a GPU.",
        )
    if device != "cpu" and maker.exact:
        raise ConfigError(
            "the published arithmetic is that of a CPU",
            expected="--device cpu, or --arithmetic fast",
            found=f"--device {device}",
        )
    return device, share


def _submitter(
    ray: Any, maker: MaskMaker, keep: KeepCams, batch_size: int, device: str, gpus: float
) -> Callable[[tuple[ImageRecord, ...]], Any]:
    """How a unit is handed out; returns a reference to its UnitResult."""
    # A task that dies is not repeated by Ray: it would repeat the whole unit, again and again.
    once = {"num_cpus": 1, "max_retries": 0}
    # In a list a reference stays one: a worker fetches the model once, not once for each unit.
    shared = [ray.put(maker)]
    # max_calls 0: by default Ray ends a process that used a GPU after one task, and with it the model it holds.
    onto = {**once, "num_gpus": gpus, "max_calls": 0} if gpus else once
    if not gpus or not workers_help(maker.config):
        whole = ray.remote(**onto)(_make_unit)
        return lambda some: whole.remote(shared, some, keep, batch_size, device)
    first, second = ray.remote(**onto)(_refined_unit), ray.remote(**once)(_decided_unit)
    return lambda some: second.remote(first.remote(shared, some, batch_size, device), maker.config, keep)


def _lost(ray: Any, cause: object) -> bool:
    """Whether a task failed because the one before it died."""
    return isinstance(cause, ray.exceptions.RayError) and not isinstance(cause, ray.exceptions.RayTaskError)


def _again(
    some: tuple[ImageRecord, ...], tries: Counter[str], waiting: deque[tuple[ImageRecord, ...]]
) -> Iterator[ImageRecord]:
    """Put the pictures of a lost unit back, one by one; yields those that have been tried often enough."""
    for record in some:
        if len(some) == 1:
            tries[record.image_id] += 1
        if tries[record.image_id] < TRIES:
            waiting.append((record,))
        else:
            yield record


def _died(error: Exception) -> ClipEsError:
    return ClipEsError(
        "the worker died with this picture, twice",
        found=f"{type(error).__name__}; probably out of memory",
        next_step="Call again on machines with more memory; what was finished is kept.",
    )


def _keep(result: UnitResult, store: RunStore, maker: MaskMaker) -> None:
    maker.stopwatch.add(result.seconds)
    for record, cams in result.cams:
        store.save_cams(record, cams)
    for record, stage, error in result.failed:
        store.fail(record, stage, error)
    for record, mask, cams, found in result.saved:
        store.save(record, mask, cams, found)


def _make_unit(
    shared: list[Any], some: tuple[ImageRecord, ...], keep: KeepCams, batch_size: int, device: str
) -> UnitResult:
    """A unit from pictures to masks."""
    maker = _held(shared[0], device)
    before = dict(maker.stopwatch.seconds)
    result = UnitResult(keep, node=_node())
    make_masks(some, maker, result, batch_size=batch_size, workers=0)
    result.seconds = maker.stopwatch.since(before)
    return result


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


def _refined_unit(shared: list[Any], some: tuple[ImageRecord, ...], batch_size: int, device: str) -> RefinedUnit:
    """The first half of a unit: all that needs the model."""
    maker = _held(shared[0], device)
    before = dict(maker.stopwatch.seconds)
    unit = RefinedUnit(node=_node())
    list(masks(some, maker, _HandOver(unit), batch_size))
    unit.seconds = maker.stopwatch.since(before)
    return unit


def _decided_unit(unit: RefinedUnit, config: RunConfig, keep: KeepCams) -> UnitResult:
    """The second half: full size, on any core."""
    torch.set_num_threads(1)
    stopwatch = Stopwatch()
    stopwatch.add(unit.seconds)
    result = UnitResult(keep, node=unit.node)
    shelf = Shelf(result, config.mask, stopwatch)
    for failure in unit.failed:
        shelf.failed(Failure(*failure))
    executor = Executor(shelf.failed)
    decided = executor.apart("refine", Decide(config, stopwatch), ((record, (one,)) for record, one in unit.refined))
    shelf.keep(((record, made) for record, (made,) in decided), executor)
    result.seconds = dict(stopwatch.seconds)
    return result


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


@contextmanager
def _cluster(address: str | None) -> Iterator[Any]:
    """Ray, connected; disconnected afterwards unless the caller was connected before."""
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            "a Ray cluster needs ray, which is not installed", next_step="pip install 'clip-es[ray]'"
        ) from error
    if ray.is_initialized():
        yield ray
        return
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(
            "no Ray cluster answers",
            where=address,
            found=error,
            next_step="Start one with `ray start --head`, or leave the address out for this machine alone.",
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()
