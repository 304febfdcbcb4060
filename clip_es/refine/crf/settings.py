"""Settings of the dense CRF, for all of its engines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clip_es.config.bounds import check_within

Backend = Literal["auto", "pydensecrf", "native", "torch"]


@dataclass(frozen=True)
class CrfConfig:
    """Dense conditional random field with a Gaussian and a bilateral term."""

    iterations: int = 10
    """Mean-field iterations."""
    gaussian_sigma: float = 1.0
    """Spatial reach of the smoothness term, pixels."""
    gaussian_weight: float = 3.0
    """Potts weight of the smoothness term."""
    bilateral_sigma: float = 67.0
    """Spatial reach of the appearance term, pixels."""
    bilateral_colour: float = 3.0
    """Colour reach of the appearance term, grey levels."""
    bilateral_weight: float = 4.0
    """Potts weight of the appearance term."""
    background_power: float = 1.0
    """The background score is (1 - best map) to this power."""
    image: Literal["rgb", "wrapped"] = "rgb"
    """`wrapped` repeats the published picture: mean-subtracted BGR whose negative values wrap modulo 256."""
    half: bool = False
    """Maps, background score and logarithm in float16, as published."""
    backend: Backend = "auto"
    """pydensecrf (extra `crf`, as published), or the same in numba (extra `native`), about 2 to 3 times faster, which
    agrees to 1e-3; or in torch on the device of the maps, for a GPU. `auto`: torch for maps on a GPU, else native where
    it is installed, else pydensecrf."""

    def __post_init__(self) -> None:
        check_within("iterations", self.iterations, 0, 1000, "mean-field iterations")
        for name in ("gaussian_weight", "bilateral_weight"):
            check_within(name, getattr(self, name), 0, 1e6, "Potts weight")
        for name in ("gaussian_sigma", "bilateral_sigma", "bilateral_colour"):
            check_within(name, getattr(self, name), 1e-3, 1e6, "standard deviation")
        check_within("background_power", self.background_power, 0.01, 100, "exponent")
