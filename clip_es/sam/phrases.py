"""SAM 3 asked with phrases: a picture is encoded once, each phrase after that costs one pass of the small decoder.

Source: `Sam3Model` of transformers and its post-processing. Phrases are cut into tokens as CLIP's are, which SAM 3's
own tokenizer is; what is behind them is masked, so what stands there does not matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float32, UInt8
from torch import Tensor

from clip_es.encoder.tokenize import tokenize
from clip_es.sam.networks import Network

_LENGTH = 32
"""Tokens of a phrase, start and end included. Source: SAM 3's processor."""

_AT_FULL_SIZE = 2**25
"""Values of masks brought to the picture's size at a time: 128 MiB."""


@dataclass(frozen=True)
class Answer:
    """What a network says to one phrase about one picture; on its device."""

    logits: Float32[Tensor, "gh gw"]
    """Of the phrase at each place; the grid lies over the picture stretched to a square."""
    presence: float
    """How likely the phrase is in the picture at all, 0..1."""
    scores: Float32[Tensor, " thing"]
    """Of each single thing that is sure enough: its own likelihood times the presence."""
    masks: Float32[Tensor, "thing gh gw"]
    """Logits of each of these things."""

    def union(self) -> Float32[Tensor, "gh gw"]:
        """Logits of the things together: at each place the largest score times probability; about -14 where there is
        none."""
        if not len(self.scores):
            return torch.full_like(self.logits, _LOWEST)
        most = (self.scores[:, None, None] * self.masks.sigmoid()).amax(0)
        return most.clamp(1e-6, 1 - 1e-6).logit()

    def things(self, size_hw: tuple[int, int], threshold: float) -> Bool[np.ndarray, "thing h w"]:
        """The masks of the things at the picture's size: where their probability is above a threshold.

        Source: `post_process_instance_segmentation` of transformers.
        """
        found = [np.zeros((0, *size_hw), dtype=bool)]
        for some in self.masks.split(max(1, _AT_FULL_SIZE // (size_hw[0] * size_hw[1]))):
            if len(some):
                grown = F.interpolate(some.sigmoid()[None], size_hw, mode="bilinear", align_corners=False)
                found.append((grown[0] > threshold).cpu().numpy())
        return np.concatenate(found)


_LOWEST = float(torch.tensor(1e-6).logit())


class Asker:
    """A network and the phrases it has heard."""

    def __init__(self, network: Network, at_once: int = 4, least: float = 0.3) -> None:
        """`at_once`: phrases that go through the decoder together; `least`: things that are not surer are dropped."""
        self.network, self.at_once, self.least = network, at_once, least
        self._heard: dict[str, tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def see(self, rgb: UInt8[np.ndarray, "h w 3"]) -> Any:
        """A picture through the vision tower: what `ask` takes, for any number of phrases."""
        shown = self.network.show(rgb)
        return self.network.model.get_vision_features(pixel_values=shown.pixels)

    @torch.no_grad()
    def ask(self, seen: Any, phrases: Sequence[str]) -> Iterator[Answer]:
        """The answer to each phrase, in their order; some at a time, so that memory does not grow with their number.

        Raises DataError: a phrase is too long.
        """
        for first in range(0, len(phrases), self.at_once):
            some = phrases[first : first + self.at_once]
            heard = [self._hear(phrase) for phrase in some]
            answer = self.network.model(
                vision_embeds=_repeated(seen, len(some)),
                text_embeds=SimpleNamespace(pooler_output=torch.cat([text for text, _ in heard])),
                attention_mask=torch.cat([mask for _, mask in heard]),
            )
            presence = answer.presence_logits.float().sigmoid()
            scores = answer.pred_logits.float().sigmoid() * presence
            for number in range(len(some)):
                sure = scores[number] > self.least
                yield Answer(
                    answer.semantic_seg[number, 0].float(),
                    float(presence[number, 0]),
                    scores[number, sure],
                    answer.pred_masks[number, sure].float(),
                )

    def _hear(self, phrase: str) -> tuple[Tensor, Tensor]:
        """Text features [1 32 dim] and which of the 32 places hold a token; each phrase is encoded once."""
        if phrase not in self._heard:
            model = self.network.model
            ids = tokenize([phrase], context=_LENGTH)
            length = ids.shape[1]
            ids = F.pad(ids, (0, _LENGTH - length), value=int(ids[0, length - 1])).to(self.network.device)
            mask = (torch.arange(_LENGTH, device=self.network.device) < length).long()[None]
            text = model.get_text_features(input_ids=ids, attention_mask=mask, return_dict=True).pooler_output
            self._heard[phrase] = (text, mask)
        return self._heard[phrase]

    def to(self, device: str | torch.device) -> None:
        """Use the network on another device."""
        self.network.model.to(device)
        self._heard.clear()


def _repeated(seen: Any, times: int) -> Any:
    """What was seen, as a batch of the same picture; nothing is copied."""
    return SimpleNamespace(
        fpn_hidden_states=tuple(x.expand(times, *x.shape[1:]) for x in seen.fpn_hidden_states),
        fpn_position_encoding=tuple(x.expand(times, *x.shape[1:]) for x in seen.fpn_position_encoding),
        hidden_states=None,
        attentions=None,
    )
