"""Work ahead: in order, bounded, and an exception is a result."""

from __future__ import annotations

import threading
import time
from contextlib import closing

import pytest

from clip_es.pipelines.parallel.threads import ahead


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_results_come_in_order_with_their_items(threads):
    def slow_first(n: int) -> int:
        time.sleep(0.02 if n == 0 else 0)
        return n * n

    assert list(ahead(slow_first, range(6), threads, 3)) == [(n, n * n) for n in range(6)]


@pytest.mark.parametrize("threads", [0, 2])
def test_an_exception_takes_the_place_of_a_result(threads):
    found = dict(ahead(lambda n: 6 // n, [3, 0, 2], threads, 2))
    assert (found[3], found[2]) == (2, 3)
    assert isinstance(found[0], ZeroDivisionError)


def test_no_more_than_most_are_taken_from_the_source():
    taken: list[int] = []

    def source():
        for n in range(100):
            taken.append(n)
            yield n

    with closing(ahead(lambda n: n, source(), 2, 5)) as results:
        next(results)
        assert len(taken) == 6


def test_leaving_early_leaves_no_thread():
    before = threading.active_count()
    with closing(ahead(lambda n: n, range(100), 3, 5)) as results:
        next(results)
    assert threading.active_count() == before


def test_the_next_ones_are_done_while_the_first_is_looked_at():
    done = threading.Event()

    def work(n: int) -> int:
        if n == 1:
            done.set()
        return n

    with closing(ahead(work, range(3), 1, 3)) as results:
        next(results)
        assert done.wait(5)
