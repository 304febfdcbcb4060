"""SC-CLIP's reading: outlier patches mended, then patches averaged over those alike in a middle and an early block."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float32
from torch import Tensor

from clip_es.encoder.encode import Encoder
from clip_es.encoder.vit import Block, SelfAttention

_NEIGHBOURS = 30
"""Over how many nearest patches a patch's distance is compared with theirs."""
_OUTLIERS = 0.05
"""Share of the patches that count as outliers."""
_ALIKE = 0.4
"""Cosine below which two patches have nothing to do with each other."""
_CLASS = 0.3
"""How much of the class token is added to each patch."""


def calibrated_tokens(
    encoder: Encoder, outputs: Float32[Tensor, "block token dim"], grid_hw: tuple[int, int]
) -> Float32[Tensor, "token dim"]:
    """What stands before the last norm, from the outputs of all blocks but the last; row 0 is the class token's output.

    With 12 blocks likeness comes from the outputs of blocks 8 and 3, counted from 0, and the branch of several layers
    is the sum of 3..9; towers of other depths take the same shares of their blocks.
    Source: SC-CLIP (2024) with its local outlier factor. Differs: outliers lie where they are on grids that are not
    square too; on a tower of another depth the blocks are scaled.
    """
    last = encoder.model.visual.transformer.blocks[-1]
    middle, early, start, stop = (round(share / 10 * (len(outputs) - 1)) for share in (8, 3, 3, 10))
    final = outputs[-1]
    odd = outliers(final[1:]).reshape(grid_hw)
    cosine = _cosine(mended(outputs[middle][1:], odd))
    after = _cosine(outputs[early][1:])
    found = _averaged(mended(final[1:], odd), cosine)
    found = _averaged(_attended(last, found, cosine) + _CLASS * final[0], after)
    several = outputs[start : max(stop, start + 1)].sum(0)
    found = found + _averaged(_attended(last, several[1:], cosine) + _CLASS * several[0], after)
    return torch.cat([final[:1], found])


def outliers(patches: Float32[Tensor, "patch dim"]) -> Bool[Tensor, " patch"]:
    """The patches that lie farthest from others, compared with how far their neighbours do.

    A patch's distance is that to its 30th nearest, squared; its factor is the mean of that over those of its
    neighbours. Source: SC-CLIP's simplified local outlier factor. Differs: smaller grids have fewer neighbours.
    """
    near = min(_NEIGHBOURS, len(patches) - 1)
    if near < 1:
        return torch.zeros(len(patches), dtype=torch.bool, device=patches.device)
    factor = outlier_factor(patches, near)
    return factor > torch.quantile(factor, 1 - _OUTLIERS)


def outlier_factor(patches: Float32[Tensor, "patch dim"], near: int) -> Float32[Tensor, " patch"]:
    """How much farther, squared, a patch is from its nearest than these are from theirs; 1 is usual."""
    distances, places = torch.cdist(patches, patches).square().topk(near + 1, largest=False)
    far = distances[:, -1].clamp(min=torch.finfo(distances.dtype).tiny)
    return (far[:, None] / far[places[:, 1:]]).mean(1)


def mended(patches: Float32[Tensor, "patch dim"], odd: Bool[Tensor, "gh gw"]) -> Float32[Tensor, "patch dim"]:
    """Outliers replaced by the mean of those of their eight neighbours that are none; where all are, they stay."""
    kept = (~odd).to(patches)
    planes = patches.T.unflatten(1, tuple(odd.shape))
    ring = patches.new_ones(1, 1, 3, 3)
    ring[0, 0, 1, 1] = 0
    sums = F.conv2d((planes * kept)[:, None], ring, padding=1)[:, 0]
    count = F.conv2d(kept[None, None], ring, padding=1)[0, 0]
    replaced = torch.where(odd & (count > 0), sums / count.clamp(min=1), planes)
    return replaced.flatten(1).T


def _cosine(patches: Float32[Tensor, "patch dim"]) -> Float32[Tensor, "patch patch"]:
    unit = F.normalize(patches, dim=-1)
    return unit @ unit.T


def _averaged(x: Float32[Tensor, "patch dim"], cosine: Float32[Tensor, "patch patch"]) -> Float32[Tensor, "patch dim"]:
    """Each patch the mean over those alike, weighted by the cosine."""
    kept = torch.where(cosine < _ALIKE, 0.0, cosine)
    return (kept / (kept.sum(-1, keepdim=True) + 1e-6)) @ x


def _attended(
    block: Block, x: Float32[Tensor, "patch dim"], cosine: Float32[Tensor, "patch patch"]
) -> Float32[Tensor, "patch dim"]:
    """The block's values, mixed half by the likeness of the middle block, half by that of the keys; no residual."""
    _, k, v = block.attn.project(block.ln_1(x))
    logits = (cosine - cosine.mean()) * 3
    middle = torch.where(logits < 0, float("-inf"), logits).softmax(-1)
    return block.attn.merge((middle + SelfAttention.weights(k, k)) / 2 @ v)
