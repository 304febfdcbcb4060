"""Training of CLIPSeg's decoder: phrases, masks, examples, and what lies between a phrase and an example.

CLIP stays frozen. Every step follows from (seed, step), so a run that was killed ends with the weights of one that was
not. The decoder sees masks, so what it later makes is not weakly supervised.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from clip_es.config.methods import VisualPrompt
from clip_es.encoder.encode import Encoder
from clip_es.errors import ConfigError
from clip_es.localize.clipseg.decoder import TRAINED_LAYERS, Decoder, DecoderSizes, check_fits

PREFIXES = (
    "a photo of a {}.",
    "a photograph of a {}.",
    "an image of a {}.",
    "{}.",
    "a cropped photo of a {}.",
    "a good photo of a {}.",
    "a photo of one {}.",
    "a bad photo of a {}.",
    "a photo of the {}.",
)
"""Sentences around a phrase while training with examples, each as likely as the others."""


@dataclass(frozen=True)
class DecoderTraining:
    """How a decoder is trained. The defaults are those of the published universal model."""

    layers: tuple[int, ...] = TRAINED_LAYERS
    """Blocks, counted from 0, whose outputs the decoder reads."""
    dim: int = 64
    """Channels of the decoder."""
    hidden: int = 2048
    """Channels inside the decoder's perceptrons."""
    refined: bool = False
    """The head of three convolutions in place of one."""
    start: Literal["random", "clip"] = "random"
    """random: all weights are drawn, as published. clip: the decoder starts as CLIP's own comparison of patches and
    words, and the layers where picture and prompt meet keep it, which serves names that training never says."""
    dropout: float = 0.1
    """Share of values dropped inside the blocks while training."""
    side: int = 352
    """Pictures are cut to a square and resized to this side, pixels."""
    steps: int = 20_000
    """Optimiser steps."""
    batch: int = 64
    """Phrases in a step."""
    per_picture: int = 1
    """Phrases of a step that share a picture and its one encoding; 1 as published."""
    lr: float = 1e-3
    """Learning rate of the first step."""
    lr_end: float = 1e-4
    """Learning rate of the last step; a cosine in between."""
    weight_decay: float = 0.01
    """Of AdamW, over all parameters."""
    negatives: float = 0.2
    """Share of the phrases replaced by another of the data set, with nothing to be found."""
    true_negatives: bool = True
    """Never replace by a phrase known to be true of the picture. Off as published, where any phrase may come."""
    examples: float = 1.0
    """Share of the phrases that also get an example picture, 0..1; 0 trains with texts alone, without prefixes."""
    example_side: int = 352
    """Side of the example as CLIP sees it, pixels."""
    example_mode: VisualPrompt = "crop_blur_highlight352"
    """How all but the object is faded in an example."""
    example_may_be_itself: bool = True
    """A picture may be its own example, as published."""
    text_share: tuple[float, float] = (0.0, 0.5)
    """Where an example is at hand, the share of the text in the prompt is drawn between these."""
    seed: int = 0
    """Seed of weights, order, crops, negatives and mixtures."""
    amp: Literal["none", "bfloat16", "float16"] = "none"
    """Narrow arithmetic for encoder and decoder; weights and loss stay float32. float16 needs a GPU."""
    threads: int = 1
    """Threads that read and cut pictures ahead of the step; 0: none. Changes nothing but the time."""
    save_every: int = 200
    """Steps between checkpoints."""
    validate_every: int = 500
    """Steps between validations; 0: none."""
    validate_on: int = 200
    """Phrases of a validation, evenly spread over the set."""

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.per_picture, self.save_every) < 1 or self.batch % self.per_picture:
            raise ConfigError(
                "steps, batch, per_picture and save_every are at least 1, and batch is a multiple of per_picture",
                found=(self.steps, self.batch, self.per_picture, self.save_every),
            )
        shares = (self.negatives, self.examples, self.dropout, *self.text_share)
        if not all(0 <= share <= 1 for share in shares) or self.text_share[0] > self.text_share[1]:
            raise ConfigError("negatives, examples, dropout and text_share are shares, 0..1, ascending", found=shares)
        if not 0 <= self.lr_end <= self.lr:
            raise ConfigError("the learning rate falls from lr to lr_end", found=(self.lr, self.lr_end))

    @property
    def test_prompt(self) -> str:
        """Sentence around a phrase once trained: training with examples used prefixes, training without did not."""
        return PREFIXES[0] if self.examples else "{}"

    def lr_at(self, step: int) -> float:
        """Learning rate of a step, from 0 on."""
        return self.lr_end + (self.lr - self.lr_end) * (1 + math.cos(math.pi * min(step / self.steps, 1))) / 2


def new_decoder(encoder: Encoder, config: DecoderTraining) -> Decoder:
    """An untrained decoder for an encoder, its weights drawn from the seed. Raises ConfigError: too few blocks."""
    known = encoder.sizes
    sizes = DecoderSizes(
        dim=config.dim,
        width=known.width,
        embed=known.embed,
        depth=len(config.layers),
        hidden=config.hidden,
        patch=known.patch,
        refined=config.refined,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        decoder = Decoder(sizes, config.layers, config.dropout)
    check_fits(encoder, decoder)
    decoder.side = config.side
    return decoder.to(encoder.device)


def loss_of(
    decoder: Decoder,
    seen: Sequence[Float[Tensor, "b token width"]],
    prompts: Float[Tensor, "p embed"],
    targets: Bool[Tensor, "p s s"],
    grid_hw: tuple[int, int],
) -> Float32[Tensor, ""]:
    """Binary cross entropy over all pixels of all phrases; each picture has as many phrases as the others."""
    each = len(prompts) // len(seen[0])
    spread = [tokens.repeat_interleave(each, 0) for tokens in seen] if each > 1 else list(seen)
    logits = decoder(spread, prompts, grid_hw)
    return F.binary_cross_entropy_with_logits(logits.float(), targets.to(logits.device, torch.float32))
