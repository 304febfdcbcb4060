"""The arrays recorded from the published CLIP-ES code: tests/golden/README.md says how."""

from __future__ import annotations

from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden" / "clip-es"
CASES = ("astronaut_150x131", "rocket_17x400", "coffee_333x500", "chelsea_214x198")
RECORDED = (*(f"{case}/tiny224" for case in CASES), "chelsea_214x198/vit-b-16")
"""Each picture with each model it was recorded with."""

NEAR_THRESHOLD = {
    "astronaut_150x131/tiny224": 33,
    "rocket_17x400/tiny224": 0,
    "coffee_333x500/tiny224": 120,
    "chelsea_214x198/tiny224": 53,
    "chelsea_214x198/vit-b-16": 81,
}
"""Pixels whose recorded confidence lies within 1e-3 of 0.95: rounding may move them over the threshold."""


def recorded(name: str) -> dict[str, np.ndarray]:
    """The arrays of `case/model`, such as rocket_17x400/tiny224."""
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays)
