"""Masks on a Ray cluster: two machines, one of which dies, and still the bytes of a local run."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from held_up import held_up
from ray_machines import machines
from waiting import until

from clip_es.config.run import DEFAULT
from clip_es.errors import ConfigError
from clip_es.pipelines.cli import main
from clip_es.pipelines.masks import ray as cluster
from clip_es.pipelines.masks.maker import MaskMaker
from clip_es.pipelines.masks.ray import run_on_ray, shards_on_ray
from clip_es.pipelines.masks.ray.schedule import Schedule
from clip_es.pipelines.masks.run import make_masks, make_shards
from clip_es.records import voc
from clip_es.scenes.dataset import ScenesConfig, make
from clip_es.storage import Folder, Place, place_of
from clip_es.store.failures import read_failures
from clip_es.store.run import RunStore
from clip_es.store.shards.store import ShardStore, Unit
from clip_es.types import ImageRecord


@pytest.fixture(scope="module")
def maker() -> MaskMaker:
    return MaskMaker.load(config=replace(DEFAULT, refine=("affinity",)), device="cpu")


@pytest.fixture(scope="module")
def records(maker, tmp_path_factory) -> list[ImageRecord]:
    root = make(tmp_path_factory.mktemp("scenes"), ScenesConfig(train=0, val=6, side=(64, 80)))
    drawn = voc(root, "val", class_id=maker.vocabulary.class_id).records
    return [replace(drawn[i % len(drawn)], image_id=f"picture-{i}") for i in range(60)]


def open_store(folder: Path, maker: MaskMaker) -> RunStore:
    return RunStore.open(folder, {"config": maker.config}, keep="maps")


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@contextmanager
def two_machines(mark: Path) -> Iterator[str]:
    """A cluster of two machines with a core each, joined; the second one dies when it waits for a picture (`HeldUp`).

    Yields Ray's id of the second.
    """
    started, (second,) = machines({"num_cpus": 1})
    import ray

    over = threading.Event()

    def kill() -> None:
        while not mark.exists() and not over.is_set():
            time.sleep(0.05)
        started.remove_node(second, allow_graceful=False)

    thread = threading.Thread(target=kill)
    try:
        ray.init(address=started.address, logging_level="ERROR", log_to_driver=False)
        thread.start()
        yield second.node_id
    finally:
        over.set()
        if thread.is_alive():
            thread.join()
        ray.shutdown()
        started.shutdown()


@pytest.mark.filterwarnings("ignore")  # of Ray's own code
def test_a_machine_that_dies_costs_nothing_but_time(maker, records, tmp_path):
    broken = replace(records[0], image_id="broken", path=tmp_path / "missing.jpg")
    with open_store(tmp_path / "here", maker) as store:
        make_masks([*records, broken], maker, store, workers=0)
    count = 0

    def done() -> None:
        nonlocal count
        count += 1

    with two_machines(tmp_path / "mark") as second, open_store(tmp_path / "there", maker) as store:
        some = [*held_up(records, second, tmp_path / "mark"), broken]
        spread = run_on_ray(some, maker, store, unit=4, done=done)
    assert count == len(records) + 1
    assert spread.lost > 0, "one died at work"
    assert [problem.image_id for problem in read_failures(tmp_path / "there" / "failures.csv")] == ["broken"]
    assert tree(tmp_path / "there") == tree(tmp_path / "here")


def shard_store(place: Path | Place, maker: MaskMaker) -> ShardStore:
    return ShardStore.open(place, {"config": maker.config}, classes=maker.vocabulary.names, form="webdataset")


def shards_of(place: Place) -> dict[str, bytes]:
    """Shards and their entries, and what failed; not the summary, which tells seconds."""
    return {file.name: place.read(file.name) for file in place.files() if file.name != "summary.json"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Ray's own code
def test_workers_write_shards_and_a_machine_that_dies_leaves_whole_ones(maker, records, tmp_path):
    broken = replace(records[0], image_id="broken", path=tmp_path / "missing.jpg")
    with shard_store(tmp_path / "here", maker) as store:
        make_shards([*records, broken], maker, store, size=8)
        store.finish()
    with two_machines(tmp_path / "mark") as second:
        with shard_store(tmp_path / "there", maker) as store:
            some = [*held_up(records, second, tmp_path / "mark"), broken]
            spread = shards_on_ray(some, maker, store, size=8)
            summary = store.finish()
        assert spread.lost > 0, "one died at work"
        assert sum(spread.pictures.values()) == len(records) + 1
        assert (summary.done, summary.failed) == (len(records), 1)
        with shard_store(tmp_path / "there", maker) as store:
            again = shards_on_ray([*records, broken], maker, store, size=8)
            assert sum(again.pictures.values()) == 1, "the failure alone is left"
    here, there = shards_of(Folder(tmp_path / "here")), shards_of(Folder(tmp_path / "there"))
    again = f"manifest/{Unit(7, [broken]).name}.json"
    assert there.pop(again)
    assert here == there


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Ray's own code and the server's
def test_a_caller_that_is_killed_leaves_whole_shards_on_object_storage_and_the_next_one_does_the_rest(bucket, tmp_path):
    count = 40
    root = make(tmp_path / "scenes", ScenesConfig(train=0, val=count, side=(64, 80)))
    call = ["masks", "scenes", "--root", str(root), "--refine", "affinity", "--device", "cpu", "--rows-per-shard", "1"]
    assert main([*call, "--out", str(tmp_path / "here"), "--form", "webdataset", "--workers", "0"]) == 0
    place = place_of(f"{bucket}/there")
    started, _ = machines({"num_cpus": 1})
    try:
        there = ["--engine", "ray", "--ray-address", started.address, "--out", f"{bucket}/there"]
        quiet, command = subprocess.DEVNULL, [sys.executable, "-m", "clip_es", *call, *there]
        with subprocess.Popen(command, stdout=quiet, stderr=quiet) as caller:
            until(lambda: next(place.files("manifest"), None), caller)
            caller.kill()
        finished = [file for file in place.files("manifest") if file.name.endswith(".json")]
        assert caller.returncode == -signal.SIGKILL
        assert 0 < len(finished) < count
        assert main([*call, *there]) == 0
    finally:
        started.shutdown()
    whole, mended = (shards_of(one) for one in (Folder(tmp_path / "here"), place))
    for name in ("run.yaml", "report.html"):  # the one tells who made it, the other where and how long it took
        assert whole.pop(name)
        assert mended.pop(name)
    assert len(mended) == 2 * count + 1
    assert mended == whole


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Ray's own code
def test_two_halves_of_a_unit_on_two_kinds_of_machine_make_the_same_bytes(maker, records, tmp_path):
    # Ray counts GPUs as it is told to, so the hand-over is real although both halves compute on CPUs here.
    both = MaskMaker(maker.encoder, maker.vocabulary, maker.bank, DEFAULT)
    broken = replace(records[0], image_id="broken", path=tmp_path / "missing.jpg")
    some = [*records[:40], broken]
    with open_store(tmp_path / "here", both) as store:
        make_masks(some, both, store, workers=0)
    started, (_, second) = machines({"num_cpus": 1, "num_gpus": 1}, {"num_cpus": 1, "num_gpus": 1})
    import ray

    count = 0

    def done() -> None:
        nonlocal count
        count += 1
        if count == 8:
            started.remove_node(second, allow_graceful=False)

    try:
        ray.init(address=started.address, logging_level="ERROR", log_to_driver=False)
        with open_store(tmp_path / "there", both) as store:
            spread = run_on_ray(some, both, store, unit=4, device="cpu", gpus=1, done=done)
            with pytest.raises(ConfigError, match="no machine of the cluster has the GPU"):
                run_on_ray(some, both, store, gpus=3)
    finally:
        ray.shutdown()
        started.shutdown()
    assert count == len(some)
    assert sum(spread.pictures.values()) == len(some)
    assert [problem.image_id for problem in read_failures(tmp_path / "there" / "failures.csv")] == ["broken"]
    assert tree(tmp_path / "there") == tree(tmp_path / "here")


def test_a_lost_unit_is_tried_picture_by_picture_and_a_deadly_picture_is_given_up(records):
    tries: Counter[str] = Counter()
    a, b = records[:2]
    assert [cluster._once_more(one, False, tries) for one in (a, b)] == [True, True]
    assert [cluster._once_more(a, True, tries) for _ in range(2)] == [True, False]
    assert cluster._once_more(b, True, tries)


def test_a_unit_of_a_shard_is_halved_down_to_the_picture():
    unit = Unit(3, [ImageRecord(f"p{number}", Path("p.jpg"), ()) for number in range(3)])
    first, second = unit.halves()
    assert [one.image_id for one in first.records] == ["p0", "p1"]
    assert [one.image_id for one in second.records] == ["p2"]
    assert second.halves() == (second,)
    assert len({unit.name, first.name, second.name}) == 3


class FakeRay:
    """Ray as `Schedule` sees it, with tasks that end at once."""

    class exceptions:
        class RayError(Exception):
            pass

        class RayTaskError(RayError):
            pass

    def __init__(self) -> None:
        self.most = 0

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 3}

    def wait(self, references, num_returns, timeout):
        self.most = max(self.most, len(references))
        return references[:1], references[1:]

    def get(self, reference):
        if isinstance(reference[1], Exception):
            raise reference[1]
        return reference[1]

    def cancel(self, reference, force):
        pass


def test_units_are_handed_out_only_when_there_is_room_and_lost_ones_come_last():
    ray, asked, kept = FakeRay(), [], []
    died = {4: [FakeRay.exceptions.RayError("gone")]}

    def submit(unit: int):
        asked.append(unit)
        return (len(asked), died[unit].pop()) if died.get(unit) else (len(asked), unit)

    def units():
        for number in range(20):
            assert number - len(kept) <= 7, "taken only when there is room"
            yield number

    schedule = Schedule(ray, submit, lambda unit, result: kept.append(result), lambda unit, error: [unit])
    assert schedule.run(units()) == 1
    assert sorted(kept) == list(range(20))
    assert asked == [*range(20), 4]
    assert ray.most == 6, "two for each core"


def test_an_error_of_a_unit_that_is_no_death_ends_the_run():
    ray = FakeRay()
    error = FakeRay.exceptions.RayTaskError("disk full")
    schedule = Schedule(ray, lambda unit: (unit, error), lambda *_: None, lambda *_: [])
    with pytest.raises(FakeRay.exceptions.RayTaskError):
        schedule.run([1])


def test_without_ray_the_error_names_the_extra(maker, records, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with open_store(tmp_path / "run", maker) as store, pytest.raises(ConfigError, match=r"clip-es\[ray\]"):
        run_on_ray(records, maker, store)


def test_a_unit_holds_something(maker, records, tmp_path):
    with open_store(tmp_path / "run", maker) as store, pytest.raises(ConfigError, match="unit >= 1"):
        run_on_ray(records, maker, store, unit=0)
