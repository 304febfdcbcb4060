"""Referring figures of a CLIPSeg decoder: phrases against their masks, asked in words or by an example of each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor

from clip_es.encoder.encode import Encoder
from clip_es.errors import DataError
from clip_es.localize.clipseg.decoder import Decoder
from clip_es.localize.clipseg.draws import Draws, cut_mask, cut_picture
from clip_es.localize.clipseg.sight import Texts, block_outputs, image_prompts
from clip_es.localize.clipseg.training import DecoderTraining
from clip_es.metrics.phrases import ReferringMeter, ReferringScores
from clip_es.records.phrases.table import PhraseSet

Watch = Callable[[int, Float[Tensor, "h w"]], None]
"""Called with the number of a sample and its probabilities."""


@torch.no_grad()
def score_phrases(
    encoder: Encoder,
    decoder: Decoder,
    data: PhraseSet,
    *,
    samples: Sequence[int] | None = None,
    by: Literal["text", "example"] = "text",
    prompt: str = "a photo of a {}.",
    side: int | None = None,
    own_size: bool = False,
    seed: int = 0,
    texts: Texts | None = None,
    watch: Watch | None = None,
    progress: Callable[[Collection], Iterable] = iter,
) -> ReferringScores:
    """Figures over a data set, each phrase a group of its own; one encoding for all phrases of a picture.

    The picture is stretched to a square of `side` (None: the decoder's own, else 352). Masks are compared at that
    size, as published, or with `own_size` at that of the picture. With `by="example"` a phrase is asked for by another
    picture of the same phrase, its mask known; phrases of one picture alone are left out.
    Raises DataError: nothing can be asked, or a picture or a mask cannot be read.
    """
    texts, meter = texts or Texts(encoder), ReferringMeter()
    side = side or decoder.side or 352
    asking = DecoderTraining(example_side=int(decoder.about.get("example_side", 352)), example_may_be_itself=False)
    draws = Draws(data, asking)
    pictures: dict[int, list[int]] = {}
    for number in range(len(data.samples)) if samples is None else samples:
        pictures.setdefault(data.samples[number].picture, []).append(number)
    for picture, numbers in progress(pictures.items()):
        if by == "text":
            vectors = texts(prompt.format(data.samples[number].text) for number in numbers)
        else:
            numbers, vectors = _by_example(encoder, draws, numbers, seed)
        if not numbers:
            continue
        rgb = data.picture(picture)
        pixels = cut_picture(rgb, (0, 0, rgb.shape[1], rgb.shape[0]), side)[None].to(encoder.device)
        seen = block_outputs(encoder, pixels, decoder.layers)
        logits = decoder(seen, vectors, (side // encoder.patch, side // encoder.patch))
        for number, probability in zip(numbers, logits.float().sigmoid().cpu(), strict=True):
            truth = torch.from_numpy(data.mask(number))
            if own_size:
                wide = probability[None, None]
                probability = F.interpolate(wide, size=truth.shape, mode="bilinear", align_corners=True)[0, 0]
            else:
                truth = cut_mask(truth, (0, 0, truth.shape[1], truth.shape[0]), side)
            meter.update(probability, truth)
            if watch:
                watch(number, probability)
    if not meter.counts:
        raise DataError(
            "there is nothing to score" if by == "text" else "no phrase has an example in another picture",
            where=data.name,
            next_step="Take more pictures." if by == "text" else "Prompt with text, or take more pictures.",
        )
    return meter.compute()


def _by_example(
    encoder: Encoder, draws: Draws, numbers: Sequence[int], seed: int
) -> tuple[list[int], Float32[Tensor, "p embed"]]:
    """The samples that have an example, and its vector."""
    kept, examples = [], []
    for number in numbers:
        rng = np.random.default_rng((0xE8A, seed, number))
        example = draws.example(rng, draws.data.samples[number].text, number)
        if example is not None:
            kept.append(number)
            examples.append(example)
    if not kept:
        return [], torch.zeros(0, encoder.sizes.embed)
    return kept, image_prompts(encoder, torch.stack(examples).to(encoder.device)).float()
