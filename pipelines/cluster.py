"""Masks by the machines of a Ray cluster: the pictures are cut into units, and whoever is free does the next one.

The calling process is the only one that writes the run folder, so a run can be stopped and continued, here or on a
cluster, and no machine but this one needs it; all must see the pictures under the same paths. A unit whose worker or
machine dies is done again by another, picture by picture, so that one that kills its workers costs only itself.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from clip_es.errors import ClipEsError, ConfigError
from clip_es.pipelines.mask_maker import MaskMaker
from clip_es.pipelines.pseudo_masks import make_masks
from clip_es.store import KeepCams, RunStore
from clip_es.types import ImageRecord, PseudoMask

TRIES = 2
"""How often a picture is tried alone before it counts as failed."""


@dataclass
class Spread:
    """Who did what."""

    pictures: Counter[str] = field(default_factory=Counter)
    """Finished and failed pictures of each machine, by Ray's id of it."""
    lost: int = 0
    """Units whose worker or machine died."""


@dataclass
class UnitResult:
    """What a worker hands back for a unit; takes the place of the run folder there."""

    keep: KeepCams
    saved: list[tuple[ImageRecord, PseudoMask, dict[str, np.ndarray] | None]] = field(default_factory=list)
    failed: list[tuple[ImageRecord, str, Exception]] = field(default_factory=list)
    cams: list[tuple[ImageRecord, dict[str, np.ndarray]]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    node: str = ""

    def save(self, record: ImageRecord, mask: PseudoMask, cams: dict[str, np.ndarray] | None = None) -> None:
        """As `RunStore.save`."""
        self.saved.append((record, mask, cams))

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
    batch_size: int = 8,
    unit: int = 32,
    done: Callable[[], object] = lambda: None,
) -> Spread:
    """`make_masks` on a Ray cluster: make and store the masks of records that the store does not have yet.

    `address`: of the cluster, as `ray.init` takes it; None is RAY_ADDRESS, or where that is not set a cluster of this
    machine alone. `unit`: pictures handed out at a time. A task takes one core and one thread, so the bytes are those
    of a local run with one thread. Machines may join and leave while it runs; at most two units for each core are
    under way, so memory does not grow with the number of pictures. `done` is called once for each picture.
    Raises ConfigError: ray is not installed, no cluster answers, or a refiner cannot run at all. StoreError: the disk
    does not take the files. Nothing that was finished is lost, and the same call continues.
    Limits: workers compute on the CPU, and one process writes everything; beyond that, give each cluster a `--shard`.
    """
    if unit < 1:
        raise ConfigError("a unit holds at least one picture", expected="unit >= 1", found=unit)
    if maker.encoder.device.type != "cpu":
        raise ConfigError(
            "on a Ray cluster the masks are made on CPUs", expected="--device cpu", found=maker.encoder.device
        )
    spread, tries = Spread(), Counter[str]()
    waiting = deque(tuple(records[start : start + unit]) for start in range(0, len(records), unit))
    under_way: dict[Any, tuple[ImageRecord, ...]] = {}
    with _cluster(address) as ray:
        # A task that dies is not repeated by Ray: it would repeat the whole unit, again and again.
        task = ray.remote(num_cpus=1, max_retries=0)(_make_unit)
        shared = ray.put(maker)
        try:
            while waiting or under_way:
                most = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
                while waiting and len(under_way) < most:
                    some = waiting.popleft()
                    # In a list a reference stays one: a worker fetches the model once, not once for each unit.
                    under_way[task.remote([shared], some, store.keep, batch_size)] = some
                ready, _ = ray.wait(list(under_way), num_returns=1, timeout=5)  # the cluster may have grown meanwhile
                for reference in ready:
                    some = under_way.pop(reference)
                    try:
                        result = ray.get(reference)
                    except ray.exceptions.RayTaskError as error:
                        raise (error.cause if isinstance(error.cause, ClipEsError) else error) from error
                    except ray.exceptions.RayError as error:
                        spread.lost += 1
                        for record in _again(some, tries, waiting):
                            store.fail(record, "worker", _died(error))
                            done()
                        continue
                    _keep(result, store, maker)
                    spread.pictures[result.node] += len(some)
                    for _ in some:
                        done()
        finally:
            for reference in under_way:
                ray.cancel(reference, force=True)
    return spread


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
    for record, mask, cams in result.saved:
        store.save(record, mask, cams)


def _make_unit(shared: list[Any], some: tuple[ImageRecord, ...], keep: KeepCams, batch_size: int) -> UnitResult:
    """What a worker does."""
    import ray  # pyright: ignore[reportMissingImports]

    maker = _held(shared[0])
    before = dict(maker.stopwatch.seconds)
    result = UnitResult(keep, node=ray.get_runtime_context().get_node_id())
    make_masks(some, maker, result, batch_size=batch_size, workers=0)  # pyright: ignore[reportArgumentType]
    result.seconds = {stage: s - before.get(stage, 0.0) for stage, s in maker.stopwatch.seconds.items()}
    return result


_makers: dict[Any, MaskMaker] = {}


def _held(reference: Any) -> MaskMaker:
    """The model of this worker process, fetched by its first task."""
    if reference not in _makers:
        import ray  # pyright: ignore[reportMissingImports]

        torch.set_num_threads(1)
        _makers.clear()
        _makers[reference] = ray.get(reference)
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
        ray.init(address=address, logging_level="ERROR", log_to_driver=False)
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
