"""clip-es train runs/scenes-masks --config scenes_small --val runs/scenes --out runs/scenes-segmenter

For drawn scenes, minutes on two cores: the frozen CLIP of the scenes, a small convolutional stem for the edges, and
SegFormer's head. Stem and head start from random weights.
"""

_base_ = ["_runtime.py"]

model = dict(
    type="ConfidenceEncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        # CLIP's own.
        mean=[122.7709, 116.7460, 104.0937],
        std=[68.5005, 66.6322, 70.3232],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(192, 192),
    ),
    backbone=dict(type="FrozenClip", weights="scenes", blocks=(2, 4), stem=48),
    decode_head=dict(
        type="SegformerHead",
        in_channels=[48, 192, 192],
        in_index=[0, 1, 2],
        channels=64,
        dropout_ratio=0.0,
        num_classes=33,
        norm_cfg=dict(type="BN", requires_grad=True),
        align_corners=False,
        loss_decode=dict(type="ConfidenceGuidedLoss", mode="hard", threshold=0.95),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)
# fmt: off
metainfo = dict(
    classes=(
        "background", "aeroplane", "bird", "boat", "bottle", "car", "cat", "cow", "person", "plant", "sheep", "train",
        "television", "bicycle", "bus", "chair", "dog", "horse", "motorbike", "sofa", "table", "truck", "helicopter",
        "duck", "fish", "elephant", "rabbit", "tree", "house", "umbrella", "cup", "clock", "lamp",
    )
)
# fmt: on
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadPseudoMask"),
    dict(type="RandomResize", scale=(256, 256), ratio_range=(0.85, 1.25), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(192, 192)),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackPseudoMask"),
]
test_pipeline = [dict(type="LoadImageFromFile"), dict(type="LoadPseudoMask"), dict(type="PackPseudoMask")]
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="PseudoMaskDataset",
        run="runs/scenes-masks",
        images="runs/scenes/JPEGImages",
        metainfo=metainfo,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="PseudoMaskDataset",
        masks="runs/scenes/SegmentationClass",
        images="runs/scenes/JPEGImages",
        list_file="runs/scenes/ImageSets/Segmentation/val.txt",
        metainfo=metainfo,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=6e-3, betas=(0.9, 0.999), weight_decay=0.01))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, begin=0, end=40, by_epoch=False),
    dict(type="PolyLR", power=0.9, eta_min=0.0, begin=40, end=600, by_epoch=False),
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=600, val_interval=300)
default_hooks = dict(checkpoint=dict(interval=100), logger=dict(interval=20))
