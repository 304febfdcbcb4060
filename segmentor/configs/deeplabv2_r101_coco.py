"""clip-es train runs/coco --config deeplabv2_r101_coco --val-images data/COCO2014/val2014 \\
    --val-masks data/COCO2014/SegmentationClass/val2014 --out runs/coco-deeplabv2

The paper's segmenter on COCO 2014, 45.4 mIoU on val. Its training is published nowhere that we know of; rate and
schedule here are what the public PyTorch version of DeepLab v2 takes for data of COCO's size: 2.5e-4, 100,000
iterations of 10 crops.
"""

_base_ = ["deeplabv2_r101_voc.py"]

model = dict(decode_head=dict(num_classes=81))
# fmt: off
metainfo = dict(
    classes=(
        "background", "person", "bicycle", "car", "motorbike", "aeroplane", "bus", "train", "truck", "boat",
        "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep",
        "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
        "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
        "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich",
        "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "sofa", "pottedplant", "bed",
        "diningtable", "toilet", "tvmonitor", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave",
        "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier",
        "toothbrush",
    )
)
# fmt: on
train_dataloader = dict(dataset=dict(run="runs/coco", images="data/COCO2014/train2014", metainfo=metainfo))
val_dataloader = dict(
    dataset=dict(
        masks="data/COCO2014/SegmentationClass/val2014",
        images="data/COCO2014/val2014",
        list_file="data/COCO2014/val.txt",
        metainfo=metainfo,
    )
)
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=2.5e-4))
param_scheduler = [dict(type="PolyLR", power=0.9, eta_min=0.0, begin=0, end=100000, by_epoch=False)]
train_cfg = dict(max_iters=100000, val_interval=10000)
