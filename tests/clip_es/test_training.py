"""The checkpointed loop: parts give the bits of the whole, whatever ends a part."""

import os
import signal
import threading
from contextlib import contextmanager

import pytest
import torch

from clip_es.errors import ClipEsError, ConfigError, WeightsError
from clip_es.store.disk import Lock
from clip_es.training import CHECKPOINT, ModelTask, Plan, Stop, train


class Line(ModelTask):
    """y = a x + b with dropout on x: draws from torch's generator, keeps momentum."""

    def __init__(self, break_at=None, stop_at=None):
        torch.manual_seed(0)
        self.model = torch.nn.Linear(4, 1)
        self.optimiser = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        self.break_at, self.stop_at, self.saved, self.batches = break_at, stop_at, [], []

    def advance(self, step, batch):
        self.batches.append(batch)
        x = torch.nn.functional.dropout(torch.randn(8, 4), 0.5)
        loss = (self.model(x) - x.sum(1, keepdim=True)).square().mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        if step == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"loss": float("nan") if step == self.break_at else float(loss.detach())}

    def after(self, step, figures):
        assert figures["seconds"] > 0

    def save(self, out, step):
        self.saved.append(step)

    @property
    def weights(self):
        return [*self.model.parameters()]


def plan(**changed):
    return Plan(steps=12, save_every=5, seed=3, config={"lr": 0.05, "sizes": (4, 1), "threads": 1} | changed)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.weights, other.weights, strict=True))


@pytest.fixture
def whole(tmp_path):
    task = Line()
    assert train(task, tmp_path / "whole", plan()) == 12
    return task


def test_checkpoints_come_as_often_as_asked_and_at_the_end(whole):
    assert whole.saved == [5, 10, 12]


def test_a_training_in_parts_ends_with_the_bits_of_one_in_one_go(whole, tmp_path):
    for stop in (1, 4, 3, None):
        torch.randn(7)  # what others draw in between changes nothing
        task = Line()
        train(task, tmp_path / "parts", plan(), stop_after=stop)
    assert same(task, whole)
    assert train(Line(), tmp_path / "parts", plan()) == 12, "nothing is left to do"


def test_a_stop_signal_leaves_a_checkpoint_of_the_step_that_was_running(whole, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(Line(stop_at=6), tmp_path, plan())
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["step"] == 7
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    task = Line()
    assert train(task, tmp_path, plan()) == 12
    assert same(task, whole)


def test_a_loss_that_is_no_number_ends_the_training_and_keeps_the_checkpoint(tmp_path):
    with pytest.raises(ClipEsError, match="no number") as caught:
        train(Line(break_at=7), tmp_path, plan())
    assert caught.value.where == "step 7"
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["step"] == 5


def test_batches_are_those_of_the_steps_that_are_left(tmp_path):
    opened = []

    @contextmanager
    def batches(start, end):
        opened.append((start, end))
        yield (f"batch {step}" for step in range(start, end))
        opened.append("closed")

    train(Line(), tmp_path, plan(), batches=batches, stop_after=4)
    task = Line()
    train(task, tmp_path, plan(), batches=batches)
    assert opened == [(0, 4), "closed", (4, 12), "closed"]
    assert task.batches == [f"batch {step}" for step in range(4, 12)]


def test_another_training_is_refused_by_the_setting_that_differs(tmp_path):
    config = Plan(12, 5, 3, {"lr": 0.05, "threads": 1}, free=("threads",))
    train(Line(), tmp_path, config, stop_after=1)
    train(Line(), tmp_path, Plan(12, 5, 3, {"lr": 0.05, "threads": 8}, free=("threads",)), stop_after=1)
    with pytest.raises(WeightsError, match="another training") as caught:
        train(Line(), tmp_path, Plan(12, 5, 3, {"lr": 0.1, "threads": 1}, free=("threads",)))
    assert (caught.value.expected, caught.value.found) == ("{'lr': 0.1}", "{'lr': 0.05}")


def test_a_damaged_checkpoint_and_a_second_process_are_named(tmp_path):
    train(Line(), tmp_path, plan(), stop_after=1)
    (tmp_path / "other").mkdir()
    with Lock.take(tmp_path, "train"), pytest.raises(ConfigError, match="another process trains"):
        train(Line(), tmp_path, plan())
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    for model in ({"weight": torch.zeros(1, 5), "bias": torch.zeros(1)}, None):
        torch.save({**state, "model": model}, tmp_path / "other" / CHECKPOINT)
        with pytest.raises(WeightsError, match="holds another model"):
            train(Line(), tmp_path / "other", plan())
    (tmp_path / CHECKPOINT).write_bytes((tmp_path / CHECKPOINT).read_bytes()[:-200])
    with pytest.raises(WeightsError, match="cannot be read"):
        train(Line(), tmp_path, plan())


def test_threads_may_train_too_and_leave_the_signals_alone():
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def listen():
        with Stop.on_signals() as stop:
            seen.append((stop.asked, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert seen == [(False, before)]
