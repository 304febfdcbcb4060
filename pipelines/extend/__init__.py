"""A trained segmenter and names in, a segmenter of more classes out."""

from clip_es.pipelines.extend.conditions import Conditions, Named
from clip_es.pipelines.extend.data import ExtendData, Prepared, prepare, read_rgb, split_of
from clip_es.pipelines.extend.run import extend

__all__ = ["Conditions", "ExtendData", "Named", "Prepared", "extend", "prepare", "read_rgb", "split_of"]
