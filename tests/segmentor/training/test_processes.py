"""A training that is killed, and one in two processes: the same weights as one that runs through."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

pytest.importorskip("mmseg")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

CLI = (sys.executable, "-m", "clip_es.pipelines.cli", "train")


def start(*words, launcher=()):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*(launcher or CLI), *map(str, words)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process):
    said, _ = process.communicate(timeout=1000)
    assert process.returncode == 0, said
    return said


def weights(out):
    return torch.load(out / "final.pth", weights_only=True)["state_dict"]


def test_a_killed_training_that_is_resumed_ends_with_the_same_weights(tmp_path, tiny_training):
    """Two kills here; benchmarks/kill_training.py has ten and prints what they did."""
    folder = tiny_training.make_run(tmp_path / "data")
    config = tiny_training.write_config(folder)
    flags = (folder / "run", "--config", config, "--iterations", 40, "--checkpoint-interval", 3)
    finish(start(*flags, "--out", tmp_path / "whole"))
    chance, killed = random.Random(0), 0
    while killed < 2:
        process = start(*flags, "--out", tmp_path / "killed")
        before = len(list((tmp_path / "killed").glob("iter_*.pth")))
        # Wait for the first checkpoint of this call, or every call would die while it imports.
        while process.poll() is None and len(list((tmp_path / "killed").glob("iter_*.pth"))) <= min(before, 1):
            time.sleep(0.05)
        time.sleep(chance.random())
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += 1
        assert (tmp_path / "killed" / "train.json").exists()
    finish(start(*flags, "--out", tmp_path / "killed"))
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not [path for path in (tmp_path / "killed").iterdir() if path.name.startswith(".")]


def test_two_processes_with_half_the_batch_give_the_weights_of_one(tmp_path, tiny_training):
    """Group norm and neither dropout nor augmentation: what is left is the arithmetic of batch and loss."""
    folder = tiny_training.make_run(tmp_path / "data")
    config = tiny_training.write_config(folder, norm="GN", augment=False)
    flags = (folder / "run", "--config", config, "--iterations", 4, "--loss", "soft", "--balanced", "--lr", 0.02)
    finish(start(*flags, "--batch-size", 4, "--out", tmp_path / "one"))
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *CLI[1:])
    finish(start(*flags, "--batch-size", 2, "--launcher", "pytorch", "--out", tmp_path / "two", launcher=torchrun))
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-5)


def test_our_parts_work_in_mmsegmentation_without_our_command(tmp_path, tiny_training):
    """A user's own script and config; only `custom_imports` names us."""
    folder = tiny_training.make_run(tmp_path / "data")
    config = tiny_training.write_config(folder)
    text = config.read_text().replace("'EncoderDecoder'", "'ConfidenceEncoderDecoder'")
    text = text.replace("type='CrossEntropyLoss', use_sigmoid=False", "type='ConfidenceGuidedLoss', mode='soft'")
    text = text.replace("'LoadAnnotations'", "'LoadPseudoMask'").replace("'PackSegInputs'", "'PackPseudoMask'")
    source = f"type='PseudoMaskDataset', run='{folder / 'run'}', metainfo=dict(classes=('background', 'left', 'right'))"
    text = text.replace("type='PascalVOCDataset'", source).replace("num_classes=19", "num_classes=3")
    text = text.replace("max_iters=40000", "max_iters=2").replace("end=40000", "end=2")
    text = text.replace("type='CheckpointHook'", "type='WholeCheckpointHook', by_epoch=False, interval=1")
    text = text.replace(
        "train_dataloader = dict(", "train_dataloader = dict(sampler=dict(type='InfiniteSampler', shuffle=True), "
    )
    text = text.replace("val_dataloader = ", "unused = ")
    text += f"""
custom_imports = dict(imports=['clip_es.segmentor.register'])
work_dir = {str(tmp_path / "out")!r}
"""
    config.write_text(text)
    script = f"""
from mmengine.config import Config
from mmengine.runner import Runner
Runner.from_cfg(Config.fromfile({str(config)!r})).train()
"""
    said = finish(start(launcher=(sys.executable, "-c", script)))
    assert "decode.loss_cgl" in said
    assert (tmp_path / "out" / "iter_2.pth").is_file()
