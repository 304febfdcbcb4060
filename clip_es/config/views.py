"""Settings of views of a picture."""

from __future__ import annotations

from dataclasses import dataclass
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
