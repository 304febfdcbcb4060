"""Softmax-GradCAM of several pictures of one grid, with all their labels, in one pass through the last block.

A GPU is done with one picture before it is told what comes next, so what counts there is operations, not numbers.
Labels are rows: each is gathered with what its own picture has, so a picture of many labels costs the others nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from clip_es.config.methods import LocalizeConfig
from clip_es.encoder.encode import Encoder
from clip_es.localize.base import Localization, check_known
from clip_es.localize.gradcam.closed_form import LastBlock
from clip_es.scaling import scale_twice
from clip_es.types import ClassMaps, EncodedImage, TextBank


@torch.no_grad()
def localize_together(
    encoder: Encoder,
    seen: Sequence[EncodedImage],
    bank: TextBank,
    class_ids: Sequence[Sequence[int]],
    config: LocalizeConfig,
) -> list[Localization]:
    """`localize` of each picture, in their order, for unique labels; GradCAM only.

    Sums run in another order than for one picture. Raises ShapeError: a class id that the bank does not have, or
    pictures of several grids.
    """
    questions = _Questions(bank, class_ids, config, encoder.device)
    tokens, attention = (torch.stack([getattr(one, name) for one in seen]) for name in ("tokens", "last_attention"))
    last = LastBlock(encoder.model.visual, tokens, attention, encoder.linear)
    scores = questions.scores(last.embedding, encoder.logit_scale)
    weights = last.weights(questions.gradient(scores, encoder.logit_scale), questions.owner)
    raw = last.along(weights, questions.owner).unflatten(1, seen[0].grid_hw)
    counts = [len(ids) for ids in class_ids]
    each = zip(
        class_ids,
        scale_twice(raw).split(counts),
        questions.each(scores),
        raw.split(counts),
        weights.split(counts),
        strict=True,
    )
    return [Localization(ClassMaps(maps, tuple(ids)), score, own, weight) for ids, maps, score, own, weight in each]


class _Places(NamedTuple):
    """Where what is asked stands, on the device; copied there at once, since each copy is an operation too."""

    owner: Int64[Tensor, " row"]
    """The picture of each label."""
    label: Int64[Tensor, " row"]
    """Its row of the text bank."""
    listed: Int64[Tensor, " score"]
    """Where the scores of each picture's labels, then of the background words, stand in [picture text], as one row."""


class _Questions:
    """`Question` of several pictures: all of the bank is scored, and each picture's softmax leaves out what is not
    asked about it."""

    def __init__(
        self, bank: TextBank, class_ids: Sequence[Sequence[int]], config: LocalizeConfig, device: torch.device
    ) -> None:
        for ids in class_ids:
            check_known(ids, bank)
        self.text = (bank.vectors if config.background else bank.vectors[: bank.class_count]).to(device)
        words = range(bank.class_count, len(self.text))
        rows = [[*ids, *words] for ids in class_ids]
        self.counts = [len(row) for row in rows]
        places = [
            [picture for picture, ids in enumerate(class_ids) for _ in ids],
            [k for ids in class_ids for k in ids],
            [picture * len(self.text) + k for picture, row in enumerate(rows) for k in row],
        ]
        copied = torch.tensor([k for row in places for k in row]).to(device)
        self.owner, self.label, self.listed = _Places(*copied.split([len(row) for row in places]))
        # A single label without any competitor has no gradient: its logit is explained, as in `localize`.
        alone = [len(row) == 1 or not config.softmax for row in rows]
        self.all_alone = all(alone)
        self.alone: Bool[Tensor, "picture 1"] | None = None
        if any(alone) and not self.all_alone:
            self.alone = torch.tensor(alone)[:, None].to(device)

    def scores(self, embedding: Float[Tensor, "picture embed"], scale: float) -> Float[Tensor, "picture text"]:
        """Softmax scores over what is asked about each picture, or logits; of no meaning for the rest."""
        logits = scale * embedding @ self.text.T
        if self.all_alone:
            return logits
        asked = torch.full_like(logits, -torch.inf).flatten()
        asked = asked.index_copy(0, self.listed, logits.flatten().index_select(0, self.listed))
        scores = asked.unflatten(0, logits.shape).softmax(-1)
        return scores if self.alone is None else torch.where(self.alone, logits, scores)

    def gradient(self, scores: Float[Tensor, "picture text"], scale: float) -> Float[Tensor, "row embed"]:
        """Derivative of the score of each label by the unit vector of its picture."""
        own = self.text.index_select(0, self.label)
        if self.all_alone:
            return scale * own
        share = scores.flatten().index_select(0, self.owner * len(self.text) + self.label)[:, None]
        found = scale * share * (own - (scores @ self.text).index_select(0, self.owner))
        return found if self.alone is None else torch.where(self.alone.index_select(0, self.owner), scale * own, found)

    def each(self, scores: Float[Tensor, "picture text"]) -> tuple[Tensor, ...]:
        """The scores of each picture, as `Localization` wants them."""
        return scores.flatten().index_select(0, self.listed).split(self.counts)
