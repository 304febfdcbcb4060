"""Every format by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from clip_es.formats import coco, cvat, huggingface, labelme, mmseg, panoptic, voc, yolo
from clip_es.formats.names import Names
from clip_es.formats.source import Incoming, Source
from clip_es.formats.writer import Writer

FormatName = Literal["voc", "coco-rle", "coco-panoptic", "labelme", "cvat", "yolo-seg", "huggingface", "mmseg"]
"""Formats that can be written."""

ReadableName = Literal["voc", "coco-rle", "coco-panoptic", "labelme", "cvat"]
"""Formats that can be read back."""


@dataclass(frozen=True)
class Format:
    """How a format is written and, where it is one that people edit, read."""

    writer: type[Writer]
    read: Callable[[Source, Names], Iterator[Incoming]] | None = None
    """Edited pictures one after the other. Raises DataError: the source as a whole is not of this format."""


FORMATS: dict[FormatName, Format] = {
    "voc": Format(voc.VocWriter, voc.read),
    "coco-rle": Format(coco.CocoWriter, coco.read),
    "coco-panoptic": Format(panoptic.PanopticWriter, panoptic.read),
    "labelme": Format(labelme.LabelmeWriter, labelme.read),
    "cvat": Format(cvat.CvatWriter, cvat.read),
    "yolo-seg": Format(yolo.YoloWriter),
    "huggingface": Format(huggingface.HuggingFaceWriter),
    "mmseg": Format(mmseg.MmsegWriter),
}

READABLE: tuple[ReadableName, ...] = get_args(ReadableName)
