"""Settings of views of a picture, and of the patch-text localizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clip_es.errors import ConfigError


@dataclass(frozen=True)
class ViewsConfig:
    """Several looks at a picture, averaged: moved by half a patch, mirrored, at several scales."""

    shifts: Literal[1, 2, 4] = 1
    """Moves by half a patch: none, along the diagonal, or along both axes. Each costs a pass of the encoder."""
    flip: bool = False
    """Each view mirrored as well."""
    scales: tuple[float, ...] = (1.0,)
    """Sizes of the picture relative to what the encoder is shown otherwise."""

    def __post_init__(self) -> None:
        if not self.scales or any(not 0.1 <= scale <= 10 for scale in self.scales):
            raise ConfigError("scales of views are positive factors", expected="0.1..10", found=self.scales)
        if len(set(self.scales)) < len(self.scales):
            raise ConfigError("each scale of the views counts once", found=self.scales)

    @property
    def count(self) -> int:
        """How many views there are."""
        return self.shifts * (1 + self.flip) * len(self.scales)


@dataclass(frozen=True)
class SegmentsConfig:
    """Felzenszwalb segments of the picture vote on the maps, before the CRF."""

    scales: tuple[float, ...] = (20.0, 60.0, 150.0)
    """Larger values make larger segments; the votes of all scales are averaged."""
    amount: float = 0.5
    """How much of a segment's mean a pixel takes: 0 changes nothing, 1 makes maps constant on each segment."""
    sigma: float = 0.5
    """Blur before segmenting, pixels."""
    min_size: int = 20
    """Pixels a segment has at least."""
    by_size: bool = True
    """Scales and least size are meant for pictures of 200 pixels and grow with the longer side of larger ones."""

    def __post_init__(self) -> None:
        if not self.scales or any(not 0 < scale <= 1e6 for scale in self.scales):
            raise ConfigError("scales of segments are positive", expected="0..1e6", found=self.scales)
        if not 0 <= self.amount <= 1:
            raise ConfigError("amount is a share of the segment's mean", expected="0..1", found=self.amount)
        if not 0 <= self.sigma <= 100 or not 1 <= self.min_size <= 10**6:
            raise ConfigError(
                "blur and least size of segments are out of range",
                expected="sigma 0..100, min_size 1..1000000",
                found=(self.sigma, self.min_size),
            )


@dataclass(frozen=True)
class PatchTextConfig:
    """Patch-text: each patch against the words, after CLIP's last blocks have been mended."""

    read: Literal["svc", "value", "kk-near", "qq", "qq+kk", "fused", "vanilla"] = "svc"
    """How patches are read. svc: self-correlation of queries, keys and values (ExCEL). value: MaskCLIP. kk-near:
    NACLIP. qq: ClearCLIP. qq+kk: SCLIP. fused: CLIPer's, last layer only. vanilla: CLIP as it is."""
    blocks: int = 5
    """How many of the last blocks `svc` reads, at most all; published 5 of 12. The others read the last one."""
    shared_heads: bool = True
    """svc: every head has the sum over heads, as published. Off: each head its own."""
    scale: float | None = None
    """Factor between a cosine and a logit. None: the one the model has learnt. Published for OpenAI's weights 40 to 65,
    which make softer maps than the learnt 100."""
    short_side: int | None = None
    """The shorter side of the picture for the encoder, pixels. None: the picture's own size, in whole patches."""
    attributes: Path | None = None
    """A text file of sentences about the classes, one a line, which enrich their texts (ExCEL)."""
    score_threshold: float = 0.5
    """Without labels: classes whose largest share is not above this do not occur."""

    def __post_init__(self) -> None:
        if self.blocks < 1 or (self.short_side is not None and self.short_side < 1):
            raise ConfigError("blocks and sides are at least 1", found=(self.blocks, self.short_side))
        if self.scale is not None and not 0 < self.scale <= 1e4:
            raise ConfigError("scale is a positive factor", expected="0..10000", found=self.scale)
        if not 0 <= self.score_threshold <= 1:
            raise ConfigError("score_threshold is a share", expected="0..1", found=self.score_threshold)
