"""CLIPSeg: a small trained decoder on a frozen CLIP that answers a prompt, a text or an example picture, with a mask.

Its decoder was trained on masks (PhraseCut), so masks made with it are not weakly supervised. One picture is encoded
once, however many prompts it is asked about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int, UInt8
from torch import Tensor, nn

from clip_es.encoder.capture import enter, normalised
from clip_es.encoder.encode import Encoder
from clip_es.encoder.tokenize import tokenize
from clip_es.errors import ConfigError, DataError, ShapeError, WeightsError
from clip_es.localize.clip_es import Localization
from clip_es.types import ClassMaps

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

LOADED_LAYERS = (3, 6, 9)
"""Blocks, counted from 0, whose output the published weights are loaded with by all public code."""

TRAINED_LAYERS = (3, 7, 9)
"""Blocks of the paper and of every published training configuration. The shapes are the same, so nothing but this
setting tells which a file was trained with."""


@dataclass(frozen=True)
class ClipSegConfig:
    """CLIPSeg on a picture."""

    layers: tuple[int, ...] | None = None
    """Blocks, counted from 0, whose outputs the decoder reads. None: as the weights file says, else 3 6 9."""
    side: int | None = 352
    """The picture is resized to a square of this side, pixels. None: it keeps its shape, in whole patches."""
    prompt: str = "a photo of a {}."
    """Sentence around a class name."""
    on_grid: bool = False
    """Maps with one value for each patch, as refiners on the patch grid need them; off: one for each pixel seen."""

    def __post_init__(self) -> None:
        if self.side is not None and self.side < 1:
            raise ConfigError("a side is at least one pixel", found=self.side)
        if self.prompt.count("{}") != 1:
            raise ConfigError("the prompt names the class with {} exactly once", found=repr(self.prompt))
        if self.layers is not None:
            _check_layers(self.layers)


@dataclass(frozen=True)
class DecoderSizes:
    """The sizes of a decoder, as its weights tell them."""

    dim: int = 64
    """Channels of the decoder."""
    width: int = 768
    """Channels of the vision tower."""
    embed: int = 512
    """Channels of the prompt's vector."""
    depth: int = 3
    """Blocks, one for each layer read."""
    hidden: int = 2048
    """Channels inside the blocks' perceptrons."""
    patch: int = 16
    """Side of the patch that a token becomes, pixels."""
    refined: bool = False
    """The head of three convolutions in place of one."""
    heads: int = 4
    """Attention heads; weights do not tell them, and all published ones have 4."""


class Decoder(nn.Module):
    """Token maps of some layers, and a prompt's vector, to one logit for each pixel. Keys are the authors'."""

    def __init__(self, sizes: DecoderSizes, layers: Sequence[int] = TRAINED_LAYERS, dropout: float = 0.1) -> None:
        """`layers`: the blocks it reads, ascending. Raises ConfigError: not one for each decoder block."""
        super().__init__()
        _check_layers(layers)
        if len(layers) != sizes.depth:
            raise ConfigError("the decoder reads one layer a block", expected=f"{sizes.depth}", found=list(layers))
        self.sizes, self.layers = sizes, tuple(layers)
        dim, half = sizes.dim, sizes.dim // 2
        self.film_mul = nn.Linear(sizes.embed, dim)
        self.film_add = nn.Linear(sizes.embed, dim)
        self.reduces = nn.ModuleList(nn.Linear(sizes.width, dim) for _ in range(sizes.depth))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, sizes.heads, sizes.hidden, dropout, batch_first=True)
            for _ in range(sizes.depth)
        )
        if sizes.refined:
            first, second = _steps(sizes.patch)
            self.trans_conv = nn.Sequential(
                nn.Conv2d(dim, dim, 3, padding=1),
                nn.ReLU(),
                nn.ConvTranspose2d(dim, half, first, stride=first),
                nn.ReLU(),
                nn.ConvTranspose2d(half, 1, second, stride=second),
            )
        else:
            self.trans_conv = nn.ConvTranspose2d(dim, 1, sizes.patch, stride=sizes.patch)

    def forward(
        self,
        seen: Sequence[Float[Tensor, "b token width"]],
        prompts: Float[Tensor, "p embed"],
        grid_hw: tuple[int, int],
    ) -> Float[Tensor, "_ h w"]:
        """Logits at the size the encoder saw. `seen`: outputs of `layers` in their order, class token first.

        One picture (b = 1) with many prompts, many pictures with one prompt, or as many of both, pairwise.
        Raises ShapeError: another number of layers, or tokens of another grid.
        """
        if len(seen) != self.sizes.depth or seen[0].shape[1] != grid_hw[0] * grid_hw[1] + 1:
            raise ShapeError(
                "the decoder reads one token map a block",
                expected=f"{self.sizes.depth} maps of {grid_hw[0] * grid_hw[1] + 1} tokens",
                found=[list(one.shape) for one in seen],
            )
        tokens: Tensor | None = None
        for tokens_in, reduce, block in zip(reversed(seen), self.reduces, self.blocks, strict=True):
            reduced = reduce(tokens_in)
            if tokens is None:
                tokens = self.film_mul(prompts)[:, None] * reduced + self.film_add(prompts)[:, None]
            else:
                tokens = reduced + tokens
            tokens = block(tokens)
        assert tokens is not None  # depth is at least one
        return self.trans_conv(tokens[:, 1:].mT.unflatten(2, grid_hw))[:, 0]


