"""A data set for mmsegmentation 1.x: img_dir, ann_dir and a config to put under `_base_`.

Plain mmseg reads it, without this package: 0 is background, 255 is ignored, `reduce_zero_label` stays off.
"""

from __future__ import annotations

from pathlib import Path
from string import Template

import numpy as np
from jaxtyping import UInt8

from clip_es.formats.writer import Writer, palette_png

_CONFIG = """# Data set for mmsegmentation 1.x, written by clip-es. Put this file under `_base_` of a config.
# 0 is background, k + 1 class k; 255 is undecided and ignored by losses and metrics.
dataset_type = "BaseSegDataset"
data_root = "{{ fileDirname }}"
metainfo = dict(
    classes=$CLASSES,
    palette=$PALETTE,
)
crop_size = (512, 512)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomResize", scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file=$ANN_FILE,
        data_prefix=dict(img_path=$IMAGES, seg_map_path=$MASKS),
        img_suffix=".jpg",
        seg_map_suffix=".png",
        metainfo=metainfo,
        reduce_zero_label=False,
        ignore_index=255,
        pipeline=train_pipeline,
    ),
)
"""


class MmsegWriter(Writer):
    """img_dir/<split>, ann_dir/<split>, <split>.txt and dataset.py."""

    suffixes = (".jpg",)

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._list = self.folder.growing(f"{self.split}.txt")

    def add(self, image_id: str, labels: UInt8[np.ndarray, "h w"], picture: Path | None) -> None:
        """Picture, mask and a line of the list."""
        self.place(picture, f"img_dir/{self.split}/{image_id}", labels)
        self.folder.write(f"ann_dir/{self.split}/{image_id}.png", palette_png(labels))
        self._list.add(f"{image_id}\n")

    def finish(self) -> None:
        """The list and the config."""
        self._list.finish()
        labels = range(len(self.names.classes) + 1)
        values = {
            "CLASSES": tuple(self.names.name(label) for label in labels),
            "PALETTE": [list(self.names.colour(label)) for label in labels],
            "ANN_FILE": f"{self.split}.txt",
            "IMAGES": f"img_dir/{self.split}",
            "MASKS": f"ann_dir/{self.split}",
        }
        text = Template(_CONFIG).substitute({name: repr(value) for name, value in values.items()})
        self.folder.write("dataset.py", text)
