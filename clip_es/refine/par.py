"""Pixel-adaptive refinement: labels are passed between pixels that are near and look alike.

Each pixel has eight neighbours at each of several distances. How much it takes from each follows from their colours,
measured by how much colours vary around this pixel, and a little from their distance. Cheaper than a CRF on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float32
from torch import Tensor
from torch.nn import functional as F

from clip_es.config.bounds import check_within
from clip_es.errors import ConfigError
from clip_es.refine.base import Surroundings
from clip_es.scaling import upsample
from clip_es.types import ClassMaps, Picture


@dataclass(frozen=True)
class ParConfig:
    """Pixel-adaptive refinement: each pixel takes over the labels of similar neighbours."""

    dilations: tuple[int, ...] = (1, 2, 4, 8, 12, 24)
    """Distances of the eight neighbours of each ring, pixels."""
    iterations: int = 10
    """How often labels are passed on."""
    colour: float = 0.3
    """Colour reach, in standard deviations of the neighbours' colours."""
    position_weight: float = 0.01
    """Weight of the distance, relative to 1 for colour."""
    background_power: float = 1.0
    """The background score is (1 - best map) to this power."""
    shares: bool = True
    """Scores become shares that sum to one before they are passed on. Off: they are passed on as they are, as in
    ExCEL's code, which decides other pixels where several maps are high."""

    def __post_init__(self) -> None:
        if not self.dilations:
            raise ConfigError("PAR needs neighbours", expected="at least one dilation", found=self.dilations)
        for dilation in self.dilations:
            check_within("dilations", dilation, 1, 1024, "pixels")
        check_within("iterations", self.iterations, 0, 1000, "rounds")
        check_within("colour", self.colour, 1e-3, 1e3, "standard deviations")
        check_within("position_weight", self.position_weight, 0, 1e3, "weight")
        check_within("background_power", self.background_power, 0.01, 100, "exponent")


AROUND = tuple((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0))
"""Steps (down, right) to the eight neighbours."""

_FLAT = 1e-8
"""Added to deviations, so that a picture of one colour gives even weights."""


def par(picture: Picture, maps: ClassMaps, config: ParConfig) -> ClassMaps:
    """Probabilities of each label and of background at full size, on the device of the maps.

    Maps of another size, such as the patch grid, are brought to that of the picture first; background is (1 - best
    map) to the power `config.background_power` unless the maps know it. Returns `scores` and `background` in [0, 1],
    which sum to one at every pixel. Needs 4 bytes for each pixel and neighbour, 48 neighbours by default.
    Source: Ru et al. (AFA, CVPR 2022), `PAR`. Differs: the scores become probabilities by their share of the sum, in
    place of a softmax, and weights sum to one, not 1 + position_weight; both keep probabilities what they are.
    """
    maps = upsample(maps, picture.size_hw)
    background = maps.background
    if background is None:
        best = maps.scores.amax(0) if len(maps.scores) else maps.scores.new_zeros(picture.size_hw)
        background = (1 - best) ** config.background_power
    values = torch.cat([background[None], maps.scores])
    # A pixel of which nothing is known is background.
    values = torch.where(values.sum(0) > 0, values, torch.eye(len(values)).to(values)[0, :, None, None])
    if config.shares:
        values = values / values.sum(0)
    pixels = torch.from_numpy(picture.rgb).to(values.device).permute(2, 0, 1).float()
    values = pass_on(values, neighbour_weights(pixels, config), config).clamp(0, 1)
    if not config.shares:
        values = values / values.sum(0).clamp(min=torch.finfo(values.dtype).tiny)
    return ClassMaps(scores=values[1:], class_ids=maps.class_ids, background=values[0])


def make(config: ParConfig, _: Surroundings) -> partial[ClassMaps]:
    """The refiner of the table."""
    return partial(par, config=config)


def neighbour_weights(pixels: Float32[Tensor, "channel h w"], config: ParConfig) -> Float32[Tensor, "neighbour h w"]:
    """How much each pixel takes from each neighbour: ring by ring, in the order of `AROUND`; sums to one at a pixel.

    Does not depend on the unit of the colours, because they are divided by their standard deviation (of a sample)
    among the neighbours.
    """
    count = len(config.dilations) * len(AROUND)
    closeness = pixels.new_zeros((count, *pixels.shape[1:]))
    for channel in pixels.split(1):
        zero = torch.zeros_like(channel)
        mean = sum(neighbours(channel, config.dilations), zero) / count
        squares = sum(((near - mean) ** 2 for near in neighbours(channel, config.dilations)), zero)
        deviation = (squares / (count - 1)).sqrt() + _FLAT
        for total, near in zip(closeness, neighbours(channel, config.dilations), strict=True):
            total -= ((near - channel)[0] / deviation[0] / config.colour) ** 2 / len(pixels)
    far = torch.tensor([d * (y * y + x * x) ** 0.5 for d in config.dilations for y, x in AROUND]).to(pixels)
    nearness = -((far / (far.std() + _FLAT) / config.colour) ** 2)
    weights = closeness.softmax(0)
    weights += config.position_weight * nearness.softmax(0)[:, None, None]
    return weights.div_(1 + config.position_weight)


def pass_on(
    values: Float32[Tensor, "label h w"], weights: Float32[Tensor, "neighbour h w"], config: ParConfig
) -> Float32[Tensor, "label h w"]:
    """`config.iterations` times: each pixel becomes the weighted mean of its neighbours."""
    for _ in range(config.iterations):
        mean = torch.zeros_like(values)
        for weight, near in zip(weights, neighbours(values, config.dilations), strict=True):
            mean.addcmul_(weight, near)
        values = mean
    return values


def neighbours(
    values: Float32[Tensor, "label h w"], dilations: tuple[int, ...]
) -> Iterator[Float32[Tensor, "label h w"]]:
    """What stands at each neighbour of each pixel, one neighbour at a time; the border is repeated outwards."""
    height, width = values.shape[1:]
    for d in dilations:
        padded = F.pad(values[None], (d, d, d, d), mode="replicate")[0]
        for y, x in AROUND:
            yield padded[:, d + y * d :, d + x * d :][:, :height, :width]
