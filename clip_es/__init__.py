"""Segmentation masks from image-level labels with a frozen CLIP, and a segmenter trained on them.

import clip_es
maker = clip_es.load("ViT-B/16", vocabulary=["cat", "dog", "sofa"])
maker("photo.jpg", ["cat", "sofa"]).plot()
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clip_es.config.presets import PRESETS
    from clip_es.config.run import DEFAULT, REFERENCE, RunConfig
    from clip_es.encoder import Encoder, load_encoder
    from clip_es.errors import ClipEsError
    from clip_es.masks import read_mask, write_mask
    from clip_es.pipelines.masks.maker import MaskMaker, load
    from clip_es.pipelines.masks.result import FailedPicture, MaskResult
    from clip_es.prompts import Vocabulary, load_vocabulary
    from clip_es.types import ImageRecord, PseudoMask

    __version__: str

_HOMES = {
    "ClipEsError": "clip_es.errors",
    "DEFAULT": "clip_es.config.run",
    "Encoder": "clip_es.encoder",
    "FailedPicture": "clip_es.pipelines.masks.result",
    "ImageRecord": "clip_es.types",
    "MaskMaker": "clip_es.pipelines.masks.maker",
    "MaskResult": "clip_es.pipelines.masks.result",
    "PRESETS": "clip_es.config.presets",
    "PseudoMask": "clip_es.types",
    "REFERENCE": "clip_es.config.run",
    "RunConfig": "clip_es.config.run",
    "Vocabulary": "clip_es.prompts",
    "load": "clip_es.pipelines.masks.maker",
    "load_encoder": "clip_es.encoder",
    "load_vocabulary": "clip_es.prompts",
    "read_mask": "clip_es.masks",
    "write_mask": "clip_es.masks",
}
"""Where each public name lives. It is imported when it is first asked for: the command line shows its help, and sets
how threads wait, before torch is loaded."""

__all__ = [
    "DEFAULT",
    "PRESETS",
    "REFERENCE",
    "ClipEsError",
    "Encoder",
    "FailedPicture",
    "ImageRecord",
    "MaskMaker",
    "MaskResult",
    "PseudoMask",
    "RunConfig",
    "Vocabulary",
    "__version__",
    "load",
    "load_encoder",
    "load_vocabulary",
    "read_mask",
    "write_mask",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("clip-es")
    if name in _HOMES:
        from clip_es.collector import collector_paused

        with collector_paused():
            found = getattr(import_module(_HOMES[name]), name)
        globals()[name] = found  # so that this is asked once
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
