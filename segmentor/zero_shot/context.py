"""The contextual module: what surrounds a cell becomes its latent code, which weights the features of the cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from clip_es.errors import ConfigError

Selector = Literal["softmax", "relu-sigmoid", "none"]
"""How the three reaches of context are weighted in a cell. `relu-sigmoid` is the published code's, never below 0.5."""


@dataclass(frozen=True)
class Context:
    """What the module makes of a feature map, all on its grid."""

    features: Float[Tensor, "n c h w"]
    """X: the features, weighted channel by channel by the latent code."""
    latent: Float[Tensor, "n c h w"]
    """Z: drawn from the distribution while training, its mean otherwise."""
    mean: Float[Tensor, "n c h w"]
    log_variance: Float[Tensor, "n c h w"]


class ContextualModule(nn.Module):
    """Three dilated convolutions in a row, a weight for each in every cell, mean and log-variance of a latent code.

    Features [n c h w] in, `Context` out: X = gate(F + F * sigmoid(Z)). Source: CaGNet (ACM MM 2020), section 3.2.
    The published code (`parity`) bounds features by a sigmoid before and after, keeps the selector's weights above
    0.5, keeps the log-variance above 0 and never trains the selector; by default nothing is bounded and all is trained.
    With `enabled=False` Z is noise that knows nothing of the picture and X = F: the ablation without the module.
    `kernel` is the side of the convolutions that give mean and log-variance: 1 in the paper, 3 in the code.
    Raises ConfigError: an unknown selector.
    """

    def __init__(
        self,
        channels: int,
        hidden: int = 256,
        *,
        selector: Selector = "softmax",
        free_variance: bool = True,
        bounded: bool = False,
        enabled: bool = True,
        kernel: int = 3,
    ) -> None:
        super().__init__()
        if selector not in ("softmax", "relu-sigmoid", "none"):
            raise ConfigError("unknown selector", expected="softmax, relu-sigmoid or none", found=selector)
        self.channels, self.selector_kind = channels, selector
        self.free_variance, self.bounded, self.enabled = free_variance, bounded, enabled
        if not enabled:
            return
        self.near = nn.Conv2d(channels, hidden, 3, padding=1, bias=False)
        self.middle = nn.Conv2d(hidden, hidden, 3, padding=2, dilation=2, bias=False)
        self.far = nn.Conv2d(hidden, hidden, 3, padding=5, dilation=5, bias=False)
        self.selector = nn.Conv2d(3 * hidden, 3, 3, padding=1, bias=False)
        self.pool = nn.Conv2d(3 * hidden, channels, 1, bias=False)
        self.mean = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False)
        self.log_variance = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False)

    def begin_neutral(self) -> float:
        """Begin with a latent code that says nothing, so that X is a multiple of F. Returns the factor."""
        if not self.enabled:
            return 1.0
        nn.init.zeros_(self.mean.weight)
        nn.init.zeros_(self.log_variance.weight)
        return 1.5

    def forward(self, features: Float[Tensor, "n c h w"], noise: Float[Tensor, "n c h w"] | None = None) -> Context:
        """`noise` is standard normal: Z is drawn with it. None: Z is the mean, as in evaluation."""
        if not self.enabled:
            nothing = torch.zeros_like(features)
            seen = torch.sigmoid(features) if self.bounded else features
            return Context(seen, nothing if noise is None else noise, nothing, nothing)
        pooled = self.pooled(features)
        mean, log_variance = self.mean(pooled), self.log_variance(pooled)
        # Unbounded above, the exponential overflows in the first steps; e^8 is far from anything that is learned.
        log_variance = log_variance.clamp(-8, 8) if self.free_variance else torch.relu(log_variance)
        latent = mean if noise is None else mean + noise * (log_variance / 2).exp()
        weighted = features + features * torch.sigmoid(latent)
        return Context(torch.sigmoid(weighted) if self.bounded else weighted, latent, mean, log_variance)

    def pooled(self, features: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """The context of each cell, the three reaches weighted by the selector."""
        near = torch.relu(self.near(torch.sigmoid(features) if self.bounded else features))
        middle = torch.relu(self.middle(near))
        far = torch.relu(self.far(middle))
        weights = self.weights(torch.cat((near, middle, far), dim=1))
        joined = torch.cat([part * weights[:, i : i + 1] for i, part in enumerate((near, middle, far))], dim=1)
        return torch.relu(self.pool(joined))

    def weights(self, reaches: Float[Tensor, "n c3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """How much each reach counts in each cell."""
        if self.selector_kind == "none":
            return torch.ones_like(reaches[:, :3])
        scores = self.selector(reaches)
        return scores.softmax(dim=1) if self.selector_kind == "softmax" else torch.sigmoid(torch.relu(scores))


def kl_divergence(
    mean: Float[Tensor, "n c h w"], log_variance: Float[Tensor, "n c h w"], visible: Bool[Tensor, "n h w"]
) -> Float[Tensor, ""]:
    """KL of N(mean, e^log_variance) from N(0, 1), averaged over channels and visible cells; 0 where none is visible."""
    each = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
    kept = visible[:, None].expand_as(each)
    return (each * kept).sum() / kept.sum().clamp(min=1)


def shrink_mask(visible: Bool[Tensor, "n _ _"], size_hw: tuple[int, int]) -> Bool[Tensor, "n h w"]:
    """A mask on another grid, by the nearest cell."""
    return F.interpolate(visible[:, None].float(), size=size_hw, mode="nearest")[:, 0] > 0
