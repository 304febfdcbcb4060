"""From a name's vector to the mean feature of its class, in closed form from the seen classes.

A handful of seen classes cannot teach a linear map of hundreds of numbers: gradient descent leaves it at its random
start wherever the seen names do not reach, and that is where the unseen names are. So the map begins with what is
known of it. Where names and some channels y of the features share a space (CLIP's), w . y tells class w from others;
a linear classifier of that direction is right for classes whose means differ by C (w - mean of w), C the covariance of
the features with y within the classes. The seen classes set its scale, add a multiple of w itself in the channels of
the space, and correct both by a ridge regression whose strength is the one that best foretells a seen class left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int
from torch import Tensor

from clip_es.errors import ShapeError

RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 1e6)
"""Strengths tried, as multiples of the mean squared length of the centred names; the last corrects nothing."""


@dataclass(frozen=True)
class NameMap:
    """mean feature = weight @ name + bias."""

    weight: Float32[Tensor, "c d"]
    bias: Float32[Tensor, " c"]
    offset: Float32[Tensor, "class c"]
    """What the seen classes' measured means lie beside it; zeros for all others."""
    missed: Float32[Tensor, "class c"]
    """What the mean of each known class lies beside the map that the others give; zeros for all others."""
    ridge: float
    error: float
    """Squared error of the means of seen classes left out, as a share of their spread."""


class ClassMoments:
    """Counts and means of features [cell c] by class, and their covariance within classes with the channels y."""

    def __init__(self, classes: int, channels: int, shared: int) -> None:
        self.count = torch.zeros(classes, dtype=torch.float64)
        self.sum = torch.zeros(classes, channels, dtype=torch.float64)
        self.sum_shared = torch.zeros(classes, shared, dtype=torch.float64)
        self.cross = torch.zeros(channels, shared, dtype=torch.float64)

    def add(
        self, features: Float[Tensor, "cell c"], shared: Float[Tensor, "cell e"], labels: Int[Tensor, " cell"]
    ) -> None:
        """Cells with their labels, none ignored."""
        one_hot = torch.nn.functional.one_hot(labels.long(), len(self.count)).to(features)
        self.count += one_hot.sum(dim=0).double().cpu()
        self.sum += (one_hot.T @ features).double().cpu()
        self.sum_shared += (one_hot.T @ shared).double().cpu()
        self.cross += (features.T @ shared).double().cpu()

    @property
    def means(self) -> Float64[Tensor, "class c"]:
        """Zeros for a class without cells."""
        return self.sum / self.count.clamp(min=1)[:, None]

    @property
    def within(self) -> Float64[Tensor, "c e"]:
        """Covariance within classes."""
        between = self.means.T @ self.sum_shared
        return (self.cross - between) / self.count.sum().clamp(min=1)


def fit_names(
    found: ClassMoments,
    vectors: Float[Tensor, "class d"],
    known: Bool[Tensor, " class"],
    scale: Float[Tensor, " e"] | None = None,
) -> NameMap:
    """The map of all names from the means of the `known` classes.

    The last columns of `vectors` lie in the space of the channels y (as many as the moments have, possibly none).
    `scale` is how much one unit of them is in the last channels of the features. Raises ShapeError: no known class.
    """
    rows = vectors.double().cpu()
    chosen = known.cpu() & (found.count > 0)
    if not chosen.any():
        raise ShapeError("the map from names to features needs a class with a name and cells", found="none")
    names, means = rows[chosen], found.means[chosen]
    middle_name, middle = names.mean(dim=0), means.mean(dim=0)
    apart, targets = names - middle_name, means - middle
    prior = _prior(found, apart, targets, rows.shape[1], scale)
    left = targets - apart @ prior.T
    unit = apart.square().sum(dim=1).mean().clamp(min=1e-12)
    best: tuple[float, float, Tensor, Tensor] | None = None
    gram = apart @ apart.T / unit
    for ridge in RIDGES:
        solved = torch.linalg.solve(
            gram + ridge * torch.eye(len(gram), dtype=gram.dtype), torch.eye(len(gram)).double()
        )
        hat = gram @ solved
        # Of a ridge regression with an intercept the error of a row left out follows from the fit to all rows.
        missed = (left - hat @ left) / (1 - 1 / len(gram) - hat.diagonal()).clamp(min=1e-9)[:, None]
        error = float(missed.square().sum() / targets.square().sum().clamp(min=1e-12))
        if best is None or error < best[1]:
            best = ridge, error, (solved @ left).T @ apart / unit, missed
    assert best is not None
    weight = prior + best[2]
    bias = middle - weight @ middle_name
    offset, missed = torch.zeros_like(found.means), torch.zeros_like(found.means)
    missed[chosen] = best[3]
    offset[chosen] = means - (names @ weight.T + bias)
    return NameMap(weight.float(), bias.float(), offset.float(), missed.float(), best[0], best[1])


def _prior(
    found: ClassMoments, apart: Tensor, targets: Tensor, width: int, scale: Tensor | None
) -> Float64[Tensor, "c d"]:
    """What the shared space says of the map; zeros without one."""
    channels, shared = found.cross.shape
    nothing = torch.zeros(channels, width, dtype=torch.float64)
    if not shared or len(apart) < 2:
        return nothing
    covariance, same = nothing.clone(), nothing.clone()
    covariance[:, width - shared :] = found.within
    unit = torch.ones(shared) if scale is None else scale.cpu()
    same[channels - shared :, width - shared :] = torch.diag(unit.double())
    kinds = [covariance, same]
    while kinds:
        guesses = torch.stack([(apart @ kind.T).flatten() for kind in kinds], dim=1)
        amounts = torch.linalg.lstsq(guesses, targets.flatten()[:, None], driver="gelsd").solution[:, 0]
        if (amounts > 0).all():
            return torch.stack([a * kind for a, kind in zip(amounts, kinds, strict=True)]).sum(dim=0)
        kinds.pop(int(amounts.argmin()))
    return nothing


def visible_cells(
    features: Float[Tensor, "n c h w"], labels: Int[Tensor, "n h w"], classes: Iterable[int]
) -> tuple[Float[Tensor, "cell c"], Int[Tensor, " cell"]]:
    """The cells of some classes, and their labels."""
    kept = torch.isin(labels, torch.tensor(list(classes), device=labels.device))
    return features.permute(0, 2, 3, 1)[kept], labels[kept]
