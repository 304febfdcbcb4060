"""From a data set with image-level labels to a run folder full of masks.

Pictures of one grid size go through the encoder together; what follows at full size (the CRF) runs in worker processes
meanwhile. A picture that fails becomes a row of failures.csv; the others are still done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clip_es.config.run import MaskConfig
from clip_es.errors import ConfigError
from clip_es.masks import label_scores
from clip_es.pipelines.masks.method import Maker, MaskResult, Refined, masks
from clip_es.pipelines.masks.pools import readers_for, workers_for
from clip_es.pipelines.parallel.executor import Executor, Failure
from clip_es.pipelines.stopwatch import Stopwatch
from clip_es.scaling import upsample
from clip_es.store.cams import KeepCams
from clip_es.store.disk import StoreError
from clip_es.store.found_labels import FoundLabels
from clip_es.store.shards.store import ShardStore
from clip_es.types import ImageRecord, PseudoMask


@runtime_checkable
class Store(Protocol):
    """Where masks go: a `RunStore`, or what stands for it on another machine."""

    keep: KeepCams

    def save(
        self,
        record: ImageRecord,
        mask: PseudoMask,
        cams: dict[str, np.ndarray] | None = None,
        found: FoundLabels | None = None,
    ) -> None:
        """Keep a mask."""
        ...

    def save_cams(self, record: ImageRecord, cams: dict[str, np.ndarray]) -> None:
        """Keep the maps of a picture that failed after them."""
        ...

    def fail(self, record: ImageRecord, stage: str, error: Exception) -> None:
        """Note a picture that failed."""
        ...


def make_masks(
    records: Sequence[ImageRecord],
    maker: Maker,
    store: Store,
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
    shelf = Shelf(store, maker.config.mask, maker.stopwatch, done)
    with readers_for(2 * batch_size) as readers, workers_for(workers, maker.config, len(records)) as processes:
        executor = Executor(shelf.failed, readers=readers, workers=processes)
        shelf.keep(masks(records, maker, executor, batch_size), executor)


def make_shards(
    records: Sequence[ImageRecord],
    maker: Maker,
    store: ShardStore,
    *,
    size: int,
    batch_size: int = 8,
    workers: int | None = None,
    done: Callable[[], object] = lambda: None,
) -> None:
    """The same into shards of `size` pictures, one after the other; a shard is written once it is whole."""
    with readers_for(2 * batch_size) as readers, workers_for(workers, maker.config, len(records)) as processes:
        for unit in store.units(records, size):
            writer = store.sink.writer(unit)
            shelf = Shelf(writer, maker.config.mask, maker.stopwatch, done)
            executor = Executor(shelf.failed, readers=readers, workers=processes)
            shelf.keep(masks(unit.records, maker, executor, batch_size), executor)
            with maker.stopwatch("store"):
                store.failed_here += len(writer.commit().failures)


class Shelf:
    """Puts results where they belong: masks into the store, failures beside them."""

    def __init__(
        self, store: Store, config: MaskConfig, stopwatch: Stopwatch, done: Callable[[], object] = lambda: None
    ) -> None:
        self.store, self.config, self.stopwatch, self.done = store, config, stopwatch, done

    def keep(self, results: Iterable[tuple[ImageRecord, MaskResult]], executor: Executor) -> None:
        """Store every mask, as the last step of the flow."""
        flow = ((record, (record, result)) for record, result in results)
        for _ in executor.each("store", self._save, flow):
            self.done()

    def failed(self, failure: Failure) -> None:
        """Note the picture and go on, unless the error would meet every other picture too."""
        if isinstance(failure.error, (StoreError, ConfigError)):
            raise failure.error
        self.store.fail(failure.record, failure.stage, failure.error)
        refined = failure.reached[0] if failure.reached else None
        if isinstance(refined, Refined) and self.store.keep != "none":
            self.store.save_cams(_with_classes(failure.record, refined), grid_cams(refined))
        self.done()

    def _save(self, record: ImageRecord, result: MaskResult) -> None:
        with self.stopwatch("store"):
            refined = result.refined
            arrays = cams(result, self.store.keep, self.config)
            self.store.save(_with_classes(record, refined), result.mask, arrays, refined.found_labels)


def _with_classes(record: ImageRecord, refined: Refined) -> ImageRecord:
    """Where labels were found and not given, they are the record's from here on."""
    return replace(record, class_ids=refined.maps.class_ids)


def cams(result: MaskResult, keep: KeepCams, config: MaskConfig) -> dict[str, np.ndarray] | None:
    """The arrays of cams/<id>.npz, as the run folder's contract names them; None where none are kept."""
    if keep == "none":
        return None
    arrays = grid_cams(result.refined)
    if keep == "full":
        at_size = upsample(result.maps, result.refined.picture.size_hw)
        arrays["probabilities"] = label_scores(at_size, config.background_power, config.half).astype(np.float32)
    return arrays


def grid_cams(refined: Refined) -> dict[str, np.ndarray]:
    """Those of the arrays that are known on the patch grid."""
    maps = refined.maps.scores if refined.maps.unscaled is None else refined.maps.unscaled
    grid_hw = refined.found.maps.scores.shape[1:]
    if maps.shape[1:] != grid_hw and len(maps):  # Diffusion has a grid of its own.
        maps = F.interpolate(maps[None], size=grid_hw, mode="area")[0]
    return {
        "class_ids": np.asarray(refined.maps.class_ids, dtype=np.int64),
        "scores": _numpy(refined.found.scores),
        "cam": _numpy(refined.found.maps.scores),
        "refined": _numpy(maps),
    }


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to("cpu", torch.float32).numpy()
