"""Masks in the formats of other tools, and back: one file for each format, one name for each in `FORMATS`.

Every writer takes pictures one at a time, so memory does not grow with their number; every reader finds out what a
file holds before it believes it. A pixel is 0 background, k + 1 class k, 255 undecided, and comes back as that, except
where a format has no place for 255: the table says so.

| name | background | 255 | reads back exactly |
|---|---|---|---|
| voc | 0 | 255 | yes |
| coco-rle | no annotation | category `undecided`, id 255 | yes |
| coco-panoptic | category `background`, id 256 | void, segment id 0 | yes |
| labelme | no shape | label `__ignore__`, labelme's own name for it | yes |
| cvat | label `background` | label `undecided`, declared in labelmap.txt | yes |
| label-studio | no region | label `undecided` | yes |
| fiftyone | 0 | 255, mask target `undecided` | yes |
| yolo-semantic | class 0 | 255, ignored | yes |
| yolo-seg | no polygon | class `undecided`, the last one | yes where polygons are filled as OpenCV does |
| huggingface | 0 | 255 | yes |
| mmseg | 0 | 255 | yes |
"""

from clip_es.file_source import Source
from clip_es.formats.folder import ExportFolder
from clip_es.formats.names import Names
from clip_es.formats.registry import FORMATS, Format, FormatName, ReadableName, Writer, readable
from clip_es.formats.source import Incoming

__all__ = [
    "FORMATS",
    "ExportFolder",
    "Format",
    "FormatName",
    "Incoming",
    "Names",
    "ReadableName",
    "Source",
    "Writer",
    "readable",
]
