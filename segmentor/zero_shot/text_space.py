"""The patches of a frozen CLIP, in the space of its text, beside the maps of a segmenter's backbone."""

from __future__ import annotations

import copy
from typing import Any

import torch

from clip_es.errors import ConfigError
from clip_es.segmentor.inference import Segmenter


def add_clip(segmenter: Segmenter, weights: str) -> None:
    """Make a segmenter's backbone give CLIP's map as its last one, in place, in the model and in its config.

    A frozen CLIP of the same weights has it already and only hands it out; any other backbone gets a CLIP beside it.
    Raises ConfigError: the head reads no maps by number; WeightsError: there are no such weights.
    """
    from clip_es.segmentor.models.clip_backbone import FrozenClip, WithClip

    model: Any = segmenter.model
    settings = copy.deepcopy(dict(segmenter.settings))
    config = settings["model"]
    backbone = config["backbone"]
    if isinstance(model.backbone, FrozenClip) and backbone.get("weights", "scenes") == weights:
        blocks = len(model.backbone.tower.transformer.blocks)
        if max(model.backbone.blocks) == blocks:
            model.backbone.project = backbone["project"] = True
            segmenter.settings = settings
            return
    _count_from_the_front(model, config)
    ready = config.get("data_preprocessor") or {}
    told = {
        "inner": backbone,
        "weights": weights,
        "mean": list(ready.get("mean") or (0.0, 0.0, 0.0)),
        "std": list(ready.get("std") or (1.0, 1.0, 1.0)),
        # mmsegmentation reads BGR.
        "rgb": bool(ready.get("bgr_to_rgb", False)),
    }
    device = next(model.parameters()).device
    both = WithClip(**told)
    both.inner = model.backbone
    model.backbone = both.to(device).eval()
    config["backbone"] = {"type": "WithClip", **told}
    config.pop("pretrained", None)
    segmenter.settings = settings


def _count_from_the_front(model: Any, config: dict[str, Any]) -> None:
    """A head that reads "the last map" still reads the same one when another stands behind it."""
    head, told = model.decode_head, config["decode_head"]
    if not isinstance(told, dict):
        raise ConfigError("a model with several decode heads has no one feature map", found=f"{len(told)} heads")
    index = head.in_index
    if isinstance(index, int) and index < 0:
        with torch.no_grad():
            maps = model.backbone(torch.zeros(1, 3, 64, 64, device=next(model.parameters()).device))
        head.in_index = told["in_index"] = len(maps) + index
    elif not isinstance(index, int) and min(index) < 0:
        raise ConfigError("the head counts its maps from the end", where="in_index", found=list(index))
