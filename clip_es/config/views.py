"""Settings of views of a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clip_es.errors import ConfigError


@dataclass(frozen=True)
class ViewsConfig:
    """Several looks at a picture as one: moved by half a patch, mirrored, at several scales."""

    shifts: Literal[1, 2, 4] = 1
    """Moves by half a patch: none, along the diagonal, or along both axes. Each costs a pass of the encoder. Those
    above scale 1 are not moved: their patches are finer already."""
    flip: bool = False
    """Each view mirrored as well."""
    scales: tuple[float, ...] = (1.0,)
    """Sizes of the picture relative to what the encoder is shown otherwise."""

    certainty: float = 0.0
    """How much more those views count that are surer of a label: the power of the mean share that the label has of the
    pixels it wins in a view. 0: all count alike."""

    def __post_init__(self) -> None:
        if not self.scales or any(not 0.1 <= scale <= 10 for scale in self.scales):
            raise ConfigError("scales of views are positive factors", expected="0.1..10", found=self.scales)
        if len(set(self.scales)) < len(self.scales):
            raise ConfigError("each scale of the views counts once", found=self.scales)
        if not 0 <= self.certainty <= 100:
            raise ConfigError("the weight of certainty is a power", expected="0..100", found=self.certainty)

    def places(self, scale: float) -> int:
        """How many moves views of a scale have."""
        return self.shifts if scale <= 1 else 1

    @property
    def count(self) -> int:
        """How many views there are."""
        return (1 + self.flip) * sum(map(self.places, self.scales))
