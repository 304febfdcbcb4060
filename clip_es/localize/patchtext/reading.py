"""What each patch says in CLIP's common space, once the last blocks have been mended.

CLIP's own last block carries every patch to a mixture that answers for the whole picture. Each recipe of `RECIPES`
replaces its attention by one in which a patch attends to patches like itself; they differ in what "like" means, in
whether the block's residual and MLP are kept, and in how many blocks are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float32
from torch import Tensor

from clip_es.encoder.capture import enter
from clip_es.encoder.encode import Encoder
from clip_es.encoder.engines.base import Wanted
from clip_es.encoder.vit import Block
from clip_es.errors import ConfigError
from clip_es.localize.cliper.maps import comparison_set
from clip_es.localize.patchtext.recipes import RECIPES, Heads, Recipe, find_recipe, similar
from clip_es.localize.patchtext.selfcalibrated import calibrated_tokens
from clip_es.localize.patchtext.texts import words_share
from clip_es.refine.dino import DinoConfig, weights
from clip_es.types import EncodedImage, TextBank


@dataclass(frozen=True)
class PatchSight(EncodedImage):
    """What the patch-text localizer keeps of a picture besides."""

    embeddings: Float32[Tensor, "seen embed"]
    """Tokens in the common space, not of unit length; row 0 is the class token."""
    read_hw: tuple[int, int]
    """Rows and columns of the patches that were read; another network's grid may be finer than CLIP's."""


@dataclass(frozen=True)
class Reading:
    """Everything about how pictures are read."""

    read: str = "svc"
    """A recipe's name."""
    blocks: int = 1
    """How many of the last ones `svc` reads; the others read the last one."""
    shared_heads: bool = True
    """Every head of `svc` has the sum over heads of the similarities, as published, in place of its own."""
    attention_layers: int = 8
    """Over how many of the last layers the attention for the affinity is averaged."""
    summed_heads: bool = False
    """In that mean, blocks read by `svc` count with the sum over their heads, not the mean, as in ExCEL's code."""


def look(
    encoder: Encoder,
    pixels: Float32[Tensor, "1 3 h w"],
    read: str = "svc",
    blocks: int = 1,
    positions: Float32[Tensor, "token dim"] | None = None,
    **more: Any,
) -> PatchSight:
    """One picture through the tower, its patches read by a recipe. `more`: other fields of `Reading`."""
    return look_at_all(encoder, pixels, Reading(read, blocks, **more), positions)[0]


