"""From a data set with image-level labels to a run folder full of masks.

Pictures of one grid size go through the encoder together; what follows at full size (the CRF) runs in worker processes
meanwhile. A picture that fails becomes a row of failures.csv; the others are still done.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clip_es.config.run import MaskConfig
from clip_es.errors import ClipEsError, ConfigError
from clip_es.images import buckets
from clip_es.masks import label_scores
from clip_es.pipelines.masks.finisher import Finisher
from clip_es.pipelines.masks.method import Located, MaskMaker, MaskResult
from clip_es.pipelines.parallel.threads import ahead
from clip_es.refine import workers_help
from clip_es.scaling import upsample
from clip_es.store.run import KeepCams, RunStore, StoreError
from clip_es.types import EncodedImage, ImageRecord, Picture

WORTH_WORKERS = 24
"""Pictures from which on starting worker processes (some seconds) pays."""

MOST_READERS = 8
"""Threads that decode pictures ahead of the encoder."""


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

    def keep(record: ImageRecord, located: Located, result: MaskResult | Exception) -> None:
        with maker.stopwatch("store"):
            store_result(store, record, located, result, maker.config.mask)
        done()

    def give_up(record: ImageRecord, stage: str, error: Exception) -> None:
        _fail(store, record, stage, error)
        done()

    with Finisher(maker, _worker_count(workers, maker, len(records))) as finisher:
        for record, located in locate_all(records, maker, batch_size, give_up):
            for ready in finisher.submit(record, located):
                keep(*ready)
        for ready in finisher.rest():
            keep(*ready)


def locate_all(
    records: Sequence[ImageRecord],
    maker: MaskMaker,
    batch_size: int,
    give_up: Callable[[ImageRecord, str, Exception], None],
) -> Iterator[tuple[ImageRecord, Located]]:
    """The pictures with their maps on the patch grid; `give_up` is called for each of the others."""
    by_id = {record.image_id: record for record in records}
    for batch in buckets(_read(records, maker, give_up, 2 * batch_size), batch_size):
        for picture, seen in _encode(batch, maker, lambda p, e: give_up(by_id[p.image_id], "encode", e)):
            record = by_id[picture.image_id]
            try:
                located = maker.locate(picture, seen, record.class_ids)
            except Exception as error:
                give_up(record, "localize", error)
            else:
                # Where labels were found and not given, they are the record's from here on.
                yield replace(record, class_ids=located.refined.class_ids), located


def store_result(
    store: RunStore, record: ImageRecord, located: Located, result: MaskResult | Exception, config: MaskConfig
) -> None:
    """Save the mask, or note why there is none; the maps are kept either way where the run keeps them."""
    try:
        if isinstance(result, MaskResult):
            store.save(record, result.mask, cams(result, store.keep, config), located.found_labels)
        else:
            _fail(store, record, "refine", result)
            if store.keep != "none":
                store.save_cams(record, grid_cams(located))
    except ClipEsError as error:
        _fail(store, record, "store", error)


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
    grid_hw = located.found.maps.scores.shape[1:]
    if refined.shape[1:] != grid_hw and len(refined):  # Diffusion has a grid of its own.
        refined = F.interpolate(refined[None], size=grid_hw, mode="area")[0]
    return {
        "class_ids": np.asarray(located.refined.class_ids, dtype=np.int64),
        "scores": _numpy(located.found.scores),
        "cam": _numpy(located.found.maps.scores),
        "refined": _numpy(refined),
    }


def _read(
    records: Iterable[ImageRecord],
    maker: MaskMaker,
    give_up: Callable[[ImageRecord, str, Exception], None],
    most: int,
) -> Iterator[Picture]:
    """The pictures that can be read, decoded by threads ahead of the encoder, `most` of them at a time."""
    readers = min(_cores(), MOST_READERS) if _cores() > 1 else 0
    with closing(ahead(maker.read, records, readers, most)) as pictures:
        for record, picture in pictures:
            if isinstance(picture, Exception):
                give_up(record, "read", picture)
            else:
                yield picture


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


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to("cpu", torch.float32).numpy()


def _worker_count(asked: int | None, maker: MaskMaker, pictures: int) -> int:
    if asked is not None and asked < 0:
        raise ConfigError("the number of workers cannot be negative", found=asked)
    if not workers_help(maker.config):
        return 0  # Nothing to hand over, or it stays on the device.
    if asked is not None:
        return asked
    return _cores() if _cores() > 1 and pictures >= WORTH_WORKERS else 0


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
