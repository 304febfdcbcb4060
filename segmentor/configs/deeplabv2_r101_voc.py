"""clip-es train runs/voc --config deeplabv2_r101_voc --val data/VOC2012 --out runs/voc-deeplabv2

The paper's segmenter: DeepLab v2 with ResNet-101 from ImageNet, 71.1 / 71.4 mIoU on VOC val / test (with a backbone
trained on COCO, 73.8 / 73.9). Learning rates are its authors': 2e-4 from ImageNet, 2.5e-5 from COCO weights
(`--init FILE --lr 2.5e-5`). They name no schedule; this is the one DeepLab v2 is trained with in the public PyTorch
version: 20,000 iterations of 10 crops of 321 x 321, scales 0.5 to 1.5, the classifier ten times as fast.
Not here: the loss at three scales of that version, which costs as much again.
"""

_base_ = ["_runtime.py", "_voc_data.py"]

model = dict(
    type="ConfidenceEncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        # The backbone is Caffe's: BGR, no division.
        mean=[103.530, 116.280, 123.675],
        std=[1.0, 1.0, 1.0],
        bgr_to_rgb=False,
        pad_val=0,
        seg_pad_val=255,
        size=(321, 321),
    ),
    pretrained="open-mmlab://detectron2/resnet101_caffe",
    backbone=dict(
        type="ResNet",
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
        type="DeepLabV2Head",
        in_channels=2048,
        in_index=3,
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
    dict(type="RandomResize", scale=(513, 513), ratio_range=(0.5, 1.5), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(321, 321)),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackPseudoMask"),
]
test_pipeline = [dict(type="LoadImageFromFile"), dict(type="LoadPseudoMask"), dict(type="PackPseudoMask")]
train_dataloader = dict(batch_size=10, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=2e-4, momentum=0.9, weight_decay=5e-4),
    paramwise_cfg=dict(
        custom_keys={
            "decode_head": dict(lr_mult=10.0),
            **{f"decode_head.branches.{i}.bias": dict(lr_mult=20.0, decay_mult=0.0) for i in range(4)},
        }
    ),
)
param_scheduler = [dict(type="PolyLR", power=0.9, eta_min=0.0, begin=0, end=20000, by_epoch=False)]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=20000, val_interval=2000)
