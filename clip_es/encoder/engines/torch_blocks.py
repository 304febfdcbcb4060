"""The early blocks in torch: float32 as it always was, and bfloat16 without a pass over memory too many."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from clip_es.encoder.engines.base import Passed, Wanted
from clip_es.encoder.products import Linear, plain_linear, quick_linear
from clip_es.encoder.vit import Block, SelfAttention, VisionTower

_NEAR = 2**22
"""Bytes of attention, in float32, that one core forms at a time: what it reads again lies in its cache."""


class TorchBlocks:
    """The engine `torch`: in the precision that the blocks have."""

    def __init__(self, visual: VisionTower) -> None:
        self.visual = visual

    def passed(self, tokens: Float32[Tensor, "b token dim"], wanted: Wanted) -> Passed:
        """As `Engine.passed`, on whatever device."""
        blocks = self.visual.transformer.blocks
        own = blocks[0].ln_1.weight.dtype
        narrow = own == torch.bfloat16 and tokens.device.type == "cpu"
        patches = tokens.shape[1] - 1
        attention = tokens.new_zeros(len(tokens), patches, patches)
        total, inputs, outputs = None, [], []
        if wanted.total:
            total = tokens.new_zeros(len(tokens), blocks[0].attn.heads, patches + 1, patches + 1)
        x = tokens.to(own) if wanted.blocks else tokens
        for index, block in enumerate(blocks[: wanted.blocks]):
            averaged = index >= wanted.blocks - wanted.averaged
            if narrow or averaged or wanted.total or wanted.inputs or wanted.explicit:
                normed = block.ln_1(x)
                if wanted.inputs:
                    inputs.append(normed.float())
                x = (_look_narrow if narrow else _look)(block, x, normed, attention if averaged else None, total)
            else:
                x = block(x)  # fused: nobody looks at this layer's attention
            if index in wanted.outputs:
                outputs.append(x.float())
        tokens = x.float()
        linear = quick_linear if narrow else plain_linear
        last = attention_of(blocks[wanted.blocks], tokens, linear) if wanted.last else None
        return Passed(tokens, attention, last, tuple(inputs), total, tuple(outputs))


def attention_of(
    block: Block, tokens: Float32[Tensor, "*b token dim"], linear: Linear = plain_linear
) -> Float32[Tensor, "*b head token token"]:
    """Attention of a block that the tokens enter; rows sum to one."""
    queries, keys, _ = block.attn.project(block.ln_1(tokens), linear)
    return SelfAttention.weights(queries, keys)


def _look(block: Block, x: Tensor, normed: Tensor, mean: Tensor | None, total: Tensor | None) -> Tensor:
    """Tokens through a block; its attention is added to what is given."""
    attended, weights = block.attn.forward_with_weights(normed)
    if total is not None:
        total += weights
    if mean is not None:
        mean += weights.mean(1)[:, 1:, 1:]
    x = x + attended
    return x + block.mlp(block.ln_2(x))


def _look_narrow(
    block: Block,
    x: Float[Tensor, "b token dim"],
    normed: Float[Tensor, "b token dim"],
    mean: Tensor | None,
    total: Tensor | None,
) -> Tensor:
    """The same in bfloat16 on a CPU, some heads at a time: products, softmax and mean meet in the cache.

    Fused attention takes twice as long here: its blocks are converted to float32 and back.
    """
    q, k, v = block.attn.project(normed)
    q = q * q.shape[-1] ** -0.5
    keys = k.mT
    token = q.shape[-2]
    together = max(1, _NEAR * torch.get_num_threads() // (4 * len(q) * token * token))
    attended = torch.empty_like(q)
    for start in range(0, q.shape[1], together):
        some = slice(start, start + together)
        weights = torch.softmax(q[:, some] @ keys[:, some], dim=-1, dtype=torch.float32)
        torch.matmul(weights.to(v.dtype), v[:, some], out=attended[:, some])
        if total is not None:
            total[:, some] += weights
        if mean is not None:
            mean.add_(weights.sum(1)[:, 1:, 1:], alpha=1 / q.shape[1])
    x = x + block.attn.merge(attended)
    return x + block.mlp(block.ln_2(x))
