"""What the artists draw with: shapes in a unit box, colours near a colour, smooth noise."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from clip_es.scenes.world import Rgb

Number = int | float


def smooth(rng: np.random.Generator, size_hw: tuple[int, int], cell_yx: tuple[Number, Number]) -> np.ndarray:
    """Noise of unit deviation, about `cell_yx` pixels between independent values. float32 [h w]."""
    h, w = size_hw
    small = (max(int(h / cell_yx[0]), 1) + 1, max(int(w / cell_yx[1]), 1) + 1)
    coarse = Image.fromarray(rng.standard_normal(small, np.float32))
    return np.asarray(coarse.resize((w, h), Image.Resampling.BICUBIC))


def vary(rng: np.random.Generator, colour: Rgb, spread: Number) -> np.ndarray:
    """A colour near another: brightness and hue moved by about `spread` grey levels. float32 [3]."""
    moved = np.asarray(colour, np.float32) + rng.normal(0, spread) + rng.normal(0, spread * 0.6, 3)
    return np.clip(moved, 6, 249).astype(np.float32)


class Pen:
    """Draws in a unit-high box of a given aspect (width over height), on a canvas `side` pixels on its longer side."""

    def __init__(self, side: int, aspect: Number, base: np.ndarray) -> None:
        w, h = (side, side / aspect) if aspect >= 1 else (side * aspect, side)
        self.scale = np.array([w, h], np.float32)
        ground = tuple(int(v) for v in base)
        self.image = Image.new("RGBA", (max(int(w) + 1, 4), max(int(h) + 1, 4)), (*ground, 0))
        self.draw = ImageDraw.Draw(self.image)
        self.thin = float(min(w, h))

    def _xy(self, points: object) -> list[tuple[Number, Number]]:
        return [tuple(p) for p in (np.asarray(points, np.float32).reshape(-1, 2) * self.scale).tolist()]

    def shape(self, colour: np.ndarray, *points: Number) -> None:
        """A filled polygon: x, y, x, y, ..."""
        self.draw.polygon(self._xy(points), fill=_ink(colour))

    def oval(self, colour: np.ndarray, x0: Number, y0: Number, x1: Number, y1: Number) -> None:
        """A filled ellipse in a box."""
        self.draw.ellipse(self._xy((x0, y0, x1, y1)), fill=_ink(colour))

    def box(self, colour: np.ndarray, x0: Number, y0: Number, x1: Number, y1: Number, round_: Number = 0.0) -> None:
        """A filled box, its corners rounded by a share of the thinner side of the canvas."""
        self.draw.rounded_rectangle(self._xy((x0, y0, x1, y1)), round_ * self.thin, fill=_ink(colour))

    def line(self, colour: np.ndarray, width: Number, *points: Number) -> None:
        """A line of a width given as a share of the thinner side of the canvas."""
        self.draw.line(self._xy(points), fill=_ink(colour), width=max(int(width * self.thin), 1), joint="curve")


def _ink(colour: np.ndarray) -> tuple[int, int, int, int]:
    r, g, b = (int(min(max(v, 0), 255)) for v in colour)
    return r, g, b, 255


def dark(colour: np.ndarray, by: Number = 0.7) -> np.ndarray:
    return colour * np.float32(by)


def light(colour: np.ndarray, by: Number = 0.4) -> np.ndarray:
    return colour + (250 - colour) * np.float32(by)


GLASS = np.array([150, 190, 214], np.float32)
TYRE = np.array([34, 32, 36], np.float32)
SKIN = tuple(np.array(c, np.float32) for c in ((236, 192, 160), (204, 150, 112), (150, 100, 70), (98, 66, 48)))
