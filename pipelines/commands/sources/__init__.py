"""Where pictures and labels come from: a dataclass for each kind of data set, with its flags; all commands read them.

`clip-es masks voc12` is the command `masks` on the source `voc12`. The names stand in `clip_es.pipelines.table`.
"""

from clip_es.pipelines.commands.sources.own import FolderSource, HuggingFaceSource, ShardsSource
from clip_es.pipelines.commands.sources.published import (
    Ade20kSource,
    CityscapesSource,
    Coco14Source,
    Coco17Source,
    ContextSource,
    ScenesSource,
    Voc12Source,
)

__all__ = [
    "Ade20kSource",
    "CityscapesSource",
    "Coco14Source",
    "Coco17Source",
    "ContextSource",
    "FolderSource",
    "HuggingFaceSource",
    "ScenesSource",
    "ShardsSource",
    "Voc12Source",
]
