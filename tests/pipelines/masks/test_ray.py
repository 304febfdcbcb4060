"""Masks on a Ray cluster: two machines, one of which dies, and still the bytes of a local run."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter, deque
from dataclasses import replace
from pathlib import Path

import pytest

from clip_es.config.run import DEFAULT
from clip_es.errors import ConfigError
from clip_es.pipelines.masks import ray as cluster
from clip_es.pipelines.masks.maker import MaskMaker
from clip_es.pipelines.masks.ray import run_on_ray
from clip_es.pipelines.masks.run import make_masks
from clip_es.records import voc
from clip_es.scenes.dataset import ScenesConfig, make
from clip_es.store.run import RunStore, read_failures
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


@pytest.mark.filterwarnings("ignore")  # of Ray's own code
def test_a_machine_that_dies_costs_nothing_but_time(maker, records, tmp_path):
    ray = pytest.importorskip("ray", reason="ray is not installed (extra `ray`)")
    from ray.cluster_utils import Cluster

    broken = replace(records[0], image_id="broken", path=tmp_path / "missing.jpg")
    with open_store(tmp_path / "here", maker) as store:
        make_masks([*records, broken], maker, store, workers=0)
    machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = machines.add_node(num_cpus=1)
    machines.wait_for_nodes()
    count = 0

    def done() -> None:
        nonlocal count
        count += 1
        if count == 20:
            machines.remove_node(second, allow_graceful=False)

    try:
        ray.init(address=machines.address, logging_level="ERROR", log_to_driver=False)
        with open_store(tmp_path / "there", maker) as store:
            spread = run_on_ray([*records, broken], maker, store, unit=4, done=done)
    finally:
        ray.shutdown()
        machines.shutdown()
    assert count == len(records) + 1
    assert spread.lost > 0, "one died at work"
    assert [problem.image_id for problem in read_failures(tmp_path / "there" / "failures.csv")] == ["broken"]
    assert tree(tmp_path / "there") == tree(tmp_path / "here")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Ray's own code
def test_two_halves_of_a_unit_on_two_kinds_of_machine_make_the_same_bytes(maker, records, tmp_path):
    # Ray counts GPUs as it is told to, so the hand-over is real although both halves compute on CPUs here.
    ray = pytest.importorskip("ray", reason="ray is not installed (extra `ray`)")
    from ray.cluster_utils import Cluster

    both = MaskMaker(maker.encoder, maker.vocabulary, maker.bank, DEFAULT)
    broken = replace(records[0], image_id="broken", path=tmp_path / "missing.jpg")
    some = [*records[:40], broken]
    with open_store(tmp_path / "here", both) as store:
        make_masks(some, both, store, workers=0)
    machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    machines.add_node(num_cpus=1, num_gpus=1)
    second = machines.add_node(num_cpus=1, num_gpus=1)
    machines.wait_for_nodes()
    count = 0

    def done() -> None:
        nonlocal count
        count += 1
        if count == 8:
            machines.remove_node(second, allow_graceful=False)

    try:
        ray.init(address=machines.address, logging_level="ERROR", log_to_driver=False)
        with open_store(tmp_path / "there", both) as store:
            spread = run_on_ray(some, both, store, unit=4, device="cpu", gpus=1, done=done)
            with pytest.raises(ConfigError, match="no machine of the cluster has the GPU"):
                run_on_ray(some, both, store, gpus=3)
    finally:
        ray.shutdown()
        machines.shutdown()
    assert count == len(some)
    assert sum(spread.pictures.values()) == len(some)
    assert [problem.image_id for problem in read_failures(tmp_path / "there" / "failures.csv")] == ["broken"]
    assert tree(tmp_path / "there") == tree(tmp_path / "here")


def test_a_lost_unit_is_tried_picture_by_picture_and_a_deadly_picture_is_given_up(records):
    tries, waiting = Counter(), deque()
    a, b = records[:2]
    assert list(cluster._again((a, b), tries, waiting)) == []
    assert list(waiting) == [(a,), (b,)]
    assert list(cluster._again((a,), tries, waiting)) == []
    assert list(cluster._again((a,), tries, waiting)) == [a]
    assert list(waiting) == [(a,), (b,), (a,)]


def test_without_ray_the_error_names_the_extra(maker, records, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with open_store(tmp_path / "run", maker) as store, pytest.raises(ConfigError, match=r"clip-es\[ray\]"):
        run_on_ray(records, maker, store)


def test_a_unit_holds_something(maker, records, tmp_path):
    with open_store(tmp_path / "run", maker) as store, pytest.raises(ConfigError, match="unit >= 1"):
        run_on_ray(records, maker, store, unit=0)
