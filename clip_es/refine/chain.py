"""The refiners of a run: first those on the patch grid, then those at full size.

The two kinds differ in what they need. On the grid a refiner uses what the encoder saw; at full size it needs the
picture alone, so another process may run it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from clip_es.config import RefinerName, RunConfig
from clip_es.errors import ConfigError
from clip_es.refine import affinity, crf, spectral
from clip_es.refine.par import par
from clip_es.types import ClassMaps, EncodedImage, Picture

GridRefiner = Callable[[Picture, EncodedImage, ClassMaps], ClassMaps]
"""A picture, what the encoder saw in it, and its maps so far, to better maps on the same grid."""

FullSizeRefiner = Callable[[Picture, ClassMaps], ClassMaps]
"""A picture and its maps so far to better maps of the picture's size."""

ON_GRID: frozenset[RefinerName] = frozenset({"affinity", "spectral"})
"""The refiners that work on the patch grid."""


def split(names: tuple[RefinerName, ...]) -> tuple[list[RefinerName], list[RefinerName]]:
    """The refiners on the grid, and those at full size. Raises ConfigError: one of the first after one of the last."""
    on_grid: list[RefinerName] = [name for name in names if name in ON_GRID]
    if list(names[: len(on_grid)]) != on_grid:
        raise ConfigError(
            "refiners on the patch grid come before those at full size",
            expected=" ".join(sorted(names, key=lambda name: name not in ON_GRID)),
            found=" ".join(names),
            next_step="Change the order of --refine.",
        )
    return on_grid, list(names[len(on_grid) :])


def on_grid(
    config: RunConfig, box_threshold: float, spread: Callable[..., ClassMaps] = affinity.spread
) -> list[tuple[RefinerName, GridRefiner]]:
    """Names and functions of the refiners on the grid; `box_threshold` is the vocabulary's."""
    made: dict[RefinerName, GridRefiner] = {
        "affinity": partial(affinity.refine, config=config.affinity, box_threshold=box_threshold, spread=spread),
        "spectral": partial(spectral.refine, config=config.spectral),
    }
    return [(name, made[name]) for name in split(config.refine)[0]]


def at_full_size(config: RunConfig) -> list[tuple[RefinerName, FullSizeRefiner]]:
    """Names and functions of the refiners at full size."""
    made: dict[RefinerName, FullSizeRefiner] = {
        "crf": partial(crf.crf, config=config.crf),
        "par": partial(par, config=config.par),
    }
    return [(name, made[name]) for name in split(config.refine)[1]]
