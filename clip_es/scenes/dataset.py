"""The drawn world as a folder in the layout of VOC 2012, so that whatever reads VOC reads scenes.

FOLDER/JPEGImages/<id>.jpg               quality 95, no chroma subsampling
FOLDER/Annotations/<id>.xml              size, and for each object its name and box (VOC's: from 1, end included)
FOLDER/SegmentationClass/<id>.png        mode P, VOC palette, 0 background, k + 1 class k
FOLDER/ImageSets/Segmentation/<split>.txt
FOLDER/scenes.json                       the settings the pictures were drawn with
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image

from clip_es.errors import ConfigError, DataError
from clip_es.masks import write_mask
from clip_es.scenes.draw import CLASSES, Scene, SceneConfig, draw_scene

_DRAWING = 2
"""Raised whenever the same settings would give other pictures, so that a folder drawn before is not taken for new."""

_SPLIT_SPACING = 10_000_000
"""Scenes of a split are numbered from a multiple of this, so a longer split begins with the shorter one."""


_TRIES = 64
"""Scenes of the world set aside for each picture."""


@dataclass(frozen=True)
class ScenesConfig:
    """Which scenes a folder holds."""

    train: int = 120
    """Pictures of the split `train`."""
    val: int = 120
    """Pictures of the split `val`."""
    seed: int = 2026
    """Seed of the drawn world; the shipped CLIP was trained on another one."""
    side: tuple[int, int] = (192, 256)
    """Shortest and longest side of a picture in pixels, both included; height and width are drawn apart."""

    least_classes: int = 2
    """Fewest classes in a picture, 1..3. With one label, a softmax over the labels has nothing to tell apart."""

    def __post_init__(self) -> None:
        if not 1 <= self.least_classes <= 3:
            raise ConfigError("least_classes must be within 1..3", found=self.least_classes)
        if min(self.train, self.val) < 0 or max(self.train, self.val) >= _SPLIT_SPACING:
            raise ConfigError(
                "a split needs a number of pictures", expected=f"0..{_SPLIT_SPACING - 1}", found=(self.train, self.val)
            )
        if not 32 <= self.side[0] <= self.side[1]:
            raise ConfigError("side is (shortest, longest), at least 32 pixels", found=self.side)


def scene_of(config: ScenesConfig, split: str, number: int) -> Scene:
    """Scene `number` (from 0) of the split `train` or `val`, as `make` writes it before JPEG."""
    index = ("train", "val").index(split) * _SPLIT_SPACING + number
    rng = np.random.default_rng((0x517E, config.seed, index))
    h, w = (int(side) for side in rng.integers(config.side[0], config.side[1] + 1, 2))
    look = SceneConfig((h, w))
    # Of the scenes of a block the first with enough classes; about four in five have two.
    drawn = (draw_scene(config.seed, index * _TRIES + attempt, look) for attempt in range(_TRIES))
    return next(scene for scene in drawn if len(scene.class_ids) >= config.least_classes)


def make(
    folder: str | Path, config: ScenesConfig | None = None, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Write the data set, or what is missing of it. Returns the folder.

    Calling again writes only what is not there yet; every file appears whole or not at all, the lists last.
    `progress` is called with pictures done and pictures in all.
    Raises ConfigError: the folder holds scenes of other settings. Raises DataError: it cannot be written.
    """
    folder, config = Path(folder), config or ScenesConfig()
    settings = {"drawing": _DRAWING, "seed": config.seed, "side": list(config.side)}
    settings |= {"least_classes": config.least_classes, "classes": list(CLASSES)}
    try:
        _check_settings(folder, settings)
        for part in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Segmentation"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        _write(folder / "scenes.json", json.dumps(settings, indent=1).encode())
        done, total = 0, config.train + config.val
        for split, count in (("train", config.train), ("val", config.val)):
            ids = [f"{split}_{number:06d}" for number in range(count)]
            for number, image_id in enumerate(ids):
                # The annotation is written last, so where it stands the rest is there too.
                if not (folder / "Annotations" / f"{image_id}.xml").exists():
                    _write_scene(folder, image_id, scene_of(config, split, number))
                done += 1
                if progress:
                    progress(done, total)
            listed = "".join(f"{image_id}\n" for image_id in ids)
            _write(folder / "ImageSets" / "Segmentation" / f"{split}.txt", listed.encode())
    except OSError as error:
        raise DataError(
            "the scenes cannot be written",
            where=error.filename or folder,
            found=error.strerror or error,
            next_step="Free some space or pass another folder; calling again continues.",
        ) from error
    return folder


def _check_settings(folder: Path, settings: dict[str, object]) -> None:
    known = folder / "scenes.json"
    if known.exists():
        try:
            found = json.loads(known.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        if found != settings:
            raise ConfigError(
                "the folder holds scenes of other settings",
                where=known,
                expected=settings,
                found=found,
                next_step="Pass another folder, or remove this one.",
            )
    elif folder.is_dir() and any((folder / part).exists() for part in ("JPEGImages", "Annotations")):
        raise ConfigError(
            "the folder holds another data set", where=folder, expected="scenes.json", next_step="Pass another folder."
        )


def _write_scene(folder: Path, image_id: str, scene: Scene) -> None:
    picture, mask = io.BytesIO(), io.BytesIO()
    Image.fromarray(scene.picture).save(picture, "JPEG", quality=95, subsampling=0)
    write_mask(mask, scene.mask)
    _write(folder / "JPEGImages" / f"{image_id}.jpg", picture.getvalue())
    _write(folder / "SegmentationClass" / f"{image_id}.png", mask.getvalue())
    _write(folder / "Annotations" / f"{image_id}.xml", annotation(image_id, scene).encode())


def annotation(image_id: str, scene: Scene) -> str:
    """The VOC annotation of a scene. Boxes are VOC's: counted from 1, xmax and ymax inside."""
    h, w = scene.mask.shape
    objects = "".join(
        f"\t<object>\n\t\t<name>{CLASSES[thing.class_id]}</name>\n\t\t<difficult>0</difficult>\n\t\t<bndbox>\n"
        f"\t\t\t<xmin>{thing.box[0] + 1}</xmin>\n\t\t\t<ymin>{thing.box[1] + 1}</ymin>\n"
        f"\t\t\t<xmax>{thing.box[2]}</xmax>\n\t\t\t<ymax>{thing.box[3]}</ymax>\n\t\t</bndbox>\n\t</object>\n"
        for thing in scene.objects
    )
    return (
        f"<annotation>\n\t<folder>scenes</folder>\n\t<filename>{escape(image_id)}.jpg</filename>\n"
        f"\t<size>\n\t\t<width>{w}</width>\n\t\t<height>{h}</height>\n\t\t<depth>3</depth>\n\t</size>\n"
        f"\t<segmented>1</segmented>\n{objects}</annotation>\n"
    )


def _write(path: Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)
