"""What a training needs to survive a kill and to be the same again. Needs mmsegmentation; see `compat.py`."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import nn

from clip_es.errors import ConfigError
from clip_es.store.disk import write_atomic
from clip_es.training import Stop


class WholeFileBackend(LocalBackend):
    """mmengine's local files, each of which appears whole or not at all."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes under a temporary name, sync them, give them their name."""
        Path(filepath).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(Path(filepath), obj, durable=True)


class WholeCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, which writes in place, so that a kill leaves half a file: this one never does.

    The oldest checkpoint is removed before the newest is written, so at least two are kept.
    """

    def __init__(self, *args: Any, max_keep_ckpts: int = 2, **kwargs: Any) -> None:
        if max_keep_ckpts in (0, 1):
            raise ConfigError(
                "a single checkpoint is unusable while it is being written",
                expected="max_keep_ckpts >= 2, or -1",
                found=max_keep_ckpts,
            )
        super().__init__(*args, max_keep_ckpts=max_keep_ckpts, **{"backend_args": {"backend": "whole-file"}, **kwargs})


class SeedEachIteration(Hook):
    """Random numbers of an iteration follow from seed, process and iteration alone, so resuming changes nothing.

    With worker processes that holds for the model (dropout); the augmentations begin anew in each worker.
    """

    priority = "VERY_HIGH"

    def before_train(self, runner: Runner) -> None:
        """Seed what the first batch is made with."""
        self._seed_data(runner, runner.iter)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed what the model draws."""
        torch.manual_seed(_seed(runner, runner.iter))

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Seed what the next batch is made with."""
        self._seed_data(runner, runner.iter + 1)

    def _seed_data(self, runner: Runner, iteration: int) -> None:
        seed = _seed(runner, iteration)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 (mmcv's transforms draw from the global generator)


class ProgressHook(Hook):
    """Tells a callback how far a training is: iteration, iterations in all, loss, mIoU where it was just measured."""

    def __init__(self, tell: Callable[[int, int, float | None, float | None], None], every: int = 1) -> None:
        self.tell, self.every = tell, every

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """After each `every` iterations."""
        if (runner.iter + 1) % self.every == 0:
            loss = None if not outputs or "loss" not in outputs else outputs["loss"].item()
            self.tell(runner.iter + 1, runner.max_iters, loss, None)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """After each validation."""
        if metrics and "mIoU" in metrics:
            self.tell(runner.iter, runner.max_iters, None, float(metrics["mIoU"]))


class StopHook(Hook):
    """Ends a training that was asked to stop, after the iteration that was running, with a checkpoint."""

    def __init__(self, stop: Stop) -> None:
        self.stop = stop

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Raises KeyboardInterrupt: someone asked."""
        if self.stop.asked:
            for hook in runner.hooks:
                if isinstance(hook, CheckpointHook) and not hook.every_n_train_iters(runner, hook.interval):
                    hook._save_checkpoint(runner)
            self.stop.obey()


class ClaimHook(Hook):
    """Calls `claim` before the first checkpoint: from then on the folder is this training's."""

    def __init__(self, claim: Callable[[], None]) -> None:
        self.claim, self.claimed = claim, False

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """The first time alone."""
        if not self.claimed:
            self.claim()
            self.claimed = True


class BFloat16OptimWrapper(OptimWrapper):
    """Mixed precision on a CPU: bfloat16 inside the model, float32 weights; mmengine's own asks for a GPU.

    bfloat16 has the range of float32, so no loss is scaled.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """The context of a forward pass."""
        with super().optim_context(model), torch.autocast("cpu", torch.bfloat16):
            yield


class WholeRunner(Runner):
    """mmengine's Runner without its copy of the config; `launch` writes one, whole or not at all."""

    def dump_config(self) -> None:
        """Nothing."""


class QuietRunner(WholeRunner):
    """mmengine's Runner, whose log of versions and settings goes to its file and not to the terminal."""

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """The logger; errors still reach the terminal."""
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if type(handler) is logging.StreamHandler:
                handler.setLevel(logging.ERROR)
        return logger


def _seed(runner: Runner, iteration: int) -> int:
    return int(np.random.SeedSequence([runner.seed or 0, get_rank(), iteration]).generate_state(1)[0])
