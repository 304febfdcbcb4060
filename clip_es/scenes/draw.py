"""The drawn world: pictures of twelve kinds of things on textured backgrounds, with their exact masks.

Everything follows from (seed, index, settings): the same numbers give the same bytes. Only numpy and Pillow are used.
A scene is a background (one or two textured areas, sometimes with clouds or mountains) and one to five objects pasted
from back to front. Objects are drawn larger than needed and reduced, so their edges are smooth in the picture; the
mask is cut where coverage passes one half, so it is crisp.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from clip_es.errors import ConfigError

CLASSES: tuple[str, ...] = (
    "aeroplane",
    "bird",
    "boat",
    "bottle",
    "car",
    "cat",
    "cow",
    "person",
    "plant",
    "sheep",
    "train",
    "television",
)
"""Class names in label order: class k has value k + 1 in a mask. prompts/scenes.yaml lists the same."""

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
)
"""Words for what lies behind the objects. prompts/scenes.yaml lists the same."""

_UPPER = ("sky", "forest", "wall")
_LOWER = ("sea", "grass", "road", "railway", "sand", "snow", "floor")

_HOME: dict[str, tuple[str, str]] = {
    "aeroplane": ("sky", "sky"),
    "bird": ("forest", "sky"),
    "boat": ("sky", "sea"),
    "bottle": ("wall", "floor"),
    "car": ("forest", "road"),
    "cat": ("wall", "floor"),
    "cow": ("forest", "grass"),
    "person": ("sky", "sand"),
    "plant": ("wall", "floor"),
    "sheep": ("sky", "grass"),
    "train": ("sky", "railway"),
    "television": ("wall", "wall"),
}
"""The (upper, lower) areas a class is at home in. A pair of equal words fills the whole frame."""

Rgb = tuple[int, int, int]

Number = int | float

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

_TYPICAL: dict[str, tuple[str, ...]] = {
    "aeroplane": ("white", "white", "silver", "silver", "yellow", "red"),
    "bird": ("red", "blue", "yellow", "black", "orange", "purple"),
    "boat": ("brown", "white", "red", "blue", "orange", "black"),
    "bottle": ("green", "green", "brown", "blue", "purple"),
    "car": ("red", "red", "blue", "yellow", "silver", "green", "black"),
    "cat": ("orange", "orange", "grey", "black", "brown"),
    "cow": ("brown", "black", "brown", "white"),
    "person": ("red", "blue", "green", "yellow", "purple", "pink", "white"),
    "plant": ("green",),
    "sheep": ("white", "white", "beige", "grey"),
    "train": ("red", "green", "blue", "orange", "purple"),
    "television": ("black", "black", "grey", "silver"),
}


@dataclass(frozen=True)
class SceneConfig:
    """What scenes are made of."""

    size_hw: tuple[int, int] = (128, 128)
    """Height and width in pixels."""
    objects: tuple[int, int] = (1, 5)
    """Fewest and most objects."""
    scale: tuple[float, float] = (0.1, 0.67)
    """Smallest and largest longer side of an object, as a share of the shorter side of the frame."""
    association: float = 0.4
    """Share of scenes whose background is that of their first object; the others draw it independently."""
    noise: float = 2.0
    """Standard deviation of the grain over the whole picture, in grey levels."""

    def __post_init__(self) -> None:
        if min(self.size_hw) < 16:
            raise ConfigError("scenes need at least 16 pixels a side", found=self.size_hw)
        if not 1 <= self.objects[0] <= self.objects[1]:
            raise ConfigError("objects must be (fewest, most), fewest at least 1", found=self.objects)
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ConfigError("scale must be (smallest, largest) within 0..1", found=self.scale)
        if not 0 <= self.association <= 1:
            raise ConfigError("association is a share, 0..1", found=self.association)


@dataclass(frozen=True)
class SceneObject:
    """One object of a scene."""

    class_id: int
    """0-based index into CLASSES."""
    box: tuple[int, int, int, int]
    """What is visible of it: x0 y0 x1 y1, end excluded."""
    colour: str
    """Its main colour, a key of COLOURS."""
    pixels: int
    """How many of its pixels are visible."""


@dataclass(frozen=True)
class Scene:
    """A picture with all that is known about it."""

    picture: np.ndarray
    """uint8 [h w 3], RGB."""
    mask: np.ndarray
    """uint8 [h w]: 0 background, k + 1 class k."""
    objects: tuple[SceneObject, ...]
    """From back to front; each shows at least half of itself."""
    backgrounds: tuple[str, ...]
    """The background words that can be seen."""

    @property
    def class_ids(self) -> tuple[int, ...]:
        """The classes in the picture, 0-based, each once, from back to front."""
        return tuple(dict.fromkeys(thing.class_id for thing in self.objects))


def draw_scene(seed: int, index: int, config: SceneConfig | None = None) -> Scene:
    """Draw scene `index` of the world `seed`.

    Returns a picture and a mask of `config.size_hw`; the same arguments always give the same bytes.
    Raises ConfigError (by the config): sizes or shares that cannot work.
    """
    config = config or SceneConfig()
    rng = np.random.default_rng((0x5CE7E5, seed, index))
    classes = _pick_classes(rng, config.objects)
    upper, lower = _pick_areas(rng, CLASSES[classes[0]], config.association)
    canvas, words, word_map = _background(rng, config.size_hw, upper, lower)
    owner = np.zeros(config.size_hw, np.uint8)
    placed: list[tuple[int, str, int]] = []
    for class_id in classes:
        _place(rng, class_id, config, len(classes), canvas, owner, placed)
    if config.noise:
        canvas += rng.standard_normal(canvas.shape, np.float32) * np.float32(config.noise)
    picture = np.clip(canvas + 0.5, 0, 255).astype(np.uint8)
    value = np.array([0, *(class_id + 1 for class_id, _, _ in placed)], np.uint8)
    things = []
    for number, (class_id, colour, _) in enumerate(placed, start=1):
        ys, xs = np.nonzero(owner == number)
        box = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
        things.append(SceneObject(class_id, box, colour, len(ys)))
    seen = np.bincount(word_map[owner == 0], minlength=len(words) + 1)[1:]
    visible = tuple(word for word, pixels in zip(words, seen, strict=True) if pixels > 0.03 * owner.size)
    return Scene(picture, value[owner], tuple(things), visible)


def _pick_classes(rng: np.random.Generator, objects: tuple[int, int]) -> list[int]:
    counts = np.arange(objects[0], objects[1] + 1)
    # Two and three are the usual numbers; one and five are the exceptions.
    weight = np.array([{1: 0.09, 2: 0.36, 3: 0.3, 4: 0.16, 5: 0.08}.get(int(c), 0.05) for c in counts])
    count = int(rng.choice(counts, p=weight / weight.sum()))
    chosen = [int(rng.integers(len(CLASSES)))]
    while len(chosen) < count:
        # One object in eight repeats a class of the picture, so most pictures mix classes.
        chosen.append(chosen[-1] if rng.random() < 0.125 else int(rng.integers(len(CLASSES))))
    return chosen


def _pick_areas(rng: np.random.Generator, first_class: str, association: Number) -> tuple[str, str]:
    at_home = rng.random() < association
    upper, lower = _UPPER[int(rng.integers(3))], _LOWER[int(rng.integers(7))]
    whole = rng.random()
    if at_home:
        return _HOME[first_class]
    if whole < 0.12:
        return upper, upper
    if whole < 0.24:
        return lower, lower
    return upper, lower


# ---------------------------------------------------------------------------------------------------------------------
# Backgrounds


def _smooth(rng: np.random.Generator, size_hw: tuple[int, int], cell_yx: tuple[Number, Number]) -> np.ndarray:
    """Noise of unit deviation, about `cell_yx` pixels between independent values. float32 [h w]."""
    h, w = size_hw
    small = (max(int(h / cell_yx[0]), 1) + 1, max(int(w / cell_yx[1]), 1) + 1)
    coarse = Image.fromarray(rng.standard_normal(small, np.float32))
    return np.asarray(coarse.resize((w, h), Image.Resampling.BICUBIC))


def _vary(rng: np.random.Generator, colour: Rgb, spread: Number) -> np.ndarray:
    """A colour near another: brightness and hue moved by about `spread` grey levels. float32 [3]."""
    moved = np.asarray(colour, np.float32) + rng.normal(0, spread) + rng.normal(0, spread * 0.6, 3)
    return np.clip(moved, 6, 249).astype(np.float32)


def _area(rng: np.random.Generator, word: str, size_hw: tuple[int, int]) -> np.ndarray:
    """A textured rectangle of a background word. float32 [h w 3]."""
    h, w = size_hw
    ramp = np.linspace(0, 1, h, dtype=np.float32)[:, None]
    unit = float(rng.uniform(0.8, 1.4))
    if word == "sky":
        top = _vary(rng, [(84, 140, 214), (128, 178, 228), (60, 104, 176), (226, 150, 110)][int(rng.integers(4))], 8)
        low = top + (np.array([214, 226, 238], np.float32) - top) * np.float32(rng.uniform(0.3, 0.8))
        return top + (low - top) * ramp[..., None] + 1.5 * _smooth(rng, size_hw, (20, 30))[..., None]
    if word == "sea":
        base = _vary(rng, [(30, 92, 140), (36, 120, 140), (52, 84, 116)][int(rng.integers(3))], 7)
        waves = _smooth(rng, size_hw, (2.6 * unit, 14 * unit))
        return base + 9 * waves[..., None] + (14 * (ramp - 0.5))[..., None]
    if word == "grass":
        base = _vary(rng, [(88, 142, 54), (116, 156, 64), (70, 116, 50)][int(rng.integers(3))], 7)
        blades = _smooth(rng, size_hw, (5 * unit, 1.5 * unit)) * 8 + _smooth(rng, size_hw, (24, 24)) * 5
        return base + blades[..., None] * np.array([1, 1, 0.6], np.float32)
    if word == "sand":
        base = _vary(rng, [(222, 198, 148), (206, 176, 124)][int(rng.integers(2))], 7)
        return base + (6 * _smooth(rng, size_hw, (1.5, 1.5)) + 5 * _smooth(rng, size_hw, (6 * unit, 26)))[..., None]
    if word == "snow":
        base = _vary(rng, (232, 238, 244), 4)
        drift = 5 * _smooth(rng, size_hw, (10 * unit, 28 * unit)) - 3
        return base + drift[..., None] * np.array([1.4, 1.1, 0.7], np.float32)
    if word == "road":
        return _road(rng, size_hw, unit)
    if word == "railway":
        return _railway(rng, size_hw, unit)
    if word == "floor":
        return _floor(rng, size_hw, unit)
    if word == "wall":
        return _wall(rng, size_hw, unit)
    base = _vary(rng, [(34, 66, 38), (48, 82, 44), (58, 70, 34)][int(rng.integers(3))], 6)  # forest
    crowns = _smooth(rng, size_hw, (7 * unit, 6 * unit))
    trunk = np.maximum(_smooth(rng, (1, w), (1, 3.5 * unit)) - 1.1, 0) * (0.4 + 0.6 * ramp)
    return base + 14 * crowns[..., None] - 22 * np.minimum(trunk, 1)[..., None]


def _road(rng: np.random.Generator, size_hw: tuple[int, int], unit: Number) -> np.ndarray:
    h, w = size_hw
    out = _vary(rng, [(92, 92, 96), (116, 114, 112), (74, 74, 80)][int(rng.integers(3))], 5)
    out = out + (5 * _smooth(rng, size_hw, (1.4, 1.4)) + 3 * _smooth(rng, size_hw, (20, 30)))[..., None]
    paint = _vary(rng, [(226, 224, 214), (220, 186, 80)][int(rng.integers(2))], 6)
    line, dash = max(int(3 * unit), 2), int(18 * unit)
    for share in (0.3, 0.85) if h > 70 else (0.5,):
        y = int(h * (share + rng.uniform(-0.1, 0.1)))
        start = int(rng.integers(dash))
        for x in range(-start, w, 2 * dash):
            out[y : y + line, max(x, 0) : max(x + dash, 0)] = paint
    return out


def _railway(rng: np.random.Generator, size_hw: tuple[int, int], unit: Number) -> np.ndarray:
    h, w = size_hw
    out = _vary(rng, [(126, 112, 98), (104, 98, 94), (140, 122, 100)][int(rng.integers(3))], 6)
    out = out + (11 * _smooth(rng, size_hw, (2.2 * unit, 2.2 * unit)))[..., None]
    sleeper, steel = _vary(rng, (70, 50, 38), 6), _vary(rng, (184, 186, 194), 8)
    gap, track = int(10 * unit) + 4, int(rng.uniform(20, 30) * unit)
    y = int(rng.integers(2, 12))
    while y < h:
        for x in range(int(rng.integers(gap)), w, gap):
            out[y : y + track, x : x + max(int(5 * unit), 3)] = sleeper
        for rail in (0.18, 0.74):
            top = y + int(rail * track)
            out[top : top + max(int(2.4 * unit), 2)] = steel
        y += int(track * rng.uniform(1.25, 1.7))
    return out


def _floor(rng: np.random.Generator, size_hw: tuple[int, int], unit: Number) -> np.ndarray:
    h, w = size_hw
    base = _vary(rng, [(166, 112, 64), (140, 90, 54), (190, 140, 90)][int(rng.integers(3))], 6)
    out = base + (4 * _smooth(rng, size_hw, (1.6, 22)))[..., None]
    board = max(int(11 * unit), 6)
    for y in range(0, h, board):
        out[y : y + board] += float(rng.normal(0, 7))
        out[y : y + 1] -= 34
        for x in rng.integers(0, w, max(w // 60, 1)):
            out[y : y + board, x : x + 1] -= 30
    return out


def _wall(rng: np.random.Generator, size_hw: tuple[int, int], unit: Number) -> np.ndarray:
    h, w = size_hw
    kind = int(rng.integers(3))
    if kind == 0:  # bricks
        out = _vary(rng, [(164, 92, 72), (178, 116, 90), (190, 176, 160)][int(rng.integers(3))], 6)
        out = out + 3 * _smooth(rng, size_hw, (3, 3))[..., None]
        row, brick = max(int(9 * unit), 6), max(int(20 * unit), 12)
        for number, y in enumerate(range(0, h, row)):
            out[y : y + 1] += 32
            for x in range((number % 2) * brick // 2, w, brick):
                out[y : y + row, x : x + brick] += float(rng.normal(0, 4))
                out[y : y + row, x : x + 1] += 28
        return out
    pale = [(222, 208, 182), (196, 208, 204), (214, 190, 186), (188, 196, 216), (206, 212, 178)]
    out = np.broadcast_to(_vary(rng, pale[int(rng.integers(5))], 7), (h, w, 3)).copy()
    out += (2.5 * _smooth(rng, size_hw, (22, 22)))[..., None]
    if kind == 1:  # striped paper
        stripe = max(int(7 * unit), 4)
        out[:, (np.arange(w) // stripe) % 2 == 0] -= np.float32(rng.uniform(9, 20))
    return out


def _background(
    rng: np.random.Generator, size_hw: tuple[int, int], upper: str, lower: str
) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Canvas float32 [h w 3], its words, and which word stands where: uint8 [h w], 1-based into the words."""
    h, w = size_hw
    words = [upper]
    where = np.ones(size_hw, np.uint8)
    if upper == lower:
        canvas = _area(rng, upper, size_hw)
        horizon = h
    else:
        horizon = int(h * rng.uniform(0.25, 0.65))
        canvas = np.concatenate([_area(rng, upper, (horizon, w)), _area(rng, lower, (h - horizon, w))])
        words.append(lower)
        where[horizon:] = 2
    if upper == "sky":
        if rng.random() < 0.45:
            veil = _smooth(rng, size_hw, (18 * rng.uniform(0.7, 1.5), 34 * rng.uniform(0.7, 1.5)))
            cloud = np.clip((veil - 0.45) * 2.2, 0, 0.92)
            cloud[horizon:] = 0
            canvas += (_vary(rng, (240, 242, 246), 4) - canvas) * cloud[..., None]
            words.append("cloud")
            where[cloud > 0.4] = len(words)
        if upper != lower and rng.random() < 0.4:
            rise = np.abs(_smooth(rng, (1, w), (1, 30))[0]) * 0.35 * horizon + 0.12 * horizon
            jag = _smooth(rng, (1, w), (1, 4))[0] * 1.5
            hill = np.arange(h)[:, None] > (horizon - rise - jag)[None]
            hill[horizon:] = False
            rock = _vary(rng, [(118, 112, 126), (96, 104, 118), (136, 116, 104)][int(rng.integers(3))], 7)
            face = rock + 9 * _smooth(rng, size_hw, (9, 5))[..., None]
            canvas = np.where(hill[..., None], face, canvas)
            words.append("mountain")
            where[hill] = len(words)
    return canvas.astype(np.float32), words, where


