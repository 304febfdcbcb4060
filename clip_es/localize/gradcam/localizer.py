"""Softmax-GradCAM, the localizer of CLIP-ES: where a label is, in competition with background words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from jaxtyping import Float32
from torch import Tensor

from clip_es.config.methods import LocalizeConfig
from clip_es.encoder.encode import Encoder
from clip_es.errors import ConfigError
from clip_es.localize.base import Localization, as_they_are, check_known
from clip_es.localize.gradcam.closed_form import Answer, LastBlock, Question, explain, explain_autograd
from clip_es.localize.gradcam.together import localize_together
from clip_es.localize.gradcam.variants import explain_variant
from clip_es.scaling import scale_twice
from clip_es.types import ClassMaps, EncodedImage, Picture, TextBank

_DEFAULT = LocalizeConfig()


class ClipEs:
    """CLIP-ES as a `Localizer`."""

    supervision = "none"
    finds_classes = False
    settle = staticmethod(as_they_are)
    stretches = True
    """Each map is stretched to [0, 1] by itself, so that its height says nothing."""
    reads = EncodedImage
    """What `locate` needs of a picture: what any method has seen."""
    sources: Mapping[str, str] = MappingProxyType({})

    def __init__(self, encoder: Encoder, bank: TextBank, config: LocalizeConfig = _DEFAULT, layers: int = 8) -> None:
        """`layers`: over how many of the last ones the attention is averaged."""
        self.encoder, self.bank, self.config, self.layers = encoder, bank, config, layers

    def seen_hw(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """The picture's own size."""
        return size_hw

    def encode(self, pictures: Sequence[Picture]) -> list[EncodedImage]:
        """`Encoder.encode`."""
        return self.encoder.encode([picture.patches for picture in pictures], attention_layers=self.layers)

    def locate(self, picture: Picture | None, seen: EncodedImage, class_ids: Sequence[int] | None) -> Localization:
        """`localize`. Raises ConfigError: no labels are given."""
        return localize(self.encoder, seen, self.bank, self.asked(class_ids), self.config)

    def locate_together(self, seen: Sequence[EncodedImage], class_ids: Sequence[Sequence[int]]) -> list[Localization]:
        """`locate` of several pictures of one grid in one pass, for a device that waits for operations."""
        if self.config.variant != "gradcam":
            return [self.locate(None, one, ids) for one, ids in zip(seen, class_ids, strict=True)]
        return localize_together(self.encoder, seen, self.bank, class_ids, self.config)

    def asked(self, class_ids: Sequence[int] | None) -> Sequence[int]:
        """The labels. Raises ConfigError: there are none."""
        if class_ids is None:
            raise ConfigError(
                "CLIP-ES explains labels, so it cannot work without any",
                next_step="Pass --labels auto to have them found first, or --method cliper.",
            )
        return class_ids


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
        answer = explain(encoder.model.visual, seen.tokens, seen.last_attention, question, encoder.linear)
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
    return LastBlock(encoder.model.visual, seen.tokens, seen.last_attention, encoder.linear).embedding


def _question(encoder: Encoder, bank: TextBank, class_ids: Sequence[int], config: LocalizeConfig) -> Question:
    check_known(class_ids, bank)
    rows = [bank.vectors[list(class_ids)]]
    if config.background:
        rows.append(bank.background)
    text = torch.cat(rows).to(encoder.device)
    return Question(text, len(class_ids), encoder.logit_scale, softmax=config.softmax and len(text) > 1)


def _localization(answer: Answer, seen: EncodedImage, class_ids: Sequence[int]) -> Localization:
    raw = answer.raw.unflatten(1, seen.grid_hw)
    return Localization(ClassMaps(scale_twice(raw), tuple(class_ids)), answer.scores, raw, answer.weights)
