"""Colours that colour-blind people can tell apart, and the pictures made with them.

Labels: the seven colours of Okabe and Ito (2008) without black, then the same with stripes; maps: viridis; changes:
purple to orange. The borders between labels are drawn, so that nothing is told by colour alone.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image

from clip_es.types import UNDECIDED

OKABE_ITO: tuple[tuple[int, int, int], ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
"""Orange, sky blue, bluish green, yellow, blue, vermilion, reddish purple."""

UNDECIDED_COLOUR = (255, 255, 255)
_BORDER = (24, 24, 28)
_STRIPE = 5
"""Pixels from one stripe to the next."""


@dataclass(frozen=True)
class Mark:
    """How a label is shown."""

    rgb: tuple[int, int, int]
    striped: int = 0
    """0: plain; 1: stripes one way; 2: the other way."""

    @property
    def css(self) -> str:
        """As a CSS background."""
        colour = f"rgb({' '.join(map(str, self.rgb))})"
        if not self.striped:
            return colour
        angle = 45 if self.striped == 1 else 135
        return f"repeating-linear-gradient({angle}deg, {colour} 0 4px, rgb(24 24 28) 4px 6px)"


def marks(labels: Sequence[int]) -> dict[int, Mark]:
    """A mark for each label, in their order, that all differ up to 21; after these they repeat."""
    own = [label for label in dict.fromkeys(labels) if label not in (0, UNDECIDED)]
    count = len(OKABE_ITO)
    found = {label: Mark(OKABE_ITO[i % count], i // count % 3) for i, label in enumerate(own)}
    return {**found, UNDECIDED: Mark(UNDECIDED_COLOUR)}


def overlay(
    rgb: UInt8[np.ndarray, "h w 3"], labels: UInt8[np.ndarray, "h w"], shown: Mapping[int, Mark]
) -> UInt8[np.ndarray, "h w 3"]:
    """The picture under its labels: background darker, borders drawn."""
    y, x = np.mgrid[: labels.shape[0], : labels.shape[1]]
    stripes = ((x + y) % _STRIPE < 2, (x - y) % _STRIPE < 2)
    out = 0.45 * rgb
    for label in np.unique(labels).tolist():
        if label == 0:
            continue
        mark = shown.get(label, Mark(OKABE_ITO[(label - 1) % len(OKABE_ITO)]))
        inside = labels == label
        out[inside] = 0.35 * rgb[inside] + 0.65 * np.array(mark.rgb)
        if mark.striped:
            out[inside & stripes[mark.striped - 1]] *= 0.45
    out[borders(labels)] = _BORDER
    return out.astype(np.uint8)


def borders(labels: UInt8[np.ndarray, "h w"]) -> np.ndarray:
    """Where the label to the right or below is another one."""
    found = np.zeros(labels.shape, dtype=bool)
    found[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    found[:-1] |= labels[:-1] != labels[1:]
    return found


def heat(rgb: UInt8[np.ndarray, "h w 3"], values: Float32[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """The picture, greyed, under a map in [0, 1]."""
    return _under(rgb, values, "viridis")


def change(rgb: UInt8[np.ndarray, "h w 3"], values: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """The picture, greyed, under a difference in [-1, 1]: orange is more, purple less."""
    return _under(rgb, 0.5 - 0.5 * np.clip(values, -1, 1), "PuOr")


def heat_css(name: str = "viridis", reverse: bool = False) -> str:
    """The colours of a map from 0 to 1 as a CSS gradient."""
    from matplotlib import colormaps

    steps = [tuple(int(255 * part) for part in colormaps[name](step / 8)[:3]) for step in range(9)]
    steps = steps[::-1] if reverse else steps
    return f"linear-gradient(to right, {', '.join(f'rgb({r} {g} {b})' for r, g, b in steps)})"


def shrunk(picture: UInt8[np.ndarray, "h w 3"], side: int) -> UInt8[np.ndarray, "vh vw 3"]:
    """The picture with its longer side at most `side` pixels."""
    image = Image.fromarray(picture)
    image.thumbnail((side, side))
    return np.array(image)


def grown(picture: UInt8[np.ndarray, "h w 3"], side: int) -> UInt8[np.ndarray, "vh vw 3"]:
    """The picture as often enlarged, by a whole number, as its longer side fits into `side` pixels."""
    times = max(1, side // max(picture.shape[:2]))
    height, width = picture.shape[:2]
    return np.array(Image.fromarray(picture).resize((times * width, times * height), Image.Resampling.BILINEAR))


def at_size(labels: UInt8[np.ndarray, "h w"], size_hw: tuple[int, int]) -> UInt8[np.ndarray, "vh vw"]:
    """Labels at another size, the nearest pixel's."""
    return np.array(Image.fromarray(labels).resize((size_hw[1], size_hw[0]), Image.Resampling.NEAREST))


def data_uri(picture: np.ndarray, kind: str = "JPEG") -> str:
    """A picture that is part of the page itself."""
    buffer = io.BytesIO()
    image = Image.fromarray(picture)
    if kind == "JPEG":
        image.save(buffer, "JPEG", quality=88)
    else:
        image.save(buffer, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _under(rgb: np.ndarray, values: np.ndarray, name: str) -> UInt8[np.ndarray, "h w 3"]:
    from matplotlib import colormaps

    grey = rgb.mean(axis=2, keepdims=True)
    colour = colormaps[name](np.clip(values, 0, 1))[..., :3] * 255
    return (0.4 * grey + 0.6 * colour).astype(np.uint8)
