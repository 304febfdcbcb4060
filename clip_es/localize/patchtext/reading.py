"""What each patch says in CLIP's common space, once the last blocks have been mended.

CLIP's own last block carries every patch to a mixture that answers for the whole picture. Each recipe of `RECIPES`
replaces its attention by one in which a patch attends to patches like itself; they differ in what "like" means, in
whether the block's residual and MLP are kept, and in how many blocks are read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor

from clip_es.encoder.capture import enter
from clip_es.encoder.encode import Encoder
from clip_es.encoder.vit import Block, SelfAttention
from clip_es.errors import ConfigError, nearest
from clip_es.localize.cliper.layers import fused_attentions
from clip_es.localize.cliper.maps import comparison_set
from clip_es.localize.patchtext.selfcalibrated import calibrated_tokens
from clip_es.refine.dino import DinoConfig, weights
from clip_es.types import EncodedImage, TextBank

NEAR_STD = 5.0
"""Reach of the neighbourhood of `kk-near`, in patches. Source: NACLIP."""


class Heads(NamedTuple):
    """Queries, keys and values of one block, each [... head token channel], and the grid they come from."""

    q: Tensor
    k: Tensor
    v: Tensor
    grid_hw: tuple[int, int]
    total: Float32[Tensor, "*b head token token"]
    """The attentions of all blocks before, summed."""


class Recipe(NamedTuple):
    """How the patches of a picture are read."""

    attention: Callable[[Heads], Float[Tensor, "*b head token token"]]
    """What stands in for the attention."""
    whole_block: bool
    """Whether residual and MLP of the block are kept."""
    own_path: bool
    """Whether several blocks are read, summed in a path of their own beside the untouched one."""
    about: str
    network: bool = False
    """Whether patches are compared by another vision network, on its own grid."""
    outputs: bool = False
    """Whether it is read from the outputs of all blocks, see `selfcalibrated`."""


@dataclass(frozen=True)
class PatchSight(EncodedImage):
    """What the patch-text localizer keeps of a picture besides."""

    embeddings: Float32[Tensor, "token embed"]
    """Tokens in the common space, not of unit length; row 0 is the class token."""
    read_hw: tuple[int, int]
    """Rows and columns of the patches that were read; another network's grid may be finer than CLIP's."""


def similar(x: Float[Tensor, "*b head token channel"], y: Float[Tensor, "*b head token channel"]) -> Tensor:
    """Rows that sum to one: softmax of scaled products, as attention has it."""
    return SelfAttention.weights(x, y)


def nearness(grid_hw: tuple[int, int], std: float = NEAR_STD) -> Float32[Tensor, "token token"]:
    """exp(-distance^2 / (2 std^2)) between patches; row and column of the class token are 0. Source: NACLIP."""
    rows, columns = (torch.arange(n, dtype=torch.float32) for n in grid_hw)
    y, x = (((place[:, None] - place) ** 2) for place in (rows, columns))
    squared = (y[:, None, :, None] + x[None, :, None, :]).reshape(len(rows) * len(columns), -1)
    full = torch.zeros(len(squared) + 1, len(squared) + 1)
    full[1:, 1:] = torch.exp(-squared / (2 * std**2))
    return full


def _kk_near(heads: Heads) -> Tensor:
    logits = (heads.k * heads.k.shape[-1] ** -0.5) @ heads.k.mT
    return torch.softmax(logits + nearness(heads.grid_hw).to(logits), dim=-1, dtype=torch.float32)


def _identity(heads: Heads) -> Tensor:
    return torch.eye(heads.v.shape[-2], device=heads.v.device).expand(*heads.v.shape[:-2], -1, -1)


RECIPES: dict[str, Recipe] = {
    "svc": Recipe(
        lambda h: (similar(h.q, h.q) + similar(h.k, h.k) + similar(h.v, h.v)) / 3,
        False,
        True,
        "self-correlation of queries, keys and values, over several blocks (ExCEL; CLIP Surgery with values)",
    ),
    "value": Recipe(_identity, False, False, "each patch's own value (MaskCLIP)"),
    "kk-near": Recipe(_kk_near, False, False, "keys alike, and near (NACLIP)"),
    "qq": Recipe(lambda h: similar(h.q, h.q), False, False, "queries alike (ClearCLIP)"),
    "qq+kk": Recipe(
        lambda h: similar(h.q, h.q) + similar(h.k, h.k),
        True,
        False,
        "queries alike plus keys alike (SCLIP)",
    ),
    "fused": Recipe(
        lambda h: next(fused_attentions(h.total)), False, False, "the attentions of all blocks before, fused (CLIPer)"
    ),
    "sc": Recipe(
        lambda h: similar(h.k, h.k),
        False,
        False,
        "keys alike, and patches alike in a middle block; outliers mended (SC-CLIP)",
        outputs=True,
    ),
    "dino": Recipe(_identity, False, False, "patches that look alike to a DINO (ProxyCLIP)", network=True),
    "vanilla": Recipe(lambda h: similar(h.q, h.k), True, False, "the block's own attention: CLIP as it is"),
}
"""Which readings there are. A new one: a line here."""


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
    visual = encoder.model.visual
    layers = visual.transformer.blocks
    count = reading.blocks if recipe.own_path else 1
    if not 1 <= count <= len(layers):
        raise ConfigError(
            "more blocks are to be read than the tower has", expected=f"1..{len(layers)}", found=reading.blocks
        )
    if recipe.network and features is None:
        raise ConfigError(f"the reading {reading.read} compares patches by features of another network")
    grid_hw = (pixels.shape[-2] // encoder.patch, pixels.shape[-1] // encoder.patch)
    x = enter(encoder, pixels, positions)
    patches = x.shape[1] - 1
    mean = x.new_zeros(len(x), patches, patches, dtype=torch.float32)
    averaged = min(reading.attention_layers, len(layers))
    total = x.new_zeros(len(x), layers[0].attn.heads, patches + 1, patches + 1, dtype=torch.float32)
    own, entering, last, outputs = x, x, total, []
    for index, block in enumerate(layers):
        x = x.to(block.ln_1.weight.dtype)
        if index == len(layers) - count:
            own = x.float()
        if index == len(layers) - 1:
            entering = x.float()
        heads = Heads(*block.attn.project(block.ln_1(x)), grid_hw, total)
        attention = similar(heads.q, heads.k)
        pooled = attention.mean(1)
        if index >= len(layers) - count and not recipe.network and not recipe.outputs:
            alike = recipe.attention(heads)
            own = _step(recipe, block, heads, own, alike, reading.shared_heads)
            if recipe.own_path and reading.summed_heads:
                pooled = attention.sum(1)
        if index >= len(layers) - averaged:
            mean += pooled[:, 1:, 1:]
        if reading.read == "fused":
            total = total + attention
        last = attention
        # Of the last block's output only the class token is asked for, and only by some.
        kept = x.shape[1] if index < len(layers) - 1 else int(recipe.own_path or recipe.network)
        if kept:
            x = x[:, :kept] + block.attn.merge(attention[..., :kept, :].to(heads.v.dtype) @ heads.v)
            x = x + block.mlp(block.ln_2(x))
        if recipe.outputs and index < len(layers) - 1:
            outputs.append(x.float())
        if recipe.network and index == len(layers) - 1:
            own = _by_features(block, heads, features)
    read_hw = grid_hw
    if recipe.own_path or recipe.network:
        own = torch.cat([x[:, :1].float(), own[:, 1:]], 1)  # the class token keeps to CLIP's own path
    if recipe.network and features is not None:
        read_hw = (features.shape[2], features.shape[3])
    if recipe.outputs:
        own = torch.stack([calibrated_tokens(encoder, one, grid_hw) for one in torch.stack(outputs, 1)])
    embeddings = visual.ln_post(own) @ visual.proj
    return [
        PatchSight(tokens, attended, own_attention, grid_hw, vectors, read_hw)
        for tokens, attended, own_attention, vectors in zip(entering, mean / averaged, last, embeddings, strict=True)
    ]


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


def find_recipe(name: str) -> Recipe:
    """The recipe of a name. Raises ConfigError: there is none."""
    if name not in RECIPES:
        raise ConfigError(
            "there is no such reading of patches",
            expected=", ".join(RECIPES),
            found=name,
            next_step=nearest(name, RECIPES) or None,
        )
    return RECIPES[name]


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
    return torch.nn.functional.normalize(text + affinity.softmax(-1) @ attributes, dim=-1)


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
