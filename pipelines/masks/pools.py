"""Who helps with masks: threads that decode pictures ahead, processes for what follows at full size."""

from __future__ import annotations

import torch

from clip_es.config.run import RunConfig
from clip_es.errors import ConfigError
from clip_es.pipelines.parallel.cores import cores
from clip_es.pipelines.parallel.pool import Here, Pool
from clip_es.pipelines.parallel.processes import Processes
from clip_es.pipelines.parallel.threads import Threads
from clip_es.refine import workers_help

WORTH_WORKERS = 24
"""Pictures from which on starting worker processes (some seconds) pays."""

MOST_READERS = 8
"""Threads that decode pictures ahead of the encoder."""


def worker_count(asked: int | None, config: RunConfig, pictures: int) -> int:
    """Processes for what follows at full size. Raises ConfigError: fewer than none are asked for."""
    if asked is not None and asked < 0:
        raise ConfigError("--workers cannot be negative", expected="0 or more", found=asked)
    if not workers_help(config):
        return 0  # Nothing to hand over, or it stays on the device.
    if asked is not None:
        return asked
    return cores() if cores() > 1 and pictures >= WORTH_WORKERS else 0


def readers_for(most: int) -> Pool:
    """Threads that have at most `most` pictures under way, where there is more than one core."""
    return Threads(min(cores(), MOST_READERS), most) if cores() > 1 else Here()


def workers_for(asked: int | None, config: RunConfig, pictures: int) -> Pool:
    """The processes of `worker_count`, or none."""
    count = worker_count(asked, config, pictures)
    return Processes(count, start=_one_thread) if count else Here()


def _one_thread() -> None:
    torch.set_num_threads(1)  # since there is one worker for each core
