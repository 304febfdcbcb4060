"""Labels and maps laid over a picture, as reports and results show them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from clip_es.masks import palette
from clip_es.types import UNDECIDED


def overlay_heat(rgb: UInt8[np.ndarray, "h w 3"], heat: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    """The picture, greyed, under a map in [0, 1]."""
    from matplotlib import colormaps

    grey = rgb.mean(axis=2, keepdims=True)
    colour = colormaps["turbo"](np.clip(heat, 0, 1))[..., :3] * 255
    return (0.45 * grey + 0.55 * colour).astype(np.uint8)


def overlay_colour(label: int) -> tuple[int, int, int]:
    """The colour of a label in `overlay_labels`, over a grey of middle brightness."""
    red, green, blue = (255, 255, 255) if label == UNDECIDED else palette()[label].tolist()
    return (58, 58, 58) if label == 0 else (red, green, blue)


def overlay_labels(rgb: UInt8[np.ndarray, "h w 3"], labels: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """The picture under its labels in the VOC palette; undecided pixels white."""
    colours = palette().astype(np.float64)
    colours[UNDECIDED] = 255
    inside = (labels != 0)[..., None]
    return np.where(inside, 0.35 * rgb + 0.65 * colours[labels], 0.45 * rgb).astype(np.uint8)


def label_name(label: int, names: Sequence[str]) -> str:
    """What a legend says of a label; `names` begin with that of the background."""
    if label == UNDECIDED:
        return "undecided (255)"
    if label < len(names):
        return names[label]
    return "background (the picture, darker)" if label == 0 else f"label {label}"


def with_legend(
    picture: UInt8[np.ndarray, "h w 3"], entries: Sequence[tuple[tuple[int, int, int], str]]
) -> Image.Image:
    """The picture above a legend of colours and what they mean, in as many lines as they need."""
    shown = Image.fromarray(picture)
    small = max(shown.width, 240)  # room for a name at least
    size = max(12, round(small / 40))
    font, pad = ImageFont.load_default(size), max(4, size // 2)
    line = size + pad
    places, x, y = [], pad, pad
    for _, name in entries:
        width = 2 * size + round(font.getlength(name)) + 2 * pad
        if x > pad and x + width > small:
            x, y = pad, y + line
        places.append((x, y))
        x += width
    sheet = Image.new("RGB", (small, shown.height + (y + line if entries else 0)), "white")
    sheet.paste(shown, ((small - shown.width) // 2, 0))
    draw = ImageDraw.Draw(sheet)
    for (colour, name), (x, y) in zip(entries, places, strict=True):
        top = shown.height + y
        draw.rectangle((x, top + 1, x + round(1.5 * size), top + size), fill=colour, outline="#8fa0b3")
        draw.text((x + 2 * size, top), name, fill="#1c2430", font=font)
    return sheet
