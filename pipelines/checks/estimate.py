"""What a run will take, measured on a few of its pictures: time, memory, disk."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
from jaxtyping import Int32

from clip_es.errors import DataError
from clip_es.pipelines.masks.maker import MaskMaker
from clip_es.pipelines.masks.pools import worker_count
from clip_es.pipelines.masks.run import make_masks
from clip_es.refine import at_full_size
from clip_es.store.cams import KeepCams
from clip_es.store.run import RunStore
from clip_es.types import ImageRecord

_BLOCK = 4096
"""Bytes a file takes at least on most disks."""


@dataclass(frozen=True)
class Estimate:
    """What a run over `pictures` will take on this machine."""

    pictures: int
    measured: int
    seconds_by_stage: Mapping[str, float]
    """Means for one picture, one after the other on one core."""
    workers: int
    """Processes for the CRF that a run takes by itself."""
    seconds: float
    """Of the whole run."""
    memory_mib: float
    """Most memory of the main process, with a batch of the largest grid."""
    gpu_memory_mib: float | None
    """Most memory on the GPU for one picture; None without one."""
    largest_hw: tuple[int, int]
    """Size of the picture that takes most."""
    measured_largest: bool
    """Whether that one was tried; otherwise its memory is extrapolated."""
    disk_mib: float
    """Of the run's folder."""
    disk_free_mib: float
    memory_free_mib: float | None

    @property
    def troubles(self) -> tuple[str, ...]:
        """What will not do."""
        found = []
        if self.disk_mib > self.disk_free_mib:
            found.append(f"the run needs {self.disk_mib:.0f} MiB of disk and {self.disk_free_mib:.0f} MiB are free")
        if self.memory_free_mib is not None and self.memory_mib > self.memory_free_mib:
            height, width = self.largest_hw
            found.append(
                f"the largest picture, {height} x {width}, needs about {self.memory_mib:.0f} MiB and "
                f"{self.memory_free_mib:.0f} MiB are free: lower --image.max-patches or --batch-size"
            )
        return tuple(found)


