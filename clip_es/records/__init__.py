"""Data sets as sequences of records: VOC, COCO, a folder with labels of many kinds, sets for evaluation.

A reader returns every usable record and a row for every entry it could not use; one bad entry never stops the others.
"""

from clip_es.records.coco.instances import annotations_of, coco_instances
from clip_es.records.coco.label_list import coco14
from clip_es.records.dataset import ClassId, Dataset, OnBadLabel, Problem, Use
from clip_es.records.evaluation_sets import ade20k, cityscapes, context
from clip_es.records.folder import folder
from clip_es.records.packed_records import Records
from clip_es.records.stored.shards import shards
from clip_es.records.voc import voc

__all__ = [
    "ClassId",
    "Dataset",
    "OnBadLabel",
    "Problem",
    "Records",
    "Use",
    "ade20k",
    "annotations_of",
    "cityscapes",
    "coco14",
    "coco_instances",
    "context",
    "folder",
    "shards",
    "voc",
]
