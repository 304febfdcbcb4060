"""Workers that the kernel kills: their pictures are done again, and only one that kills twice is lost."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import numpy as np
import pytest

from clip_es.errors import ClipEsError
from clip_es.pipelines.masks.finisher import Finisher
from clip_es.pipelines.masks.method import Located, MaskMaker, MaskResult
from clip_es.prompts import load_vocabulary
from clip_es.records import voc
from clip_es.scenes.dataset import ScenesConfig, make
from clip_es.types import ImageRecord


class Deadly(np.ndarray):
    """A picture that ends the process that receives it."""

    def __reduce__(self):
        return os._exit, (9,)


@pytest.fixture(scope="module")
def located(tmp_path_factory) -> tuple[MaskMaker, list[tuple[ImageRecord, Located]]]:
    root = make(tmp_path_factory.mktemp("scenes"), ScenesConfig(train=1, val=5, side=(64, 80)))
    maker = MaskMaker.load()
    found = []
    for record in voc(root, "val", class_id=load_vocabulary("scenes").class_id).records:
        picture = maker.read(record)
        found.append((record, maker.locate(picture, maker.encode([picture])[0], record.class_ids)))
    return maker, found


def finished(maker: MaskMaker, some, kill=lambda finisher: None) -> list[MaskResult | Exception]:
    results = []
    with Finisher(maker, 1) as finisher:
        for number, (record, where) in enumerate(some):
            if number == 2:
                kill(finisher)
            results += [result for _, _, result in finisher.submit(record, where)]
        results += [result for _, _, result in finisher.rest()]
    return results


def kill_workers(finisher: Finisher) -> None:
    for process in list(finisher._pool._processes.values()):
        os.kill(process.pid, signal.SIGKILL)
        process.join(10)


def same(one: MaskResult | Exception, other: MaskResult | Exception) -> bool:
    assert isinstance(one, MaskResult), one
    assert isinstance(other, MaskResult), other
    return np.array_equal(one.mask.labels, other.mask.labels)


def test_a_killed_worker_loses_nothing(located):
    maker, some = located
    here = [maker.finish(where) for _, where in some]
    there = finished(maker, some, kill_workers)
    assert len(there) == 5
    assert all(map(same, here, there))


def test_a_picture_that_kills_its_workers_is_the_only_one_lost(located):
    maker, some = located
    record, where = some[1]
    deadly = where.picture.rgb.copy().view(Deadly)
    bad = (record, replace(where, picture=replace(where.picture, crf_rgb=deadly)))
    results = finished(maker, [some[0], bad, *some[2:]])
    lost = results.pop(1)
    assert isinstance(lost, ClipEsError)
    assert "twice" in str(lost)
    assert "--workers 0" in str(lost)
    assert all(
        same(result, maker.finish(where)) for result, (_, where) in zip(results, [some[0], *some[2:]], strict=True)
    )


def test_the_pictures_of_a_finisher_come_back_in_order(located):
    maker, some = located
    with Finisher(maker, 2) as finisher:
        records = [record for record, where in some for record, _, _ in finisher.submit(record, where)]
        records += [record for record, _, _ in finisher.rest()]
    assert records == [record for record, _ in some]
