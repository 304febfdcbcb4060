"""Views of a picture: moved by part of a patch, mirrored, at several scales; and the way back of their maps.

A grid of patches sees an object only to whole patches. Moved by half a patch it cuts it elsewhere, and the mean over
the moves has twice the resolution and half the noise of positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from clip_es.config.views import ViewsConfig
from clip_es.scaling import resized
from clip_es.types import ClassMaps, Picture

LEAST = 0.01
"""Certainties are not below this: where a label is nowhere, its views count alike."""
_LIGHTEST = 1e-30
"""Nor are their powers, which single precision would round to 0."""


@dataclass(frozen=True)
class View:
    """One way to look at a picture."""

    shift: tuple[int, int] = (0, 0)
    """By how many pixels the content is moved down and to the right; less than a patch."""
    flip: bool = False
    """Mirrored left to right."""
    scale: float = 1.0
    """Size of the picture relative to what the encoder is shown otherwise."""

    def apply(self, patches: UInt8[np.ndarray, "ph pw 3"], patch: int) -> UInt8[np.ndarray, "vh vw 3"]:
        """The picture, of the view's scale and a whole number of patches, mirrored and moved.

        On an axis that is moved, `shift` pixels are added in front and `patch - shift` behind, mirrored at the edge,
        so that the grid has one row or column more.
        """
        seen = patches[:, ::-1] if self.flip else patches
        pads = [(s, patch - s) if s else (0, 0) for s in self.shift]
        height, width = seen.shape[:2]
        # A picture of one patch is smaller than what is mirrored; numpy then reflects more than once.
        mode = "reflect" if min(height, width) > 1 else "edge"
        return np.ascontiguousarray(np.pad(seen, [*pads, (0, 0)], mode=mode))

    def of(self, picture: Picture) -> Picture:
        """The picture as this view shows it, to the encoder and to what reads `rgb`: CLIPSeg, DINO, Stable Diffusion.

        A view that is moved has the encoder's copy for `rgb` too: pixels of another size would be moved by fractions.
        """
        patches = self.apply(picture.patches, picture.patch)
        still = np.ascontiguousarray(picture.rgb[:, ::-1]) if self.flip else picture.rgb
        rgb = patches if any(self.shift) else still
        return replace(picture, patches=patches, rgb=rgb)

    def undo(
        self, maps: Float32[Tensor, "class gh gw"], patches_hw: tuple[int, int], patch: int, size_hw: tuple[int, int]
    ) -> Float32[Tensor, "class h w"]:
        """Maps on the grid of the moved picture, or finer, back on the picture, at its own size.

        `patches_hw`: height and width of the picture before `apply`. Enlarged bilinearly to the moved picture, cut
        out, mirrored back, resized to `size_hw`.
        """
        pads = [patch if s else 0 for s in self.shift]
        padded = (patches_hw[0] + pads[0], patches_hw[1] + pads[1])
        if not any(self.shift):
            back = resized(maps, size_hw)
        else:
            top, left = self.shift
            whole = resized(maps, padded)[:, top : top + patches_hw[0], left : left + patches_hw[1]]
            back = resized(whole, size_hw)
        return back.flip(-1) if self.flip else back


def views(config: ViewsConfig, patch: int) -> Iterator[View]:
    """The views of a setting, the plain one first."""
    half = patch // 2
    moves = {1: [(0, 0)], 2: [(0, 0), (half, half)], 4: [(0, 0), (half, 0), (0, half), (half, half)]}
    for scale in sorted(config.scales, key=lambda s: (s != 1.0, s)):
        for flip in (False, True) if config.flip else (False,):
            for shift in moves[config.places(scale)]:
                yield View(shift, flip, scale)


class Fused:
    """The maps of all views of a picture as one set, added up in place.

    A view counts for a label by the power `certainty` of how sure it is of it: the mean share that the label has of the
    pixels it wins. An object that the encoder knows at one scale alone is taken from there.
    """

    def __init__(self, certainty: float = 0.0) -> None:
        """0: all views count alike, so that the maps are their mean."""
        self._certainty = certainty
        self._scores: Float32[Tensor, "class h w"] | None = None
        self._behind: Float32[Tensor, "row h w"] | None = None
        self._weight: Float32[Tensor, "row 1 1"] | None = None
        self._class_ids: tuple[int, ...] = ()

    def add(self, maps: ClassMaps) -> None:
        """Take one view's maps, at the size of the picture."""
        weight = self._weight_of(maps)
        behind = None if maps.background is None else weight * maps.background
        if self._scores is None or self._weight is None:
            self._scores, self._behind, self._weight = weight * maps.scores, behind, weight
            self._class_ids = maps.class_ids
            return
        self._scores += weight * maps.scores
        self._weight += weight
        if self._behind is not None and behind is not None:
            self._behind += behind

    def value(self) -> ClassMaps:
        """The maps, in [0, 1], with a background where the views have one.

        Background is at each pixel what those views say of it that count for the labels there.
        """
        assert self._scores is not None
        assert self._weight is not None
        scores = (self._scores / self._weight).clamp(0, 1)
        background = None
        if self._behind is not None:
            rows = (self._behind / self._weight).clamp(0, 1)
            there = scores.square() + torch.finfo(scores.dtype).eps
            background = rows[0] if len(rows) == 1 else (there * rows).sum(0) / there.sum(0)
        return ClassMaps(scores, self._class_ids, background=background)

    def _weight_of(self, maps: ClassMaps) -> Float32[Tensor, "row 1 1"]:
        """One for all labels where all views count alike, else one for each."""
        if not self._certainty:
            return torch.ones(1, 1, 1, device=maps.scores.device)
        return certainty(maps).pow(self._certainty).clamp(min=_LIGHTEST)[:, None, None]


def certainty(maps: ClassMaps) -> Float32[Tensor, " class"]:
    """The mean share of each label among the pixels that it wins; of one that wins none half its largest share."""
    background = 1 - maps.scores.amax(0) if maps.background is None else maps.background
    shares = torch.cat([background[None], maps.scores])
    shares = shares / shares.sum(0).clamp(min=torch.finfo(shares.dtype).tiny)
    won = shares.argmax(0)[None] == torch.arange(1, len(shares), device=shares.device)[:, None, None]
    count = won.sum((1, 2))
    inside = (shares[1:] * won).sum((1, 2)) / count.clamp(min=1)
    return torch.where(count > 0, inside, shares[1:].amax((1, 2)) / 2).clamp(min=LEAST)
