"""What there is in the drawn world: the kinds of things, what they go with, the backgrounds and the colours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Rgb = tuple[int, int, int]

COLOURS: dict[str, Rgb] = {
    "white": (232, 232, 228),
    "silver": (178, 184, 194),
    "grey": (124, 126, 130),
    "black": (44, 42, 46),
    "red": (198, 40, 38),
    "orange": (228, 124, 34),
    "yellow": (236, 200, 48),
    "green": (46, 128, 60),
    "blue": (40, 84, 180),
    "purple": (124, 58, 150),
    "pink": (228, 130, 160),
    "brown": (122, 76, 44),
    "beige": (214, 192, 150),
}
"""The colours captions may name, as sRGB."""

BACKGROUNDS: tuple[str, ...] = (
    "sky",
    "cloud",
    "mountain",
    "forest",
    "wall",
    "sea",
    "grass",
    "road",
    "railway",
    "sand",
    "snow",
    "floor",
    "carpet",
    "field",
)
"""Words for what lies behind the objects. prompts/scenes.yaml lists the same."""

UPPER = ("sky", "forest", "wall")
LOWER = ("sea", "grass", "road", "railway", "sand", "snow", "floor", "carpet", "field")

CONDITIONS: tuple[str, ...] = ("dark", "bright", "blurry", "grainy", "black and white")
"""How a picture may look as a whole. Captions may say so."""

Place = Literal["ground", "air", "wall"]


@dataclass(frozen=True)
class Kind:
    """A kind of things."""

    aspect: float
    """Width over height."""
    colours: str
    """Its usual colours, keys of COLOURS; twice means twice as often."""
    home: tuple[str, str]
    """The (upper, lower) areas it is at home in. A pair of equal words fills the whole frame."""
    company: str = ""
    """Kinds that are often seen with it."""
    place: Place = "ground"
    """Where it stands or hangs."""


KINDS: dict[str, Kind] = {
    "aeroplane": Kind(1.7, "white white silver silver yellow red", ("sky", "sky"), "helicopter bird", "air"),
    "bird": Kind(1.15, "red blue yellow black orange purple", ("forest", "sky"), "tree bird", "air"),
    "boat": Kind(0.95, "brown white red blue orange black", ("sky", "sea"), "duck fish person"),
    "bottle": Kind(0.42, "green green brown blue purple", ("wall", "floor"), "table cup"),
    "car": Kind(1.75, "red red blue yellow silver green black", ("forest", "road"), "truck bus house person"),
    "cat": Kind(0.85, "orange orange grey black brown", ("wall", "carpet"), "sofa chair plant"),
    "cow": Kind(1.4, "brown black brown white", ("forest", "grass"), "sheep horse house"),
    "person": Kind(0.5, "red blue green yellow purple pink white", ("sky", "sand"), "dog umbrella bicycle horse"),
    "plant": Kind(0.8, "green", ("wall", "floor"), "sofa lamp television"),
    "sheep": Kind(1.25, "white white beige grey", ("sky", "grass"), "sheep dog cow"),
    "train": Kind(2.1, "red green blue orange purple", ("sky", "railway"), "person clock"),
    "television": Kind(1.3, "black black grey silver", ("wall", "wall"), "sofa lamp plant", "wall"),
    "bicycle": Kind(1.6, "red blue green black yellow pink", ("forest", "road"), "person car tree"),
    "bus": Kind(2.1, "red yellow blue green orange white", ("sky", "road"), "car person bicycle"),
    "chair": Kind(0.6, "brown brown black white red blue", ("wall", "floor"), "table cat lamp"),
    "dog": Kind(1.2, "brown beige black white orange", ("sky", "field"), "person cat sheep"),
    "horse": Kind(1.2, "brown brown black white beige", ("forest", "field"), "person cow house"),
    "motorbike": Kind(1.5, "red black blue green orange", ("sky", "road"), "person car truck"),
    "sofa": Kind(1.9, "red blue green grey brown purple pink", ("wall", "carpet"), "cat television lamp cup"),
    "table": Kind(1.5, "brown brown beige white black", ("wall", "carpet"), "chair cup bottle lamp"),
    "truck": Kind(1.9, "red blue green yellow white orange", ("sky", "road"), "car motorbike house"),
    "helicopter": Kind(1.6, "red blue yellow green orange grey", ("sky", "sky"), "aeroplane bird", "air"),
    "duck": Kind(1.15, "white yellow brown beige", ("forest", "sea"), "duck fish boat"),
    "fish": Kind(1.5, "orange red blue yellow purple silver", ("sea", "sea"), "fish boat duck", "wall"),
    "elephant": Kind(1.3, "grey grey silver brown", ("forest", "sand"), "tree person bird"),
    "rabbit": Kind(0.72, "white grey brown beige", ("forest", "snow"), "tree rabbit"),
    "tree": Kind(0.75, "green green green orange yellow", ("sky", "grass"), "house bird horse"),
    "house": Kind(1.1, "white beige yellow pink red grey", ("sky", "snow"), "tree car person dog"),
    "umbrella": Kind(0.95, "red blue yellow green purple pink black", ("sky", "sand"), "person chair dog", "wall"),
    "cup": Kind(1.1, "white blue red yellow green pink", ("wall", "floor"), "table bottle"),
    "clock": Kind(1.0, "brown black red blue silver", ("wall", "wall"), "lamp sofa table", "wall"),
    "lamp": Kind(0.6, "yellow beige white orange red", ("wall", "carpet"), "table sofa clock"),
}
"""Every kind in label order."""

CLASSES: tuple[str, ...] = tuple(KINDS)
"""Class names in label order: class k has value k + 1 in a mask. prompts/scenes.yaml lists the same."""
