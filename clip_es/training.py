"""The one loop of everything trained without mmengine: begin or continue, stop at any moment, end with the same bits.

A task knows its model and one optimiser step; the loop knows steps, checkpoints and signals. What a step draws (from
torch's generators) follows from the seed and the number of the step, and what it sees follows from the number of the
step through `batches`; so a training in parts ends with the weights of one in one go.

    OUT/checkpoint.pt   all that the next step needs; replaced whole, synced to disk
"""

from __future__ import annotations

import io
import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, runtime_checkable

import torch

from clip_es.errors import ClipEsError, ConfigError, WeightsError
from clip_es.store.disk import Lock, make_folder, names_in, write_atomic

CHECKPOINT = "checkpoint.pt"

Report = Callable[[int, dict[str, float]], None]
"""Called after each step with the number of steps done and the figures of the last one."""


@runtime_checkable
class Task(Protocol):
    """What is trained."""

    def advance(self, step: int, batch: Any, /) -> dict[str, float]:
        """Step number `step` (from 0) with its batch. Returns figures; `loss`, if any, must be finite."""
        ...

    def after(self, step: int, figures: dict[str, float]) -> None:
        """What follows a step, `step` being those done: validate, keep a history. `figures` may be added to."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that the next step needs beside its batch (model, optimiser, history): tensors and plain values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from such a state."""
        ...

    def save(self, out: Path, step: int) -> None:
        """Write what others read: weights, history. Called right after each checkpoint."""
        ...


