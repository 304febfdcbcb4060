"""Patch-text as a localizer: each patch is asked which of all the words it looks like; the labels' shares are the maps.

Background is what no label explains, so no threshold is chosen on ground truth, and height is kept: it says how sure a
label is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from clip_es.config.methods import PatchTextConfig
from clip_es.encoder.capture import shown_to
from clip_es.encoder.encode import Encoder
from clip_es.errors import ConfigError, DataError, ShapeError
from clip_es.localize.base import Localization, Settled, as_they_are, check_known, with_heights
from clip_es.localize.cliper.maps import comparison_set
from clip_es.localize.cliper.rule import short_side_hw
from clip_es.localize.patchtext.reading import PatchSight, Reading, look_at_all
from clip_es.localize.patchtext.texts import enriched, surgery, words_cosine, words_share
from clip_es.refine.dino import Dino, DinoConfig
from clip_es.types import ClassMaps, EncodedImage, Picture, TextBank


class PatchText:
    """Patch-text as a `Localizer`: with labels, or without."""

    supervision = "none"
    finds_classes = True
    reads = PatchSight
    """What `locate` needs of a picture."""

    def __init__(self, encoder: Encoder, bank: TextBank, config: PatchTextConfig, layers: int = 8) -> None:
        """`layers`: over how many of the last ones the attention for the affinity is averaged.

        Raises DataError: the file of attributes cannot be read, or a sentence is too long for the text tower.
        ConfigError, WeightsError: the DINO to read with cannot be had.
        """
        self.encoder, self.bank, self.config = encoder, bank, config
        self.stretches = config.score == "surgery"
        self.scale = encoder.logit_scale if config.scale is None else config.scale
        blocks = min(config.blocks, encoder.sizes.layers)
        self.reading = Reading(config.read, blocks, config.shared_heads, layers, summed_heads=self.stretches)
        self.dino = None
        if config.read == "dino":
            self.dino = Dino(config.dino_model, DinoConfig(positions="factor"), encoder.device)
        classes = bank.vectors[: bank.class_count]
        self.sources: Mapping[str, str] = {}
        if config.attributes is not None:
            sentences = read_attributes(config.attributes)
            self.sources = {"attributes": hashlib.sha256("\n".join(sentences).encode()).hexdigest()}
            classes = enriched(classes, encoder.encode_text(sentences).to(classes))
        words = torch.cat([classes, bank.background])
        self.text = (words if self.stretches else comparison_set(classes, bank.background)).to(encoder.device)

    def to(self, device: str) -> None:
        """Move what is not the encoder's to another device."""
        self.text = self.text.to(device)
        if self.dino is not None:
            self.dino.to(device)

    def seen_hw(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """A square, or the shorter side as the settings say, both sides then rounded to whole patches."""
        if self.config.square is not None:
            return self.config.square, self.config.square
        side = self.config.short_side
        return size_hw if side is None else short_side_hw(size_hw, side, self.encoder.patch)

    def encode(self, pictures: Sequence[Picture]) -> list[EncodedImage]:
        """One pass each; tokens and attention are those of `Encoder.encode`, to rounding.

        On the CPU one by one, so that a batch of one gives the same bytes as a batch of many; on a GPU together.
        """
        if not pictures:
            return []
        pixels = torch.cat([shown_to(self.encoder, picture.patches) for picture in pictures])
        features = None
        if self.dino is not None:
            features = torch.stack([self.dino.features_of(_unit_pixels(picture)) for picture in pictures])
        every = pixels if self.encoder.device.type == "cuda" else pixels.split(1)
        groups = [every] if isinstance(every, torch.Tensor) else every
        step = len(groups[0])
        return [
            seen
            for place, group in enumerate(groups)
            for seen in look_at_all(
                self.encoder,
                group,
                self.reading,
                features=None if features is None else features[place * step : (place + 1) * step],
            )
        ]

    def shares(self, seen: PatchSight, classes: Sequence[int] | None = None) -> Float32[Tensor, "text patch"]:
        """The share of every text in every patch: classes, background words, the classes' mean.

        `classes`: those that compete; None: all.
        """
        text = self.text
        if classes is not None:
            text = torch.cat([text[list(classes)], text[self.bank.class_count :]])
        return words_share(seen.embeddings[1:], text, self.scale)

    @torch.no_grad()
    def locate(self, picture: Picture, seen: EncodedImage, class_ids: Sequence[int] | None) -> Localization:
        """The share of each label in each patch; background is 1 - their sum. Under `surgery` ExCEL's maps.

        Without labels the classes occur whose largest share is above the score threshold, possibly none.
        Raises ShapeError: the picture was not encoded by this method; a class that the bank does not have.
        ConfigError: the score surgery without labels.
        """
        if not isinstance(seen, PatchSight):
            raise ShapeError("patch-text reads patches", expected="what PatchText.encode gives", found=type(seen))
        if self.stretches:
            return self._surgery(seen, class_ids)
        known = None if class_ids is None else check_known(class_ids, self.bank)
        alone = known if self.config.competitors == "labels" else None
        shares = self.shares(seen, alone)
        shown = self._found(shares) if known is None else known
        raw = (shares[list(shown)] if alone is None else shares[: len(alone)]).unflatten(1, seen.read_hw)
        scores = raw.amax((1, 2)) if shown else raw.new_zeros(0)
        return Localization(ClassMaps(raw, shown, background=(1 - raw.sum(0)).clamp(0, 1)), scores, raw, None)

    def _found(self, shares: Float32[Tensor, "text patch"]) -> tuple[int, ...]:
        best = shares[: self.bank.class_count].amax(1).tolist()
        return tuple(k for k, most in enumerate(best) if most > self.config.score_threshold)

    def settle(self, found: Localization, maps: ClassMaps, known: bool) -> Settled:
        """Shares keep their heights; maps of `surgery` have none."""
        return (as_they_are if self.stretches else with_heights)(found, maps, known)

    def _surgery(self, seen: PatchSight, class_ids: Sequence[int] | None) -> Localization:
        if class_ids is None:
            raise ConfigError(
                "the score surgery stretches every map, so it cannot tell which classes there are",
                next_step="Pass --labels auto, or --patch-text.score shares.",
            )
        shown = check_known(class_ids, self.bank)
        maps = surgery(seen.embeddings, self.text)[1:, list(shown)].T.unflatten(1, seen.read_hw).contiguous()
        cosines = words_cosine(seen.embeddings[1:], self.text)[list(shown)]
        return Localization(ClassMaps(maps, shown), cosines.amax(1), cosines.unflatten(1, seen.read_hw), None)


def _unit_pixels(picture: Picture) -> Float32[Tensor, "3 h w"]:
    """What the encoder is shown, in 0..1."""
    return torch.from_numpy(np.ascontiguousarray(picture.patches)).movedim(-1, 0).float() / 255


def read_attributes(path: Path) -> list[str]:
    """Sentences of a text file, one a line; empty lines and those that begin with # do not count.

    Raises DataError: no such file, not UTF-8, or no sentence in it.
    """
    try:
        lines = path.expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("the attributes cannot be read", where=path, expected="UTF-8 text", found=error) from error
    sentences = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not sentences:
        raise DataError("the file of attributes has no sentence", where=path, expected="one sentence a line")
    return sentences
