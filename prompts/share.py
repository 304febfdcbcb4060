"""Which sentence finds the labels at all: the share that they hold against the background words.

Sharpness asks whether the labels of a picture score alike; they also do under a sentence that finds none of them. The
share asks whether they are found: among the labels of a picture and the background words, softmax scores sum to one,
and the share is what the labels hold together, in the mean over pictures. It needs labels alone, no mask.
Source: none; it follows from the competition with background words in CLIP-ES (CVPR 2023), section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from clip_es.errors import ConfigError, ShapeError

_AT_ONCE = 8192
"""Pictures scored together; bounds the memory where a thousand classes meet many pictures."""


def label_share(
    images: Float32[Tensor, "image dim"],
    labels: Sequence[Sequence[int]],
    classes: Float32[Tensor, "class dim"],
    background: Float32[Tensor, "words dim"],
    scale: float,
) -> float:
    """Mean over the pictures of the share of the softmax that their labels hold against the background words.

    `images`, `classes` and `background` are unit rows, `labels` the class ids of each picture, `scale` the factor on
    the cosine (CLIP's exp(logit_scale)). Returns a value in 0..1; higher is better.
    Raises ConfigError: no picture has a label, or there is no background word. ShapeError: `labels` and `images` differ
    in number.
    """
    chosen = labelled(labels)
    terms = label_share_terms(images[chosen], [labels[i] for i in chosen], classes, background, scale)
    return float(terms.mean())


def label_share_terms(
    images: Float32[Tensor, "image dim"],
    labels: Sequence[Sequence[int]],
    classes: Float32[Tensor, "class dim"],
    background: Float32[Tensor, "words dim"],
    scale: float,
) -> Float64[Tensor, " image"]:
    """The share of each picture; `label_share` is the mean of these terms. Arguments as there; a picture without labels
    has the term 0.

    Raises ConfigError: there is no background word. ShapeError: `labels` and `images` differ in number.
    """
    if len(labels) != len(images):
        raise ShapeError("there must be one label list for each image", expected=len(images), found=len(labels))
    if not len(background):
        raise no_background()
    words = torch.cat([classes, background]).double()
    terms = [images.new_zeros(0, dtype=torch.float64)]
    for start in range(0, len(images), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        logits = scale * images[part].double() @ words.T
        member = torch.zeros(len(logits), len(classes), dtype=torch.bool)
        rows = [row for row, ids in enumerate(labels[part]) for _ in ids]
        member[rows, [k for ids in labels[part] for k in ids]] = True
        logits[:, : len(classes)].masked_fill_(~member.to(logits.device), -torch.inf)
        terms.append(torch.softmax(logits, dim=1)[:, : len(classes)].sum(1))
    return torch.cat(terms)


def labelled(labels: Sequence[Sequence[int]]) -> list[int]:
    """Which pictures count: indices of those with a label. Raises ConfigError: none has."""
    chosen = [i for i, ids in enumerate(labels) if ids]
    if not chosen:
        raise ConfigError("no picture has a label", found=f"{len(labels)} pictures", next_step="Pass their labels.")
    return chosen


def no_background(where: str | None = None) -> ConfigError:
    """The error that there is nothing to hold a share against."""
    return ConfigError(
        "the share compares labels with background words, and the vocabulary has none",
        where=where,
        next_step="Add background words (`clip-es prompts background`), or choose by sharpness.",
    )
