"""An extended segmenter as files that `predict`, `evaluate` and `export-onnx` take like any other."""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from clip_es.masks import palette
from clip_es.segmentor.inference import Segmenter
from clip_es.segmentor.loading import build_model
from clip_es.segmentor.training.checkpoints import CONFIG
from clip_es.segmentor.zero_shot.extension import Extension
from clip_es.store.disk import write_atomic


def extended_config(
    settings: Mapping[str, Any],
    extension: Extension,
    order: Sequence[int],
    feature_channels: int,
    level: int | None = None,
) -> dict[str, Any]:
    """The config of the extended model: the segmenter's own with its head inside a `ZeroShotHead`.

    `order[k]` is the classifier's output of label k; `level` the backbone's map that is read too, counted from 0.
    """
    config = copy.deepcopy(dict(settings))
    chosen = extension.settings.networks
    model = config["model"]
    inner = dict(model["decode_head"])
    for key in ("loss_decode", "init_cfg", "sampler"):
        inner.pop(key, None)
    # Only the training of the old classifier knew these.
    inner["loss_decode"] = {"type": "CrossEntropyLoss", "avg_non_ignore": True}
    model["decode_head"] = {
        "type": "ZeroShotHead",
        "inner": inner,
        "order": [int(k) for k in order],
        "feature_channels": feature_channels,
        "hidden": chosen.hidden,
        "patch": chosen.patch,
        "linear": chosen.linear,
        "level": level,
        "clip": chosen.clip,
        "context": {
            "hidden": chosen.context_hidden,
            "selector": chosen.selector,
            "free_variance": chosen.free_variance,
            "bounded": chosen.bounded,
            "enabled": chosen.context,
            "kernel": chosen.context_kernel,
        },
    }
    model.pop("auxiliary_head", None)
    return {key: config[key] for key in ("model", "test_pipeline", "default_scope") if key in config}


def write_model(
    out: Path,
    settings: Mapping[str, Any],
    segmenter: Segmenter,
    extension: Extension,
    names: Sequence[str],
    order: Sequence[int],
    level: int | None = None,
) -> Path:
    """Write OUT/config.py and OUT/final.pth; `segmenter` is the one whose features were used (tapped).

    `names` are the labels of the new model, 0 first. Returns the checkpoint. Raises StoreError: the disk is full.
    """
    from mmengine.config import Config

    config = extended_config(settings, extension, order, int(extension.shift.shape[0]), level)
    model = build_model(config, "the extended model")
    state = _state(model, segmenter, extension)
    model.load_state_dict(state)
    write_atomic(out / CONFIG, Config(config).pretty_text.encode())
    buffer = io.BytesIO()
    known = {"classes": tuple(names), "palette": palette()[: len(names)].tolist()}
    weights = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    torch.save({"state_dict": weights, "meta": {"dataset_meta": known}}, buffer)
    write_atomic(out / "final.pth", buffer.getvalue(), durable=True)
    return out / "final.pth"


def _state(model: Any, segmenter: Segmenter, extension: Extension) -> dict[str, torch.Tensor]:
    """Every tensor of the new model: the old backbone and head, the new module and classifier."""
    state = dict(model.state_dict())
    for name, value in segmenter.model.state_dict().items():
        new = name.replace("decode_head.", "decode_head.inner.", 1) if name.startswith("decode_head.") else name
        if new in state:
            state[new] = value
    for part in ("context", "discriminator"):
        for name, value in getattr(extension, part).state_dict().items():
            state[f"decode_head.{part}.{name}"] = value
    state["decode_head.shift"], state["decode_head.spread"] = extension.shift, extension.spread
    return state
