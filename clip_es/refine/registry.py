"""The refiners of a run: first those on the patch grid, then those on a grid of another network, then at full size.

The kinds differ in what they need. On the patch grid a refiner uses what the encoder saw; diffusion and dino bring a
network and a grid of their own; at full size a refiner needs the picture alone, so another process may run it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from clip_es.config.run import RefinerName, RunConfig
from clip_es.errors import ConfigError
from clip_es.refine import affinity, diffusion, dino, spectral
from clip_es.refine.crf import dense as crf
from clip_es.refine.par import par
from clip_es.types import ClassMaps, EncodedImage, Picture

GridRefiner = Callable[[Picture, EncodedImage, ClassMaps], ClassMaps]
"""A picture, what the encoder saw in it, and its maps so far, to better maps on the same grid or one of its own."""

FullSizeRefiner = Callable[[Picture, ClassMaps], ClassMaps]
"""A picture and its maps so far to better maps of the picture's size."""

ON_GRID: frozenset[RefinerName] = frozenset({"affinity", "spectral"})
"""The refiners that work on the patch grid."""


ON_OWN_GRID: frozenset[RefinerName] = frozenset({"diffusion", "dino"})
"""The refiners that have a grid of their own."""


def split(names: tuple[RefinerName, ...]) -> tuple[list[RefinerName], list[RefinerName]]:
    """The refiners that need a network, and those at full size. Raises ConfigError: they are not in their order."""
    ranks = [0 if name in ON_GRID else 1 if name in ON_OWN_GRID else 2 for name in names]
    if ranks != sorted(ranks):
        raise ConfigError(
            "refiners on the patch grid come before those at full size, diffusion and dino between them",
            expected=" ".join(name for _, name in sorted(zip(ranks, names, strict=True), key=lambda pair: pair[0])),
            found=" ".join(names),
            next_step="Change the order of --refine.",
        )
    late = ranks.count(2)
    return list(names[: len(names) - late]), list(names[len(names) - late :])


def keep_heights(before: ClassMaps, after: ClassMaps) -> ClassMaps:
    """Refined maps with the heights that the maps had before; refiners stretch each map to [0, 1] by itself.

    What a refiner knows of background goes: it was known against other heights.
    """
    if after is before or not after.class_ids:
        return after
    peaks = before.scores.amax((1, 2)).to(after.scores.device)
    reached = after.scores.amax((1, 2)).clamp(min=torch.finfo(after.scores.dtype).tiny)
    scores = (after.scores * (peaks / reached)[:, None, None]).clamp(0, 1)
    return ClassMaps(scores, after.class_ids, unscaled=after.unscaled)


def on_grid(
    config: RunConfig,
    box_threshold: float,
    spread: Callable[..., ClassMaps] = affinity.spread,
    device: str | torch.device = "cpu",
) -> list[tuple[RefinerName, GridRefiner]]:
    """Names and functions of the refiners before full size; `box_threshold` is the vocabulary's.

    Raises ConfigError: an extra is missing. WeightsError: the weights that a refiner needs cannot be had.
    """
    made: dict[RefinerName, Callable[[], GridRefiner]] = {
        "affinity": lambda: partial(
            affinity.refine, config=config.affinity, box_threshold=box_threshold, spread=spread
        ),
        "spectral": lambda: spectral.SpectralRefiner(config.spectral, device),
        "dino": lambda: dino.Dino(config.dino.model, config.dino, device),
        "diffusion": lambda: diffusion.DiffusionRefiner(config.diffusion, device),
    }
    return [(name, made[name]()) for name in split(config.refine)[0]]


def at_full_size(config: RunConfig) -> list[tuple[RefinerName, FullSizeRefiner]]:
    """Names and functions of the refiners at full size."""
    made: dict[RefinerName, FullSizeRefiner] = {
        "crf": partial(crf.crf, config=config.crf),
        "par": partial(par, config=config.par),
    }
    return [(name, made[name]) for name in split(config.refine)[1]]
