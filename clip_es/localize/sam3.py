"""SAM 3 as a method: it is asked with a picture's labels, and with the background words, which compete for each pixel.

Its training saw masks, so what it makes is not weakly supervised; but labels, competition and undecided pixels answer
what its users complain about most, things that are not there and things that are found twice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float32
from torch import Tensor

from clip_es import rle
from clip_es.config.methods import Sam3Config
from clip_es.encoder import Encoder
from clip_es.errors import ShapeError
from clip_es.localize.base import Localization, check_known, with_heights
from clip_es.regions import Instances, Regions
from clip_es.sam.networks import Network
from clip_es.sam.phrases import Answer, Asker
from clip_es.tagging import Tags
from clip_es.types import ClassMaps, EncodedImage, Picture, TextBank


@dataclass(frozen=True)
class Sam3Sight(EncodedImage):
    """A picture as SAM 3 has seen it; tokens and attention are CLIP's where a refiner wants them, else nothing."""

    vision: Any
    """What `Asker.see` gives."""


@dataclass(frozen=True)
class Heard:
    """What was said about one class: of its phrases the best answer at each place."""

    logits: Float32[Tensor, "gh gw"]
    presence: float
    answers: tuple[Answer, ...]


class Sam3:
    """SAM 3 as a `Localizer`: with labels, or without."""

    supervision = "masks with phrases (SA-Co)"
    finds_classes = True
    settle = staticmethod(with_heights)

    def __init__(
        self,
        encoder: Encoder,
        bank: TextBank,
        network: Network,
        config: Sam3Config,
        words: Sequence[Sequence[str]],
        on_patches: bool = False,
    ) -> None:
        """`words`: what each class is called; several are asked one after the other. `on_patches`: whether a refiner on
        CLIP's grid follows, so that maps are wanted there."""
        self.encoder, self.bank, self.config, self.on_patches = encoder, bank, config, on_patches
        self.asker = Asker(network, config.phrases_at_once, config.instance_score)
        self.phrases = [phrases_of(names, config.phrase) for names in words]
        background = bank.names[bank.class_count :] if config.background else ()
        self.background = [phrase for name in background for phrase in phrases_of([name], config.phrase)]
        self.sources: Mapping[str, str] = {"sam3": network.digest}

    def to(self, device: str) -> None:
        """Use the network on another device."""
        self.asker.to(device)

    def seen_hw(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """The picture's size where CLIP looks at it too; else one patch, since SAM 3 takes the picture itself."""
        return size_hw if self.on_patches else (self.encoder.patch, self.encoder.patch)

    @torch.no_grad()
    def encode(self, pictures: Sequence[Picture]) -> list[EncodedImage]:
        """One pass through SAM 3's vision tower each, whatever is asked afterwards; CLIP sees them only if needed."""
        shown = self.encoder.encode([one.patches for one in pictures]) if self.on_patches else [None] * len(pictures)
        device = self.asker.network.device
        found: list[EncodedImage] = []
        for picture, sight in zip(pictures, shown, strict=True):
            vision = self.asker.see(picture.rgb)
            if sight is not None:
                found.append(
                    Sam3Sight(sight.tokens, sight.attention, sight.last_attention, sight.grid_hw, vision=vision)
                )
                continue
            patches = picture.grid_hw[0] * picture.grid_hw[1]
            zeros = torch.zeros(patches + 1, patches + 1, device=device)
            found.append(Sam3Sight(zeros[:, :1], zeros[1:, 1:], zeros[None], picture.grid_hw, vision=vision))
        return found

    @torch.no_grad()
    def locate(self, picture: Picture, seen: EncodedImage, class_ids: Sequence[int] | None) -> Localization:
        """The share of each label at each place, in competition with the other labels, the background words and none
        of them.

        share_k = exp(L_k) / (1 + sum over labels and background words of exp(L)), L being SAM 3's logits, so that a
        label without a competitor keeps its own probability, and what two claim goes to the surer one. Without labels
        the classes occur whose presence is above the threshold, possibly none; `scores` are the presences.
        Raises ShapeError: the picture was not encoded by this method; a class that the bank does not have.
        """
        sight = _checked(seen)
        known = class_ids is not None
        ids, kept = (check_known(class_ids, self.bank) if known else range(len(self.phrases))), []
        for k in ids:
            heard = self._ask(sight, self.phrases[k])
            if known or heard.presence > self.config.presence:
                kept.append((k, heard))
        shown = tuple(k for k, _ in kept)
        weigh = self.config.weigh == "all"
        if not kept:
            empty = torch.zeros(0, *seen.grid_hw, device=self.asker.network.device)
            return Localization(ClassMaps(empty, ()), empty.new_zeros(0), empty, None)
        logits = torch.stack([one.logits + (_log(one.presence) if weigh else 0) for _, one in kept])
        others = self._background(sight, logits[0])
        total = torch.logsumexp(torch.cat([logits, others]), 0)
        shares = (logits - total).exp()
        background = (others - total).exp().sum(0)
        instances = self._instances(kept, picture.size_hw)
        if self.on_patches:
            logits, shares, background = (
                F.interpolate(x.view(1, -1, *x.shape[-2:]), seen.grid_hw, mode="area")[0]
                for x in (logits, shares, background)
            )
            background = background[0]
        maps = ClassMaps(shares.clamp(0, 1), shown, background=background.clamp(0, 1))
        scores = torch.tensor([one.presence for _, one in kept], device=logits.device)
        return Localization(maps, scores, logits, None, instances)

    @torch.no_grad()
    def tag(self, picture: Picture, seen: EncodedImage) -> Tags:
        """`--labels auto`: the classes whose presence is above the threshold. Raises ShapeError as `locate`."""
        sight = _checked(seen)
        presence = [self._ask(sight, phrases).presence for phrases in self.phrases]
        ids = tuple(k for k, likely in enumerate(presence) if likely > self.config.presence)
        sure = math.prod(max(likely, 1 - likely) for likely in presence)
        values = torch.tensor(presence, dtype=torch.float32)
        return Tags(ids, tuple(presence[k] for k in ids), values, values, sure)

    def _ask(self, seen: Sam3Sight, phrases: Sequence[str]) -> Heard:
        answers = tuple(self.asker.ask(seen.vision, phrases))
        logits = torch.stack([self._map(one) for one in answers]).amax(0)
        return Heard(logits, max(one.presence for one in answers), answers)

    def _map(self, answer: Answer) -> Float32[Tensor, "gh gw"]:
        return answer.logits if self.config.maps == "semantic" else answer.union()

    def _background(self, seen: Sam3Sight, like: Float32[Tensor, "gh gw"]) -> Float32[Tensor, "two gh gw"]:
        """Logits of none of all, which are 0, and of the background words together; these are added up one by one."""
        total = torch.full_like(like, -math.inf)
        for answer in self.asker.ask(seen.vision, self.background):
            weight = _log(answer.presence) if self.config.weigh != "none" else 0.0
            total = torch.logaddexp(total, self._map(answer) + weight)
        return torch.stack([torch.zeros_like(like), total])

    def _instances(self, kept: Sequence[tuple[int, Heard]], size_hw: tuple[int, int]) -> Instances:
        """The single things of each class that SAM 3 is sure of, at the picture's size, each once."""
        runs, scores, ids = [], [], []
        for k, heard in kept:
            masks = np.concatenate([one.things(size_hw, self.config.mask_threshold) for one in heard.answers])
            sure = torch.cat([one.scores for one in heard.answers]).cpu()
            for number in _each_once(masks, sure):
                runs.append(rle.runs(masks[number]))
                scores.append(float(sure[number]))
                ids.append(k)
        return Instances(Regions.of(size_hw, runs, scores), tuple(ids))


def _each_once(masks: Bool[np.ndarray, "thing h w"], scores: Float32[Tensor, " thing"]) -> list[int]:
    """The things, the surest first, without empty ones and those that share more than half with a surer one: several
    phrases of a class find the same."""
    kept: list[int] = []
    for number in scores.argsort(descending=True, stable=True).tolist():
        mask = masks[number]
        same = any(2 * (mask & masks[k]).sum() > (mask | masks[k]).sum() for k in kept)
        if mask.any() and not same:
            kept.append(number)
    return kept


def phrases_of(names: Sequence[str], phrase: str) -> tuple[str, ...]:
    """The phrases of a class: every name, those of a list such as `person, people` each by itself."""
    parts = [part.strip() for name in names for part in name.split(",")]
    return tuple(dict.fromkeys(phrase.replace("{}", part) for part in parts if part))


def _log(likely: float) -> float:
    return math.log(max(likely, 1e-6))


def _checked(seen: EncodedImage) -> Sam3Sight:
    if not isinstance(seen, Sam3Sight):
        raise ShapeError("SAM 3 encodes pictures itself", expected="what Sam3.encode gives", found=type(seen).__name__)
    return seen
