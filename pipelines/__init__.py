"""In which order: from data sets to run folders, and the command line over it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clip_es.pipelines.masks.method import MaskMaker, MaskResult

__all__ = ["MaskMaker", "MaskResult"]


def __getattr__(name: str) -> Any:
    # Re-exported on demand: the command line shows its help, and sets how threads wait, before torch is loaded.
    if name in __all__:
        from clip_es.pipelines.masks import method as mask_maker

        return getattr(mask_maker, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
