"""What each training step sees, as a function of (seed, step): crops, negatives, examples, mixtures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float32, UInt8
from torch import Tensor

from clip_es.encoder.capture import normalised
from clip_es.encoder.encode import Encoder
from clip_es.localize.clipseg.prompts import VISUAL_PROMPTS, VisualPromptConfig, find_crop, visual_prompt
from clip_es.localize.clipseg.sight import IMAGENET_MEAN, IMAGENET_STD, Texts, image_prompts, mix
from clip_es.localize.clipseg.training import PREFIXES, DecoderTraining
from clip_es.records.phrases.table import PhraseSet


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
