"""Where a new classifier begins: at the answers of the segmenter that is extended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from clip_es.segmentor.zero_shot.generator import Discriminator


@dataclass(frozen=True)
class OldClassifier:
    """The pointwise classifier of the segmenter; it reads the first channels of its features, as they are."""

    weight: Float32[Tensor, "seen f"]
    bias: Float32[Tensor, " seen"]

    @classmethod
    def of(cls, layer: nn.Conv2d, seen: int) -> OldClassifier | None:
        """From what `tap` took out; None where it does not have one output for each seen class."""
        if layer.out_channels != seen or layer.groups != 1:
            return None
        weight = layer.weight.detach().float().cpu()[:, :, 0, 0]
        bias = torch.zeros(seen) if layer.bias is None else layer.bias.detach().float().cpu()
        return cls(weight, bias)

    @torch.no_grad()
    def give(
        self,
        new: Discriminator,
        shift: Float[Tensor, "c 1 1"],
        spread: Float[Tensor, "c 1 1"],
        factor: float,
        things: Sequence[int],
    ) -> None:
        """Let a linear classifier of `factor` (features - shift) / spread give the old scores of the seen classes.

        Each other output begins as the mean of the rows `things`, so no cell gives it at first: the greatest of
        those scores is never below their mean. Where there is a 3x3 convolution before, it begins as the identity.
        """
        seen, read = self.weight.shape
        weight = torch.zeros_like(new.classes.weight[:, :, 0, 0])
        bias = torch.zeros_like(weight[:, 0])
        old = self.weight.to(weight)
        weight[:seen, :read] = old * spread[:read, 0, 0] / factor
        bias[:seen] = self.bias.to(bias) + old @ shift[:read, 0, 0]
        middle = list(things) or list(range(seen))
        weight[seen:], bias[seen:] = weight[middle].mean(dim=0), bias[middle].mean()
        new.classes.weight.copy_(weight[:, :, None, None])
        assert new.classes.bias is not None
        new.classes.bias.copy_(bias)
        if new.patch is not None:
            nn.init.dirac_(new.patch.weight)
            assert new.patch.bias is not None
            nn.init.zeros_(new.patch.bias)
