"""Losses between real and made features. `visible` marks the cells that count: those with a label."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clip_es.types import UNDECIDED

Adversary = Literal["l1", "mse", "gan", "wgan", "none"]
"""l1: what the code calls least squares; mse: least squares, the paper's; gan: cross-entropy; wgan: means alone."""

Content = Literal["mmd-runs", "mmd", "mse", "l1", "none"]
"""mmd-runs: MMD over runs of equal labels in raster order, the code's; mmd: over classes; mse: the paper's."""

BANDWIDTHS = (2.0, 5.0, 10.0, 20.0, 40.0, 60.0)
"""Of the six Gaussian kernels, as squared distances."""

Maps = Float[Tensor, "n c h w"]
Scores = Float[Tensor, "n h w"]
Visible = Bool[Tensor, "n h w"]


def classification(scores: Float[Tensor, "n k h w"], labels: Int[Tensor, "n h w"]) -> Float[Tensor, ""]:
    """Cross-entropy over the labelled cells; 0 where none is."""
    summed = F.cross_entropy(scores, labels.long(), ignore_index=UNDECIDED, reduction="sum")
    return summed / (labels != UNDECIDED).sum().clamp(min=1)


def accuracy(scores: Float[Tensor, "n k h w"], labels: Int[Tensor, "n h w"]) -> float:
    """Mean over the present classes of the share found, as the published code logs it."""
    found = [
        float((scores.argmax(dim=1)[labels == label] == label).float().mean())
        for label in labels[labels != UNDECIDED].unique()
    ]
    return sum(found) / len(found) if found else 0.0


@dataclass(frozen=True)
class AdversarialLosses:
    """Of the critic and of the generator, from the same scores."""

    critic_real: Float[Tensor, ""]
    critic_fake: Float[Tensor, ""]
    generator: Float[Tensor, ""]

    @property
    def critic(self) -> Float[Tensor, ""]:
        """Both sides of the critic."""
        return self.critic_real + self.critic_fake


def _l1(score: Tensor, target: float) -> Tensor:
    return (score - target).abs()


def _mse(score: Tensor, target: float) -> Tensor:
    return (score - target).square()


def _gan(score: Tensor, target: float) -> Tensor:
    return F.binary_cross_entropy(score, torch.full_like(score, target), reduction="none")


def _wgan(score: Tensor, target: float) -> Tensor:
    return -score if target else score


def _none(score: Tensor, target: float) -> Tensor:
    return 0 * score


ADVERSARIES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "l1": _l1,
    "mse": _mse,
    "gan": _gan,
    "wgan": _wgan,
    "none": _none,
}


def adversarial(kind: Adversary, real: Scores, fake: Scores, visible: Visible) -> AdversarialLosses:
    """Losses of scores in 0..1, where 1 is real; for wgan the generator's is minus the score."""
    distance = ADVERSARIES[kind]
    return AdversarialLosses(
        _mean(distance(real, 1.0), visible), _mean(distance(fake, 0.0), visible), _mean(distance(fake, 1.0), visible)
    )


def gradient_penalty(
    critic: Callable[[Maps], Scores],
    real: Maps,
    fake: Maps,
    visible: Visible,
    share: Float[Tensor, " n"],
    weight: float = 10.0,
) -> Float[Tensor, ""]:
    """`weight` times the mean over the batch of (norm of the critic's gradient at an interpolate - 1) squared.

    `share` of the real features is drawn once for each sample; only gradients of visible cells count.
    """
    mixed = share[:, None, None, None] * real + (1 - share)[:, None, None, None] * fake
    mixed = mixed.detach().requires_grad_(True)
    score = critic(mixed)
    (gradient,) = torch.autograd.grad(score, mixed, torch.ones_like(score), create_graph=True)
    norms = (gradient * visible[:, None]).flatten(1).norm(dim=1)
    return weight * (norms - 1).square().mean()


def content(kind: Content, fake: Maps, real: Maps, labels: Int[Tensor, "n h w"]) -> Float[Tensor, ""]:
    """How far made features are from the real ones of the same cells; 0 where no cell has a label."""
    visible = labels != UNDECIDED
    if kind == "none" or not bool(visible.any()):
        return 0 * fake.sum()
    if kind in ("mse", "l1"):
        apart = (fake - real).square() if kind == "mse" else (fake - real).abs()
        return _mean(apart.mean(dim=1), visible)
    made, seen = (part.permute(0, 2, 3, 1)[visible] for part in (fake, real))
    kept = labels[visible]
    groups = label_runs(kept) if kind == "mmd-runs" else [(kept == label).nonzero()[:, 0] for label in kept.unique()]
    return torch.stack([mmd(made[group], seen[group]) for group in groups]).mean()


def mmd(made: Float[Tensor, "m c"], real: Float[Tensor, "k c"]) -> Float[Tensor, ""]:
    """Square root of half the squared maximum mean discrepancy, with six Gaussian kernels; 0 for equal sets."""
    apart = _kernel(made, made).mean() - 2 * _kernel(made, real).mean() + _kernel(real, real).mean()
    positive = (0.5 * apart).clamp(min=0)
    # The root has no gradient at zero; where the sets are equal there is nothing to learn.
    return torch.where(positive > 0, positive, torch.ones_like(positive)).sqrt() * (positive > 0)


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    distances = (a.square().sum(1)[:, None] + b.square().sum(1)[None] - 2 * a @ b.T).clamp(min=0)
    return torch.stack([torch.exp(-distances / (2 * width)) for width in BANDWIDTHS]).sum(dim=0)


def label_runs(labels: Int[Tensor, " cell"]) -> list[Int[Tensor, " run"]]:
    """Indices of maximal runs of equal labels, in order."""
    change = (labels[1:] != labels[:-1]).nonzero()[:, 0] + 1
    return list(torch.tensor_split(torch.arange(len(labels), device=labels.device), change.cpu()))


def _mean(values: Tensor, visible: Tensor) -> Tensor:
    return (values * visible).sum() / visible.sum().clamp(min=1)
