"""Refiners: class maps and what is known of the picture in, better class maps out."""

from clip_es.refine.base import FullSizeRefiner, GridRefiner, Surroundings
from clip_es.refine.registry import REFINERS, Refiner, at_full_size, on_grid, workers_help

__all__ = [
    "REFINERS",
    "FullSizeRefiner",
    "GridRefiner",
    "Refiner",
    "Surroundings",
    "at_full_size",
    "on_grid",
    "workers_help",
]