def estimate(
    records: Sequence[ImageRecord],
    sizes_hw: Int32[np.ndarray, "picture 2"],
    maker: MaskMaker,
    *,
    count: int = 4,
    batch_size: int = 8,
    keep: KeepCams = "none",
    out: str | Path = ".",
) -> Estimate:
    """Make the masks of `count` pictures from the smallest to the largest, throw them away, and multiply.

    `sizes_hw` as `DataCheck` has them: 0 where a picture cannot be read. `out`: on whose disk the run will be.
    Raises DataError: no picture can be read, or none of those tried became a mask.
    """
    areas = sizes_hw.astype(np.int64).prod(axis=1)
    order = np.argsort(areas, kind="stable")
    order = order[areas[order] > 0]
    if not len(order):
        raise DataError("no picture can be read, so nothing can be estimated")
    count = min(count, len(order))
    # The middle of each of `count` equal parts of the data set, so that their mean stands for the whole.
    chosen = [records[int(order[int((i + 0.5) * len(order) / count)])] for i in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        with _store(folder, "warm-up", keep) as store:
            make_masks(
                [records[int(order[0])]], maker, store, batch_size=1, workers=0
            )  # libraries load and compile now
        before = dict(maker.stopwatch.seconds)
        start = time.perf_counter()
        with _store(folder, "sample", keep) as store:
            make_masks(chosen, maker, store, batch_size=1, workers=0)
            done = len(chosen) - store.failed_here
        elapsed = time.perf_counter() - start
        if not done:
            raise DataError("none of the pictures tried became a mask", found=[record.image_id for record in chosen])
        files = [file for file in Path(folder, "sample").glob("*/*") if file.is_file()]
        disk = sum(-(-file.stat().st_size // _BLOCK) * _BLOCK for file in files) / done * len(order)
        memory, gpu, tried = _memory(records, order, sizes_hw, maker, folder, batch_size)
    after = maker.stopwatch.seconds
    stages = {stage: (after[stage] - before.get(stage, 0.0)) / len(chosen) for stage in after}
    stages["rest"] = max(0.0, elapsed / len(chosen) - sum(stages.values()))
    workers = worker_count(None, maker.config, len(order))
    height, width = sizes_hw[order[-1]].tolist()
    free = shutil.disk_usage(_existing(Path(out))).free
    return Estimate(
        pictures=len(order),
        measured=done,
        seconds_by_stage=stages,
        workers=workers,
        seconds=_seconds(stages, workers, {name for name, _ in at_full_size(maker.config)}) * len(order),
        memory_mib=memory,
        gpu_memory_mib=gpu,
        largest_hw=(height, width),
        measured_largest=tried,
        disk_mib=disk / 2**20,
        disk_free_mib=free / 2**20,
        memory_free_mib=_free_mib(),
    )


def _seconds(stages: Mapping[str, float], workers: int, handed_over: set[str]) -> float:
    """Of one picture. Workers take what is handed over, but have no more cores than the whole."""
    whole = sum(stages.values())
    here = whole - sum(stages.get(name, 0.0) for name in (*handed_over, "decide"))
    return max(here, whole / workers) if workers else whole


def _memory(
    records: Sequence[ImageRecord],
    order: np.ndarray,
    sizes_hw: np.ndarray,
    maker: MaskMaker,
    folder: str,
    batch_size: int,
) -> tuple[float, float | None, bool]:
    """MiB of the process, MiB of the GPU, and whether the largest picture was tried or computed from a smaller one."""
    base = _resident_mib()
    extra = gpu = 0.0
    on_gpu = maker.encoder.device.type == "cuda"
    largest, tried = int(order[-1]), False
    for number in dict.fromkeys((int(order[len(order) // 2]), largest)):
        scale = _patches(sizes_hw[largest], maker) / max(_patches(sizes_hw[number], maker), 1)
        if number == largest and extra * scale > _free_mib() / 2:
            break
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        with _store(folder, f"memory-{number}", "none") as store, _Peak() as peak:
            make_masks([records[number]], maker, store, batch_size=1, workers=0)
        # Attention grows with the square of the patches, all else more slowly.
        extra = max(peak.mib - base, 0.0) * scale**2
        gpu = torch.cuda.max_memory_allocated() / 2**20 * scale**2 if on_gpu else 0.0
        tried = number == largest
    tokens = _patches(sizes_hw[largest], maker) + 1
    waiting = 0.0 if on_gpu else 4 * tokens**2 * (maker.encoder.sizes.heads + 1) * (batch_size - 1) / 2**20
    same_grid = min(1.0, len(order) / batch_size)
    return base + extra + waiting * same_grid, gpu if on_gpu else None, tried


def _patches(size_hw: np.ndarray, maker: MaskMaker) -> int:
    height, width = size_hw.tolist()
    patch, most = maker.encoder.patch, maker.config.image.max_patches
    count = -(-height // patch) * -(-width // patch)
    return count if most is None else min(count, most)


def _store(folder: str, name: str, keep: KeepCams) -> RunStore:
    return RunStore.open(Path(folder, name), {}, keep=keep)


def _existing(path: Path) -> Path:
    path = path.expanduser().absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _resident_mib() -> float:
    return psutil.Process().memory_info().rss / 2**20


def _free_mib() -> float:
    return psutil.virtual_memory().available / 2**20


class _Peak:
    """The most memory this process holds in the meantime, looked at every few milliseconds: no system tells the mark
    of a part of a process's life."""

    def __enter__(self) -> _Peak:
        self.mib, self._left = _resident_mib(), threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._watch.join()

    def _look(self) -> None:
        while not self._left.wait(0.002):
            self.mib = max(self.mib, _resident_mib())
