"""The drawn world: pictures of the things of `world.py` on textured backgrounds, with their exact masks.

Everything follows from (seed, index, settings): the same numbers give the same bytes. Only numpy and Pillow are used.
A scene is a background (one or two textured areas, sometimes with clouds or mountains) and one to five objects pasted
from back to front, each with a shadow where it stands, in one light. Objects are drawn larger than needed and reduced,
so their edges are smooth in the picture; the mask is cut where coverage passes one half, so it is crisp.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageFilter

from clip_es.errors import ConfigError
from clip_es.scenes.backgrounds import background
from clip_es.scenes.kinds import ARTISTS
from clip_es.scenes.kinds.pen import Number, Pen, smooth, vary
from clip_es.scenes.world import BACKGROUNDS, CLASSES, COLOURS, CONDITIONS, KINDS, LOWER, UPPER

__all__ = ["BACKGROUNDS", "CLASSES", "COLOURS", "CONDITIONS", "Scene", "SceneConfig", "SceneObject", "draw_scene"]


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
    """Share of scenes whose background is that of their first object; the others draw it independently. The same share
    of further objects is taken from the usual company of the first."""
    extremes: float = 1.0
    """How often things are seen from very near or very far, times the usual: at 1, three in ten single objects fill the
    frame or more, and one object in sixteen is tiny, 0.035 to 0.1 of the frame."""
    conditions: float = 0.3
    """Share of the pictures that are dark, bright, blurry, grainy, or black and white."""
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
        if not 0 <= self.conditions <= 1:
            raise ConfigError("conditions is a share, 0..1", found=self.conditions)
        if not 0 <= self.extremes <= 3:
            raise ConfigError("extremes must be within 0..3", found=self.extremes)


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
    """From back to front; each shows at least two fifths of itself."""
    backgrounds: tuple[str, ...]
    """The background words that can be seen."""
    condition: str = ""
    """One of CONDITIONS, or nothing special."""

    @property
    def class_ids(self) -> tuple[int, ...]:
        """The classes in the picture, 0-based, each once, from back to front."""
        return tuple(dict.fromkeys(thing.class_id for thing in self.objects))


@dataclass
class _Stage:
    """A scene while it is drawn."""

    canvas: np.ndarray
    """float32 [h w 3]."""
    owner: np.ndarray
    """uint8 [h w]: number of the object that is seen, from 1; 0 background."""
    horizon: int
    """Row at which the ground begins."""
    sun: tuple[float, float]
    """How much brighter things get to the right and to the top."""
    placed: list[tuple[int, str, int]] = field(default_factory=list)
    """Class, colour and full pixel count of each object."""


def draw_scene(seed: int, index: int, config: SceneConfig | None = None) -> Scene:
    """Draw scene `index` of the world `seed`.

    Returns a picture and a mask of `config.size_hw`; the same arguments always give the same bytes.
    Raises ConfigError (by the config): sizes or shares that cannot work.
    """
    config = config or SceneConfig()
    rng = np.random.default_rng((0x5CE7E5, seed, index))
    classes = _pick_classes(rng, config)
    upper, lower = _pick_areas(rng, CLASSES[classes[0]], config.association)
    canvas, words, word_map, horizon = background(rng, config.size_hw, upper, lower)
    if rng.random() < 0.3:  # the background is out of focus
        canvas = _blurred(canvas, float(rng.uniform(0.6, 2.2)) * min(config.size_hw) / 128)
    sun = (float(rng.normal(0, 0.09)), float(abs(rng.normal(0.07, 0.05))))
    stage = _Stage(canvas, np.zeros(config.size_hw, np.uint8), horizon, sun)
    for class_id in classes:
        _place(rng, class_id, config, len(classes), stage)
    condition = CONDITIONS[int(rng.integers(len(CONDITIONS)))] if rng.random() < config.conditions else ""
    canvas, owner = _developed(rng, stage.canvas, condition), stage.owner
    if config.noise:
        grain = config.noise * (7.0 if condition == "grainy" else 1.0)
        canvas += rng.standard_normal(canvas.shape, np.float32) * np.float32(grain)
    picture = np.clip(canvas + 0.5, 0, 255).astype(np.uint8)
    value = np.array([0, *(class_id + 1 for class_id, _, _ in stage.placed)], np.uint8)
    things = []
    for number, (class_id, colour, _) in enumerate(stage.placed, start=1):
        ys, xs = np.nonzero(owner == number)
        box = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
        things.append(SceneObject(class_id, box, colour, len(ys)))
    seen = np.bincount(word_map[owner == 0], minlength=len(words) + 1)[1:]
    visible = tuple(word for word, pixels in zip(words, seen, strict=True) if pixels > 0.03 * owner.size)
    return Scene(picture, value[owner], tuple(things), visible, condition)


def _pick_classes(rng: np.random.Generator, config: SceneConfig) -> list[int]:
    counts = np.arange(config.objects[0], config.objects[1] + 1)
    # Two and three are the usual numbers; five is the exception.
    weight = np.array([{1: 0.14, 2: 0.34, 3: 0.29, 4: 0.15, 5: 0.08}.get(int(c), 0.05) for c in counts])
    count = int(rng.choice(counts, p=weight / weight.sum()))
    chosen = [int(rng.integers(len(CLASSES)))]
    company = [CLASSES.index(name) for name in KINDS[CLASSES[chosen[0]]].company.split()]
    while len(chosen) < count:
        # One object in eight repeats a class of the picture, so most pictures mix classes.
        if rng.random() < 0.125:
            chosen.append(chosen[-1])
        elif rng.random() < config.association:
            chosen.append(company[int(rng.integers(len(company)))])
        else:
            chosen.append(int(rng.integers(len(CLASSES))))
    return chosen


def _pick_areas(rng: np.random.Generator, first_class: str, association: Number) -> tuple[str, str]:
    at_home = rng.random() < association
    upper, lower = UPPER[int(rng.integers(len(UPPER)))], LOWER[int(rng.integers(len(LOWER)))]
    whole = rng.random()
    if at_home:
        return KINDS[first_class].home
    if whole < 0.12:
        return upper, upper
    if whole < 0.24:
        return lower, lower
    return upper, lower


def _blurred(canvas: np.ndarray, radius: float) -> np.ndarray:
    image = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8)).filter(ImageFilter.BoxBlur(radius))
    return np.asarray(image, np.float32).copy()


def _developed(rng: np.random.Generator, canvas: np.ndarray, condition: str) -> np.ndarray:
    """The picture [h w 3] under a condition, or with a slight cast of its own where there is none."""
    strength = float(rng.uniform(0, 1))
    if condition == "dark":
        return canvas * np.array([0.42, 0.46, 0.62], np.float32) * np.float32(1.0 - 0.35 * strength)
    if condition == "bright":
        return 255 - (255 - canvas) * np.float32(0.62 - 0.2 * strength)
    if condition == "black and white":
        grey = canvas @ np.array([0.299, 0.587, 0.114], np.float32)
        return np.repeat(grey[..., None], 3, axis=2)
    if condition == "blurry":
        return _blurred(canvas, (1.0 + 1.0 * strength) * min(canvas.shape[:2]) / 128)
    # Morning is bluish, evening warm.
    return canvas * (1 + np.float32(0.12 * (strength - 0.5)) * np.array([1, 0.2, -1], np.float32))


_FINER = 3
"""Objects are drawn this many times larger than they end up."""


def _sprite(
    rng: np.random.Generator, class_id: int, side: Number, sun: tuple[float, float] = (0.0, 0.06)
) -> tuple[np.ndarray, np.ndarray, str]:
    """An object about `side` pixels long: colours float32 [h w 3], coverage float32 [h w] in 0..1, colour word."""
    kind = KINDS[CLASSES[class_id]]
    names = kind.colours.split()
    # One object in ten has a colour its class rarely has, so colour alone never decides.
    unusual = rng.random() < 0.1
    name = list(COLOURS)[int(rng.integers(len(COLOURS)))] if unusual else names[int(rng.integers(len(names)))]
    colour = vary(rng, COLOURS[name], 10)
    finer = _FINER if side < 90 else 2
    pen = Pen(max(int(side * finer), 8), kind.aspect * float(rng.uniform(0.88, 1.14)), colour)
    ARTISTS[class_id](pen, rng, colour)
    image = pen.image
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    tilt = float(rng.normal(0, 6))
    if abs(tilt) > 2:
        ground = (*(int(v) for v in colour), 0)
        image = image.rotate(tilt, Image.Resampling.BILINEAR, expand=True, fillcolor=ground)
    image = image.reduce(finer)
    rgba = np.asarray(image, np.float32)
    paint, cover = rgba[..., :3], rgba[..., 3] / 255
    h, w = cover.shape
    lit = np.linspace(-1, 1, w, dtype=np.float32)[None] * np.float32(sun[0])
    lit = lit + np.linspace(1, -1, h, dtype=np.float32)[:, None] * np.float32(sun[1])
    lit = 1 + lit + 0.025 * smooth(rng, (h, w), (max(h / 5, 2), max(w / 5, 2)))
    if rng.random() < 0.15:  # a woven, banded or worn surface
        wave = float(rng.uniform(0.06, 0.25)) * max(h, w) / 3
        turn = float(rng.uniform(0, np.pi))
        across = np.arange(h)[:, None] * np.sin(turn) + np.arange(w)[None] * np.cos(turn)
        lit = lit + np.float32(rng.uniform(0.05, 0.12)) * np.sign(np.sin(across / max(wave, 1))).astype(np.float32)
    grain = rng.standard_normal((h, w), np.float32) * np.float32(rng.uniform(0.5, 3))
    return paint * lit[..., None] + grain[..., None], cover, name


def _share(rng: np.random.Generator, config: SceneConfig, crowd: int) -> float:
    """How large an object is: its longer side over the shorter side of the frame."""
    low, high = config.scale
    chance = rng.random()
    if crowd == 1 and chance < 0.3 * config.extremes:
        return float(rng.uniform(0.85, 1.3))
    if chance > 1 - config.extremes / 16:
        return float(rng.uniform(0.035, 0.1))
    # Many objects are smaller than few; beta(2, 1.3) keeps both ends of the range in use.
    top = low + (high - low) * (1.0 if crowd < 3 else 0.85 if crowd == 3 else 0.7)
    return low + (top - low) * float(rng.beta(2.0, 1.3))


def _corner(
    rng: np.random.Generator, place: str, size_hw: tuple[int, int], sprite_hw: tuple[int, int], horizon: int
) -> tuple[int, int]:
    """Upper left corner of an object. Mostly it is where such things are: on the ground, or above it."""
    (h, w), (sh, sw) = size_hw, sprite_hw
    # An object may stick out of the frame by up to a tenth of itself.
    top, bottom = -(sh // 10), max(h - sh + sh // 10, 1 - sh // 10)
    if horizon and rng.random() < 0.7:
        if place == "ground":
            top = min(max(horizon - sh + 2, top), bottom - 1)
        elif place == "air":
            bottom = max(min(horizon - sh // 2, bottom), top + 1)
    y = int(rng.integers(top, bottom))
    x = int(rng.integers(-(sw // 10), max(w - sw + sw // 10, 1 - sw // 10)))
    if sh > h:
        y = int(rng.integers(h - sh - sh // 12, sh // 12))
    if sw > w:
        x = int(rng.integers(w - sw - sw // 12, sw // 12))
    return y, x


def _shade(stage: _Stage, y: int, x: int, sprite_hw: tuple[int, int]) -> None:
    """Darken the ground under an object that stands on it."""
    (h, w), (sh, sw) = stage.owner.shape, sprite_hw
    tall, lean = max(sh * 0.09, 1.5), -stage.sun[0] * 2.0 * sw
    cy, cx = y + sh * 0.97, x + sw / 2 + lean
    y0, y1, x0, x1 = int(cy - tall), int(cy + tall) + 1, int(cx - sw * 0.55), int(cx + sw * 0.55) + 1
    y0, y1, x0, x1 = max(y0, 0), min(y1, h), max(x0, 0), min(x1, w)
    if y0 >= y1 or x0 >= x1:
        return
    away = ((np.arange(y0, y1) - cy) / tall)[:, None] ** 2 + ((np.arange(x0, x1) - cx) / (sw * 0.55))[None] ** 2
    stage.canvas[y0:y1, x0:x1] *= (1 - 0.42 * np.clip(1 - away, 0, 1)).astype(np.float32)[..., None]


def _place(rng: np.random.Generator, class_id: int, config: SceneConfig, crowd: int, stage: _Stage) -> None:
    """Paste one object in front of the others, where it leaves at least two fifths of each of them to be seen.

    Where no spot is found in ten tries at shrinking sizes, the object is left out; the first one always fits.
    """
    h, w = stage.owner.shape
    share, placed, kind = _share(rng, config, crowd), stage.placed, KINDS[CLASSES[class_id]]
    sprite = None
    for attempt in range(10):
        side = max(share * min(h, w) * 0.92**attempt, 8.0)
        if sprite is None or attempt % 3 == 0:
            sprite = _sprite(rng, class_id, side, stage.sun)
        paint, cover, name = sprite
        sh, sw = cover.shape
        y, x = _corner(rng, kind.place, (h, w), (sh, sw), stage.horizon)
        ys, xs = slice(max(y, 0), min(y + sh, h)), slice(max(x, 0), min(x + sw, w))
        inner = (slice(ys.start - y, ys.stop - y), slice(xs.start - x, xs.stop - x))
        alpha = cover[inner]
        solid = alpha > 0.5
        if solid.sum() < 8:
            continue
        lost = np.bincount(stage.owner[ys, xs][solid], minlength=len(placed) + 1)[1:]
        left = np.bincount(stage.owner.ravel(), minlength=len(placed) + 1)[1:]
        if all(had - gone >= 0.4 * full for had, gone, (_, _, full) in zip(left, lost, placed, strict=True)):
            if kind.place == "ground":
                _shade(stage, y, x, (sh, sw))
            view = stage.canvas[ys, xs]
            view += (paint[inner] - view) * alpha[..., None]
            stage.owner[ys, xs][solid] = len(placed) + 1
            placed.append((class_id, name, int(solid.sum())))
            return
