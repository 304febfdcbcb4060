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
from clip_es.types import Picture


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
    places = {1: [(0, 0)], 2: [(0, 0), (half, half)], 4: [(0, 0), (half, 0), (0, half), (half, half)]}[config.shifts]
    for scale in sorted(config.scales, key=lambda s: (s != 1.0, s)):
        for flip in (False, True) if config.flip else (False,):
            for shift in places:
                yield View(shift, flip, scale)


class Mean:
    """The mean of maps of one size, summed in place: memory is that of one set of maps."""

    def __init__(self) -> None:
        self.total: Float32[Tensor, "class h w"] | None = None
        self.count = 0

    def add(self, maps: Float32[Tensor, "class h w"]) -> None:
        """Take one view's maps."""
        self.total = maps.clone() if self.total is None else self.total.add_(maps)
        self.count += 1

    def value(self) -> Float32[Tensor, "class h w"]:
        """The mean, in [0, 1]."""
        if self.total is None:
            return torch.zeros(0, 1, 1)
        return (self.total / self.count).clamp(0, 1)
