"""A small run folder with pictures of every kind, for tests of what leaves a run and what comes back."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from clip_es.store.run import RunStore
from clip_es.types import ImageRecord, PseudoMask

CLASSES = ("cat", "traffic light", "dog")
KINDS = ("plain.jpg", "plain.png", "turned.jpg", "cmyk.jpg", "alpha.png", "grey.jpg", "deep.png", "web.webp")
"""How the first pictures are stored; further ones are plain."""


@dataclass(frozen=True)
class MadeUpRun:
    """Where it lies, and what should be in it, by image id."""

    run: Path
    images: Path
    masks: dict[str, np.ndarray]
    decided: dict[str, np.ndarray]
    confidence: dict[str, np.ndarray]


def make_run(
    root: Path,
    count: int = 8,
    *,
    side: int = 48,
    seed: int = 0,
    vocabulary: str | None = None,
    classes: tuple[str, str, str] = CLASSES,
) -> MadeUpRun:
    """Pictures `0.plain`, `1.plain`, ... with masks of blobs, holes, single pixels, and 255 at their borders."""
    rng = np.random.default_rng(seed)
    made = MadeUpRun(root / "run", root / "images", {}, {}, {})
    made.images.mkdir(parents=True)
    about = {"vocabulary": vocabulary} if vocabulary else {"classes": classes}
    with RunStore.open(made.run, {"made": "up"}, about={**about, "images": [str(made.images)]}) as store:
        for number in range(count):
            kind, _, suffix = (KINDS[number] if number < len(KINDS) else "plain.jpg").partition(".")
            size = (side + 5 * (number % 3), side + 17 - 3 * (number % 5))
            image_id = f"{number:03}.{kind}"
            _write_picture(made.images / f"{image_id}.{suffix}", kind, size, rng)
            decided, confidence = made_up_mask(rng, size, number)
            labels = np.where(confidence < 0.5, np.uint8(255), decided)
            record = ImageRecord(image_id, made.images / f"{image_id}.{suffix}", (0, 1, 2))
            store.save(record, PseudoMask(labels, confidence, (0, 1, 2), decided))
            made.masks[image_id], made.decided[image_id], made.confidence[image_id] = labels, decided, confidence
    return made


def made_up_mask(rng: np.random.Generator, size: tuple[int, int], number: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels 0..3 and a confidence in whole 255ths: discs with holes, speckles, and now and then one label alone."""
    y, x = np.mgrid[: size[0], : size[1]]
    labels = np.zeros(size, dtype=np.uint8)
    if number % 7 == 5:
        labels[:] = number % 4
    else:
        for label in (1, 2, 3):
            cy, cx, r = rng.uniform(0, size[0]), rng.uniform(0, size[1]), rng.uniform(4, min(size) / 2)
            distance = np.hypot(y - cy, x - cx)
            labels[(distance < r) & (distance > r / 3)] = label
        speckled = rng.random(size) < 0.02
        labels[speckled] = rng.integers(0, 4, size=int(speckled.sum()))
    confidence = np.rint(255 * rng.beta(3, 1, size)).astype(np.float32) / np.float32(255)
    if number % 7 == 6:
        confidence[:] = np.float32(0.2)  # 51 / 255: all undecided
    return labels, confidence


def read_csv(path: Path) -> list[dict[str, str]]:
    """Rows of a table."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _write_picture(path: Path, kind: str, size: tuple[int, int], rng: np.random.Generator) -> None:
    height, width = size
    rgb = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    image = Image.fromarray(rgb)
    if kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        image.transpose(Image.Transpose.ROTATE_90).save(path, quality=95, exif=exif)
    elif kind == "cmyk":
        image.convert("CMYK").save(path)
    elif kind == "alpha":
        image.putalpha(Image.fromarray(rgb[..., 0]))
        image.save(path)
    elif kind == "grey":
        image.convert("L").save(path)
    elif kind == "deep":
        Image.fromarray(rgb[..., 0].astype(np.uint16) * 257).save(path)
    elif kind == "web":
        image.save(path, lossless=True)
    else:
        image.save(path)
