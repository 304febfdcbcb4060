"""What features are made for: labels cell by cell or in blocks, and random codes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from clip_es.segmentor.zero_shot.blocks import (
    EmpiricalSampler,
    PixelCNN,
    accepted,
    cut_blocks,
    lay_out,
    only_centres,
)
from clip_es.segmentor.zero_shot.features import Example
from clip_es.segmentor.zero_shot.settings import ExtendSettings
from clip_es.types import UNDECIDED

BLOCK = 3
"""Cells of a block's side."""


class Drawing:
    """Labels of made features by the settings' sampler. All is drawn from torch's generator of the CPU.

    `prior` [class] is how often each class is drawn; one that is never drawn is ignored where a block has it.
    """

    def __init__(
        self, settings: ExtendSettings, prior: Float[Tensor, " class"], unseen: range, pixelcnn: PixelCNN | None
    ) -> None:
        self.settings, self.prior, self.unseen, self.pixelcnn = settings, prior, unseen, pixelcnn
        self.sampler: EmpiricalSampler | None = None

    def empirical(self, examples: Iterable[Example]) -> None:
        """Draw blocks from those of these pictures. Raises ConfigError: there is none."""
        cut = [cut_blocks(torch.from_numpy(example.labels.astype(np.int64))[None], BLOCK) for example in examples]
        self.sampler = EmpiricalSampler(torch.cat(cut))

    def labels(self, n: int, side: int) -> tuple[Int[Tensor, "n side side"], Int[Tensor, "n side side"]]:
        """Labels to make features for, and those the classifier is asked about: of blocks the centres."""
        if self.settings.sampler == "pixel":
            drawn = torch.multinomial(self.prior, n * side * side, replacement=True).reshape(n, side, side)
            return drawn, drawn
        drawn = lay_out(self._blocks(n * (side // BLOCK) ** 2).reshape(n, -1, BLOCK, BLOCK))
        drawn = torch.where(self.prior[drawn.clamp(max=len(self.prior) - 1)] > 0, drawn, UNDECIDED)
        return drawn, only_centres(drawn, BLOCK)

    def noise(self, n: int, channels: int, side: int) -> Float[Tensor, "n c side side"]:
        """A standard normal code for each cell, or one for each block."""
        if self.settings.sampler == "pixel":
            return torch.randn(n, channels, side, side)
        shared = torch.randn(n, channels, side // BLOCK, side // BLOCK)
        return shared.repeat_interleave(BLOCK, 2).repeat_interleave(BLOCK, 3)

    def places(self, n: int, side: int, count: int) -> Int[Tensor, "n side side"]:
        """One of `count` for each cell, or for each block."""
        if self.settings.sampler == "pixel":
            return torch.randint(count, (n, side, side))
        shared = torch.randint(count, (n, side // BLOCK, side // BLOCK))
        return shared.repeat_interleave(BLOCK, 1).repeat_interleave(BLOCK, 2)

    def _blocks(self, count: int) -> Int[Tensor, "m side side"]:
        """Pure blocks of the prior's classes, and among them blocks of the sampler with an unseen class each."""
        pure = torch.multinomial(self.prior, count, replacement=True)[:, None, None].repeat(1, BLOCK, BLOCK)
        mixed = torch.rand(count) >= self.settings.block_pure
        chosen = torch.randint(self.unseen.start, self.unseen.stop, (count,))
        if self.sampler is not None:
            drawn, good = self.sampler.sample(chosen), torch.ones(count, dtype=torch.bool)
        else:
            assert self.pixelcnn is not None
            device = self.pixelcnn.embedding.device
            drawn = self.pixelcnn.sample(chosen.to(device), BLOCK, preset=5).cpu()
            good = accepted(drawn, self.unseen)
        return torch.where((mixed & good)[:, None, None], drawn, pure)
