"""Patch-text as a localizer: each patch is asked which of all the words it looks like; the labels' shares are the maps.

Background is what no label explains, so no threshold is chosen on ground truth, and height is kept: it says how sure a
label is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float32
from torch import Tensor

from clip_es.config.methods import PatchTextConfig
from clip_es.encoder.capture import shown_to
from clip_es.encoder.encode import Encoder
from clip_es.errors import DataError, ShapeError
from clip_es.localize.base import Localization, check_known, with_heights
from clip_es.localize.cliper.maps import comparison_set
from clip_es.localize.cliper.rule import short_side_hw
from clip_es.localize.patchtext.reading import PatchSight, enriched, look, words_share
from clip_es.types import ClassMaps, EncodedImage, Picture, TextBank


class PatchText:
    """Patch-text as a `Localizer`: with labels, or without."""

    supervision = "none"
    finds_classes = True
    settle = staticmethod(with_heights)

    def __init__(self, encoder: Encoder, bank: TextBank, config: PatchTextConfig, layers: int = 8) -> None:
        """`layers`: over how many of the last ones the attention for the affinity is averaged.

        Raises DataError: the file of attributes cannot be read, or a sentence is too long for the text tower.
        """
        self.encoder, self.bank, self.config, self.layers = encoder, bank, config, layers
        self.scale = encoder.logit_scale if config.scale is None else config.scale
        classes = bank.vectors[: bank.class_count]
        self.sources: Mapping[str, str] = {}
        if config.attributes is not None:
            sentences = read_attributes(config.attributes)
            self.sources = {"attributes": hashlib.sha256("\n".join(sentences).encode()).hexdigest()}
            classes = enriched(classes, encoder.encode_text(sentences).to(classes))
        self.text = comparison_set(classes, bank.background).to(encoder.device)

    def seen_hw(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """The shorter side as the settings say, both rounded to whole patches."""
        side = self.config.short_side
        return size_hw if side is None else short_side_hw(size_hw, side, self.encoder.patch)

    def encode(self, pictures: Sequence[Picture]) -> list[EncodedImage]:
        """One pass each; tokens and attention are those of `Encoder.encode`, to rounding."""
        config = self.config
        blocks = min(config.blocks, self.encoder.sizes.layers)
        return [
            look(
                self.encoder,
                shown_to(self.encoder, picture.patches),
                config.read,
                blocks,
                config.shared_heads,
                self.layers,
            )
            for picture in pictures
        ]

    def shares(self, seen: PatchSight) -> Float32[Tensor, "text patch"]:
        """The share of every text in every patch: classes, background words, their mean."""
        return words_share(seen.embeddings[1:], self.text, self.scale)

    @torch.no_grad()
    def locate(self, picture: Picture, seen: EncodedImage, class_ids: Sequence[int] | None) -> Localization:
        """The share of each label in each patch; background is 1 - their sum.

        Without labels the classes occur whose largest share is above the score threshold, possibly none.
        Raises ShapeError: the picture was not encoded by this method; a class that the bank does not have.
        """
        if not isinstance(seen, PatchSight):
            raise ShapeError("patch-text reads patches", expected="what PatchText.encode gives", found=type(seen))
        shares = self.shares(seen)[: self.bank.class_count].unflatten(1, seen.grid_hw)
        if class_ids is None:
            best = shares.amax((1, 2)).tolist()
            shown = tuple(k for k, most in enumerate(best) if most > self.config.score_threshold)
        else:
            shown = check_known(class_ids, self.bank)
        raw = shares[list(shown)]
        scores = raw.amax((1, 2)) if shown else raw.new_zeros(0)
        return Localization(ClassMaps(raw, shown, background=(1 - raw.sum(0)).clamp(0, 1)), scores, raw, None)


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
