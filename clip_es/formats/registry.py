"""Every format by its name.

A new one is one file and a line in `FORMATS`. Another installed package brings its own under the entry point group
`clip_es.formats`; see `clip_es.joints`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Annotated

from clip_es.file_source import Source
from clip_es.formats import (
    coco,
    cvat,
    fiftyone,
    huggingface,
    label_studio,
    labelme,
    mmseg,
    panoptic,
    voc,
    x_anylabeling,
    yolo,
    yolo_semantic,
)
from clip_es.formats.names import Names
from clip_es.formats.source import Incoming
from clip_es.formats.writer import Writer
from clip_es.joints import Choice, Table


@dataclass(frozen=True)
class Format:
    """How a format is written and, where it is one that people edit, read."""

    name: str
    about: str
    """One sentence for help, errors and docs, without a full stop."""
    writer: type[Writer]
    read: Callable[[Source, Names], Iterator[Incoming]] | None = None
    """Edited pictures one after the other. Raises DataError: the source as a whole is not of this format."""


FORMATS: Table[Format] = Table(
    "format",
    "clip_es.formats",
    [
        Format("voc", "palette PNGs in the folders of PASCAL VOC", voc.VocWriter, voc.read),
        Format("coco-rle", "one JSON of COCO with run-length masks", coco.CocoWriter, coco.read),
        Format("coco-panoptic", "PNGs of segment ids and their JSON", panoptic.PanopticWriter, panoptic.read),
        Format(
            "labelme", "a JSON of masks beside each picture, as labelme has them", labelme.LabelmeWriter, labelme.read
        ),
        Format(
            "x-anylabeling",
            "a JSON of polygons beside each picture, as X-AnyLabeling has them",
            x_anylabeling.XAnyLabelingWriter,
            x_anylabeling.read,
        ),
        Format("cvat", "CVAT's segmentation masks with their label map", cvat.CvatWriter, cvat.read),
        Format(
            "label-studio", "brush masks as Label Studio's tasks", label_studio.LabelStudioWriter, label_studio.read
        ),
        Format("fiftyone", "a FiftyOneDataset with segmentations", fiftyone.FiftyOneWriter, fiftyone.read),
        Format(
            "yolo-semantic",
            "palette PNGs for ultralytics' semantic task",
            yolo_semantic.YoloSemanticWriter,
            yolo_semantic.read,
        ),
        Format("yolo-seg", "a text file of polygons for each picture", yolo.YoloWriter),
        Format("huggingface", "a folder that `datasets` loads", huggingface.HuggingFaceWriter),
        Format("mmseg", "pictures and masks for mmsegmentation, with a config", mmseg.MmsegWriter),
    ],
    Format,
)
"""The one place where a format's name stands."""

FormatName = Annotated[str, Choice(FORMATS)]
"""A format that can be written."""

ReadableName = Annotated[str, Choice(FORMATS, attrgetter("read"))]
"""A format that can be read back."""


def readable() -> tuple[str, ...]:
    """The formats that can be read back."""
    return tuple(row.name for row in FORMATS.values() if row.read)
