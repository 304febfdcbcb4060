"""Early-layer fusion: one embedding of each patch for each layer, read through the last block's values.

The last block's own attention, residual and MLP are thrown away. The attentions of all blocks before it are summed,
balanced, and applied to the last block's values of what *each* block saw.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float32
from torch import Tensor

from clip_es.config.methods import CliperConfig, LastAttention
from clip_es.encoder.capture import enter
from clip_es.encoder.encode import Encoder
from clip_es.encoder.engines.base import Wanted
from clip_es.encoder.vit import SelfAttention
from clip_es.refine.affinity import attention_affinity
from clip_es.refine.dino import Dino, DinoConfig, weights
from clip_es.types import EncodedImage


@dataclass(frozen=True)
class PatchEmbeddings:
    """One embedding of each token for each layer that is read."""

    layers: Float32[Tensor, "layer token embed"]
    """In CLIP's common space, not of unit length; row 0 is the class token."""
    attention: Float32[Tensor, "head token token"]
    """What the last of them was read with; row = query."""
    grid_hw: tuple[int, int]

    @property
    def patch_attention(self) -> Float32[Tensor, "patch patch"]:
        """Mean over heads, class token cut away, rows not renormalised."""
        return self.attention[:, 1:, 1:].mean(0)


@dataclass(frozen=True)
class CliperSight(EncodedImage):
    """What CLIPer keeps of a picture besides."""

    inputs: Float32[Tensor, "layer token dim"]
    """What each block saw: its input after its first norm; the last block's as it is."""
    total: Float32[Tensor, "head token token"]
    """The attentions of all blocks but the last, summed."""


@torch.no_grad()
def see(encoder: Encoder, pixels: Float32[Tensor, "1 3 h w"], layers: int = 8) -> CliperSight:
    """One picture through all blocks but the last; `layers` as `Encoder.encode` has it. Pixels in CLIP's scale."""
    blocks = encoder.model.visual.transformer.blocks
    grid_hw = (pixels.shape[-2] // encoder.patch, pixels.shape[-1] // encoder.patch)
    averaged = min(layers, len(blocks))
    wanted = Wanted(len(blocks) - 1, averaged - 1, last=True, inputs=True, total=True)
    seen = encoder.engine.passed(enter(encoder, pixels), wanted)
    own, total = seen.last_attention, seen.total
    assert own is not None  # it was wanted
    assert total is not None  # likewise
    mean = (seen.attention[0] + own[0].mean(0)[1:, 1:]) / averaged
    inputs = torch.stack([one[0] for one in (*seen.inputs, seen.tokens)])
    return CliperSight(seen.tokens[0], mean, own[0], grid_hw, inputs, total[0])


@torch.no_grad()
def read_layers(
    encoder: Encoder,
    sight: CliperSight,
    config: CliperConfig,
    proxy: Float32[Tensor, "patch patch"] | None = None,
) -> PatchEmbeddings:
    """Read what each block saw through the last block's values and the fused attention, or through `proxy`.

    Layer k < N - 1 is the input of block k after its norm, the last layer the input of the last block as it is; all
    pass the last block's norm, so that early ones are normed twice, as published. With `fuse` off the layers that are
    not selected count as zeros, as published; the ablations other than the fused attention then show it.
    """
    visual = encoder.model.visual
    last = visual.transformer.blocks[-1]
    fused = fused_attentions(sight.total) if config.last_attention == "fused" else None
    inputs = sight.inputs
    if not config.fuse:
        inputs = torch.zeros_like(sight.inputs)
        inputs[config.select] = sight.inputs[config.select]
    read: list[Tensor] = []
    attention = sight.total
    for tokens in map(last.ln_1, inputs):
        if proxy is not None:
            attention = F.pad(proxy, (1, 0, 1, 0)).expand(last.attn.heads, -1, -1)
        elif fused is not None:
            attention = next(fused)
        else:
            attention = _attention(last.attn, tokens, config.last_attention)
        read.append(visual.ln_post(last.attn.merge(attention @ _values(last.attn, tokens))) @ visual.proj)
    return PatchEmbeddings(torch.stack(read), attention, sight.grid_hw)


@torch.no_grad()
def proxy_attention(
    dino: Dino, pixels: Float32[Tensor, "1 3 h w"], grid_hw: tuple[int, int]
) -> Float32[Tensor, "patch patch"]:
    """Attention from a DINO's features in place of CLIP's: softmax over the cosines above their mean.

    `pixels` are in CLIP's scale, and ImageNet's is applied on top of it, as published; the class token attends to
    nothing. Source: ProxyCLIP (ECCV 2024), as CLIPer's published code has it. Differs: a patch that is like none
    attends to itself; features stay float32.
    """
    features = dino.features_of(pixels[0])
    features = F.interpolate(features[None], size=grid_hw, mode="bilinear", align_corners=False)[0]
    return weights(features.flatten(1).T, DinoConfig(sharpness=1.0, offset=1.0)).to(pixels.device)


def fused_attentions(
    total: Float32[Tensor, "*batch token token"],
) -> Iterator[Float32[Tensor, "*batch token token"]]:
    """The summed attention made ready for the first embedding, the second, and so on without end.

    Each time it is balanced once more (columns, then rows, to sum one, as CLIP-ES's affinity does three times), made
    symmetric, cleared of what lies below its column's mean, and its rows divided by their sums. That the balance
    accumulates is how the published code works; from the third time on it changes less than 1e-4.
    """
    while True:
        total = attention_affinity(total, rounds=1, symmetric=False)
        both = (total + total.transpose(-1, -2)) / 2
        clear = (both - both.mean(-2, keepdim=True)).relu()
        yield clear / clear.sum(-1, keepdim=True).clamp(min=torch.finfo(clear.dtype).tiny)


def _attention(attn: SelfAttention, normed: Tensor, kind: LastAttention) -> Tensor:
    """Attention [head token token] of what the last block is shown, for the ablations."""
    q, k, v = attn.project(normed)
    if kind == "identity":
        return torch.eye(q.shape[-2], device=q.device).expand(len(q), -1, -1)
    queries, keys = {"qq": (q, q), "kk": (k, k), "vv": (v, v), "vanilla": (q, k)}[kind]
    return SelfAttention.weights(queries, keys)


def _values(attn: SelfAttention, normed: Tensor) -> Tensor:
    """Values [head token channel] alone; `project` would also make queries and keys."""
    weight, bias = attn.in_proj_weight.chunk(3)[2], attn.in_proj_bias.chunk(3)[2]
    return F.linear(normed, weight, bias).unflatten(-1, (attn.heads, -1)).transpose(0, 1)
