"""The method step by step, with worker processes and without; only a picture that kills its workers is lost."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import numpy as np
import pytest

from clip_es import MaskMaker, MaskResult
from clip_es.errors import ClipEsError, ConfigError, DataError
from clip_es.pipelines.masks.method import Refined, masks
from clip_es.pipelines.parallel.executor import Executor, Failure
from clip_es.pipelines.parallel.processes import Processes
from clip_es.records import voc
from clip_es.scenes.dataset import ScenesConfig, make
from clip_es.types import ImageRecord


class Deadly(np.ndarray):
    """A picture that ends the process that receives it."""

    def __reduce__(self):
        return os._exit, (9,)


@pytest.fixture(scope="module")
def maker() -> MaskMaker:
    return MaskMaker.load(device="cpu")


@pytest.fixture(scope="module")
def records(maker, tmp_path_factory) -> tuple[ImageRecord, ...]:
    root = make(tmp_path_factory.mktemp("scenes"), ScenesConfig(train=1, val=5, side=(64, 80)))
    return voc(root, "val", class_id=maker.vocabulary.class_id).records


@pytest.fixture(scope="module")
def here(maker, records) -> list[MaskResult]:
    return [result for _, result in masks(records, maker, Executor())]


def same(one: MaskResult, other: MaskResult) -> bool:
    assert np.array_equal(one.mask.confidence, other.mask.confidence)
    return np.array_equal(one.mask.labels, other.mask.labels)


def refined(maker: MaskMaker, records) -> list[tuple[ImageRecord, tuple[Refined]]]:
    found = []
    for record in records:
        picture = maker.read(record)
        located = maker.locate(picture, maker.encode([picture])[0], record.class_ids)
        found.append((record, (maker.refine(located),)))
    return found


def test_the_python_call_is_the_flow_of_the_command(maker, records, here):
    names = [maker.vocabulary.classes[k].name for k in records[0].class_ids]
    assert same(maker(records[0].path, names), here[0])


def test_step_by_step_is_the_flow(maker, records, here):
    for (_, (one,)), whole in zip(refined(maker, records), here, strict=True):
        assert same(maker.decide(one), whole)
        assert one.maps.class_ids == whole.refined.maps.class_ids


def test_locate_only_locates(maker, records):
    picture = maker.read(records[0])
    located = maker.locate(picture, maker.encode([picture])[0], records[0].class_ids)
    before = located.found.maps.scores.clone()
    better = maker.refine(located)
    assert located.found.maps.scores.equal(before)
    assert not better.maps.scores.equal(before)
    assert better.found is located.found


def test_batches_and_processes_change_nothing(maker, records, here):
    with Processes(2) as workers:
        there = list(masks(records, maker, Executor(workers=workers), batch_size=4))
    whole = {result.refined.picture.image_id: result for result in here}
    assert {record.image_id for record, _ in there} == whole.keys()
    assert all(same(one, whole[record.image_id]) for record, one in there)
    assert there[0][1].refined.picture.patches.shape[0] > 16, "what was not sent is not lost"


def test_seconds_of_the_workers_are_counted(maker, records):
    before = dict(maker.stopwatch.seconds)
    with Processes(1) as workers:
        list(masks(records[:1], maker, Executor(workers=workers)))
    assert maker.stopwatch.since(before)["crf"] > 0
    assert maker.stopwatch.since(before)["decide"] > 0


def test_a_killed_worker_loses_nothing(maker, records, here):
    with Processes(1) as workers:
        there = []
        for number, (_, result) in enumerate(masks(records, maker, Executor(workers=workers))):
            there.append(result)
            if number == 1:
                for pid in workers.pids:
                    os.kill(pid, signal.SIGKILL)
    assert len(there) == 5
    assert all(map(same, there, here))


def test_a_picture_that_kills_its_workers_is_the_only_one_lost(maker, records, here):
    items = refined(maker, records)
    record, (one,) = items[1]
    deadly = one.picture.rgb.copy().view(Deadly)
    items[1] = record, (replace(one, picture=replace(one.picture, crf_rgb=deadly)),)
    lost: list[Failure] = []
    with Processes(1) as workers:
        executor = Executor(lost.append, workers=workers)
        there = [result for _, (result,) in executor.apart("refine", maker.decide, items)]
    assert [failure.record for failure in lost] == [record]
    assert isinstance(lost[0].error, ClipEsError)
    assert "twice" in str(lost[0].error)
    assert "--workers 0" in str(lost[0].error)
    assert all(same(one, other) for one, other in zip(there, [here[0], *here[2:]], strict=True))


def test_a_picture_that_fails_leaves_the_flow_and_says_where(maker, records, tmp_path):
    failures: list[Failure] = []
    missing = replace(records[0], image_id="missing", path=tmp_path / "missing.jpg")
    bare = replace(records[1], image_id="bare", class_ids=())
    done = list(masks([missing, records[0], bare], maker, Executor(failures.append), batch_size=2))
    assert [record.image_id for record, _ in done] == [records[0].image_id]
    assert {(f.record.image_id, f.stage) for f in failures} == {("missing", "read"), ("bare", "localize")}


def test_without_anyone_to_tell_a_failure_is_raised(maker, tmp_path):
    with pytest.raises(DataError, match="no such picture"):
        maker(tmp_path / "missing.jpg", ["cat"])
    with pytest.raises(ConfigError, match="not given"):
        maker(tmp_path / "missing.jpg")


def test_a_batch_that_does_not_fit_is_done_picture_by_picture(maker, records, here, monkeypatch):
    whole = maker.localizer.encode

    def small(pictures):
        if len(pictures) > 1:
            raise MemoryError
        return whole(pictures)

    monkeypatch.setattr(maker.localizer, "encode", small)
    there = list(masks(records, maker, Executor(), batch_size=4))
    whole = {result.refined.picture.image_id: result for result in here}
    assert len(there) == 5
    assert all(same(one, whole[record.image_id]) for record, one in there)
