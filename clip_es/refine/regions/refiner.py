"""`--refine regions`: class-agnostic regions of the picture decide where a label ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from clip_es.errors import ShapeError
from clip_es.refine.base import Ahead, FullSizeRefiner, Surroundings
from clip_es.refine.regions.settings import RegionsConfig
from clip_es.refine.regions.sources import SOURCES, Find
from clip_es.refine.regions.vote import hard_labels, outermost, painted, soft_scores
from clip_es.regions import Regions
from clip_es.scaling import upsample
from clip_es.types import ClassMaps, Picture


def make(config: RegionsConfig, _: Surroundings) -> FullSizeRefiner:
    """The refiner of the table."""
    return partial(refine, config=config)


class Looker:
    """Hands a picture on with the regions that a network has made."""

    def __init__(self, find: Find) -> None:
        self.find = find

    def to(self, device: str) -> None:
        """Use the network on another device."""
        if move := getattr(self.find, "to", None):
            move(device)

    def __call__(self, picture: Picture, maps: Callable[[], ClassMaps]) -> Picture:
        """The picture with its regions."""
        return replace(picture, regions=self.find(picture, maps))


def supervision(config: RegionsConfig) -> str:
    """What the source of the regions learned from."""
    return SOURCES.find(config.source).supervision


def ahead(config: RegionsConfig, around: Surroundings) -> Ahead | None:
    """Where a network makes the regions: what hands a picture on with them. Raises ConfigError, WeightsError."""
    source = SOURCES.find(config.source)
    if source.network is None:
        return None
    find = source.network(config, around)
    return Looker(find)


def refine(picture: Picture, maps: ClassMaps, config: RegionsConfig) -> ClassMaps:
    """`voted` with the regions of the picture. Raises DataError, ShapeError: it has none that can be used."""
    if not maps.class_ids:
        return upsample(maps, picture.size_hw)
    regions = picture.regions
    if regions is None:
        read = SOURCES.find(config.source).read
        if read is None:
            raise ShapeError("no network has made the regions of this picture", where=picture.image_id)
        regions = read(picture, config)
    return voted(upsample(maps, picture.size_hw), chosen(regions, config), config)


def chosen(regions: Regions, config: RegionsConfig) -> Regions:
    """Those that may vote. Raises DataError: their levels are asked for and not known."""
    fine = (
        (regions.areas >= config.least_area)
        & (regions.quality >= config.least_quality)
        & (regions.stability >= config.least_stability)
    )
    some = regions if fine.all() else regions.only(np.flatnonzero(fine))
    return some if config.most_inside is None else some.only(outermost(some, config.most_inside))


def voted(maps: ClassMaps, regions: Regions, config: RegionsConfig) -> ClassMaps:
    """Maps at full size after the vote: probabilities of each label and of background, which sum to one.

    d' = (1 - amount) d + amount r, where d are the shares that the maps say and r the answer of the regions. soft: the
    shares of the region on top. hard: the mean of one for the label voted for and of the pixel's own shares, in which
    that label has changed places with the winner. Raises ShapeError: regions of another size.
    """
    if regions.size_hw != tuple(maps.scores.shape[1:]):
        raise ShapeError(
            "maps and regions have different sizes", expected=list(maps.scores.shape[1:]), found=list(regions.size_hw)
        )
    own = shares_of(maps)
    answer = _soft(own, maps, regions, config) if config.rule == "soft" else _hard(own, maps, regions, config)
    mixed = answer if config.amount == 1 else (1 - config.amount) * own + config.amount * answer
    mixed = mixed.clamp(0, 1)
    return ClassMaps(mixed[1:], maps.class_ids, background=mixed[0])


def shares_of(maps: ClassMaps) -> Float32[Tensor, "label h w"]:
    """Background, where it is not known 1 - the best map, and each label, divided by their sum."""
    background = maps.background if maps.background is not None else 1 - maps.scores.amax(0)
    values = torch.cat([background[None], maps.scores])
    return values / values.sum(0).clamp(min=torch.finfo(values.dtype).tiny)


def _soft(
    own: Float32[Tensor, "label h w"], maps: ClassMaps, regions: Regions, config: RegionsConfig
) -> Float32[Tensor, "label h w"]:
    if config.unclaimed == "background":
        nothing = torch.zeros_like(own)
        nothing[0] = 1
    else:
        nothing = own
    if not len(regions):
        return nothing
    scores = soft_scores(maps.scores, regions, maps.background, config.background_power, config.stretch)
    top = torch.from_numpy(painted(regions, scores.amax(0).cpu().numpy(), config.order)).to(own.device)
    shares = scores / scores.sum(0).clamp(min=torch.finfo(scores.dtype).tiny)
    return torch.where(top >= 0, shares[:, top.clamp(min=0)], nothing)


def _hard(
    own: Float32[Tensor, "label h w"], maps: ClassMaps, regions: Regions, config: RegionsConfig
) -> Float32[Tensor, "label h w"]:
    best, winner = own.max(0)
    # Classes take their turn in the order of their ids, as published, and not in that of the picture's labels.
    numbers = np.argsort(np.argsort(maps.class_ids)) + 1
    ranks = np.array([0, *numbers.tolist()])
    places = np.argsort(ranks)
    found = hard_labels(ranks[winner.cpu().numpy()], regions, config.covered, config.keep)
    label = torch.from_numpy(places[found]).to(own.device)[None]
    swapped = own.scatter(0, winner[None], own.gather(0, label)).scatter(0, label, best[None])
    return (swapped + torch.zeros_like(own).scatter(0, label, 1.0)) / 2
