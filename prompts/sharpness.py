"""Which sentence finds all the labels: sharpness, the prompt score of CLIP-ES.

For a picture with several labels, the softmax scores of those labels should be alike: a prompt under which one label
takes all the mass leaves GradCAM nothing for the others. Sharpness is the mean over pictures of variance / mean of
those scores; lower is better.
Source: CLIP-ES (CVPR 2023), equation 9, whose code is lost. The paper leaves three points open; each is an option here
and the default is stated: population variance, softmax over all classes of the vocabulary, mean over pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from clip_es.errors import ConfigError, ShapeError

_AT_ONCE = 8192
"""Pictures scored together; bounds the memory where a thousand classes meet many pictures."""


@dataclass(frozen=True)
class SharpnessConfig:
    """The points of the definition that the paper leaves open."""

    variance: Literal["population", "sample"] = "population"
    """Divide the squared deviations by k, or by k - 1."""
    softmax: Literal["classes", "labels+background"] = "classes"
    """Over all classes of the vocabulary, or over the labels of the picture and the background words."""

    def __str__(self) -> str:
        over = "all classes" if self.softmax == "classes" else "the picture's labels and the background words"
        return f"{self.variance} variance, softmax over {over}, mean over the pictures with several labels"


def several_labels(labels: Sequence[Sequence[int]]) -> list[int]:
    """Which pictures count: indices of those with two labels or more.

    Raises ConfigError: none has.
    """
    chosen = [i for i, ids in enumerate(labels) if len(set(ids)) > 1]
    if not chosen:
        raise ConfigError(
            "sharpness compares the labels of one picture, and no picture here has two",
            found=f"{len(labels)} pictures",
            next_step="Add pictures with several labels.",
        )
    return chosen


def sharpness(
    images: Float32[Tensor, "image dim"],
    labels: Sequence[Sequence[int]],
    classes: Float32[Tensor, "class dim"],
    scale: float,
    config: SharpnessConfig | None = None,
    background: Float32[Tensor, "words dim"] | None = None,
) -> float:
    """Mean over the multi-label pictures of variance / mean of the softmax scores of their labels.

    `images` and `classes` are unit rows, `labels` the class ids of each picture, `scale` the factor on the cosine
    (CLIP's exp(logit_scale)). Returns a value >= 0; 0 when every picture scores its labels alike. Pictures with one
    label say nothing about suppression and are left out.
    Raises ConfigError: no picture has two labels. ShapeError: `labels` and `images` differ in number.
    Source: CLIP-ES (CVPR 2023), equation 9. Differs: see the head of this module.
    """
    _check_count(images, labels)
    chosen = several_labels(labels)
    terms = sharpness_terms(images[chosen], [labels[i] for i in chosen], classes, scale, config, background)
    return float(terms.mean())


def sharpness_terms(
    images: Float32[Tensor, "image dim"],
    labels: Sequence[Sequence[int]],
    classes: Float32[Tensor, "class dim"],
    scale: float,
    config: SharpnessConfig | None = None,
    background: Float32[Tensor, "words dim"] | None = None,
) -> Float64[Tensor, " image"]:
    """Variance / mean of the softmax scores of the labels of each picture; `sharpness` is the mean of these terms.

    Arguments as there. A picture with one label has the term 0.
    Raises ShapeError: `labels` and `images` differ in number.
    """
    config = config or SharpnessConfig()
    _check_count(images, labels)
    words = torch.cat([classes, classes[:0] if background is None else background]).double()
    terms = [images.new_zeros(0, dtype=torch.float64)]
    for start in range(0, len(images), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        terms.append(_terms(scale * images[part].double() @ words.T, labels[part], len(classes), config))
    return torch.cat(terms)


def _terms(logits: Tensor, labels: Sequence[Sequence[int]], class_count: int, config: SharpnessConfig) -> Tensor:
    member = torch.zeros(len(logits), class_count, dtype=torch.bool)
    rows = [row for row, ids in enumerate(labels) for _ in ids]
    member[rows, [k for ids in labels for k in ids]] = True
    member = member.to(logits.device)
    if config.softmax == "labels+background":
        logits[:, :class_count].masked_fill_(~member, -torch.inf)
    else:
        logits = logits[:, :class_count]
    scores = torch.softmax(logits, dim=1)[:, :class_count] * member
    count = member.sum(dim=1)
    mean = scores.sum(dim=1) / count
    squares = ((scores - mean[:, None]).square() * member).sum(dim=1)
    divisor = count if config.variance == "population" else (count - 1).clamp_min(1)
    # A picture none of whose labels gets any mass has mean 0 and variance 0: the term tends to 0.
    return squares / divisor / mean.clamp_min(1e-300)


def _check_count(images: Tensor, labels: Sequence[Sequence[int]]) -> None:
    if len(labels) != len(images):
        raise ShapeError("there must be one label list for each image", expected=len(images), found=len(labels))