class ModelTask:
    """What a task of one model and one optimiser need not say: its state is theirs, and nothing follows a step."""

    model: torch.nn.Module
    optimiser: torch.optim.Optimizer

    def after(self, step: int, figures: dict[str, float]) -> None:
        """Nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Of the model and its optimiser."""
        return {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The same back."""
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])

    def save(self, out: Path, step: int) -> None:
        """Nothing beside the checkpoint."""


@dataclass(frozen=True)
class Plan:
    """How long, how often, and what makes two trainings the same."""

    steps: int
    """Steps in all."""
    save_every: int
    """Steps between two checkpoints; the last step and a stop always make one."""
    seed: int
    config: Mapping[str, Any]
    """Settings and data by name, kept in the checkpoint; another value of one of them is another training."""
    free: tuple[str, ...] = ()
    """Names in `config` that may differ between the parts of a training: they change the time, not the result."""
    device: torch.device | str = "cpu"
    save_at: tuple[int, ...] = ()
    """Further steps that make a checkpoint."""


def train(
    task: Task,
    out: Path,
    plan: Plan,
    *,
    batches: Callable[[int, int], AbstractContextManager[Iterable[Any]]] | None = None,
    stop_after: int | None = None,
    report: Report | None = None,
    begin_from: Path | None = None,
) -> int:
    """Train, or go on training, in folder `out`. Returns the number of steps done in all.

    `batches(start, end)` opens the batches of those steps, in their order; threads or processes that read ahead live
    as long as the context. None: the task makes its own. `stop_after` ends the call after that many steps. Where `out`
    has no checkpoint, training goes on from the one at `begin_from`, if given.
    The figures of a step gain `seconds`, the time spent in steps so far, over all parts.
    SIGINT and SIGTERM let the running step end, write a checkpoint and raise KeyboardInterrupt; a second SIGINT does
    not wait.

    Raises WeightsError: the checkpoint is damaged or of another training. ConfigError: another process trains here.
    ClipEsError: the loss is not finite (the checkpoint stays as it was). StoreError: the disk is full.
    """
    make_folder(out)
    lock = Lock.take(out, "train")
    if lock is None:
        raise ConfigError("another process trains in this folder", where=out, found=Lock.holder(out, "train"))
    with lock:
        names_in(out)  # listing clears what a writer that died has left
        own = (out / CHECKPOINT).exists()
        path = out / CHECKPOINT if own else begin_from
        step, seconds = (0, 0.0) if path is None else _restore(task, path, plan)
        if own:
            task.save(out, step)  # the call before may have been stopped between its last checkpoint and this
        end = plan.steps if stop_after is None else min(step + stop_after, plan.steps)
        opened = nullcontext(range(step, end)) if batches is None else batches(step, end)
        with Stop.on_signals() as stop, opened as seen:
            begun = time.perf_counter()
            for batch in seen:
                with drawn_from(plan.seed, step, plan.device):
                    figures = task.advance(step, batch)
                if not math.isfinite(figures.get("loss", 0.0)):
                    raise ClipEsError(
                        "the loss is no number",
                        where=f"step {step}",
                        next_step=f"The checkpoint in {out} is sound; train with a smaller --lr or without --amp.",
                    )
                step += 1
                figures["seconds"] = seconds + time.perf_counter() - begun
                task.after(step, figures)
                if report:
                    report(step, figures)
                if step % plan.save_every == 0 or step in plan.save_at or step == end or stop.asked:
                    seconds, begun = figures["seconds"], time.perf_counter()
                    _save(task, out, plan, step, seconds)
                stop.obey()
    return step


@contextmanager
def drawn_from(seed: int, step: int, device: torch.device | str) -> Iterator[None]:
    """Torch's generators seeded for one step, and afterwards as they were found."""
    with torch.random.fork_rng(devices=[device] if torch.device(device).type == "cuda" else []):
        torch.manual_seed((seed << 32) + step)
        yield


class Stop:
    """Whether someone asked to stop, by SIGINT or SIGTERM."""

    def __init__(self) -> None:
        self.asked = False

    def obey(self) -> None:
        """Raises KeyboardInterrupt: someone asked."""
        if self.asked:
            raise KeyboardInterrupt

    @classmethod
    @contextmanager
    def on_signals(cls) -> Iterator[Stop]:
        """Listen to both signals while the context lasts; outside the main thread, which alone may, to none."""
        stop = cls()
        if threading.current_thread() is not threading.main_thread():
            yield stop
            return

        def ask(number: int, frame: FrameType | None) -> None:
            if stop.asked and number == signal.SIGINT:
                raise KeyboardInterrupt
            stop.asked = True

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield stop
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _save(task: Task, out: Path, plan: Plan, step: int, seconds: float) -> None:
    buffer = io.BytesIO()
    torch.save({**task.state_dict(), "step": step, "seconds": seconds, "config": plain(dict(plan.config))}, buffer)
    write_atomic(out / CHECKPOINT, buffer.getvalue(), durable=True)
    task.save(out, step)


def _restore(task: Task, path: Path, plan: Plan) -> tuple[int, float]:
    """Give the task the state of the checkpoint. Returns steps and seconds. Raises WeightsError."""
    try:
        state = torch.load(path, map_location=plan.device, weights_only=True)
        step, then = int(state["step"]), {**state["config"], **state.get("identity", {})}
    except Exception as error:  # torch raises many kinds for a damaged archive
        raise WeightsError(
            "the checkpoint cannot be read", where=path, found=error, next_step="Remove it to begin anew."
        ) from error
    now = plain(dict(plan.config))
    changed = [name for name in now if name not in plan.free and plain(then.get(name)) != now[name]]
    if changed:
        raise WeightsError(
            "the checkpoint belongs to another training",
            where=path,
            expected={name: now[name] for name in changed},
            found={name: then.get(name) for name in changed},
            next_step="Train into another folder.",
        )
    try:
        task.load_state_dict(state)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:  # what torch says of other names and shapes
        raise WeightsError(
            "the checkpoint holds another model",
            where=path,
            found=f"{type(error).__name__}: {error}",
            next_step="Train into another folder.",
        ) from error
    return step, float(state.get("seconds", 0.0))


def plain(value: Any) -> Any:
    """Tuples as lists and paths as text, all the way down: for comparison, and for what reads plain values alone."""
    if isinstance(value, Mapping):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, Path):
        return str(value)
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value