@torch.no_grad()
def look_at_all(
    encoder: Encoder,
    pixels: Float32[Tensor, "b 3 h w"],
    reading: Reading,
    positions: Float32[Tensor, "token dim"] | None = None,
    features: Float32[Tensor, "b dim fh fw"] | None = None,
) -> list[PatchSight]:
    """Pictures of one size through the tower together, their patches read by a recipe; whole patches, CLIP's scale.

    `features`: of each picture's patches in another network, for recipes that compare them there.
    Raises ConfigError: there is no such recipe, more blocks than the tower has, or features are missing. ShapeError:
    not whole patches.
    Source: ExCEL (CVPR 2025), static calibration; for the other recipes the papers named in `RECIPES`.
    """
    recipe = find_recipe(reading.read)
    layers = encoder.model.visual.transformer.blocks
    count = reading.blocks if recipe.own_path else 1
    if not 1 <= count <= len(layers):
        raise ConfigError(
            "more blocks are to be read than the tower has", expected=f"1..{len(layers)}", found=reading.blocks
        )
    if recipe.network and features is None:
        raise ConfigError(f"the reading {reading.read} compares patches by features of another network")
    grid_hw = (pixels.shape[-2] // encoder.patch, pixels.shape[-1] // encoder.patch)
    early = len(layers) - count
    averaged = min(reading.attention_layers, len(layers))
    asked = Wanted(
        early,
        max(averaged - count, 0),
        total=reading.read == "fused",
        outputs=tuple(range(early)) if recipe.outputs else (),
        explicit=True,
    )
    seen = encoder.engine.passed(enter(encoder, pixels, positions), asked)
    x, mean, outputs = seen.tokens, seen.attention, seen.outputs
    total = x.new_zeros(len(x), layers[0].attn.heads, 1, 1) if seen.total is None else seen.total
    tokens = x.shape[1]
    own = entering = x
    attention = total
    for left, block in zip(range(count, 0, -1), layers[early:], strict=True):
        x = x.to(block.ln_1.weight.dtype)
        if left == 1:
            entering = x.float()
        heads = Heads(*block.attn.project(block.ln_1(x)), grid_hw, total)
        attention = similar(heads.q, heads.k)
        if recipe.network:
            own = _by_features(block, heads, features)
        elif not recipe.outputs:
            own = _step(recipe, block, heads, own, recipe.attention(heads), reading.shared_heads)
        if left <= averaged:
            # As in ExCEL's code, where asked for, blocks that are read count as often as they have heads.
            summed = recipe.own_path and reading.summed_heads
            mean += (attention.sum(1) if summed else attention.mean(1))[:, 1:, 1:]
        # Of the last block's output only the class token is asked for, and only by some.
        kept = tokens if left > 1 else int(recipe.own_path or recipe.network)
        if kept:
            x = x[:, :kept] + block.attn.merge(attention[..., :kept, :].to(heads.v.dtype) @ heads.v)
            x = x + block.mlp(block.ln_2(x))
    if recipe.own_path or recipe.network:
        own = torch.cat([x[:, :1].float(), own[:, 1:]], 1)  # the class token keeps to CLIP's own path
    elif recipe.outputs:
        own = torch.stack([calibrated_tokens(encoder, one, grid_hw) for one in torch.stack(outputs, 1)])
    read_hw = (features.shape[2], features.shape[3]) if recipe.network and features is not None else grid_hw
    vectors = encoder.model.visual.ln_post(own) @ encoder.model.visual.proj
    parts = zip(entering, mean / averaged, attention, vectors, strict=True)
    return [PatchSight(one, attended, last, grid_hw, vector, read_hw) for one, attended, last, vector in parts]


def _step(
    recipe: Recipe, block: Block, heads: Heads, own: Tensor, attention: Tensor, shared_heads: bool
) -> Float32[Tensor, "*b token dim"]:
    """One block of the mended path."""
    if recipe.own_path and shared_heads:
        attention = attention.sum(-3, keepdim=True)
    mixed = block.attn.merge(attention.to(heads.v.dtype) @ heads.v).float()
    if recipe.own_path:
        return own + mixed
    if not recipe.whole_block:
        return mixed
    mixed = own + mixed
    return mixed + block.mlp(block.ln_2(mixed.to(block.ln_2.weight.dtype))).float()


def _by_features(block: Block, heads: Heads, features: Tensor | None) -> Float32[Tensor, "b token dim"]:
    """The values of the last block, brought to the grid of the features, each patch the mean over those alike there.

    A first row is added in the place of the class token. Source: ProxyCLIP (ECCV 2024): cosines less 1.2 times their
    mean, times 3, negatives left out, softmax. Differs: a patch that is like none keeps its own value.
    """
    assert features is not None  # checked by the caller
    size = (features.shape[2], features.shape[3])
    found = []
    for v, one in zip(heads.v.float(), features, strict=True):
        fine = F.interpolate(v[:, 1:].mT.unflatten(2, heads.grid_hw), size=size, mode="bilinear", align_corners=False)
        mixed = weights(one.flatten(1).T, DinoConfig()).to(v) @ fine.flatten(2).mT
        found.append(F.pad(mixed, (0, 0, 1, 0)))
    return block.attn.merge(torch.stack(found).to(heads.v.dtype)).float()


@torch.no_grad()
def words_of(encoder: Encoder, bank: TextBank, seen: EncodedImage) -> Float32[Tensor, "patch text"]:
    """What each patch of any encoded picture says: the share of every class, background word and their mean.

    Read with `svc` from the tokens that enter the last block, so no block is computed again; the learned scale.
    """
    visual = encoder.model.visual
    block = visual.transformer.blocks[-1]
    heads = Heads(*block.attn.project(block.ln_1(seen.tokens)), seen.grid_hw, seen.last_attention)
    alike = RECIPES["svc"].attention(heads)
    embeddings = visual.ln_post(_step(RECIPES["svc"], block, heads, seen.tokens, alike, True)) @ visual.proj
    text = comparison_set(bank.vectors[: bank.class_count], bank.background).to(embeddings)
    return words_share(embeddings[1:], text, encoder.logit_scale).T
