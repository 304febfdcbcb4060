"""What `benchmarks/methods.py` compares: the rows, and the pictures they are compared on."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from scipy import ndimage

from clip_es.config.methods import JointConfig
from clip_es.config.presets import BEST, BEST_FAST, BEST_MULTISCALE, CLIPER_SCENES, PATCH_TEXT_SCENES
from clip_es.config.run import DEFAULT, AffinityConfig, MaskConfig, RunConfig
from clip_es.config.views import ViewsConfig
from clip_es.scenes.dataset import ScenesConfig, scene_of
from clip_es.scenes.draw import Scene, SceneConfig, draw_scene

SHIFTS, FLIPPED, TWO = ViewsConfig(4), ViewsConfig(4, flip=True), ViewsConfig(2)
_OTSU = MaskConfig(calibration="otsu")
_WORDS = AffinityConfig(kind="words")


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    config: RunConfig
    base: str = ""
    """The row that its gain is told over."""


def rows() -> list[Row]:
    """Every row; nothing in them is chosen on the pictures of the table."""
    clip_es = DEFAULT.using(patch_text=PATCH_TEXT_SCENES, cliper=CLIPER_SCENES)
    words = clip_es.using(affinity=_WORDS)
    cliper = replace(clip_es, method="cliper", refine=("crf",))
    text = replace(clip_es, method="patch-text", refine=("crf",))
    fast, best, multiscale = (one.using(patch_text=PATCH_TEXT_SCENES) for one in (BEST_FAST, BEST, BEST_MULTISCALE))
    flipped = replace(best.views, flip=True)
    joint = replace(fast, refine=("affinity", "crf"))
    return [
        Row("clip-es, no CRF", replace(clip_es, refine=("affinity",))),
        Row("clip-es", clip_es, "clip-es, no CRF"),
        Row("cliper, thresholds before enlarging", cliper.using(cliper=replace(CLIPER_SCENES, rule="early"))),
        Row("cliper", cliper, "cliper, thresholds before enlarging"),
        Row("clipseg", replace(clip_es, method="clipseg", refine=("crf",))),
        Row("clip-es + otsu", replace(clip_es, mask=_OTSU), "clip-es"),
        Row("clip-es + shifts", replace(clip_es, views=SHIFTS), "clip-es"),
        Row("clip-es + words", words, "clip-es"),
        Row("clip-es + words + otsu", replace(words, mask=_OTSU), "clip-es + words"),
        Row("clip-es + words + shifts", replace(words, views=SHIFTS), "clip-es + words"),
        Row("clip-es + words + otsu + shifts", replace(words, mask=_OTSU, views=SHIFTS), "clip-es + words + otsu"),
        Row("patch-text", text, "clip-es"),
        Row("patch-text + shifts + flip", replace(text, views=FLIPPED), "patch-text"),
        Row("joint", joint, "clip-es"),
        Row("joint + words", joint.using(affinity=_WORDS), "joint"),
        Row("best-fast", fast, "joint"),
        Row("best-fast, no affinity", replace(fast, refine=("segments", "crf")), "best-fast"),
        Row("best-fast + words", fast.using(affinity=_WORDS), "best-fast"),
        Row("best-fast, fixed threshold", fast.using(joint=JointConfig(calibration="fixed")), "best-fast"),
        Row("best-fast + 2 shifts", replace(fast, views=TWO), "best-fast"),
        Row("joint + shifts", replace(joint, views=SHIFTS), "joint"),
        Row("joint + shifts + flip", replace(joint, views=FLIPPED), "joint + shifts"),
        Row("best, all views alike", replace(best, views=SHIFTS), "joint + shifts"),
        Row("best", best, "best, all views alike"),
        Row("best-multiscale", multiscale, "best"),
        Row("best + flip", replace(best, views=flipped), "best"),
        Row("best, fixed threshold", best.using(joint=JointConfig(calibration="fixed")), "best"),
        Row("best + words", best.using(affinity=_WORDS), "best"),
        Row("best + flip + words", replace(best.using(affinity=_WORDS), views=flipped), "best + flip"),
    ]


SETS = ("main", "single label", "below two patches", "above 80 % of the picture")
"""main: as `clip-es scenes make` draws them, two labels and more."""


def scenes(which: str, count: int, seed: int) -> Iterator[tuple[str, Scene]]:
    """Name and scene of each picture of a set."""
    if which == "main":
        config = ScenesConfig(train=0, val=count, seed=seed)
        yield from ((f"val_{number:06d}", scene_of(config, "val", number)) for number in range(count))
        return
    number, found = 0, 0
    while found < count:
        scene = _drawn(which, seed, number)
        if scene is not None:
            yield f"{which.split()[0]}_{number:06d}", scene
            found += 1
        number += 1


def _drawn(which: str, seed: int, number: int) -> Scene | None:
    """Picture `number` of a set; None where it does not belong to it."""
    size = tuple(int(side) for side in np.random.default_rng((0xB37C, seed, number)).integers(192, 257, 2))
    index = 900_000_000 + number  # far from those of the data sets
    if which == "single label":
        return draw_scene(seed, index, SceneConfig(size, objects=(1, 1)))
    if which == "below two patches":
        scene = draw_scene(seed, index, SceneConfig(size, objects=(1, 3), scale=(0.08, 0.14)))
        longest = max(max(x1 - x0, y1 - y0) for x0, y0, x1, y1 in (one.box for one in scene.objects))
        return scene if longest < 32 else None
    return _filled(draw_scene(seed, index, SceneConfig((512, 512), objects=(1, 1), scale=(1.0, 1.0))))


def _filled(scene: Scene, least: float = 0.8, side: int = 224) -> Scene | None:
    """The largest square of a large scene that its object covers so much of, resized; None where there is none."""
    covered = np.pad((scene.mask > 0).cumsum(0, dtype=np.int64).cumsum(1), ((1, 0), (1, 0)))
    for size in range(min(scene.mask.shape), 127, -16):
        inside = covered[size:, size:] - covered[:-size, size:] - covered[size:, :-size] + covered[:-size, :-size]
        top, left = (int(place) for place in np.unravel_index(int(inside.argmax()), inside.shape))
        if inside[top, left] >= least * size**2:
            box = (left, top, left + size, top + size)
            picture = Image.fromarray(scene.picture).resize((side, side), Image.Resampling.BICUBIC, box)
            mask = Image.fromarray(scene.mask).resize((side, side), Image.Resampling.NEAREST, box)
            return replace(scene, picture=np.asarray(picture), mask=np.asarray(mask))
    return None


def as_file(picture: np.ndarray, quality: int = 95) -> np.ndarray:
    """A picture as it comes back from a JPEG, as those of a data set of scenes."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality, subsampling=0)
    return np.asarray(Image.open(file).convert("RGB"))


def rough(picture: np.ndarray, seed: int) -> np.ndarray:
    """The picture with shading, texture and grain, so that colours are not flat."""
    rng = np.random.default_rng((0x7006, seed))
    h, w = picture.shape[:2]
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.linspace(-1, 1, h)[:, None], np.linspace(-1, 1, w)
    shade = 1 + 0.3 * (np.cos(angle) * x + np.sin(angle) * y)
    texture = sum(
        strength * _unit(ndimage.gaussian_filter(rng.standard_normal((h, w)), sigma))
        for sigma, strength in ((1.5, 11.0), (5.0, 11.0))
    )
    grain = rng.normal(0, 10, picture.shape)
    return np.clip(picture * shade[..., None] + np.asarray(texture)[..., None] + grain, 0, 255).astype(np.uint8)


def harmed(picture: np.ndarray, seed: int) -> np.ndarray:
    """`rough`, and besides what a poor camera does: blur, noise and strong compression."""
    rng = np.random.default_rng((0x4A53, seed))
    blurred = ndimage.gaussian_filter(rough(picture, seed).astype(np.float64), (1.2, 1.2, 0))
    return as_file(np.clip(blurred + rng.normal(0, 8, picture.shape), 0, 255).astype(np.uint8), 40)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / x.std()
