"""From a data set with image-level labels to a run folder full of masks.

Pictures of one grid size go through the encoder together; what follows at full size (the CRF) runs in worker processes
meanwhile. A picture that fails becomes a row of failures.csv; the others are still done.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import torch
from torch import Tensor

from clip_es.config import MaskConfig, RunConfig
from clip_es.errors import ClipEsError, ConfigError
from clip_es.images import buckets
from clip_es.masks import label_scores
from clip_es.pipelines.mask_maker import Located, MaskMaker, MaskResult, Stopwatch, finish
from clip_es.refine import at_full_size
from clip_es.scaling import upsample
from clip_es.store import KeepCams, RunStore, StoreError
from clip_es.types import ClassMaps, EncodedImage, ImageRecord, Picture

WORTH_WORKERS = 24
"""Pictures from which on starting worker processes (some seconds) pays."""

_Finished = tuple[MaskResult, dict[str, float]]
_Ready = tuple[ImageRecord, Located, MaskResult | Exception]


def make_masks(
    records: Sequence[ImageRecord],
    maker: MaskMaker,
    store: RunStore,
    *,
    batch_size: int = 8,
    workers: int | None = None,
    done: Callable[[], object] = lambda: None,
) -> None:
    """Make and store the masks of all records that the store does not have yet.

    `workers`: processes for the CRF; 0 does it here, None chooses by cores and number of pictures. The bytes written
    do not depend on it, nor on `batch_size`. `done` is called once for each picture, finished or failed.
    Raises StoreError: the disk does not take the files. ConfigError: a refiner that cannot run at all. Nothing that was
    finished is lost, and the same call continues.
    """
    by_id = {record.image_id: record for record in records}
    with _Finisher(maker, _worker_count(workers, maker, len(records))) as finisher:

        def keep(record: ImageRecord, located: Located, result: MaskResult | Exception) -> None:
            try:
                if isinstance(result, MaskResult):
                    with maker.stopwatch("store"):
                        store.save(record, result.mask, cams(result, store.keep, maker.config.mask))
                else:
                    _fail(store, record, "refine", result)
                    if store.keep != "none":
                        store.save_cams(record, grid_cams(located))
            except ClipEsError as error:
                _fail(store, record, "store", error)
            done()

        def give_up(record: ImageRecord, stage: str, error: Exception) -> None:
            _fail(store, record, stage, error)
            done()

        for batch in buckets(_read(records, maker, give_up), batch_size):
            for picture, seen in _encode(batch, maker, lambda p, e: give_up(by_id[p.image_id], "encode", e)):
                record = by_id[picture.image_id]
                try:
                    located = maker.locate(picture, seen, record.class_ids)
                except Exception as error:
                    give_up(record, "localize", error)
                    continue
                for ready in finisher.submit(record, located):
                    keep(*ready)
        for ready in finisher.rest():
            keep(*ready)


def cams(result: MaskResult, keep: KeepCams, config: MaskConfig) -> dict[str, np.ndarray] | None:
    """The arrays of cams/<id>.npz, as the run folder's contract names them; None where none are kept."""
    if keep == "none":
        return None
    arrays = grid_cams(result.located)
    if keep == "full":
        at_size = upsample(result.maps, result.located.picture.size_hw)
        arrays["probabilities"] = label_scores(at_size, config.background_power, config.half).astype(np.float32)
    return arrays


def grid_cams(located: Located) -> dict[str, np.ndarray]:
    """Those of the arrays that are known on the patch grid."""
    refined = located.refined.scores if located.refined.unscaled is None else located.refined.unscaled
    return {
        "class_ids": np.asarray(located.refined.class_ids, dtype=np.int64),
        "scores": _numpy(located.found.scores),
        "cam": _numpy(located.found.maps.scores),
        "refined": _numpy(refined),
    }


def _read(
    records: Iterable[ImageRecord], maker: MaskMaker, give_up: Callable[[ImageRecord, str, Exception], None]
) -> Iterator[Picture]:
    for record in records:
        try:
            yield maker.read(record)
        except Exception as error:
            give_up(record, "read", error)


