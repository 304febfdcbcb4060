"""The one way to spread work over processes: nothing is lost when one of them dies, and none is left behind.

                          one thread for each process
    submit -> queue -> +- thread <-- pipe --> process   a death is the end of this pipe, so it belongs to the one task
                       +- thread <-- pipe --> process   that was on it: that task is done again, its neighbours go on
                       +- ...

The standard library's ProcessPoolExecutor and loky share one queue among the processes. When the kernel kills one (out
of memory, most often) both give up everything under way and cannot tell which task was deadly; and both leave their
processes alive when their parent is killed, waiting for work that never comes. Here a process ends with its parent,
however that ended: an idle one reads the end of its pipe, a busy one watches the parent from a thread.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from clip_es.errors import ClipEsError

Result = TypeVar("Result")

# Forking a process whose libraries already run threads can hang it, so workers start afresh.
_CONTEXT = get_context("spawn")

_DYING = 5.0
"""Seconds that a process has to end by itself when there is no more work."""


class WorkerDied(ClipEsError):
    """A process was killed over a task as often as it was tried."""


class Processes:
    """A `Pool` of processes, each started when it is first needed. `with Processes(4) as pool:`.

    Leaving it drops what has not begun and waits for the rest; leaving it by an exception, Ctrl-C among them, ends the
    processes at once.
    """

    def __init__(self, workers: int, *, start: Callable[[], object] | None = None, tries: int = 2) -> None:
        """`start` is called once in each new process. `tries`: how often a task is given to a process before it counts
        as deadly."""
        self.most = 3 * workers
        self._start, self._tries = start, tries
        self._threads = ThreadPoolExecutor(workers, "worker", initializer=_keep_interrupts_out)
        self._mine = threading.local()
        self._lock = threading.Lock()
        self._workers: set[_Worker] = set()
        self._stopped = False

    @property
    def pids(self) -> list[int]:
        """Of the processes that are there."""
        with self._lock:
            return [worker.pid for worker in self._workers]

    def submit(self, work: Callable[..., Result], /, *args: Any) -> Future[Result]:
        """Begin `work(*args)` as soon as a process is free; it and what it returns must be picklable.

        The future raises what the work raised; WorkerDied: it ended its process, each time.
        """
        return self._threads.submit(self._ask, work, args)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            with self._lock:
                self._stopped = True
                for worker in self._workers:
                    worker.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for worker in self._workers:
            worker.close()
        for worker in self._workers:
            worker.end()

    def _ask(self, work: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        for _ in range(self._tries):
            worker = self._worker()
            try:
                return worker.ask(work, args)
            except _Gone:
                with self._lock:
                    self._workers.discard(worker)
                self._mine.worker = None
                worker.end()
        raise WorkerDied(
            f"a worker process died with this, {'twice' if self._tries == 2 else f'{self._tries} times'}",
            found="killed from outside, probably out of memory",
            next_step="Call again where there is more memory, or with --workers 0; what was finished is kept.",
        )

    def _worker(self) -> _Worker:
        """That of the calling thread; a new one where there is none."""
        if self._stopped:
            raise CancelledError
        worker = getattr(self._mine, "worker", None)
        if worker is None:
            worker = self._mine.worker = _Worker(self._start)
            with self._lock:
                self._workers.add(worker)
                if self._stopped:
                    worker.kill()
        return worker


class _Gone(Exception):
    """The process has ended in the middle of a task."""


class _There(Exception):
    """The traceback of an error in the process where it was raised."""


class _Worker:
    """A process and our end of the pipe to it."""

    def __init__(self, start: Callable[[], object] | None) -> None:
        self._pipe, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_serve, args=(theirs, start), daemon=True)
        self._process.start()
        theirs.close()  # or its end would never be the end of the pipe

    @property
    def pid(self) -> int:
        return self._process.pid or 0

    def ask(self, work: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        try:
            # Plain pickles: multiprocessing's own would pass tensors through shared memory, of which containers have
            # little, and by a helper thread that does not take a kill well.
            self._pipe.send_bytes(pickle.dumps((work, args), pickle.HIGHEST_PROTOCOL))
            answer, error, trace = pickle.loads(self._pipe.recv_bytes())
        except (EOFError, ConnectionError) as gone:
            raise _Gone from gone
        if error is not None:
            raise error from _There(trace)
        return answer

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self._pipe.close()

    def end(self) -> None:
        self._pipe.close()
        self._process.join(_DYING)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()


def _serve(pipe: Connection, start: Callable[[], object] | None) -> None:
    """What a process does: one task after the other, until its pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if start is not None:
        start()
    while True:
        try:
            task = pipe.recv_bytes()
        except EOFError:
            return
        answer = _answer(task)
        del task
        try:
            pipe.send_bytes(answer)
        except ConnectionError:
            return
        del answer


def _answer(task: bytes) -> bytes:
    """Result, error and its traceback, as bytes."""
    try:
        work, args = pickle.loads(task)
        return pickle.dumps((work(*args), None, ""), pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        trace = f'\n"""\n{traceback.format_exc()}"""'
        try:
            return pickle.dumps((None, error, trace))
        except Exception:  # Not even the error can be pickled.
            return pickle.dumps((None, RuntimeError(f"{type(error).__name__}: {error}"), trace))


def _end_with_parent() -> None:
    """End this process, whatever it is doing, once its parent is gone."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _keep_interrupts_out() -> None:
    """Ctrl-C is the main process's to handle: processes inherit the mask of the thread that starts them, so that not
    even one that is still importing hears it."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
