"""A segmenter small enough for tests, as a training leaves it: final.pth and config.py in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

CONFIG = """
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
    ),
    pretrained=None,
    backbone=dict(
        type='ResNetV1c',
        depth=18,
        base_channels=8,
        stem_channels=8,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        dilations=(1, 1, 2, 4),
        strides=(1, 2, 1, 1),
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=False,
        style='pytorch',
        contract_dilation=True,
    ),
    decode_head=dict(
        type='ASPPHead',
        in_channels=64,
        in_index=3,
        channels=8,
        dilations=(1, 6),
        dropout_ratio=0.1,
        num_classes=%(classes)d,
        norm_cfg=dict(type='BN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=%(test)s,
)
test_pipeline = [
    dict(type='LoadImageFromFile'),
%(steps)s
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
default_scope = 'mmseg'
"""


def write_segmenter(
    folder: Path, classes: int = 5, *, names: tuple[str, ...] = (), test: str = "dict(mode='whole')", steps: str = ""
) -> Path:
    """Random weights, the same each time, with outputs that differ between pixels. Returns the checkpoint."""
    from clip_es.segmentor.loading import build_model
    from clip_es.segmentor.training.checkpoints import parse_config

    folder.mkdir(parents=True, exist_ok=True)
    text = CONFIG % {"classes": classes, "test": test, "steps": steps}
    (folder / "config.py").write_text(text)
    torch.manual_seed(7)
    model = build_model(parse_config(text, "test"), "test")
    for module in model.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.BatchNorm2d)):
            torch.nn.init.normal_(module.weight, 0.3 if isinstance(module, torch.nn.Conv2d) else 1.0, 0.3)
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.normal_(module.weight, 0.0, (2 / module.weight[0].numel()) ** 0.5)
    torch.nn.init.normal_(model.decode_head.conv_seg.weight, 0.0, 2.0)
    meta: dict[str, Any] = {"dataset_meta": {"classes": names or tuple(f"thing{k}" for k in range(classes))}}
    torch.save({"state_dict": model.state_dict(), "meta": meta}, folder / "final.pth")
    return folder / "final.pth"
