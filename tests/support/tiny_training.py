"""A run's folder and a config small enough to train in a test: pictures whose left half is class 1, right half 2."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from clip_es.masks import write_confidence, write_mask
from clip_es.segmentor.training.settings import TrainData

CLASSES = ("background", "left", "right")
SIZE = (40, 48)

CONFIG = """
default_scope = 'mmseg'
norm_cfg = dict(type='{norm}', requires_grad=True{groups})
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', mean=[120.0] * 3, std=[60.0] * 3, bgr_to_rgb=True,
                           pad_val=0, seg_pad_val=255, size=(32, 32), test_cfg=dict(size_divisor=8)),
    backbone=dict(type='ResNetV1c', depth=18, base_channels=8, stem_channels=8, num_stages=4,
                  out_indices=(0, 1, 2, 3), strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), norm_cfg=norm_cfg,
                  style='pytorch'),
    decode_head=dict(type='FCNHead', in_channels=64, in_index=3, channels=8, num_convs=1, concat_input=False,
                     dropout_ratio={dropout}, num_classes=19, norm_cfg=norm_cfg, align_corners=False,
                     loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)),
    auxiliary_head=dict(type='FCNHead', in_channels=32, in_index=2, channels=8, num_convs=1, concat_input=False,
                        dropout_ratio={dropout}, num_classes=19, norm_cfg=norm_cfg, align_corners=False,
                        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=0.4)),
    train_cfg=dict(), test_cfg=dict(mode='whole'))
train_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'){augment}, dict(type='PackSegInputs')]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
train_dataloader = dict(batch_size=2, num_workers=0, dataset=dict(type='PascalVOCDataset', pipeline=train_pipeline))
val_dataloader = dict(batch_size=1, num_workers=0, dataset=dict(type='PascalVOCDataset', pipeline=test_pipeline))
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.05, momentum=0.9))
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0.0, begin=0, end=40000, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=40000, val_interval=4000)
default_hooks = dict(timer=dict(type='IterTimerHook'), logger=dict(type='LoggerHook', interval=1),
                     param_scheduler=dict(type='ParamSchedulerHook'), checkpoint=dict(type='CheckpointHook'))
"""

AUGMENT = (
    ", dict(type='RandomResize', scale=(48, 48), ratio_range=(0.8, 1.2), keep_ratio=True),"
    " dict(type='RandomCrop', crop_size=(32, 32), cat_max_ratio=0.9), dict(type='RandomFlip', prob=0.5)"
)


def write_config(folder: Path, name: str = "tiny.py", norm: str = "SyncBN", augment: bool = True) -> Path:
    """A config as users have it: mmsegmentation's own parts, 19 classes, SyncBN, an auxiliary head."""
    path = folder / name
    groups = ", num_groups=4" if norm == "GN" else ""
    dropout = 0.1 if augment else 0.0
    path.write_text(CONFIG.format(norm=norm, groups=groups, augment=AUGMENT if augment else "", dropout=dropout))
    return path


def make_run(folder: Path, count: int = 6) -> Path:
    """FOLDER/run as `clip-es masks` leaves it, FOLDER/images, FOLDER/truth. Returns FOLDER."""
    for part in ("run/labels", "run/confidence", "images", "truth"):
        (folder / part).mkdir(parents=True)
    (folder / "run" / "run.yaml").write_text(
        yaml.safe_dump({"about": {"images": str(folder / "images"), "classes": ["left", "right"]}})
    )
    rng = np.random.default_rng(5)
    for i in range(count):
        labels = np.zeros(SIZE, dtype=np.uint8)
        labels[10:30, 4:24], labels[10:30, 24:44] = 1, 2
        picture = rng.integers(0, 60, (*SIZE, 3)).astype(np.uint8)
        picture[labels == 1, 0] += 150
        picture[labels == 2, 2] += 150
        Image.fromarray(picture).save(folder / "images" / f"p{i}.png")
        write_mask(folder / "truth" / f"p{i}.png", labels)
        write_mask(folder / "run" / "labels" / f"p{i}.png", labels)
        confidence = np.full(SIZE, 1.0, dtype=np.float32)
        confidence[20:] = 0.9
        write_confidence(folder / "run" / "confidence" / f"p{i}.png", confidence)
    return folder


def train_data(folder: Path, val: bool = True) -> TrainData:
    """What `make_run` made, with its truth for validation."""
    known = {"val_masks": folder / "truth", "val_images": folder / "images"} if val else {}
    return TrainData(classes=CLASSES, run=folder / "run", **known)
