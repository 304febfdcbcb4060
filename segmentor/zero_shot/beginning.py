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
    ) -> None:
        """Let a linear classifier of `factor` (features - shift) / spread give the old scores of the seen classes.

        Where there is a 3x3 convolution before, it begins as the identity.
        """
        seen, read = self.weight.shape
        assert new.classes.bias is not None
        new.classes.weight[:seen] = 0
        new.classes.weight[:seen, :read, 0, 0] = self.weight * spread[:read, 0, 0] / factor
        new.classes.bias[:seen] = self.bias + self.weight @ shift[:read, 0, 0]
        if new.patch is not None:
            nn.init.dirac_(new.patch.weight)
            assert new.patch.bias is not None
            nn.init.zeros_(new.patch.bias)


@torch.no_grad()
def begin_unseen(new: Discriminator, seen: int, things: Sequence[int]) -> None:
    """Begin all outputs behind the first `seen` as the mean of the rows `things` (none: of those `seen`).

    No cell gives them then: the greatest of those scores is never below their mean.
    """
    assert new.classes.bias is not None
    rows = list(things) or list(range(seen))
    new.classes.weight[seen:] = new.classes.weight[rows].mean(dim=0)
    new.classes.bias[seen:] = new.classes.bias[rows].mean()
