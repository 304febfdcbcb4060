"""Work ahead in threads: in order, bounded, and an exception is a result."""

from __future__ import annotations

import threading
import time

import pytest

from clip_es.pipelines.parallel.pool import Here, ahead
from clip_es.pipelines.parallel.threads import Threads


def pool_of(threads: int, most: int):
    return Threads(threads, most) if threads else Here()


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_results_come_in_order_with_their_items(threads):
    def slow_first(n: int) -> int:
        time.sleep(0.02 if n == 0 else 0)
        return n * n

    with pool_of(threads, 3) as pool:
        found = [(n, future.result()) for n, future in ahead(lambda n: pool.submit(slow_first, n), range(6), pool.most)]
    assert found == [(n, n * n) for n in range(6)]


@pytest.mark.parametrize("threads", [0, 2])
def test_an_exception_takes_the_place_of_a_result(threads):
    with pool_of(threads, 2) as pool:
        found = dict(ahead(lambda n: pool.submit(lambda: 6 // n), [3, 0, 2], pool.most))
    assert (found[3].result(), found[2].result()) == (2, 3)
    assert isinstance(found[0].exception(), ZeroDivisionError)


@pytest.mark.parametrize("early", [False, True])
def test_no_more_than_most_are_taken_from_the_source(early):
    taken: list[int] = []

    def source():
        for n in range(100):
            taken.append(n)
            yield n

    gate = threading.Event()
    with Threads(2, 5) as pool:
        results = ahead(lambda n: pool.submit(gate.wait), source(), pool.most, early=early)
        next(results)
        gate.set()
        assert len(taken) == 5


def test_what_is_done_early_is_handed_out_before_more_is_read():
    taken: list[int] = []

    def source():
        for n in range(10):
            taken.append(n)
            yield n

    pool = Here()
    results = ahead(lambda n: pool.submit(abs, n), source(), 5, early=True)
    assert next(results)[0] == 0
    assert taken == [0]


def test_leaving_early_leaves_no_thread():
    before = threading.active_count()
    with Threads(3, 5) as pool:
        next(ahead(lambda n: pool.submit(abs, n), range(100), pool.most))
    assert threading.active_count() == before


def test_the_next_ones_are_done_while_the_first_is_looked_at():
    done = threading.Event()

    def work(n: int) -> int:
        if n == 1:
            done.set()
        return n

    with Threads(1, 3) as pool:
        next(ahead(lambda n: pool.submit(work, n), range(3), pool.most))
        assert done.wait(5)
