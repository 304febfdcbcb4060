"""Softmax-GradCAM, the localizer of CLIP-ES: where a label is, in competition with background words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from clip_es.config import LocalizeConfig
from clip_es.encoder.encode import Encoder
from clip_es.errors import ShapeError
from clip_es.localize.closed_form import Answer, LastBlock, Question, explain, explain_autograd
from clip_es.localize.variants import explain_variant
from clip_es.scaling import min_max
from clip_es.types import ClassMaps, EncodedImage, TextBank

_DEFAULT = LocalizeConfig()


@dataclass(frozen=True)
class Localization:
    """The maps of a picture's labels, and the numbers behind them."""

    maps: ClassMaps
    """M_c: after ReLU and two min-max scalings, on the patch grid."""
    scores: Float32[Tensor, " text"]
    """What was explained: softmax scores of the labels, then of the background words (none where these are switched
    off). Logits where the softmax is switched off, or where a label has no competitor."""
    raw: Float32[Tensor, "class gh gw"]
    """The maps before ReLU and scaling."""
    weights: Float32[Tensor, "class dim"] | None
    """Mean over patches of d score / d ln_1, one row for each label; None for the variants."""


def localize(
    encoder: Encoder,
    seen: EncodedImage,
    bank: TextBank,
    class_ids: Sequence[int],
    config: LocalizeConfig = _DEFAULT,
) -> Localization:
    """A map for each label of one picture, in the order of `class_ids`, all from one pass through the last block.

    A label whose raw map is nowhere positive has a map of zeros. A single label without any competitor has the softmax
    score 1 whatever the picture shows, and so no gradient: in that one case its logit is explained instead.
    Raises ShapeError: a class id that the bank does not have. ConfigError: a variant without its extra.
    Source: CLIP-ES (CVPR 2023), sections 3.1 and 3.2; closed_form.md. Differs: the gradient comes
    in closed form, which is the same number.
    """
    question = _question(encoder, bank, class_ids, config)
    if config.variant == "gradcam":
        answer = explain(encoder.model.visual, seen.tokens, seen.last_attention, question)
    else:
        answer = explain_variant(config.variant, encoder.model.visual, seen, question)
    return _localization(answer, seen, class_ids)


def localize_autograd(
    encoder: Encoder,
    seen: EncodedImage,
    bank: TextBank,
    class_ids: Sequence[int],
    config: LocalizeConfig = _DEFAULT,
) -> Localization:
    """`localize` through autograd, GradCAM only: slower, and independent of the closed form."""
    question = _question(encoder, bank, class_ids, config)
    return _localization(explain_autograd(encoder.model.visual, seen.tokens, question), seen, class_ids)


@torch.no_grad()
def pooled_embedding(encoder: Encoder, seen: EncodedImage) -> Float32[Tensor, " dim"]:
    """The unit vector that the scores are made of: the mean of the patch tokens after the last block, projected."""
    return LastBlock(encoder.model.visual, seen.tokens, seen.last_attention).embedding


def scale_twice(raw: Float[Tensor, "class gh gw"]) -> Float[Tensor, "class gh gw"]:
    """ReLU, then twice (x - min) / (1e-7 + max(x - min)); zeros where nothing is positive.

    Twice, because a raw map around 1e-7 has a maximum well below 1 after the first pass.
    """
    return min_max(min_max(raw.clamp(min=0)))


def _question(encoder: Encoder, bank: TextBank, class_ids: Sequence[int], config: LocalizeConfig) -> Question:
    unknown = [k for k in class_ids if not 0 <= k < bank.class_count]
    if unknown:
        raise ShapeError(
            "these classes are not in the text bank",
            expected=f"0..{bank.class_count - 1}",
            found=unknown,
            next_step="Build the bank from the vocabulary that the labels come from.",
        )
    rows = [bank.vectors[list(class_ids)]]
    if config.background:
        rows.append(bank.background)
    text = torch.cat(rows).to(encoder.device)
    return Question(text, len(class_ids), encoder.logit_scale, softmax=config.softmax and len(text) > 1)


def _localization(answer: Answer, seen: EncodedImage, class_ids: Sequence[int]) -> Localization:
    raw = answer.raw.unflatten(1, seen.grid_hw)
    return Localization(ClassMaps(scale_twice(raw), tuple(class_ids)), answer.scores, raw, answer.weights)
