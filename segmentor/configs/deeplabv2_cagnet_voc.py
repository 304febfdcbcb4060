"""clip-es train runs/voc --config deeplabv2_cagnet_voc --val data/VOC2012 --out runs/voc-deeplabv2-cagnet

DeepLab v2 as CaGNet uses it, to be extended: caffe-style ResNet-101 with ceil-mode pooling, the sum of four dilated
convolutions to 600 channels, then a pointwise classifier. `clip-es extend` inserts the contextual module between the
two. Rates of CaGNet: trunk 2.5e-4, ASPP weights ten times, biases twenty times without decay; 40,000 steps of 8 crops
of 368 pixels at scales 0.5 to 1.5 of a 513 x 513 picture.
"""

_base_ = ["_runtime.py", "_voc_data.py"]

model = dict(
    type="ConfidenceEncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        # Caffe's: BGR, no division.
        mean=[104.008, 116.669, 122.675],
        std=[1.0, 1.0, 1.0],
        bgr_to_rgb=False,
        pad_val=0,
        seg_pad_val=255,
        size=(368, 368),
    ),
    pretrained="open-mmlab://detectron2/resnet101_caffe",
    backbone=dict(
        type="CeilResNet",
        depth=101,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        strides=(1, 2, 1, 1),
        dilations=(1, 1, 2, 4),
        norm_cfg=dict(type="BN", requires_grad=False),
        norm_eval=True,
        style="caffe",
    ),
    decode_head=dict(
        type="AsppSumHead",
        in_channels=2048,
        in_index=3,
        channels=600,
        dilations=(6, 12, 18, 24),
        num_classes=21,
        align_corners=False,
        loss_decode=dict(type="ConfidenceGuidedLoss", mode="hard", threshold=0.95),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadPseudoMask"),
    dict(type="Resize", scale=(513, 513), keep_ratio=False),
    dict(type="RandomResize", scale=(513, 513), ratio_range=(0.5, 1.5), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(368, 368)),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackPseudoMask"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(513, 513), keep_ratio=False),
    dict(type="LoadPseudoMask"),
    dict(type="PackPseudoMask"),
]
train_dataloader = dict(batch_size=8, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=2.5e-4, momentum=0.9, weight_decay=5e-4),
    paramwise_cfg=dict(
        custom_keys={
            "decode_head": dict(lr_mult=10.0),
            **{f"decode_head.branches.{i}.bias": dict(lr_mult=20.0, decay_mult=0.0) for i in range(4)},
        }
    ),
)
param_scheduler = [dict(type="PolyLR", power=0.9, eta_min=0.0, begin=0, end=40000, by_epoch=False)]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=40000, val_interval=4000)
