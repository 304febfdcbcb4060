"""Data sets as lists of records: VOC 2012 layout, a folder with a table, COCO 2014 with the published lists.

A reader returns every usable record and a row for every entry it could not use; one bad entry never stops the others.
"""

from clip_es.records.coco import coco14
from clip_es.records.dataset import ClassId, Dataset, OnBadLabel, Problem
from clip_es.records.folder import folder
from clip_es.records.voc import voc

__all__ = ["ClassId", "Dataset", "OnBadLabel", "Problem", "coco14", "folder", "voc"]
