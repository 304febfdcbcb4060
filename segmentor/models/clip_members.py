"""What a frozen CLIP says of each patch in the space of its text, in several ways."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, islice, repeat
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from clip_es.encoder.capture import BlockSight
from clip_es.encoder.vit import VisionTower
from clip_es.localize.cliper.layers import fused_attentions

BESIDE_LAYERS = 4
"""Members besides those that are read layer by layer."""
_ROUNDS = 3
"""Of balancing CLIPer's attention: what more rounds change is less than 1e-4."""


def member_count(layers: int) -> int:
    """How many members a tower of so many blocks has."""
    return layers + BESIDE_LAYERS


@torch.no_grad()
def clip_members(
    tower: VisionTower, sights: Sequence[BlockSight], grid_hw: tuple[Any, Any]
) -> Float[Tensor, "batch member_dim gh gw"]:
    """Unit embeddings of the patches, `member_count` of them one behind the other, from what all blocks saw.

    The last tokens; every layer as CLIPer reads it, through the last block's values and the attention of all blocks
    before it; the class token, the same at every patch; the last layer and the mean of the layers, spread along that
    attention as CLIPer spreads its map.
    Source: CLIPer (ICCV 2025). Differs: embeddings are combined, where CLIPer combines the classes' probabilities.
    """
    last = tower.transformer.blocks[-1]
    inputs = [sight.normed for sight in sights[:-1]] + [sights[-2].left]
    total = torch.stack([sight.attention.float() for sight in sights[:-1]]).sum(0)
    first = list(islice(fused_attentions(total), min(_ROUNDS, len(inputs))))
    layers = []
    for tokens, attention in zip(inputs, chain(first, repeat(first[-1])), strict=False):
        values = last.attn.project(last.ln_1(tokens))[2].float()
        read = last.attn.merge((attention @ values).to(tokens.dtype))
        layers.append(F.normalize((tower.ln_post(read) @ tower.proj)[:, 1:].float(), dim=-1))
    along = first[-1][:, :, 1:, 1:].mean(1).transpose(-1, -2)
    own = F.normalize((tower.ln_post(sights[-1].left) @ tower.proj).float(), dim=-1)
    spread = [F.normalize(along @ some, dim=-1) for some in (layers[-1], torch.stack(layers).mean(0))]
    members = torch.cat([own[:, 1:], *layers, own[:, :1].expand_as(own[:, 1:]), *spread], dim=-1)
    return members.transpose(1, 2).unflatten(2, grid_hw)
