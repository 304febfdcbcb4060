"""CLIPSeg's decoder: token maps of some layers and a prompt's vector to one logit for each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from clip_es.config.methods import check_layers
from clip_es.encoder.encode import Encoder
from clip_es.errors import ConfigError, ShapeError, WeightsError

LOADED_LAYERS = (3, 6, 9)
"""Blocks, counted from 0, whose output the published weights are loaded with by all public code."""

TRAINED_LAYERS = (3, 7, 9)
"""Blocks of the paper and of every published training configuration. The shapes are the same, so nothing but this
setting tells which a file was trained with."""


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


def _steps(patch: int) -> tuple[int, int]:
    """The two strides of the refined head: 4 and 4 for a patch of 16."""
    first = next(k for k in range(int(patch**0.5), 0, -1) if patch % k == 0)
    return patch // first, first
