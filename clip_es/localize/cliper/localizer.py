"""CLIPer as a `Localizer`: the early layers of CLIP read through the last one, with their attention fused.

Training free; with labels it makes class maps like any localizer, without labels a score threshold picks the classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from clip_es.config.methods import CliperConfig
from clip_es.encoder.capture import normalised
from clip_es.encoder.encode import Encoder
from clip_es.errors import ConfigError, ShapeError
from clip_es.localize.base import Localization, Settled, check_known
from clip_es.localize.cliper.layers import CliperSight, see
from clip_es.localize.cliper.maps import check_window, class_maps, comparison_set
from clip_es.localize.cliper.rule import ceiling, early_heights, mean_of_maxima, published_heights, short_side_hw
from clip_es.refine.dino import Dino, DinoConfig
from clip_es.scaling import keep_heights, min_max
from clip_es.types import ClassMaps, EncodedImage, Picture, TextBank


class Cliper:
    """CLIPer as a `Localizer`: with labels, or without."""

    supervision = "none"
    finds_classes = True
    sources: Mapping[str, str] = MappingProxyType({})

    def __init__(
        self,
        encoder: Encoder,
        bank: TextBank,
        config: CliperConfig | None = None,
        layers: int = 8,
        *,
        on_patches: bool = False,
    ) -> None:
        """`layers`: over how many of the last ones the attention for the affinity is averaged; `on_patches`: whether a
        refiner on the patch grid follows.

        Raises ConfigError, WeightsError: the proxy attention is asked for and its DINO cannot be had.
        """
        self.encoder, self.bank, self.config, self.layers = encoder, bank, config or CliperConfig(), layers
        rule = self.config.rule
        self.early = rule == "early" or (rule == "auto" and on_patches)
        check_window(encoder.patch, self.config)
        self.proxy: Dino | None = None
        if self.config.last_attention == "proxy":
            if not self.config.proxy_model:
                raise ConfigError("the proxy attention needs a DINO", next_step="Pass --cliper.proxy-model FOLDER.")
            self.proxy = Dino(self.config.proxy_model, DinoConfig(positions="factor"), encoder.device)

    def to(self, device: str) -> None:
        """Move what is not the encoder's to another device."""
        if self.proxy is not None:
            self.proxy.to(device)

    def seen_hw(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """The shorter side as the settings say, both rounded to whole patches."""
        side = self.config.short_side
        return size_hw if side is None else short_side_hw(size_hw, side, self.encoder.patch)

    @torch.no_grad()
    def encode(self, pictures: Sequence[Picture]) -> list[EncodedImage]:
        """One pass each; tokens and attention are those of `Encoder.encode`, to rounding."""
        return [see(self.encoder, _pixels(self.encoder, picture.patches), self.layers) for picture in pictures]

    @torch.no_grad()
    def locate(self, picture: Picture, seen: EncodedImage, class_ids: Sequence[int] | None) -> Localization:
        """The published maps of the labels; without labels of every class, of which `settle` then keeps some.

        In the Localization `raw` holds the maps as published, in 0..2, `maps` the same divided by their ceiling, or
        with their heights set where the rule is early, and `scores` the maximum of each raw map.
        Raises ShapeError: the picture was not encoded by CLIPer; a class that the bank does not have.
        Source: CLIPer (ICCV 2025), early-layer fusion, and its published code. Differs: labels may be known; a row of
        the attention without any positive entry gives zeros, not 0/0.
        """
        if not isinstance(seen, CliperSight):
            raise ShapeError(
                "CLIPer reads all layers of a picture", expected="what Cliper.encode gives", found=type(seen)
            )
        config, bank = self.config, self.bank
        classes = tuple(range(bank.class_count))
        shown = classes if class_ids is None else check_known(class_ids, bank)
        competing = shown if config.competitors == "labels" else classes
        every = comparison_set(bank.vectors[: bank.class_count], bank.background)
        text = torch.cat([every[list(competing)], every[bank.class_count :]]).to(self.encoder.device)
        pixels = None
        if config.window is not None or self.proxy is not None:
            pixels = _pixels(self.encoder, picture.patches)
        raw = class_maps(self.encoder, seen, pixels, text, len(competing), config, self.proxy)
        if competing != shown:
            raw = raw[list(shown)]
        scores = raw.amax((1, 2))
        if class_ids is not None and config.labelled == "stretched":
            return Localization(ClassMaps(min_max(raw), shown), scores, raw, None)
        if not self.early:
            return Localization(ClassMaps(raw / ceiling(raw), shown), scores, raw, None)
        if class_ids is None:
            keep = scores > config.score_threshold
            shown = tuple(k for k, kept in zip(shown, keep.tolist(), strict=True) if kept)
            raw, scores = raw[keep], scores[keep]
        return Localization(ClassMaps(early_heights(raw, config), shown), scores, raw, None)

    def settle(self, found: Localization, maps: ClassMaps, known: bool) -> Settled:
        """The classes whose score, the mean of the maxima before and after refinement, is above the threshold; with
        labels those. Each map is scaled to its score at full size, and then compared with the background threshold."""
        config, top = self.config, ceiling(found.raw)
        if known and config.labelled == "stretched":
            return Settled(found, maps)
        if self.early:
            return Settled(found, keep_heights(found.maps, maps))
        refined = maps.scores if maps.unscaled is None else maps.unscaled
        scores = mean_of_maxima(found.raw, top * refined)
        if not known:
            keep = scores > config.score_threshold
            ids = tuple(k for k, kept in zip(maps.class_ids, keep.tolist(), strict=True) if kept)
            refined, scores = refined[keep], scores[keep]
            found = replace(found, maps=ClassMaps(found.maps.scores[keep], ids), raw=found.raw[keep])
            maps = replace(maps, class_ids=ids, scores=refined, unscaled=None)
        settled = ClassMaps(refined.clamp(0, 1), maps.class_ids)
        return Settled(replace(found, scores=scores), settled, published_heights(scores, top, config))


def _pixels(encoder: Encoder, patches: np.ndarray) -> Float32[Tensor, "1 3 h w"]:
    """A picture in CLIP's scale on the encoder's device."""
    pixels = torch.from_numpy(np.ascontiguousarray(patches)).to(encoder.device).movedim(-1, 0).float() / 255
    return normalised(pixels[None])
