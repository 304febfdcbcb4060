"""The joint between a refiner and everything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float32
from torch import Tensor

from clip_es.types import ClassMaps, EncodedImage, Picture

GridRefiner = Callable[[Picture, EncodedImage, ClassMaps], ClassMaps]
"""A picture, what the encoder saw in it, and its maps so far, to better maps on the same grid or one of its own."""

GridRefinerTogether = Callable[[Sequence[EncodedImage], Sequence[ClassMaps]], list[ClassMaps]]
"""A `GridRefiner` for several pictures of one grid at once, for a device that waits for operations."""

FullSizeRefiner = Callable[[Picture, ClassMaps], ClassMaps]
"""A picture and its maps so far to better maps of the picture's size."""

Ahead = Callable[[Picture, Callable[[], ClassMaps]], Picture]
"""A picture, and its maps at full size where they are asked for, to the picture with what a network has seen in it."""

Kind = Literal["patches", "own", "pixels"]
"""On which grid a refiner works: the encoder's patches, one of its own, or the picture's pixels."""


@dataclass(frozen=True)
class Surroundings:
    """What a refiner on a grid may need besides its settings."""

    box_threshold: float = 0.4
    """The vocabulary's share of a map's maximum above which a patch opens a box."""
    device: str | torch.device = "cpu"
    exact: bool = False
    """Whether the order of operations of the published code is wanted."""
    words: Callable[[EncodedImage], Float32[Tensor, "patch text"]] | None = None
    """What each patch of an encoded picture says: the share of every class and background word."""
    blocks: int | None = None
    """How many blocks the vision tower has, where one is there."""
    cache: Path | None = None
    """A folder in which a refiner may keep what is dear to make; None: nowhere."""
