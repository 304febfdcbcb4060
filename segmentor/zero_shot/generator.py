"""Features made from a name's vector and a latent code, cell by cell; the critic and the classifier of features."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clip_es.errors import ConfigError

PUBLISHED_WIDTHS = (1024, 960, 864, 784, 720)
PUBLISHED_DROPOUT = (0.1, 0.1, 0.3, 0.5, 0.5)


class Generator(nn.Module):
    """A perceptron of 1x1 convolutions on [name ; latent], [n d h w], with LeakyReLU(0.2) and dropout.

    Source: CaGNet, its code: five hidden layers and a sigmoid at the end (`bounded`); the paper: 512 hidden units.
    `skip` adds a linear path from the name: what two names have in common their features have in common too.
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
        skip: bool = False,
    ) -> None:
        super().__init__()
        if len(widths) != len(dropout):
            raise ConfigError("one dropout for each hidden layer", expected=len(widths), found=len(dropout))
        self.condition, self.latent, self.bounded = condition, latent, bounded
        sizes = [condition + latent, *widths]
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in itertools.pairwise(sizes))
        self.dropout = nn.ModuleList(nn.Dropout(share) for share in dropout)
        self.last = nn.Conv2d(sizes[-1], channels, 1)
        self.skip = nn.Conv2d(condition, channels, 1, bias=False) if skip else None

    def forward(self, sample: Float[Tensor, "n d h w"]) -> Float[Tensor, "n c h w"]:
        """Features of the cells; the name's vector comes first in `sample`, then the latent code."""
        hidden = sample
        for layer, dropout in zip(self.layers, self.dropout, strict=True):
            hidden = dropout(nn.functional.leaky_relu(layer(hidden), 0.2))
        made = self.last(hidden)
        if self.skip is not None:
            made = made + self.skip(sample[:, : self.condition])
        return torch.sigmoid(made) if self.bounded else made


class Discriminator(nn.Module):
    """A first layer shared by the critic (real or made, 0..1) and the classifier [n class+1 h w].

    The classifier has one output more than there are classes, which no label ever asks for. `patch` adds the 3x3
    convolution of the block-wise stage before it. Source: CaGNet's code; the 3x3 from its extension.
    """

    def __init__(self, channels: int, classes: int, hidden: int = 1024, dropout: float = 0.5, *, patch: bool = False):
        super().__init__()
        self.shared = nn.Conv2d(channels, hidden, 1)
        self.dropout = nn.Dropout(dropout)
        self.critic = nn.Conv2d(hidden, 1, 1)
        self.patch = nn.Conv2d(hidden, hidden, 3, padding=1) if patch else None
        self.classes = nn.Conv2d(hidden, classes, 1)

    def forward(self, features: Float[Tensor, "n c h w"]) -> tuple[Float[Tensor, "n h w"], Float[Tensor, "n k h w"]]:
        """How real each cell looks, and the scores of its classes."""
        hidden = self.dropout(torch.relu(self.shared(features)))
        wide = hidden if self.patch is None else self.patch(hidden)
        return torch.sigmoid(self.critic(hidden))[:, 0], self.classes(wide)

    def scores(self, features: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k h w"]:
        """The classes alone."""
        return self(features)[1]


def initialise(module: nn.Module) -> None:
    """Kaiming-normal (fan-in) on every convolution, zero bias, as published."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
