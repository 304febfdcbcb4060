"""Refiners: class maps and what is known of the picture in, better class maps out."""

from clip_es.refine.registry import FullSizeRefiner, GridRefiner, at_full_size, keep_heights, on_grid, split

__all__ = ["FullSizeRefiner", "GridRefiner", "at_full_size", "keep_heights", "on_grid", "split"]
