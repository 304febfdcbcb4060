"""Processes: a death costs its task alone, an exception is a result, and none is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from clip_es.pipelines.parallel.pool import Here, ahead
from clip_es.pipelines.parallel.processes import Processes, WorkerDied

KILL = "__import__('os').kill(__import__('os').getpid(), 9)"
BUSY = "[None for _ in iter(int, 1)]"
"""A task that never ends and never lets go of Python's lock."""


def test_a_process_that_is_killed_costs_only_its_task():
    with Processes(2) as pool:
        futures = [pool.submit(eval, task) for task in ("6 * 7", KILL, "2 + 2", KILL, "1 + 1")]
        assert [futures[n].result() for n in (0, 2, 4)] == [42, 4, 2]
        for n in (1, 3):
            with pytest.raises(WorkerDied, match="twice"):
                futures[n].result()


def test_a_task_is_done_again_where_its_process_died_of_something_else(tmp_path):
    tried = str(tmp_path / "tried")
    once = f"7 if __import__('os').path.exists({tried!r}) else (open({tried!r}, 'x'), {KILL})"
    with Processes(1) as pool:
        assert pool.submit(eval, once).result() == 7


def test_what_work_raises_comes_back_with_its_own_traceback():
    with Processes(1) as pool, pytest.raises(ZeroDivisionError) as caught:
        pool.submit(eval, "1 / 0").result()
    assert "eval" in str(caught.value.__cause__) or "_answer" in str(caught.value.__cause__)


@pytest.mark.parametrize("task", ["lambda: 0", "raise_(EOFError())"])
def test_what_cannot_be_sent_back_is_an_error_and_the_process_goes_on(task):
    with Processes(1) as pool:
        with pytest.raises(Exception, match=r"pickle|lambda|raise_"):
            pool.submit(eval, task).result()
        assert pool.submit(eval, "3").result() == 3
        assert len(pool.pids) == 1


def test_an_end_of_file_in_the_work_does_not_end_the_process():
    with Processes(1) as pool:
        with pytest.raises(EOFError):
            pool.submit(exec, "raise EOFError").result()
        assert pool.submit(eval, "3").result() == 3


def test_tasks_are_taken_as_they_are_needed():
    taken = 0

    def source():
        nonlocal taken
        for _ in range(40):
            taken += 1
            yield "0"

    with Processes(1) as pool:
        for number, _ in enumerate(ahead(lambda task: pool.submit(eval, task), source(), pool.most)):
            assert taken <= number + pool.most + 1


def test_here_is_a_pool_too():
    with Here() as pool:
        (one, good), (other, bad) = ahead(lambda n: pool.submit(divmod, 6, n), [4, 0], pool.most)
    assert (one, good.result()) == (4, (1, 2))
    with pytest.raises(ZeroDivisionError):
        bad.result()
    assert other == 0


def test_leaving_ends_every_process():
    with Processes(2) as pool:
        [future.result() for future in [pool.submit(time.sleep, 0.1) for _ in range(4)]]
        pids = pool.pids
    assert pids
    assert not any(map(psutil.pid_exists, pids))


def test_leaving_by_ctrl_c_does_not_wait_for_what_is_under_way():
    pool = Processes(2)
    [future.result() for future in [pool.submit(eval, "1") for _ in range(2)]]
    futures = [pool.submit(eval, BUSY) for _ in range(4)]
    pids, begun = pool.pids, time.monotonic()
    pool.__exit__(KeyboardInterrupt)
    assert time.monotonic() - begun < 10
    assert all(future.cancelled() or future.exception() for future in futures)
    assert not any(map(psutil.pid_exists, pids))


PARENT = """
import sys, time
from clip_es.pipelines.parallel.processes import Processes
if __name__ == "__main__":
    with Processes(3) as pool:
        print(*[pool.submit(__import__, "os").exception() for _ in range(3)], flush=True)
        futures = [pool.submit(eval, task) for task in (sys.argv[1], sys.argv[1], "1")]
        futures[2].result()
        time.sleep(600)
"""


@pytest.mark.parametrize("ended_by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_no_process_outlives_its_parent_however_that_ended(tmp_path, ended_by):
    (tmp_path / "parent.py").write_text(PARENT)
    command = [sys.executable, str(tmp_path / "parent.py"), "__import__('time').sleep(600)"]

    def as_in_a_terminal() -> None:  # whoever runs the tests in the background has some of them ignored
        for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(one, signal.SIG_DFL)

    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **quiet, preexec_fn=as_in_a_terminal) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        below = eventually(lambda: psutil.Process(parent.pid).children(recursive=True), lambda some: len(some) >= 3)
        os.kill(parent.pid, ended_by)
        assert eventually(lambda: [p for p in below if p.is_running()], lambda some: not some) == []
        assert parent.stdout.read() == b"", "the output is closed, so nobody waits for more"


def eventually(look, good, seconds: float = 15):
    """What `look` finds once it is `good`, or in the end."""
    until = time.monotonic() + seconds
    while not good(found := look()) and time.monotonic() < until:
        time.sleep(0.05)
    return found
