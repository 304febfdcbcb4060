"""Patches against words: shares, cosines, ExCEL's enriched texts and CLIP Surgery's scores."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float32
from torch import Tensor


def enriched(
    text: Float32[Tensor, "text embed"], attributes: Float32[Tensor, "attribute embed"], keep: float = 0.9
) -> Float32[Tensor, "text embed"]:
    """Class texts with what attributes add: text + softmax(text attributes^T) attributes, of unit length.

    For each class the int((1 - keep) n) of the n attributes that fit it least are left out, in floating point as
    published (of 20 one, not two); the softmax has no temperature.
    Source: ExCEL (CVPR 2025), `attr_aggregate`. Differs: nothing.
    """
    affinity = text @ attributes.T
    weakest = int((1 - keep) * len(attributes))
    if weakest:
        threshold = affinity.kthvalue(weakest, dim=-1, keepdim=True).values
        affinity = affinity.masked_fill(affinity <= threshold, float("-inf"))
    return F.normalize(text + affinity.softmax(-1) @ attributes, dim=-1)


def surgery(
    embeddings: Float32[Tensor, "token embed"], text: Float32[Tensor, "text embed"]
) -> Float32[Tensor, "token text"]:
    """CLIP Surgery's scores, each text's in 0..1 over all tokens, the class token included; for parity.

    Features are divided by their length over tokens, channel by channel, as the code of ExCEL does (`dim=1`).
    Source: ExCEL, `clip_feature_surgery`. Differs: nothing.
    """
    features = embeddings / embeddings.norm(dim=0, keepdim=True)
    weights = (2 * features[:1] @ text.T).softmax(-1)
    weights = weights / weights.mean(-1, keepdim=True)
    product = weights[..., None] * features[:, None] * text[None]
    scores = (product - product.mean(1, keepdim=True)).sum(-1)
    low, high = scores.amin(0), scores.amax(0)
    return (scores - low) / (high - low)


def words_share(
    embeddings: Float32[Tensor, "patch embed"], text: Float32[Tensor, "text embed"], scale: float
) -> Float32[Tensor, "text patch"]:
    """For each patch the share of each text: softmax over texts of `scale` times the cosine."""
    return (scale * words_cosine(embeddings, text)).softmax(0)


def words_cosine(
    embeddings: Float32[Tensor, "patch embed"], text: Float32[Tensor, "text embed"]
) -> Float32[Tensor, "text patch"]:
    """For each text its cosine with each patch."""
    return F.normalize(text, dim=-1) @ F.normalize(embeddings, dim=-1).T
