"""clip-es train runs/voc --config deeplabv2_cagnet_voc --val data/VOC2012 --out runs/voc-deeplabv2-cagnet

DeepLab v2 as CaGNet uses it, to be extended: caffe-style ResNet-101 with ceil-mode pooling, the sum of four dilated
convolutions to 600 channels, then a pointwise classifier. `clip-es extend` inserts the contextual module between the
two. Rates of CaGNet: trunk 2.5e-4, ASPP weights ten times, biases twenty times without decay; 40,000 steps of 8 crops
of 368 pixels at scales 0.5 to 1.5 of a 513 x 513 picture.
"""

_base_ = ["deeplabv2_r101_voc.py"]

model = dict(
    data_preprocessor=dict(mean=[104.008, 116.669, 122.675], size=(368, 368)),
    backbone=dict(type="CeilResNet"),
    decode_head=dict(type="AsppSumHead", channels=600),
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

optim_wrapper = dict(optimizer=dict(lr=2.5e-4))
param_scheduler = [dict(type="PolyLR", power=0.9, eta_min=0.0, begin=0, end=40000, by_epoch=False)]
train_cfg = dict(max_iters=40000, val_interval=4000)
