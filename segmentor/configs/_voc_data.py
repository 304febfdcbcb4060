"""PASCAL VOC 2012: masks of `clip-es masks voc12 --split train_aug --out runs/voc`, ground truth of val."""

# fmt: off
metainfo = dict(
    classes=(
        "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
        "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
    )
)
# fmt: on
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadPseudoMask"),
    dict(type="RandomResize", scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(512, 512), cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackPseudoMask"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(2048, 512), keep_ratio=True),
    dict(type="LoadPseudoMask"),
    dict(type="PackPseudoMask"),
]
train_dataloader = dict(
    batch_size=16,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="PseudoMaskDataset",
        run="runs/voc",
        images="data/VOC2012/JPEGImages",
        metainfo=metainfo,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="PseudoMaskDataset",
        masks="data/VOC2012/SegmentationClass",
        images="data/VOC2012/JPEGImages",
        list_file="data/VOC2012/ImageSets/Segmentation/val.txt",
        metainfo=metainfo,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
