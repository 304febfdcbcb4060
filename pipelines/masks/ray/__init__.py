"""Masks by the machines of a Ray cluster: the pictures are cut into units, and whoever is free does the next one.

Of a run folder the calling process is the only writer, and no machine but this one needs the folder. Shards are written
by the workers: the calling process sees a few numbers of each unit. Either way a run can be stopped and continued, here
or on a cluster. A unit whose worker or machine dies is done again by another, at last picture by picture, so that one
that kills its workers costs only itself.

These are tasks, and not a data set of Ray Data: Ray Data repeats a block whose worker died, and in the end gives up the
whole data set, where here one picture fails; and it joins and cuts blocks as it likes, where here a shard must hold the
same pictures whoever dies. Back-pressure, retries and workers that keep the model are the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any, TypeVar

from clip_es.errors import ConfigError
from clip_es.pipelines.masks.maker import MaskMaker
from clip_es.pipelines.masks.ray.connect import connected, workers
from clip_es.pipelines.masks.ray.schedule import Schedule, Shares, died
from clip_es.pipelines.masks.ray.units import Destination, Returned, UnitDone, UnitResult, Written, submitter
from clip_es.store.run import RunStore
from clip_es.store.shards.store import ShardStore, Unit
from clip_es.types import ImageRecord

TRIES = 2
"""How often a picture is tried alone before it counts as failed, and a unit before it is halved."""


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
    Limits: one process writes everything; beyond that, write shards (`shards_on_ray`).
    """
    if unit < 1:
        raise ConfigError("a unit holds at least one picture", expected="unit >= 1", found=unit)
    cluster, tries = _Cluster(maker, address, device, gpus, batch_size, done), Counter[str]()
    to = Returned(store.keep)

    def lost(some: tuple[ImageRecord, ...], error: Exception) -> Iterator[tuple[ImageRecord, ...]]:
        for record in some:
            if _once_more(record, len(some) == 1, tries):
                yield (record,)
            else:
                store.fail(record, "worker", died(error))
                done()

    units = (tuple(records[start : start + unit]) for start in range(0, len(records), unit))
    return cluster.run(units, lambda some: (some, to), lambda result: _keep(result, store), lost)


def shards_on_ray(
    records: Sequence[ImageRecord],
    maker: MaskMaker,
    store: ShardStore,
    *,
    size: int,
    address: str | None = None,
    device: str = "auto",
    gpus: float | None = None,
    batch_size: int = 8,
    done: Callable[[], object] = lambda: None,
) -> Shares:
    """The same into shards of `size` pictures, each written by the worker that made its masks.

    All machines must see the place of the store: an address on object storage, or a disk that they share. Arguments and
    errors as in `run_on_ray`. Limits: the calling process reads the manifest and the list of pictures, some ten bytes
    for each picture; nothing else of a picture comes through it.
    """
    cluster, tries = _Cluster(maker, address, device, gpus, batch_size, done), Counter[str]()

    def keep(result: UnitDone) -> None:
        store.failed_here += result.failed

    def lost(unit: Unit, error: Exception) -> Iterator[Unit]:
        tries[unit.name] += 1
        if tries[unit.name] < TRIES:
            yield unit  # Most likely a machine left, and not for anything in the unit.
        elif len(unit) > 1:
            yield from unit.halves()
        else:
            store.fail(unit, "worker", died(error))
            done()

    return cluster.run(store.units(records, size), lambda unit: (unit.records, Written(store.sink, unit)), keep, lost)


U = TypeVar("U", bound=Sized)


@dataclass
class _Cluster:
    """What both kinds of store ask of a cluster alike: units handed out, and who did how many pictures."""

    maker: MaskMaker
    address: str | None
    device: str
    gpus: float | None
    batch_size: int
    done: Callable[[], object]

    def __post_init__(self) -> None:
        if self.maker.encoder.device.type != "cpu":
            raise ConfigError("the model travels to the workers from the CPU", found=self.maker.encoder.device)

    def run(
        self,
        units: Iterable[U],
        work: Callable[[U], tuple[Sequence[ImageRecord], Destination]],
        keep: Callable[[Any], object],
        lost: Callable[[U, Exception], Iterable[U]],
    ) -> Shares:
        """Do all units. `work`: the pictures of one, and where its results go; `keep` takes what came of it; `lost`:
        what to do in place of one whose worker died."""
        shares = Shares()

        def kept(unit: U, result: Any) -> None:
            self.maker.stopwatch.add(result.seconds)
            keep(result)
            shares.pictures[result.node] += len(unit)
            for _ in range(len(unit)):
                self.done()

        with connected(self.address) as ray:
            device, gpus = workers(ray, self.maker, self.device, self.gpus)
            submit = submitter(ray, self.maker, self.batch_size, device, gpus)
            shares.lost = Schedule(ray, lambda unit: submit(*work(unit)), kept, lost, gpus).run(units)
        return shares


def _once_more(record: ImageRecord, alone: bool, tries: Counter[str]) -> bool:
    """Whether a picture of a lost unit is tried again, alone."""
    tries[record.image_id] += alone
    return tries[record.image_id] < TRIES


def _keep(result: UnitResult, store: RunStore) -> None:
    for record, cams in result.cams:
        store.save_cams(record, cams)
    for record, stage, error in result.failed:
        store.fail(record, stage, error)
    for record, mask, cams, found in result.saved:
        store.save(record, mask, cams, found)
