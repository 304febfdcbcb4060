"""What CLIPSeg shows the frozen CLIP, and what it takes from it: pixels, block outputs, prompt vectors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from clip_es.encoder.capture import enter, normalised
from clip_es.encoder.encode import Encoder
from clip_es.encoder.tokenize import tokenize
from clip_es.errors import ConfigError, DataError, ShapeError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def prepare(rgb: UInt8[np.ndarray, "_ _ 3"], side: int | None, patch: int) -> Float[Tensor, "1 3 h w"]:
    """A picture as CLIPSeg takes it: ImageNet's mean and deviation, then resized (bilinear) to a square, or to whole
    patches. Raises ShapeError: the side is not whole patches."""
    if side is not None and side % patch:
        raise ShapeError("the side must be whole patches", expected=f"a multiple of {patch}", found=side)
    height, width = (side or patch * -(-length // patch) for length in rgb.shape[:2])
    return scaled(rgb, (height, width))


def scaled(rgb: UInt8[np.ndarray, "_ _ 3"], size_hw: tuple[int, int]) -> Float[Tensor, "1 3 h w"]:
    """A picture in ImageNet's mean and deviation, then resized (bilinear, not smoothed before, as published)."""
    pixels = torch.from_numpy(np.ascontiguousarray(rgb)).movedim(-1, 0)[None].float() / 255
    pixels = normalised(pixels, IMAGENET_MEAN, IMAGENET_STD)
    return F.interpolate(pixels, size=size_hw, mode="bilinear", align_corners=False)


def bicubic_positions(encoder: Encoder, grid_hw: tuple[int, int]) -> Float[Tensor, "token dim"]:
    """Position embedding of a grid by bicubic interpolation, class token first; untouched where nothing changes."""
    visual = encoder.model.visual
    if grid_hw == (visual.grid, visual.grid):
        return visual.positional_embedding
    first, rest = visual.positional_embedding[:1], visual.positional_embedding[1:]
    square = rest.T.unflatten(1, (visual.grid, visual.grid))[None].float()
    spread = F.interpolate(square, size=grid_hw, mode="bicubic", align_corners=False)
    return torch.cat([first, spread.flatten(2)[0].T])


@torch.no_grad()
def block_outputs(
    encoder: Encoder, pixels: Float[Tensor, "b 3 h w"], layers: Sequence[int]
) -> list[Float[Tensor, "b token width"]]:
    """What leaves some blocks, counted from 0, class token first. Raises ConfigError: the tower has fewer blocks."""
    blocks = encoder.model.visual.transformer.blocks
    if not layers or max(layers) >= len(blocks):
        raise ConfigError("the encoder has no such block", expected=f"0..{len(blocks) - 1}", found=list(layers))
    tokens = enter_bicubic(encoder, pixels)
    found = []
    for index, block in enumerate(blocks[: max(layers) + 1]):
        tokens = block(tokens.to(block.ln_1.weight.dtype))
        if index in layers:
            found.append(tokens.float())
    return found


@torch.no_grad()
def text_prompts(encoder: Encoder, prompts: Sequence[str]) -> Float[Tensor, "p embed"]:
    """One vector for each prompt, not of unit length. Raises DataError: a prompt is empty, or longer than 77 tokens."""
    for prompt in prompts:
        if not prompt.strip():
            raise DataError("a prompt is empty", found=repr(prompt), next_step="Say what to look for.")
    if not prompts:
        return torch.zeros(0, encoder.sizes.embed, device=encoder.device)
    ids = tokenize(prompts, encoder.sizes.context, encoder.sizes.vocab)
    return encoder.model.encode_text(ids.to(encoder.device))


@torch.no_grad()
def image_prompts(encoder: Encoder, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b embed"]:
    """CLIP's vector of each example, not of unit length; pixels as `prepare` or `visual_prompt` make them."""
    visual = encoder.model.visual
    tokens = enter_bicubic(encoder, pixels)
    for block in visual.transformer.blocks:
        tokens = block(tokens.to(block.ln_1.weight.dtype))
    return visual.ln_post(tokens[:, 0].float()) @ visual.proj


def mix(
    text: Float[Tensor, "p embed"], image: Float[Tensor, "p embed"], text_share: float | Float[Tensor, "p 1"]
) -> Float[Tensor, "p embed"]:
    """A prompt between a text and an example: `text_share` of the one, the rest of the other."""
    return text_share * text + (1 - text_share) * image


def enter_bicubic(encoder: Encoder, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b token width"]:
    """Pixels to the tokens entering the first block, with bicubic positions."""
    grid_hw = (pixels.shape[-2] // encoder.patch, pixels.shape[-1] // encoder.patch)
    return enter(encoder, pixels, bicubic_positions(encoder, grid_hw))


class Texts:
    """Vectors of sentences, each encoded once."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self._known: dict[str, Tensor] = {}

    def __call__(self, sentences: Iterable[str]) -> Float32[Tensor, "p embed"]:
        """One row for each sentence. Raises DataError: empty, or too long for the text tower."""
        sentences = list(sentences)
        new = [sentence for sentence in dict.fromkeys(sentences) if sentence not in self._known]
        for start in range(0, len(new), 256):
            part = new[start : start + 256]
            self._known.update(zip(part, text_prompts(self.encoder, part).float(), strict=True))
        return torch.stack([self._known[sentence] for sentence in sentences])
