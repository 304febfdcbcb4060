"""A frozen CLIP as the backbone of a segmenter, with a few convolutions beside it for the edges.

Imported by `clip_es.segmentor.prepare`, which also registers it; needs mmsegmentation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from clip_es.encoder import load_encoder
from clip_es.encoder.capture import BlockSight, watch
from clip_es.encoder.encode import PIXEL_MEAN, PIXEL_STD
from clip_es.errors import ConfigError
from clip_es.segmentor.models.clip_members import clip_members


class FrozenClip(BaseModule):
    """Tokens of some blocks of CLIP's vision tower as feature maps, behind the features of a small convolutional stem.

    `weights` is what `clip-es masks --weights` takes. The tower is not trained and knows kinds of things after very
    few masks, but its grid is one cell for 16 pixels; the stem is trained, sees edges and sits on a quarter of the
    picture's grid. Gives one map [batch stem H/4 W/4], then one [batch width H/patch W/patch] for each of `blocks`,
    counted from 1. With `project` the last of them comes once more in CLIP's common space, where text vectors lie
    [batch embed H/patch W/patch]; with `members` in all the ways of `clip_members` [batch member*embed ..].
    Pictures are normalised with `MEAN` and `STD`. Those that are not whole patches are enlarged to the next number of
    them: filled up with black they would end in cells unlike any of the training, which spoil the cells beside them.
    Raises ConfigError: the tower has no such block.
    """

    MEAN = tuple(255 * value for value in PIXEL_MEAN)
    STD = tuple(255 * value for value in PIXEL_STD)

    def __init__(
        self,
        weights: str = "scenes",
        blocks: tuple[int, ...] = (2, 4),
        stem: int = 48,
        project: bool = False,
        members: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        encoder = load_encoder(weights, device="cpu")
        self.tower = encoder.model.visual.requires_grad_(False)
        self.patch = encoder.patch
        self.blocks, self.project, self.members = tuple(blocks), project or members, members
        layers = len(self.tower.transformer.blocks)
        if not self.blocks or not all(1 <= block <= layers for block in self.blocks):
            raise ConfigError("the tower has no such block", expected=f"some of 1..{layers}", found=blocks)
        if self.project and max(self.blocks) != layers:
            raise ConfigError(
                "the common space lies behind the last block", expected=f"{layers} in blocks", found=blocks
            )
        self.stem = nn.Sequential(
            *_convolution(3, stem // 2, 2), *_convolution(stem // 2, stem, 2), *_convolution(stem, stem, 1)
        )

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """The stem's map and those of the tower."""
        # Also where nothing changes, so that an exported graph holds it for every size.
        whole = [-(-side // self.patch) * self.patch for side in pixels.shape[-2:]]
        pixels = F.interpolate(pixels, whole, mode="bilinear", align_corners=False)
        grid = (pixels.shape[-2] // self.patch, pixels.shape[-1] // self.patch)
        maps = [self.stem(pixels)]
        with torch.no_grad():
            tokens = self.tower.embed(pixels, self.tower.positions(grid))
            sights: list[BlockSight] = []
            for number, block in enumerate(self.tower.transformer.blocks[: max(self.blocks)], start=1):
                if self.members:  # Attention is formed only where it is read.
                    sights += watch([block], tokens)
                    tokens = sights[-1].left
                else:
                    tokens = block(tokens)
                if number in self.blocks:
                    seen = self.tower.ln_post(tokens) if number == max(self.blocks) else tokens
                    maps.append(seen[:, 1:].transpose(1, 2).reshape(len(seen), -1, *grid))
            if self.members:
                maps.append(clip_members(self.tower, sights, grid))
            elif self.project:
                own = self.tower.ln_post(tokens[:, 1:]) @ self.tower.proj
                maps.append(own.transpose(1, 2).reshape(len(own), -1, *grid))
        return tuple(maps)

    def train(self, mode: bool = True) -> FrozenClip:
        """The tower stays as it is."""
        super().train(mode)
        self.tower.eval()
        return self


class WithClip(BaseModule):
    """Any backbone, and behind its maps that of a frozen CLIP in the space of its text [batch embed h w].

    `inner` is the backbone's config. `mean`, `std` and `rgb` say how the pixels it gets were normalised; CLIP gets them
    in its own way, at the nearest whole number of patches.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        inner: dict,
        weights: str,
        mean: Sequence[float],
        std: Sequence[float],
        rgb: bool = True,
        init_cfg: dict | None = None,
    ) -> None:
        from mmseg.registry import MODELS

        super().__init__(init_cfg)
        self.inner = MODELS.build(dict(inner))
        encoder = load_encoder(weights, device="cpu")
        self.tower, self.patch, self.rgb = encoder.model.visual.float().requires_grad_(False), encoder.patch, rgb
        if not rgb:
            mean, std = mean[::-1], std[::-1]
        scale = torch.tensor(std) / torch.tensor(FrozenClip.STD)
        shift = (torch.tensor(mean) - torch.tensor(FrozenClip.MEAN)) / torch.tensor(FrozenClip.STD)
        self.register_buffer("scale", scale[:, None, None], persistent=False)
        self.register_buffer("shift", shift[:, None, None], persistent=False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """The maps of the backbone, and CLIP's."""
        size = [max(round(side / self.patch), 1) * self.patch for side in pixels.shape[-2:]]
        ready = pixels if self.rgb else pixels.flip(1)
        ready = F.interpolate(ready * self.scale + self.shift, size, mode="bilinear", align_corners=False)
        grid = (size[0] // self.patch, size[1] // self.patch)
        with torch.no_grad():
            tokens = self.tower.embed(ready, self.tower.positions(grid))
            for block in self.tower.transformer.blocks:
                tokens = block(tokens)
            own = self.tower.ln_post(tokens[:, 1:]) @ self.tower.proj
        return (*self.inner(pixels), own.transpose(1, 2).reshape(len(own), -1, *grid))

    def train(self, mode: bool = True) -> WithClip:
        """The tower stays as it is."""
        super().train(mode)
        self.tower.eval()
        return self


def _convolution(inside: int, outside: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU(inplace=True)]
