"""Extend a trained segmenter in a folder that can be killed at any moment and continued by the same call.

OUT/features/       features of the frozen segmenter, one file for each picture; may be removed afterwards
OUT/checkpoint.pt   all that the next step needs
OUT/final.pth, OUT/config.py   the extended model, for `predict`, `evaluate` and `export-onnx`
OUT/extend.json     classes, conditions, settings, what the figures may be compared with
OUT/tensorboard/    the losses of every phase
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from clip_es.pipelines.extend.conditions import digest
from clip_es.pipelines.extend.data import Prepared
from clip_es.segmentor.zero_shot.extension import Extension
from clip_es.segmentor.zero_shot.features import Example
from clip_es.segmentor.zero_shot.published import load_published
from clip_es.segmentor.zero_shot.settings import ExtendSettings
from clip_es.segmentor.zero_shot.write import write_model
from clip_es.store.disk import write_atomic
from clip_es.training import Plan, train


def extend(
    prepared: Prepared,
    settings: ExtendSettings,
    out: Path,
    *,
    way: str = "default",
    published: Path | None = None,
    save_every: int = 200,
    stop_after: int | None = None,
    report: Callable[[int, dict[str, float]], None] | None = None,
    model_config: dict[str, Any] | None = None,
) -> Path | None:
    """Train, or go on training, and write the extended model. Returns its checkpoint; None where it was stopped early.

    `published`: a checkpoint of the published code to start from. Raises as `clip_es.training.train`, and ConfigError:
    no mask holds a seen class; WeightsError: published weights that do not fit.
    """
    extension = Extension(
        settings,
        prepared.examples,
        prepared.vectors,
        len(prepared.split.seen),
        prepared.segmenter.device,
        prepared.shared,
        prepared.old,
    )
    started = load_published(published, extension) if published is not None else []
    identity = {
        "model": prepared.segmenter.source,
        "vectors": _hash(prepared.vectors),
        "data": fingerprint(prepared.examples),
        "published": None if published is None else digest(published),
    }
    plan = Plan(settings.steps, save_every, settings.seed, asdict(settings) | identity, device=extension.device)
    with _board(out) as note:

        def told(step: int, figures: dict[str, float]) -> None:
            note(step, settings.at(step - 1)[0], figures)
            if report:
                report(step, figures)

        done = train(extension, out, plan, stop_after=stop_after, report=told)
    if done < settings.steps:
        return None
    config = model_config or dict(prepared.segmenter.settings)
    path = write_model(out, config, prepared.segmenter, extension, prepared.labels, prepared.order, prepared.level)
    record = {
        "way": way,
        **prepared.told,
        **identity,
        "started_from": started,
        "names": dict(zip(("ridge", "left_out_error"), extension.fit.tolist(), strict=True)),
        "settings": asdict(settings),
    }
    write_atomic(out / "extend.json", (json.dumps(record, indent=1) + "\n").encode())
    return path


class _board:
    """TensorBoard's events, where it is installed."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.writer: Any = None

    def __enter__(self) -> Callable[[int, str, dict[str, float]], None]:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return lambda step, phase, figures: None
        self.writer = SummaryWriter(str(self.out / "tensorboard"))
        return self._note

    def _note(self, step: int, phase: str, figures: dict[str, float]) -> None:
        if step % 10 == 0:
            for name, value in figures.items():
                self.writer.add_scalar(f"{phase.replace(' ', '-')}/{name}", value, step)

    def __exit__(self, *_: object) -> None:
        if self.writer is not None:
            self.writer.close()


def fingerprint(examples: Iterable[Example]) -> str:
    """Of pictures' names, labels and gates."""
    value = 0
    for example in examples:
        value = zlib.crc32(example.image_id.encode(), value)
        value = zlib.crc32(np.ascontiguousarray(example.labels).tobytes(), value)
        if example.gates is not None:
            value = zlib.crc32(np.ascontiguousarray(example.gates).tobytes(), value)
    return f"{value:08x}"


def _hash(vectors: Tensor) -> str:
    return hashlib.sha256(vectors.cpu().numpy().tobytes()).hexdigest()
