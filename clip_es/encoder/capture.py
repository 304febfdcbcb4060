"""What the blocks of the frozen vision tower see, for localizers that need more than `EncodedImage` holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from clip_es.encoder.encode import PIXEL_MEAN, PIXEL_STD, Encoder
from clip_es.encoder.vit import Block
from clip_es.errors import ShapeError


class BlockSight(NamedTuple):
    """One block of the tower, for pictures of one size."""

    normed: Float[Tensor, "b token dim"]
    """The block's input after its first norm."""
    attention: Float[Tensor, "b head query key"]
    """Its attention, class token included; rows sum to one; float32."""
    left: Float[Tensor, "b token dim"]
    """Tokens leaving the block."""


def normalised(
    pictures: Float[Tensor, "b 3 h w"],
    mean: Sequence[float] = PIXEL_MEAN,
    std: Sequence[float] = PIXEL_STD,
) -> Float[Tensor, "b 3 h w"]:
    """Pictures in 0..1 as a network takes them: (x - mean) / std, by channel. The default is CLIP's own scale."""
    rows = (torch.tensor(row, device=pictures.device, dtype=pictures.dtype)[:, None, None] for row in (mean, std))
    return (pictures - next(rows)) / next(rows)


def shown_to(encoder: Encoder, patches: UInt8[np.ndarray, "ph pw 3"]) -> Float32[Tensor, "1 3 ph pw"]:
    """A picture in CLIP's scale on the encoder's device."""
    pixels = torch.from_numpy(np.ascontiguousarray(patches)).to(encoder.device).movedim(-1, 0).float() / 255
    return normalised(pixels[None])


def enter(
    encoder: Encoder, pixels: Float32[Tensor, "b 3 h w"], positions: Float32[Tensor, "token dim"] | None = None
) -> Float[Tensor, "b token dim"]:
    """Normalised pixels to the tokens entering the first block; `positions` default to the encoder's own.

    Raises ShapeError: pixels are not whole patches.
    """
    height, width = pixels.shape[-2:]
    patch = encoder.patch
    if height % patch or width % patch or not height or not width:
        raise ShapeError(
            "a picture must be a whole number of patches", expected=f"multiples of {patch}", found=[height, width]
        )
    if positions is None:
        positions = encoder.positions((height // patch, width // patch))
    # cuDNN would do the patch convolution in TF32, which keeps three decimal digits.
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        return encoder.model.visual.embed(pixels.to(encoder.device), positions)


def watch(blocks: Sequence[Block], tokens: Float[Tensor, "b token dim"]) -> Iterator[BlockSight]:
    """Send tokens through some blocks in a row and look at each. Source: `Block.forward_with_weights`, opened."""
    for block in blocks:
        tokens = tokens.to(block.ln_1.weight.dtype)
        normed = block.ln_1(tokens)
        attended, attention = block.attn.forward_with_weights(normed)
        tokens = tokens + attended
        tokens = tokens + block.mlp(block.ln_2(tokens))
        yield BlockSight(normed, attention, tokens)
