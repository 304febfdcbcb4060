"""The ways to read patches, in one table: what a patch attends to in place of CLIP's own attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from clip_es.encoder.vit import SelfAttention
from clip_es.errors import ConfigError, nearest
from clip_es.localize.cliper.layers import fused_attentions

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
