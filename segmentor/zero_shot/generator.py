"""Features made from a name's vector and a latent code, cell by cell; the critic and the classifier of features."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clip_es.errors import ConfigError

Names = Literal["fitted", "trained", "none"]
"""Linear path from a name to its features. fitted: in closed form, and the perceptron sees the latent code alone."""

PUBLISHED_WIDTHS = (1024, 960, 864, 784, 720)
PUBLISHED_DROPOUT = (0.1, 0.1, 0.3, 0.5, 0.5)


class Generator(nn.Module):
    """A perceptron of 1x1 convolutions on [name ; latent], [n d h w], with LeakyReLU(0.2) and dropout.

    Source: CaGNet, its code: five hidden layers and a sigmoid at the end (`bounded`); the paper: 512 hidden units.
    `names` adds a linear path from the name: what two names have in common their features have in common too.
    `fitted`: its weights are given (`NameMap`) and never trained, and the perceptron, which cannot know what an unseen
    name means, sees the latent code alone.
    Raises ConfigError: not one dropout for each hidden layer.
    """

    def __init__(
        self,
        condition: int,
        latent: int,
        channels: int,
        widths: Sequence[int] = PUBLISHED_WIDTHS,
        dropout: Sequence[float] = PUBLISHED_DROPOUT,
        *,
        bounded: bool = True,
        names: Names = "none",
    ) -> None:
        super().__init__()
        if len(widths) != len(dropout):
            raise ConfigError("one dropout for each hidden layer", expected=len(widths), found=len(dropout))
        self.condition, self.latent, self.bounded, self.names = condition, latent, bounded, names
        sizes = [latent if names == "fitted" else condition + latent, *widths]
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in itertools.pairwise(sizes))
        self.dropout = nn.ModuleList(nn.Dropout(share) for share in dropout)
        self.last = nn.Conv2d(sizes[-1], channels, 1)
        self.skip = None if names == "none" else nn.Conv2d(condition, channels, 1, bias=names == "fitted")
        if names == "fitted":
            assert self.skip is not None
            self.skip.requires_grad_(False)

    def forward(self, sample: Float[Tensor, "n d h w"]) -> Float[Tensor, "n c h w"]:
        """Features of the cells; the name's vector comes first in `sample`, then the latent code."""
        hidden = sample[:, self.condition :] if self.names == "fitted" else sample
        for layer, dropout in zip(self.layers, self.dropout, strict=True):
            hidden = dropout(nn.functional.leaky_relu(layer(hidden), 0.2))
        made = self.last(hidden)
        if self.skip is not None:
            made = made + self.skip(sample[:, : self.condition])
        return torch.sigmoid(made) if self.bounded else made

    @torch.no_grad()
    def set_names(self, weight: Float[Tensor, "c d"], bias: Float[Tensor, " c"]) -> None:
        """Give the linear path from a name its weights."""
        assert self.skip is not None
        assert self.skip.bias is not None
        self.skip.weight.copy_(weight[:, :, None, None])
        self.skip.bias.copy_(bias)


class Discriminator(nn.Module):
    """A first layer shared by the critic (real or made, 0..1) and the classifier [n class+1 h w].

    The classifier has one output more than there are classes, which no label ever asks for. `patch` adds the 3x3
    convolution of the block-wise stage before it. `linear`: the classifier reads the features themselves; one with a
    hidden layer tells made features from real ones and keeps the unseen classes for those that are made.
    Source: CaGNet's code; the 3x3 from its extension.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        hidden: int = 1024,
        dropout: float = 0.5,
        *,
        patch: bool = False,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.linear = linear
        self.shared = nn.Conv2d(channels, hidden, 1)
        self.dropout = nn.Dropout(dropout)
        self.critic = nn.Conv2d(hidden, 1, 1)
        wide = channels if linear else hidden
        self.patch = nn.Conv2d(wide, wide, 3, padding=1) if patch else None
        self.classes = nn.Conv2d(wide, classes, 1)

    def forward(self, features: Float[Tensor, "n c h w"]) -> tuple[Float[Tensor, "n h w"], Float[Tensor, "n k h w"]]:
        """How real each cell looks, and the scores of its classes."""
        hidden = self.dropout(torch.relu(self.shared(features)))
        seen = features if self.linear else hidden
        wide = seen if self.patch is None else self.patch(seen)
        return torch.sigmoid(self.critic(hidden))[:, 0], self.classes(wide)

    def scores(self, features: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k h w"]:
        """The classes alone."""
        if self.linear:
            return self.classes(features if self.patch is None else self.patch(features))
        return self(features)[1]


def initialise(module: nn.Module) -> None:
    """Kaiming-normal (fan-in) on every convolution, zero bias, as published."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
