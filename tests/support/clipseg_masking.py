"""An example picture as a prompt by masking attention: the baseline against which visual prompts are held.

Logits of attention to masked patches are multiplied by zero, as published: such a patch counts like any other whose
product with the query is 0, it is not left out. That is why this works so much worse than fading the picture itself.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float32
from torch import Tensor

from clip_es.encoder.capture import enter
from clip_es.encoder.encode import Encoder
from clip_es.encoder.vit import Block
from clip_es.errors import DataError
from clip_es.localize.clipseg.sight import bicubic_positions

Masking = Literal["class-last", "class-all", "patches-all"]
"""Whose attention is masked: the class token's in the last block, in all blocks, or all patches' in all blocks."""


@torch.no_grad()
def masked_prompt(
    encoder: Encoder, pixels: Float32[Tensor, "1 3 h w"], mask: Bool[Tensor, "h w"], masking: Masking
) -> Float32[Tensor, "1 embed"]:
    """CLIP's vector of one example whose patches outside the mask weigh less, not of unit length.

    Pixels as `prepare` makes them; a patch belongs to the mask where its first pixel does (nearest, as published).
    Raises DataError: the mask is empty. Source: CLIPSeg (CVPR 2022), the study of visual prompts. Differs: one picture
    at a time; with several the published code pairs masks and heads wrongly.
    """
    if not bool(mask.any()):
        raise DataError("the mask of the example is empty", expected="at least one pixel of the object")
    grid_hw = (pixels.shape[-2] // encoder.patch, pixels.shape[-1] // encoder.patch)
    inside = F.interpolate(mask[None, None].float(), size=grid_hw, mode="nearest").flatten().to(encoder.device)
    visual = encoder.model.visual
    tokens = enter(encoder, pixels, bicubic_positions(encoder, grid_hw))
    *early, last = visual.transformer.blocks
    for block in early:
        tokens = block(tokens) if masking == "class-last" else _masked(block, tokens, inside, masking)
    tokens = _masked(last, tokens, inside, masking)
    return visual.ln_post(tokens[:, 0]) @ visual.proj


def _masked(block: Block, tokens: Tensor, inside: Tensor, masking: Masking) -> Tensor:
    """The block with some logits of its attention multiplied by the mask."""
    q, k, v = block.attn.project(block.ln_1(tokens.to(block.ln_1.weight.dtype)))
    logits = (q * q.shape[-1] ** -0.5) @ k.mT
    rows = slice(1, None) if masking == "patches-all" else slice(0, 1)
    logits[..., rows, 1:] *= inside
    tokens = tokens + block.attn.merge(logits.softmax(-1) @ v)
    return tokens + block.mlp(block.ln_2(tokens))