# ---------------------------------------------------------------------------------------------------------------------
# Objects


class _Pen:
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


def _dark(colour: np.ndarray, by: Number = 0.7) -> np.ndarray:
    return colour * np.float32(by)


def _light(colour: np.ndarray, by: Number = 0.4) -> np.ndarray:
    return colour + (250 - colour) * np.float32(by)


_GLASS = np.array([150, 190, 214], np.float32)
_TYRE = np.array([34, 32, 36], np.float32)
_SKIN = tuple(np.array(c, np.float32) for c in ((236, 192, 160), (204, 150, 112), (150, 100, 70), (98, 66, 48)))


def _aeroplane(pen: _Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    trim = _vary(rng, COLOURS[["blue", "red", "orange"][int(rng.integers(3))]], 10)
    wing = _dark(c, 0.82)
    pen.shape(_dark(c, 0.7), 0.40, 0.48, 0.58, 0.48, 0.40, 0.06, 0.30, 0.06)  # far wing
    pen.shape(trim, 0.02, 0.10, 0.13, 0.10, 0.25, 0.48, 0.08, 0.50)  # fin
    pen.oval(c, 0.02, 0.36, 0.99, 0.66)
    pen.shape(c, 0.02, 0.42, 0.3, 0.36, 0.3, 0.66, 0.1, 0.58)
    pen.shape(trim, 0.06, 0.52, 0.97, 0.53, 0.92, 0.58, 0.12, 0.58)
    for x in np.linspace(0.25, 0.8, 8):
        pen.oval(_dark(_GLASS, 0.5), x, 0.43, x + 0.035, 0.49)
    pen.shape(_dark(_GLASS, 0.6), 0.88, 0.43, 0.96, 0.47, 0.88, 0.49)
    pen.shape(wing, 0.36, 0.56, 0.60, 0.56, 0.36, 0.97, 0.24, 0.97)  # near wing
    pen.oval(_dark(trim, 0.8), 0.40, 0.66, 0.56, 0.80)  # engine
    pen.shape(wing, 0.03, 0.50, 0.16, 0.50, 0.08, 0.66, 0.0, 0.66)


def _bird(pen: _Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    belly = _light(c, 0.45)
    pen.shape(_dark(c, 0.75), 0.30, 0.55, 0.0, 0.66, 0.02, 0.80, 0.34, 0.74)  # tail
    if rng.random() < 0.5:  # flying
        pen.shape(_dark(c, 0.62), 0.34, 0.55, 0.62, 0.55, 0.38, 0.02, 0.12, 0.10, 0.2, 0.3)
    else:
        leg = _vary(rng, (210, 140, 40), 8)
        pen.line(leg, 0.05, 0.48, 0.80, 0.48, 0.99, 0.56, 0.99)
        pen.line(leg, 0.05, 0.60, 0.80, 0.60, 0.99, 0.68, 0.99)
    pen.oval(c, 0.22, 0.44, 0.80, 0.86)
    pen.oval(belly, 0.36, 0.62, 0.76, 0.86)
    pen.oval(c, 0.60, 0.26, 0.90, 0.62)  # head
    pen.shape(_vary(rng, (236, 160, 30), 8), 0.88, 0.38, 1.0, 0.46, 0.87, 0.52)
    pen.oval(_light(c, 0.95), 0.74, 0.34, 0.84, 0.46)
    pen.oval(_TYRE, 0.77, 0.37, 0.82, 0.43)
    pen.shape(_dark(c, 0.66), 0.24, 0.50, 0.60, 0.52, 0.56, 0.68, 0.36, 0.76, 0.12, 0.72)  # folded wing
    for x in (0.26, 0.36, 0.46):
        pen.line(_dark(c, 0.45), 0.02, x, 0.56, x - 0.08, 0.70)


def _boat(pen: _Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    sail = _vary(rng, [(240, 236, 224), (240, 236, 224), (226, 120, 90), (240, 214, 120)][int(rng.integers(4))], 6)
    pen.line(_vary(rng, (96, 66, 40), 8), 0.03, 0.46, 0.02, 0.46, 0.74)
    pen.shape(sail, 0.49, 0.03, 0.50, 0.66, 0.90, 0.66)
    pen.shape(_dark(sail, 0.88), 0.43, 0.10, 0.43, 0.66, 0.10, 0.66)
    for y in (0.25, 0.45):
        pen.line(_dark(sail, 0.72), 0.012, 0.5, y, 0.49 + 0.4 * (y - 0.03) / 0.63, y)
    pen.shape(c, 0.0, 0.70, 1.0, 0.70, 0.84, 0.99, 0.14, 0.99)
    pen.shape(_light(c, 0.7), 0.0, 0.70, 1.0, 0.70, 0.975, 0.75, 0.025, 0.75)
    pen.shape(_dark(c, 0.6), 0.09, 0.89, 0.90, 0.89, 0.84, 0.99, 0.14, 0.99)
    for x in (0.28, 0.45, 0.62):
        pen.oval(_dark(_GLASS, 0.7), x, 0.78, x + 0.07, 0.86)


def _bottle(pen: _Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    cap = _vary(rng, [(190, 40, 40), (220, 190, 90), (60, 60, 66)][int(rng.integers(3))], 8)
    label = _vary(rng, [(240, 232, 210), (240, 232, 210), (230, 200, 110)][int(rng.integers(3))], 6)
    pen.box(c, 0.04, 0.42, 0.96, 0.995, 0.2)
    pen.shape(c, 0.34, 0.16, 0.66, 0.16, 0.70, 0.30, 0.95, 0.48, 0.05, 0.48, 0.30, 0.30)
    pen.box(c, 0.34, 0.06, 0.66, 0.3)
    pen.box(cap, 0.29, 0.0, 0.71, 0.11, 0.05)
    pen.box(_light(c, 0.5), 0.14, 0.48, 0.24, 0.94, 0.05)
    pen.box(label, 0.04, 0.56, 0.96, 0.82)
    pen.box(cap, 0.04, 0.60, 0.96, 0.635)
    pen.oval(_dark(c, 0.8), 0.32, 0.65, 0.68, 0.79)


def _car(pen: _Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    top = _dark(c, 0.86)
    roof = float(rng.uniform(0.02, 0.12))
    pen.shape(top, 0.14, 0.48, 0.30, roof, 0.68, roof, 0.84, 0.48)
    pen.shape(_GLASS, 0.21, 0.46, 0.32, roof + 0.08, 0.47, roof + 0.08, 0.47, 0.46)
    pen.shape(_dark(_GLASS, 0.85), 0.51, 0.46, 0.51, roof + 0.08, 0.66, roof + 0.08, 0.77, 0.46)
    pen.box(c, 0.01, 0.43, 0.99, 0.82, 0.18)
    pen.shape(_dark(c, 0.62), 0.02, 0.70, 0.98, 0.70, 0.96, 0.82, 0.04, 0.82)
    pen.line(_dark(c, 0.55), 0.02, 0.49, 0.46, 0.49, 0.78)
    pen.box(_vary(rng, (250, 226, 140), 4), 0.93, 0.50, 0.99, 0.60, 0.03)
    pen.box(_vary(rng, (180, 30, 30), 4), 0.01, 0.50, 0.05, 0.60, 0.03)
    for x in (0.13, 0.66):
        pen.oval(_TYRE, x, 0.62, x + 0.21, 0.995)
        pen.oval(np.array([176, 178, 184], np.float32), x + 0.055, 0.72, x + 0.155, 0.90)


def _cat(pen: _Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    chest, stripe = _light(c, 0.6), _dark(c, 0.6)
    pen.line(c, 0.13, 0.75, 0.92, 0.94, 0.86, 0.93, 0.60, 0.86, 0.50)  # tail
    pen.oval(c, 0.16, 0.38, 0.86, 0.995)
    pen.oval(chest, 0.26, 0.56, 0.56, 0.97)
    pen.shape(c, 0.06, 0.0, 0.06, 0.26, 0.32, 0.14)
    pen.shape(c, 0.72, 0.0, 0.72, 0.26, 0.46, 0.14)
    pink = np.array([226, 150, 150], np.float32)
    pen.shape(pink, 0.11, 0.07, 0.11, 0.2, 0.22, 0.14)
    pen.shape(pink, 0.67, 0.07, 0.67, 0.2, 0.56, 0.14)
    pen.oval(c, 0.02, 0.10, 0.76, 0.54)
    for x in (0.32, 0.39, 0.46):
        pen.line(stripe, 0.03, x, 0.11, x, 0.22)
    for y in (0.58, 0.70, 0.82):
        pen.line(stripe, 0.04, 0.66, y, 0.85, y - 0.03)
    eye = _vary(rng, [(120, 190, 60), (230, 190, 40)][int(rng.integers(2))], 8)
    for x in (0.16, 0.48):
        pen.oval(eye, x, 0.24, x + 0.15, 0.38)
        pen.oval(_TYRE, x + 0.05, 0.25, x + 0.1, 0.37)
    pen.oval(chest, 0.26, 0.36, 0.52, 0.51)
    pen.shape(pink, 0.34, 0.37, 0.44, 0.37, 0.39, 0.43)
    for y in (0.42, 0.46):
        pen.line(_light(c, 0.9), 0.014, 0.28, y, 0.04, y - 0.02)
        pen.line(_light(c, 0.9), 0.014, 0.5, y, 0.74, y - 0.02)
    pen.oval(chest, 0.24, 0.90, 0.42, 0.995)
    pen.oval(chest, 0.46, 0.90, 0.64, 0.995)


def _cow(pen: _Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    spot = _dark(c, 0.28) if c.mean() > 170 else np.array([238, 234, 226], np.float32)
    for x, shade in ((0.20, 0.8), (0.30, 1.0), (0.58, 0.8), (0.68, 1.0)):
        pen.box(_dark(c, shade), x, 0.60, x + 0.09, 0.96)
        pen.box(_TYRE, x, 0.93, x + 0.09, 0.995)
    pen.line(_dark(c, 0.8), 0.04, 0.14, 0.30, 0.04, 0.42, 0.05, 0.70)
    pen.oval(_TYRE, 0.02, 0.64, 0.09, 0.78)
    pen.box(c, 0.11, 0.20, 0.80, 0.72, 0.22)
    pen.oval(np.array([232, 168, 160], np.float32), 0.34, 0.66, 0.50, 0.80)
    for _ in range(4):
        x, y = rng.uniform(0.16, 0.62), rng.uniform(0.22, 0.5)
        pen.oval(spot, x, y, x + rng.uniform(0.1, 0.2), y + rng.uniform(0.12, 0.24))
    horn = np.array([226, 214, 178], np.float32)
    pen.shape(horn, 0.78, 0.12, 0.74, 0.0, 0.84, 0.12)
    pen.shape(horn, 0.90, 0.12, 0.96, 0.0, 0.95, 0.12)
    pen.oval(_dark(c, 0.8), 0.66, 0.14, 0.80, 0.26)
    pen.shape(c, 0.74, 0.10, 0.96, 0.10, 0.99, 0.40, 0.94, 0.56, 0.80, 0.56, 0.74, 0.40)
    pen.shape(spot, 0.83, 0.10, 0.91, 0.10, 0.89, 0.38, 0.85, 0.38)
    pen.oval(np.array([226, 164, 156], np.float32), 0.78, 0.42, 0.99, 0.60)
    for x in (0.83, 0.91):
        pen.oval(_TYRE, x, 0.48, x + 0.03, 0.54)
    pen.oval(_TYRE, 0.79, 0.22, 0.83, 0.29)
    pen.oval(_TYRE, 0.92, 0.22, 0.96, 0.29)


def _person(pen: _Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    skin = _SKIN[int(rng.integers(4))] + rng.normal(0, 6)
    hair = _vary(rng, [(50, 34, 26), (110, 70, 36), (216, 176, 92)][int(rng.integers(3))], 8)
    legs = _vary(rng, [(52, 70, 118), (52, 70, 118), (70, 66, 66), (150, 126, 92)][int(rng.integers(4))], 8)
    spread = float(rng.uniform(0.0, 0.14))
    pen.shape(legs, 0.26, 0.58, 0.52, 0.58, 0.46, 0.95, 0.22 - spread, 0.95)
    pen.shape(_dark(legs, 0.85), 0.48, 0.58, 0.74, 0.58, 0.78 + spread, 0.95, 0.54, 0.95)
    pen.oval(_TYRE, 0.14 - spread, 0.93, 0.48, 0.995)
    pen.oval(_TYRE, 0.52, 0.93, 0.86 + spread, 0.995)
    raised = rng.random() < 0.3
    hand = 0.10 if raised else 0.60
    for side, near in ((0.28, 0.08), (0.72, 0.92)):
        pen.line(_dark(c, 0.85), 0.15, side, 0.29, near, 0.34 if raised else 0.45, near, hand)
        pen.oval(skin, near - 0.08, hand - 0.035, near + 0.08, hand + 0.035)
    pen.box(c, 0.22, 0.24, 0.78, 0.61, 0.1)
    if rng.random() < 0.4:
        for y in (0.32, 0.40, 0.48):
            pen.box(_light(c, 0.55), 0.22, y, 0.78, y + 0.035)
    pen.box(skin, 0.42, 0.18, 0.58, 0.27)
    pen.oval(hair, 0.27, 0.0, 0.73, 0.19)
    pen.oval(skin, 0.31, 0.035, 0.69, 0.22)
    pen.shape(hair, 0.30, 0.075, 0.36, 0.025, 0.64, 0.025, 0.70, 0.075)
    for x in (0.40, 0.54):
        pen.oval(_TYRE, x, 0.105, x + 0.06, 0.13)
    pen.line(np.array([170, 60, 60], np.float32), 0.03, 0.44, 0.175, 0.56, 0.175)


def _plant(pen: _Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    pot = _vary(rng, [(186, 92, 54), (186, 92, 54), (70, 100, 150), (220, 214, 200)][int(rng.integers(4))], 8)
    for angle in np.linspace(-1.25, 1.25, 7) + rng.normal(0, 0.08, 7):
        length = rng.uniform(0.42, 0.58)
        tip = np.array([0.5 + 0.85 * length * np.sin(angle), 0.62 - 1.05 * length * np.cos(angle)])
        across = np.array([np.cos(angle), np.sin(angle)]) * 0.085
        half = (np.array([0.5, 0.62]) + tip) / 2
        leaf = c * np.float32(rng.uniform(0.8, 1.25))
        pen.shape(leaf, 0.5, 0.64, *(half - across), *tip, *(half + across))
        pen.line(_dark(leaf, 0.72), 0.012, 0.5, 0.62, *tip)
    if rng.random() < 0.45:
        petal = _vary(rng, COLOURS[["red", "pink", "yellow", "purple"][int(rng.integers(4))]], 8)
        for _ in range(4):
            x, y = rng.uniform(0.2, 0.74), rng.uniform(0.08, 0.42)
            pen.oval(petal, x, y, x + 0.13, y + 0.10)
            pen.oval(_light(petal, 0.7), x + 0.045, y + 0.035, x + 0.085, y + 0.065)
    pen.shape(pot, 0.22, 0.66, 0.78, 0.66, 0.70, 0.995, 0.30, 0.995)
    pen.box(_light(pot, 0.2), 0.17, 0.61, 0.83, 0.71)
    pen.shape(_dark(pot, 0.8), 0.60, 0.71, 0.77, 0.71, 0.70, 0.995, 0.56, 0.995)


def _sheep(pen: _Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    face = _vary(rng, [(54, 46, 44), (54, 46, 44), (150, 120, 96)][int(rng.integers(3))], 6)
    for x in (0.22, 0.34, 0.56, 0.68):
        pen.box(face, x, 0.70, x + 0.065, 0.995)
    pen.oval(c, 0.08, 0.18, 0.82, 0.84)
    for angle in np.linspace(0, 2 * np.pi, 14)[:-1]:
        x, y = 0.45 + 0.35 * np.cos(angle), 0.50 + 0.29 * np.sin(angle)
        pen.oval(c, x - 0.10, y - 0.13, x + 0.10, y + 0.13)
    for x, y in rng.uniform((0.14, 0.26), (0.70, 0.70), (16, 2)):
        pen.oval(_dark(c, 0.86), x, y, x + 0.09, y + 0.11)
        pen.oval(c, x + 0.01, y - 0.015, x + 0.09, y + 0.085)
    pen.oval(face, 0.68, 0.22, 0.82, 0.36)
    pen.oval(face, 0.74, 0.20, 0.99, 0.62)
    pen.oval(c, 0.72, 0.12, 0.92, 0.32)
    pen.oval(_light(face, 0.95), 0.84, 0.32, 0.91, 0.40)
    pen.oval(_TYRE, 0.865, 0.34, 0.90, 0.385)


def _train(pen: _Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    band = _vary(rng, [(240, 220, 120), (236, 232, 220)][int(rng.integers(2))], 6)
    pen.box(_dark(c, 0.6), 0.0, 0.72, 1.0, 0.86)
    if rng.random() < 0.5:  # steam
        pen.box(_TYRE, 0.80, 0.0, 0.88, 0.3)
        pen.box(_TYRE, 0.77, 0.0, 0.91, 0.08)
        pen.box(c, 0.50, 0.28, 0.98, 0.76, 0.12)
        pen.box(band, 0.60, 0.28, 0.63, 0.76)
        pen.box(band, 0.72, 0.28, 0.75, 0.76)
        pen.box(_TYRE, 0.93, 0.32, 1.0, 0.72, 0.05)
        pen.box(_dark(c, 0.8), 0.36, 0.06, 0.58, 0.78)
        pen.box(_GLASS, 0.40, 0.16, 0.54, 0.40)
        pen.box(_dark(c, 0.5), 0.34, 0.04, 0.60, 0.12)
        end = 0.33
    else:  # electric
        pen.box(c, 0.0, 0.14, 0.99, 0.78, 0.16)
        pen.shape(_dark(_GLASS, 0.8), 0.86, 0.24, 0.93, 0.24, 0.98, 0.46, 0.86, 0.46)
        pen.line(_TYRE, 0.03, 0.3, 0.14, 0.4, 0.02, 0.5, 0.14)
        pen.box(band, 0.0, 0.56, 0.99, 0.64)
        end = 0.83
    pen.box(c, 0.0, 0.14, end, 0.78, 0.05)
    pen.box(_dark(c, 0.5), 0.0, 0.12, end, 0.19)
    pen.box(band, 0.0, 0.56, end, 0.63)
    for x in np.arange(0.03, end - 0.07, 0.115):
        pen.box(_GLASS, x, 0.26, x + 0.08, 0.48)
    for x in np.arange(0.02, 0.92, 0.155):
        pen.oval(_TYRE, x, 0.74, x + 0.12, 0.995)
        pen.oval(np.array([140, 142, 148], np.float32), x + 0.035, 0.81, x + 0.085, 0.925)


def _television(pen: _Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    screen = _vary(rng, [(64, 132, 196), (90, 178, 196), (70, 100, 170), (150, 110, 190)][int(rng.integers(4))], 10)
    pen.box(_dark(c, 0.8), 0.43, 0.80, 0.57, 0.94)
    pen.box(_dark(c, 0.7), 0.24, 0.92, 0.76, 0.995, 0.04)
    pen.box(c, 0.0, 0.0, 1.0, 0.84, 0.06)
    pen.box(screen, 0.06, 0.07, 0.94, 0.75)
    pen.shape(_light(screen, 0.28), 0.06, 0.07, 0.42, 0.07, 0.22, 0.75, 0.06, 0.75)
    pen.shape(_dark(screen, 0.75), 0.46, 0.75, 0.70, 0.40, 0.94, 0.75)
    pen.oval(_vary(rng, (246, 226, 130), 6), 0.62, 0.14, 0.76, 0.32)
    pen.oval(np.array([220, 60, 50], np.float32), 0.88, 0.77, 0.92, 0.82)


_ARTISTS: tuple[tuple[Callable[[_Pen, np.random.Generator, np.ndarray], None], float], ...] = (
    (_aeroplane, 1.7),
    (_bird, 1.15),
    (_boat, 0.95),
    (_bottle, 0.42),
    (_car, 1.75),
    (_cat, 0.85),
    (_cow, 1.4),
    (_person, 0.5),
    (_plant, 0.8),
    (_sheep, 1.25),
    (_train, 2.1),
    (_television, 1.3),
)
"""How each class is drawn, and its width over its height."""

_FINER = 3
"""Objects are drawn this many times larger than they end up."""


def _sprite(rng: np.random.Generator, class_id: int, side: Number) -> tuple[np.ndarray, np.ndarray, str]:
    """An object about `side` pixels long: colours float32 [h w 3], coverage float32 [h w] in 0..1, colour word."""
    artist, aspect = _ARTISTS[class_id]
    names = _TYPICAL[CLASSES[class_id]]
    # One object in ten has a colour its class rarely has, so colour alone never decides.
    unusual = rng.random() < 0.1
    name = list(COLOURS)[int(rng.integers(len(COLOURS)))] if unusual else names[int(rng.integers(len(names)))]
    colour = _vary(rng, COLOURS[name], 10)
    finer = _FINER if side < 90 else 2
    pen = _Pen(max(int(side * finer), 8), aspect * float(rng.uniform(0.88, 1.14)), colour)
    artist(pen, rng, colour)
    image = pen.image
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    tilt = float(rng.normal(0, 7))
    if abs(tilt) > 2:
        ground = (*(int(v) for v in colour), 0)
        image = image.rotate(tilt, Image.Resampling.BILINEAR, expand=True, fillcolor=ground)
    image = image.reduce(finer)
    rgba = np.asarray(image, np.float32)
    paint, cover = rgba[..., :3], rgba[..., 3] / 255
    h, w = cover.shape
    lit = np.linspace(-1, 1, w, dtype=np.float32)[None] * np.float32(rng.normal(0, 0.07))
    lit = lit + np.linspace(1, -1, h, dtype=np.float32)[:, None] * np.float32(abs(rng.normal(0.06, 0.05)))
    lit = 1 + lit + 0.025 * _smooth(rng, (h, w), (max(h / 5, 2), max(w / 5, 2)))
    grain = rng.standard_normal((h, w), np.float32) * np.float32(rng.uniform(0.5, 3))
    return paint * lit[..., None] + grain[..., None], cover, name


def _place(
    rng: np.random.Generator,
    class_id: int,
    config: SceneConfig,
    crowd: int,
    canvas: np.ndarray,
    owner: np.ndarray,
    placed: list[tuple[int, str, int]],
) -> None:
    """Paste one object in front of the others, where it leaves at least half of each of them to be seen.

    Writes the picture into `canvas`, the number of the object (1-based) into `owner`, and appends to `placed`.
    Where no spot is found in ten tries at shrinking sizes, the object is left out; the first one always fits.
    """
    h, w = owner.shape
    low, high = config.scale
    # Many objects are smaller than few; beta(2, 1.3) keeps both ends of the range in use.
    top = low + (high - low) * (1.0 if crowd < 3 else 0.85 if crowd == 3 else 0.7)
    share = low + (top - low) * float(rng.beta(2.0, 1.3))
    for attempt in range(10):
        side = max(share * min(h, w) * 0.92**attempt, 9.0)
        paint, cover, name = _sprite(rng, class_id, side)
        sh, sw = cover.shape
        # An object may stick out of the frame by up to a tenth of itself.
        y = int(rng.integers(-(sh // 10), max(h - sh + sh // 10, 1 - sh // 10)))
        x = int(rng.integers(-(sw // 10), max(w - sw + sw // 10, 1 - sw // 10)))
        ys, xs = slice(max(y, 0), min(y + sh, h)), slice(max(x, 0), min(x + sw, w))
        inner = (slice(ys.start - y, ys.stop - y), slice(xs.start - x, xs.stop - x))
        alpha = cover[inner]
        solid = alpha > 0.5
        if solid.sum() < 12:
            continue
        lost = np.bincount(owner[ys, xs][solid], minlength=len(placed) + 1)[1:]
        left = np.bincount(owner.ravel(), minlength=len(placed) + 1)[1:]
        if all(had - gone >= 0.5 * full for had, gone, (_, _, full) in zip(left, lost, placed, strict=True)):
            view = canvas[ys, xs]
            view += (paint[inner] - view) * alpha[..., None]
            owner[ys, xs][solid] = len(placed) + 1
            placed.append((class_id, name, int(solid.sum())))
            return
