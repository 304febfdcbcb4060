"""CLIPSeg: a small trained decoder on a frozen CLIP that answers a prompt, a text or an example picture, with a mask.

Its decoder was trained on masks (PhraseCut), so masks made with it are not weakly supervised. One picture is encoded
once, however many prompts it is asked about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from clip_es.config.methods import ClipSegConfig, check_layers
from clip_es.encoder.capture import enter, normalised, watch
from clip_es.encoder.encode import Encoder
from clip_es.encoder.tokenize import tokenize
from clip_es.errors import ConfigError, DataError, ShapeError, WeightsError
from clip_es.localize.base import Localization
from clip_es.scaling import even_at
from clip_es.types import ClassMaps, EncodedImage, Picture

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

LOADED_LAYERS = (3, 6, 9)
"""Blocks, counted from 0, whose output the published weights are loaded with by all public code."""

TRAINED_LAYERS = (3, 7, 9)
"""Blocks of the paper and of every published training configuration. The shapes are the same, so nothing but this
setting tells which a file was trained with."""


_PROMPTS_AT_ONCE = 16
"""Prompts that go through the decoder together."""


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
        check_layers(list(layers))
        if len(layers) != sizes.depth:
            raise ConfigError("the decoder reads one layer a block", expected=f"{sizes.depth}", found=list(layers))
        self.sizes, self.layers = sizes, tuple(layers)
        self.side: int | None = None
        """Side of the squares it was trained on, pixels, where its file says so."""
        self.about: dict[str, str] = {}
        """What else its file says: supervision, example_side, steps, encoder."""
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


@dataclass(frozen=True)
class ClipSegSight(EncodedImage):
    """What CLIPSeg keeps of a picture besides."""

    outputs: tuple[Float[Tensor, "token dim"], ...]
    """What leaves the blocks that the decoder reads."""


class ClipSeg:
    """CLIPSeg as a `Localizer`: each class has a prompt of its own, so classes do not compete before their maps do."""

    finds_classes = True
    keeps_height = True

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        prompts: Mapping[int, Float[Tensor, " embed"]],
        config: ClipSegConfig | None = None,
        *,
        on_grid: bool = False,
        layers: int = 8,
        sources: Mapping[str, str] | None = None,
        supervision: str = "masks (PhraseCut)",
    ) -> None:
        """`prompts`: the vector of each class that can be asked for. `on_grid`: maps on the patch grid, for refiners
        that work there. `layers`: over how many of the last ones the attention is averaged. Raises WeightsError,
        ConfigError: decoder and encoder do not fit."""
        self.encoder, self.decoder, self.prompts = encoder, decoder, dict(prompts)
        self.config, self.on_grid, self.layers = config or ClipSegConfig(), on_grid, layers
        self.sources, self.supervision = dict(sources or {}), supervision
        check_fits(encoder, decoder, self.config.layers)

    def seen_hw(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """A square, unless the settings say otherwise."""
        side = seen_side(self.config, self.decoder)
        return (side, side) if side else size_hw

    @torch.no_grad()
    def encode(self, pictures: Sequence[Picture]) -> list[EncodedImage]:
        """One pass each, in ImageNet's scale and with bicubic positions, as the decoder was trained."""
        wanted = self.config.layers or self.decoder.layers
        found: list[EncodedImage] = []
        for picture in pictures:
            size = (picture.patches.shape[0], picture.patches.shape[1])
            pixels = scaled(picture.rgb, size).to(self.encoder.device)
            grid_hw = (size[0] // self.encoder.patch, size[1] // self.encoder.patch)
            blocks = self.encoder.model.visual.transformer.blocks
            tokens = _enter(self.encoder, pixels)
            entering, own = tokens, None
            mean = tokens.new_zeros(tokens.shape[1] - 1, tokens.shape[1] - 1)
            averaged = min(self.layers, len(blocks))
            outputs = {}
            for index, block in enumerate(watch(blocks, tokens)):
                if index >= len(blocks) - averaged:
                    mean += block.attention[0].mean(0)[1:, 1:]
                if index in wanted:
                    outputs[index] = block.left[0].float()
                entering, tokens, own = tokens, block.left, block.attention[0]
            assert own is not None  # a tower has at least one block
            kept = tuple(outputs[layer] for layer in wanted)
            found.append(ClipSegSight(entering[0].float(), mean / averaged, own, grid_hw, kept))
        return found

    @torch.no_grad()
    def locate(self, picture: Picture, seen: EncodedImage, class_ids: Sequence[int] | None) -> Localization:
        """`answer` with the prompts of the labels, or of all classes. Raises DataError: a label has no prompt."""
        if not isinstance(seen, ClipSegSight):
            raise ShapeError(
                "CLIPSeg reads some layers of a picture",
                expected="what ClipSeg.encode gives",
                found=type(seen).__name__,
            )
        ids = tuple(self.prompts) if class_ids is None else tuple(class_ids)
        if missing := [k for k in ids if k not in self.prompts]:
            raise DataError(
                "there is no example for a label of this picture",
                where=picture.image_id,
                expected=f"examples of {len(ids)} classes",
                found=f"none for class {', '.join(map(str, missing))}",
                next_step="Add a folder of that class to the examples, or leave --examples away to ask with words.",
            )
        vectors = [self.prompts[k] for k in ids]
        prompts = torch.stack(vectors) if vectors else torch.zeros(0, self.decoder.sizes.embed)
        found = answer(self.encoder, self.decoder, seen.outputs, seen.grid_hw, prompts, ids, self.on_grid)
        if class_ids is None:
            keep = found.scores > self.config.score_threshold
            ids = tuple(k for k, kept in zip(ids, keep.tolist(), strict=True) if kept)
            found = Localization(ClassMaps(found.maps.scores[keep], ids), found.scores[keep], found.raw[keep], None)
        return replace(found, maps=ClassMaps(even_at(found.maps.scores, self.config.threshold), ids))


def seen_side(config: ClipSegConfig, decoder: Decoder) -> int:
    """Side of the square that the encoder sees; 0: the picture's own shape."""
    return decoder.side or 352 if config.side is None else config.side


@torch.no_grad()
def answer(
    encoder: Encoder,
    decoder: Decoder,
    outputs: Sequence[Float[Tensor, "token width"]],
    grid_hw: tuple[int, int],
    prompts: Float[Tensor, "p embed"],
    class_ids: tuple[int, ...],
    on_grid: bool = False,
) -> Localization:
    """A map for each prompt from one encoding; the decoder takes some prompts at a time.

    In the Localization `raw` holds the logits, `maps` their sigmoids (of which 0.5 is no natural threshold: published
    tables use 0.1 to 0.3), `scores` the largest of each map, and `weights` None.
    """
    height, width = (encoder.patch * side for side in grid_hw)
    tokens = [one[None] for one in outputs]
    some = [decoder(tokens, part.to(encoder.device), grid_hw) for part in prompts.split(_PROMPTS_AT_ONCE) if len(part)]
    logits = torch.cat(some) if some else torch.zeros(0, height, width, device=encoder.device)
    scores = logits.sigmoid()
    highest = scores.amax((1, 2))
    if on_grid:
        logits, scores = (F.avg_pool2d(x[None], encoder.patch)[0] for x in (logits, scores))
    return Localization(ClassMaps(scores, class_ids), highest, logits, None)


@torch.no_grad()
def clipseg(
    encoder: Encoder,
    decoder: Decoder,
    pictures: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    prompts: Sequence[Float[Tensor, "_ embed"]],
    class_ids: Sequence[Sequence[int]],
    config: ClipSegConfig | None = None,
    on_grid: bool = False,
) -> list[Localization]:
    """A map for each prompt of each picture, one by one, from one encoding a picture; the rest is `answer`.

    `prompts` holds the vectors of `text_prompts` or `image_prompts`, one row for each of the picture's `class_ids`.
    Raises ShapeError: pictures, prompts and labels do not fit. WeightsError: the decoder is of another encoder.
    Source: CLIPSeg (CVPR 2022). Differs: pictures need not be square.
    """
    config = config or ClipSegConfig()
    check_fits(encoder, decoder, config.layers)
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
        pixels = prepare(picture, seen_side(config, decoder) or None, encoder.patch).to(encoder.device)
        grid_hw = (pixels.shape[-2] // encoder.patch, pixels.shape[-1] // encoder.patch)
        outputs = [one[0] for one in block_outputs(encoder, pixels, config.layers or decoder.layers)]
        found.append(answer(encoder, decoder, outputs, grid_hw, vectors, tuple(ids), on_grid))
    return found


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
    tokens = _enter(encoder, pixels)
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


def check_fits(encoder: Encoder, decoder: Decoder, layers: Sequence[int] | None = None) -> None:
    """Raises WeightsError: the decoder was trained on an encoder of other sizes. ConfigError: of fewer blocks, or the
    `layers` asked for are not as many as the decoder reads."""
    ours = (encoder.sizes.width, encoder.sizes.embed, encoder.sizes.patch)
    theirs = (decoder.sizes.width, decoder.sizes.embed, decoder.sizes.patch)
    if ours != theirs:
        raise WeightsError(
            "the decoder was trained on another encoder",
            expected="width {}, prompt vectors of {}, patches of {}".format(*theirs),
            found="width {}, prompt vectors of {}, patches of {}".format(*ours),
            next_step="The published decoders need --weights ViT-B/16.",
        )
    layers = list(layers or decoder.layers)
    if len(layers) != decoder.sizes.depth:
        raise ConfigError("the decoder reads one layer a block", expected=f"{decoder.sizes.depth}", found=layers)
    if max(layers) >= encoder.sizes.layers:
        raise ConfigError("the encoder has too few blocks", expected=layers, found=encoder.sizes.layers)


def _enter(encoder: Encoder, pixels: Tensor) -> Tensor:
    grid_hw = (pixels.shape[-2] // encoder.patch, pixels.shape[-1] // encoder.patch)
    return enter(encoder, pixels, bicubic_positions(encoder, grid_hw))


def _steps(patch: int) -> tuple[int, int]:
    """The two strides of the refined head: 4 and 4 for a patch of 16."""
    first = next(k for k in range(int(patch**0.5), 0, -1) if patch % k == 0)
    return patch // first, first
