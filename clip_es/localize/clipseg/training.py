"""Training of CLIPSeg's decoder: phrases, masks, examples, and what lies between a phrase and an example.

CLIP stays frozen. Every step follows from (seed, step), so a run that was killed ends with the weights of one that was
not. The decoder sees masks, so what it later makes is not weakly supervised.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor

from clip_es.encoder.capture import normalised
from clip_es.encoder.encode import Encoder
from clip_es.errors import ConfigError
from clip_es.localize.clipseg.localizer import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    TRAINED_LAYERS,
    Decoder,
    DecoderSizes,
    check_fits,
    image_prompts,
    mix,
    text_prompts,
)
from clip_es.localize.clipseg.prompts import VISUAL_PROMPTS, VisualPromptConfig, find_crop, visual_prompt
from clip_es.records.phrases.table import PhraseSet

PREFIXES = (
    "a photo of a {}.",
    "a photograph of a {}.",
    "an image of a {}.",
    "{}",
    "a cropped photo of a {}.",
    "a good photo of a {}.",
    "a photo of one {}.",
    "a bad photo of a {}.",
    "a photo of the {}.",
)
"""Sentences around a phrase while training with examples, each as likely as the others."""


ExampleMode = Literal[
    "crop_blur_highlight352",
    "blur3_highlight01",
    "blur3_highlight",
    "blur_highlight",
    "highlight",
    "crop",
    "overlay",
]
"""The published ways to fade all but the object."""


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
    example_mode: Literal[
        "crop_blur_highlight352",
        "blur3_highlight01",
        "blur3_highlight",
        "blur_highlight",
        "highlight",
        "crop",
        "overlay",
    ] = "crop_blur_highlight352"
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


@dataclass(frozen=True)
class Unit:
    """One picture of a step with some phrases about it."""

    pixels: Float32[Tensor, "3 s s"]
    targets: Bool[Tensor, "p s s"]
    texts: tuple[str, ...]
    """Phrases in their sentences."""
    examples: tuple[Float32[Tensor, "3 e e"] | None, ...]
    """An example for each phrase, faded and cut, or None."""
    shares: tuple[float, ...]
    """Share of the text in each prompt; 1 where there is no example."""


class Draws:
    """What each step sees, as a function of (seed, step)."""

    def __init__(self, data: PhraseSet, config: DecoderTraining) -> None:
        self.data, self.config = data, config
        self.units = config.batch // config.per_picture
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def unit(self, step: int, slot: int) -> Unit:
        """Picture `slot` of a step. Raises DataError: a picture or a mask cannot be read."""
        data, config = self.data, self.config
        rng = np.random.default_rng((0xC11B, config.seed, step, slot))
        anchor = self._anchor(step * self.units + slot)
        picture = data.samples[anchor].picture
        others = [number for number in data.by_picture[picture] if number != anchor]
        chosen = [anchor, *rng.permutation(others)[: config.per_picture - 1].tolist()]
        chosen += [chosen[int(i)] for i in rng.integers(len(chosen), size=config.per_picture - len(chosen))]
        masks = [torch.from_numpy(data.mask(number)) for number in chosen]
        box = _crop(masks[0], rng)
        targets = [cut_mask(mask, box, config.side) for mask in masks]
        texts, examples, shares = [], [], []
        for i, number in enumerate(chosen):
            text = data.samples[number].text
            if rng.random() < config.negatives and (other := self._negative(rng, picture, text)):
                text, targets[i] = other, torch.zeros_like(targets[i])
            example = self.example(rng, text, number) if rng.random() < config.examples else None
            low, high = config.text_share
            shares.append(1.0 if example is None else float(rng.uniform(low, high)))
            prefix = PREFIXES[int(rng.integers(len(PREFIXES)))] if config.examples else "{}"
            texts.append(prefix.format(text))
            examples.append(example)
        pixels = cut_picture(data.picture(picture), box, config.side)
        return Unit(pixels, torch.stack(targets), tuple(texts), tuple(examples), tuple(shares))

    def _anchor(self, place: int) -> int:
        """The sample at a place of the endless order: all samples once, shuffled anew for each round."""
        count = len(self.data.samples)
        held = self._order  # one assignment below, so that threads see a whole pair
        if held[0] != place // count:
            held = place // count, np.random.default_rng((0x0DE2, self.config.seed, place // count)).permutation(count)
            self._order = held
        return int(held[1][place % count])

    def _negative(self, rng: np.random.Generator, picture: int, text: str) -> str | None:
        """Another phrase of the data set, each as likely; None where none can be used."""
        for _ in range(50):
            other = self.data.texts[int(rng.integers(len(self.data.texts)))]
            if other != text and not (self.config.true_negatives and self.data.holds(picture, other)):
                return other
        return None

    def example(self, rng: np.random.Generator, text: str, sample: int) -> Float32[Tensor, "3 e e"] | None:
        """A picture of the phrase, cut around its object and faded; None where there is no other.

        `sample`: whose example it is to be. Raises DataError: a picture or a mask cannot be read.
        """
        known = self.data.by_text[text]
        if not self.config.example_may_be_itself:
            picture = self.data.samples[sample].picture
            known = [number for number in known if self.data.samples[number].picture != picture]
        elif known == [sample]:
            known = []
        if not known:
            return None
        number = known[int(rng.integers(len(known)))]
        mask = torch.from_numpy(self.data.mask(number))
        box, side = _crop(mask, rng), self.config.example_side
        cut = cut_mask(mask, box, side)
        if not bool(cut.any()):
            return None
        picture = cut_picture(self.data.picture(self.data.samples[number].picture), box, side)
        return visual_prompt(picture, cut, example_config(self.config.example_mode, side))


def example_config(mode: str, side: int) -> VisualPromptConfig:
    """A published mode with another side of the cut square."""
    known = VISUAL_PROMPTS[mode]
    return VisualPromptConfig(known.background, known.blur, known.context, side, known.foreground, known.offset)


def cut_picture(rgb: UInt8[np.ndarray, "_ _ 3"], box: tuple[int, int, int, int], side: int) -> Float32[Tensor, "3 s s"]:
    """A square of a picture, resized on 0..255 (bilinear, corners aligned), then normalised, as published."""
    x0, y0, x1, y1 = box
    square = torch.from_numpy(np.ascontiguousarray(rgb[y0:y1, x0:x1])).movedim(-1, 0)[None].float()
    square = F.interpolate(square, size=(side, side), mode="bilinear", align_corners=True)
    return normalised(square / 255, IMAGENET_MEAN, IMAGENET_STD)[0]


def cut_mask(mask: Bool[Tensor, "_ _"], box: tuple[int, int, int, int], side: int) -> Bool[Tensor, "s s"]:
    """The same square of a mask, by nearest pixel."""
    x0, y0, x1, y1 = box
    return F.interpolate(mask[None, None, y0:y1, x0:x1].float(), size=(side, side), mode="nearest")[0, 0] > 0


def _crop(mask: Tensor, rng: np.random.Generator) -> tuple[int, int, int, int]:
    return find_crop(mask, torch.Generator().manual_seed(int(rng.integers(2**62))))[0]


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


def prompts_of(encoder: Encoder, units: Sequence[Unit]) -> Float32[Tensor, "p embed"]:
    """The prompt of each phrase of a step: its text, or a mixture of text and example.

    Texts are encoded with the others of their step alone: what is encoded together changes the last bits, and a run
    that was stopped must go on with the same ones.
    """
    vectors = Texts(encoder)(text for unit in units for text in unit.texts)
    examples = [example for unit in units for example in unit.examples]
    where = [i for i, example in enumerate(examples) if example is not None]
    if where:
        shares = torch.tensor([share for unit in units for share in unit.shares], device=vectors.device)[where, None]
        seen = torch.stack([example for example in examples if example is not None]).to(encoder.device)
        vectors[where] = mix(vectors[where], image_prompts(encoder, seen).float(), shares)
    return vectors


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