def _encode(
    batch: Sequence[Picture], maker: MaskMaker, give_up: Callable[[Picture, Exception], None]
) -> Iterator[tuple[Picture, EncodedImage]]:
    try:
        yield from zip(batch, maker.encode(batch), strict=True)
    except (RuntimeError, MemoryError):
        # Most likely the batch was too large for the memory: one by one, so that only what cannot be done is lost.
        for picture in batch:
            try:
                seen = maker.encode([picture])[0]
            except Exception as error:
                give_up(picture, error)
            else:
                yield picture, seen


def _fail(store: RunStore, record: ImageRecord, stage: str, error: BaseException) -> None:
    """Note the picture and go on, unless the error would meet every other picture too."""
    if isinstance(error, (StoreError, ConfigError)):
        raise error
    store.fail(record, stage, error)


class _Finisher:
    """Full-size work, here or in worker processes; results come back in the order in which pictures went in."""

    def __init__(self, maker: MaskMaker, workers: int) -> None:
        self._maker = maker
        self._most = 3 * workers
        self._waiting: deque[tuple[ImageRecord, Located, Future[_Finished]]] = deque()
        self._pool = None
        if workers:
            # Forking a process whose libraries already run threads can hang it, so workers start afresh.
            self._pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start_worker)

    def __enter__(self) -> _Finisher:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._pool:
            self._pool.shutdown(wait=kind is None, cancel_futures=True)

    def submit(self, record: ImageRecord, located: Located) -> Iterator[_Ready]:
        """Take a picture; yields what has become ready."""
        if self._pool is None:
            yield record, located, self._here(located)
            return
        located = _on_cpu(located)
        self._waiting.append((record, located, self._pool.submit(_work, _light(located), self._maker.config)))
        while len(self._waiting) > self._most or (self._waiting and self._waiting[0][2].done()):
            yield self._next()

    def rest(self) -> Iterator[_Ready]:
        """What is still under way."""
        while self._waiting:
            yield self._next()

    def _here(self, located: Located) -> MaskResult | Exception:
        try:
            return self._maker.finish(located)
        except Exception as error:
            return error

    def _next(self) -> _Ready:
        record, located, future = self._waiting.popleft()
        try:
            result, seconds = future.result()
        except BrokenProcessPool as error:
            raise ClipEsError(
                "a worker process died",
                found="probably out of memory",
                next_step="Call again with fewer --workers, or with --workers 0; what was finished is kept.",
            ) from error
        except Exception as error:
            return record, located, error
        self._maker.stopwatch.add(seconds)
        return record, located, replace(result, located=located)


def _start_worker() -> None:
    # Ctrl-C is the main process's to handle; one thread each, since there is one worker for each core.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def _work(located: Located, config: RunConfig) -> _Finished:
    stopwatch = Stopwatch()
    return finish(located, config, stopwatch), dict(stopwatch.seconds)


def _light(located: Located) -> Located:
    """Without what a worker does not need and would cost time to send."""
    picture = located.picture
    blank = np.zeros((picture.patch, picture.patch, 3), dtype=np.uint8)
    return replace(located, picture=replace(picture, patches=blank))


def _on_cpu(located: Located) -> Located:
    return replace(
        located,
        found=replace(
            located.found,
            maps=_maps_on_cpu(located.found.maps),
            scores=located.found.scores.cpu(),
            raw=located.found.raw.cpu(),
            weights=None,
        ),
        refined=_maps_on_cpu(located.refined),
    )


def _maps_on_cpu(maps: ClassMaps) -> ClassMaps:
    return ClassMaps(
        scores=maps.scores.cpu(),
        class_ids=maps.class_ids,
        background=None if maps.background is None else maps.background.cpu(),
        unscaled=None if maps.unscaled is None else maps.unscaled.cpu(),
    )


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to("cpu", torch.float32).numpy()


def _worker_count(asked: int | None, maker: MaskMaker, pictures: int) -> int:
    if asked is not None and asked < 0:
        raise ConfigError("the number of workers cannot be negative", found=asked)
    if not at_full_size(maker.config) or maker.config.crf.backend == "torch":
        return 0  # Nothing to hand over, or it stays on the device.
    if asked is not None:
        return asked
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores if cores > 1 and pictures >= WORTH_WORKERS else 0
