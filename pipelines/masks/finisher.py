"""What follows the patch grid, at full size: here, or in worker processes while the encoder goes on.

A worker that the kernel kills (memory, most often) takes its neighbours' work with it. All of that is done again, one
picture at a time in a process of its own; a picture that kills that too is reported, and the run goes on.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import torch

from clip_es.config.run import RunConfig
from clip_es.errors import ClipEsError
from clip_es.pipelines.masks.method import Located, MaskMaker, MaskResult, Stopwatch, finish
from clip_es.types import ClassMaps, ImageRecord

Ready = tuple[ImageRecord, Located, MaskResult | Exception]
"""A picture, its maps on the grid, and its mask or what went wrong."""

_Finished = tuple[MaskResult, dict[str, float]]


class Finisher:
    """Masks from maps; results come back in the order in which pictures went in. `with Finisher(...) as finisher:`."""

    def __init__(self, maker: MaskMaker, workers: int) -> None:
        """`workers`: processes; 0 does everything here."""
        self._maker = maker
        self._workers = workers
        self._waiting: deque[tuple[ImageRecord, Located, Future[_Finished]]] = deque()
        self._pool = _pool(workers) if workers else None
        self._alone: ProcessPoolExecutor | None = None

    def __enter__(self) -> Finisher:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for pool in (self._pool, self._alone):
            if pool:
                pool.shutdown(wait=kind is None, cancel_futures=True)

    def submit(self, record: ImageRecord, located: Located) -> Iterator[Ready]:
        """Take a picture; yields what has become ready."""
        if self._pool is None:
            yield record, located, self._here(located)
            return
        located = light(located)
        self._waiting.append((record, located, self._send(located)))
        while len(self._waiting) > 3 * self._workers or (self._waiting and self._waiting[0][2].done()):
            yield self._next()

    def rest(self) -> Iterator[Ready]:
        """What is still under way."""
        while self._waiting:
            yield self._next()

    def _here(self, located: Located) -> MaskResult | Exception:
        try:
            return self._maker.finish(located)
        except Exception as error:
            return error

    def _send(self, located: Located) -> Future[_Finished]:
        assert self._pool is not None
        try:
            return self._pool.submit(_work, located, self._maker.config)
        except BrokenProcessPool:
            self._pool = _pool(self._workers)
            return self._pool.submit(_work, located, self._maker.config)

    def _next(self) -> Ready:
        record, located, future = self._waiting.popleft()
        try:
            try:
                result, seconds = future.result()
            except BrokenProcessPool:
                result, seconds = self._again(located)
        except Exception as error:
            return record, located, error
        self._maker.stopwatch.add(seconds)
        return record, located, replace(result, located=located)

    def _again(self, located: Located) -> _Finished:
        """Once more, with nobody beside it."""
        self._alone = self._alone or _pool(1)
        try:
            return self._alone.submit(_work, located, self._maker.config).result()
        except BrokenProcessPool as error:
            self._alone = None
            raise ClipEsError(
                "a worker process died with this picture, twice",
                found="killed from outside, probably out of memory",
                next_step="Call again where there is more memory, or with --workers 0; what was finished is kept.",
            ) from error


def _pool(workers: int) -> ProcessPoolExecutor:
    # Forking a process whose libraries already run threads can hang it, so workers start afresh.
    return ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start_worker)


def _start_worker() -> None:
    # Ctrl-C is the main process's to handle; one thread each, since there is one worker for each core.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def _work(located: Located, config: RunConfig) -> _Finished:
    stopwatch = Stopwatch()
    return finish(located, config, stopwatch), dict(stopwatch.seconds)


def light(located: Located) -> Located:
    """In CPU memory, without what is not needed at full size and would cost time to send."""
    picture, found = located.picture, located.found
    blank = np.zeros((picture.patch, picture.patch, 3), dtype=np.uint8)
    return replace(
        located,
        picture=replace(picture, patches=blank),
        found=replace(found, maps=_on_cpu(found.maps), scores=found.scores.cpu(), raw=found.raw.cpu(), weights=None),
        refined=_on_cpu(located.refined),
    )


def _on_cpu(maps: ClassMaps) -> ClassMaps:
    return ClassMaps(
        scores=maps.scores.cpu(),
        class_ids=maps.class_ids,
        background=None if maps.background is None else maps.background.cpu(),
        unscaled=None if maps.unscaled is None else maps.unscaled.cpu(),
    )