@torch.no_grad()
def clipseg(
    encoder: Encoder,
    decoder: Decoder,
    pictures: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    prompts: Sequence[Float32[Tensor, "_ embed"]],
    class_ids: Sequence[Sequence[int]],
    config: ClipSegConfig | None = None,
) -> list[Localization]:
    """A map for each prompt of each picture, one by one, from one encoding a picture.

    `prompts` holds the vectors of `text_prompts` or `image_prompts`, one row for each of the picture's `class_ids`. In
    each Localization `raw` holds the logits, `maps` their sigmoids (of which 0.5 is no natural threshold: published
    tables use 0.1 to 0.3), `scores` the largest of each map, and `weights` None.
    Raises ShapeError: pictures, prompts and labels do not fit. WeightsError: the decoder is of another encoder.
    Source: CLIPSeg (CVPR 2022). Differs: pictures need not be square.
    """
    config = config or ClipSegConfig()
    check_fits(encoder, decoder)
    if not len(pictures) == len(prompts) == len(class_ids):
        raise ShapeError(
            "each picture has its own prompts and labels",
            expected=f"{len(pictures)} of each",
            found=f"{len(prompts)} and {len(class_ids)}",
        )
    found = []
    for picture, vectors, ids in zip(pictures, prompts, class_ids, strict=True):
        if len(vectors) != len(ids):
            raise ShapeError("there is one prompt for each label", expected=len(ids), found=len(vectors))
        pixels = prepare(picture, config.side, encoder.patch).to(encoder.device)
        grid_hw = (pixels.shape[-2] // encoder.patch, pixels.shape[-1] // encoder.patch)
        logits = pixels.new_zeros(0, *pixels.shape[-2:])
        if len(ids):
            seen = block_outputs(encoder, pixels, config.layers or decoder.layers)
            logits = decoder(seen, vectors.to(encoder.device), grid_hw)
        scores = logits.sigmoid()
        if config.on_grid:
            logits, scores = (F.avg_pool2d(x[None], encoder.patch)[0] for x in (logits, scores))
        found.append(Localization(ClassMaps(scores, tuple(ids)), scores.amax((1, 2)), logits, None))
    return found


def prepare(rgb: UInt8[np.ndarray, "_ _ 3"], side: int | None, patch: int) -> Float32[Tensor, "1 3 h w"]:
    """A picture as CLIPSeg takes it: ImageNet's mean and deviation, then resized (bilinear) to a square, or to whole
    patches. Raises ShapeError: the side is not whole patches."""
    if side is not None and side % patch:
        raise ShapeError("the side must be whole patches", expected=f"a multiple of {patch}", found=side)
    pixels = torch.from_numpy(np.ascontiguousarray(rgb)).movedim(-1, 0)[None].float() / 255
    pixels = normalised(pixels, IMAGENET_MEAN, IMAGENET_STD)
    size = (side, side) if side else tuple(patch * -(-length // patch) for length in rgb.shape[:2])
    return F.interpolate(pixels, size=size, mode="bilinear", align_corners=False)


def bicubic_positions(encoder: Encoder, grid_hw: tuple[int, int]) -> Float32[Tensor, "token dim"]:
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
    encoder: Encoder, pixels: Float32[Tensor, "b 3 h w"], layers: Sequence[int]
) -> list[Float32[Tensor, "b token width"]]:
    """What leaves some blocks, counted from 0, class token first. Raises ConfigError: the tower has fewer blocks."""
    blocks = encoder.model.visual.transformer.blocks
    if not layers or max(layers) >= len(blocks):
        raise ConfigError("the encoder has no such block", expected=f"0..{len(blocks) - 1}", found=list(layers))
    tokens = _enter(encoder, pixels)
    found = []
    for index, block in enumerate(blocks[: max(layers) + 1]):
        tokens = block(tokens.to(block.ln_1.weight.dtype))
        if index in layers:
            found.append(tokens.float())
    return found


@torch.no_grad()
def text_prompts(encoder: Encoder, prompts: Sequence[str]) -> Float32[Tensor, "p embed"]:
    """One vector for each prompt, not of unit length. Raises DataError: a prompt is empty, or longer than 77 tokens."""
    for prompt in prompts:
        if not prompt.strip():
            raise DataError("a prompt is empty", found=repr(prompt), next_step="Say what to look for.")
    if not prompts:
        return torch.zeros(0, encoder.sizes.embed, device=encoder.device)
    ids = tokenize(prompts, encoder.sizes.context, encoder.sizes.vocab)
    return encoder.model.encode_text(ids.to(encoder.device))


@torch.no_grad()
def image_prompts(encoder: Encoder, pixels: Float32[Tensor, "b 3 h w"]) -> Float32[Tensor, "b embed"]:
    """CLIP's vector of each example, not of unit length; pixels as `prepare` or `visual_prompt` make them."""
    visual = encoder.model.visual
    tokens = _enter(encoder, pixels)
    for block in visual.transformer.blocks:
        tokens = block(tokens.to(block.ln_1.weight.dtype))
    return visual.ln_post(tokens[:, 0].float()) @ visual.proj


def mix(
    text: Float[Tensor, "p embed"], image: Float[Tensor, "p embed"], text_share: float | Float[Tensor, "p 1"]
) -> Float[Tensor, "p embed"]:
    """A prompt between a text and an example: `text_share` of the one, the rest of the other."""
    return text_share * text + (1 - text_share) * image


def multilabel(logits: Float[Tensor, "label h w"], background_factor: float = 3.0) -> Int[Tensor, "h w"]:
    """The label of each pixel, where the first map is of the prompt "background", whose probability counts threefold.

    Source: the published zero-shot evaluation.
    """
    probability = logits.sigmoid()
    return torch.cat([background_factor * probability[:1], probability[1:]]).argmax(0)


def check_fits(encoder: Encoder, decoder: Decoder) -> None:
    """Raises WeightsError: the decoder was trained on an encoder of other sizes. ConfigError: of fewer blocks."""
    ours = (encoder.sizes.width, encoder.sizes.embed, encoder.sizes.patch)
    theirs = (decoder.sizes.width, decoder.sizes.embed, decoder.sizes.patch)
    if ours != theirs:
        raise WeightsError(
            "the decoder was trained on another encoder",
            expected="width {}, prompt vectors of {}, patches of {}".format(*theirs),
            found="width {}, prompt vectors of {}, patches of {}".format(*ours),
            next_step="The published decoders need --weights ViT-B/16.",
        )
    if max(decoder.layers) >= encoder.sizes.layers:
        raise ConfigError("the encoder has too few blocks", expected=list(decoder.layers), found=encoder.sizes.layers)


def _enter(encoder: Encoder, pixels: Tensor) -> Tensor:
    grid_hw = (pixels.shape[-2] // encoder.patch, pixels.shape[-1] // encoder.patch)
    return enter(encoder, pixels, bicubic_positions(encoder, grid_hw))


def _check_layers(layers: Sequence[int]) -> None:
    if list(layers) != sorted(set(layers)) or not layers or min(layers) < 0:
        raise ConfigError("layers are block numbers from 0 on, ascending", expected="3 6 9", found=list(layers))


def _steps(patch: int) -> tuple[int, int]:
    """The two strides of the refined head: 4 and 4 for a patch of 16."""
    first = next(k for k in range(int(patch**0.5), 0, -1) if patch % k == 0)
    return patch // first, first
