"""From a file to pixels: decode, orient, convert to RGB, resize to whole patches, group by grid.

`clip_es/decode.py` says how each kind of file becomes RGB.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from clip_es.config.stages import ImageConfig
from clip_es.decode import (
    check_area,
    decode,
    exif_orientation,
    has_more,
    large_ones_too,
    opened,
    our_errors,
    quiet_pillow,
    to_rgb,
    upright,
)
from clip_es.errors import ConfigError, DataError, ShapeError
from clip_es.given import encoded_bytes, fetched, given_image
from clip_es.types import ImageRecord, Picture

T = TypeVar("T")


def read_picture(
    record: ImageRecord,
    patch: int,
    config: ImageConfig,
    seen_hw: Callable[[tuple[int, int]], tuple[int, int]] = lambda size_hw: size_hw,
) -> Picture:
    """Decode one picture, from its file or from `record.image`, and resize a copy of it to whole patches of `patch`
    pixels.

    `rgb` has the picture's height and width, or the annotation's with `size_from="annotation"`; `patches` is the same
    file resized straight from the decoded pixels to the next multiples of the patch, by Pillow's bicubic filter in
    8 bit, and where these would be more than `max_patches` patches, to the largest grid of like shape that is not. The
    aspect ratio changes by up to one patch. `seen_hw` says, from height and width, what size the encoder wants in their
    place. With `crf_decoder="opencv"`, `crf_rgb` holds OpenCV's reading.

    Raises DataError: no such file, not a picture, damaged, too large, or values outside the range of its mode.
    Raises ConfigError: `crf_decoder="opencv"` without OpenCV. Raises ShapeError: a patch below one pixel.
    Source: CLIP-ES, `generate_cams_*.py`. Differs by default: EXIF orientation is applied, the picture's own size
    counts, and the conversion to RGB comes before the resize; ImageConfig restores each.
    """
    if patch < 1:
        raise ShapeError("a patch must have at least one pixel", where=record.path, found=patch)
    record = replace(record, image=fetched(record.image)) if record.image is not None else record
    given = record.image
    with our_errors(record.path, encoded_bytes(given)), large_ones_too(config):
        image = decode(record.path, config) if given is None else given_image(given, record.path, config)
        if config.resize == "rgb":
            image = to_rgb(image, record.path)
        height, width = image.height, image.width
        if config.size_from == "annotation" and record.size_hw is not None:
            height, width = record.size_hw
            check_area(record.path, "the size stated in the annotation", height, width, config.max_megapixels)
        rows, columns = _grid(*seen_hw((height, width)), patch, config.max_patches)
        return Picture(
            image_id=record.image_id,
            rgb=_resized(image, (height, width)),
            patches=_resized(image, (patch * rows, patch * columns)),
            patch=patch,
            crf_rgb=_read_opencv(record) if config.crf_decoder == "opencv" else None,
        )


def shown_at(picture: Picture, size_hw: tuple[int, int], max_patches: int | None) -> Picture:
    """The picture with a copy of another size for the encoder, in whole patches; at most `max_patches` of them."""
    rows, columns = _grid(*size_hw, picture.patch, max_patches)
    image = Image.fromarray(picture.rgb)
    return replace(picture, patches=_resized(image, (picture.patch * rows, picture.patch * columns)))


@dataclass(frozen=True)
class Look:
    """What can be told of a picture file without an encoder."""

    size_hw: tuple[int, int]
    """As `read_picture` gives it: turned as EXIF says, where that is asked for."""
    format: str
    """One of `FORMATS`."""
    mode: str
    """Pillow's name of the file's own pixels: RGB, L, P, CMYK, I;16, ..."""
    more_frames: bool = False
    """Whether frames or pages after the first are left out; known only where the pixels were read."""
    rgb: UInt8[np.ndarray, "h w 3"] | None = None
    """The picture, where the pixels were read."""


def look_at(path: Path, config: ImageConfig, pixels: bool = True, content: bytes | None = None) -> Look:
    """Read a picture as `read_picture` does, without resizing; or only its header, which says nothing of damage.
    `content`: the file's bytes, where they are in memory.

    Raises DataError as `read_picture`.
    """
    with our_errors(path, content), large_ones_too(config), opened(path, config, content) as image:
        kind, mode, size_hw = image.format or "", image.mode, (image.height, image.width)
        if not pixels:
            # Pillow gives TIFF its upright size by itself, and would decode a PNG in search of EXIF behind its pixels.
            silent = not config.exif or kind == "TIFF" or (kind == "PNG" and "exif" not in image.info)
            turned = not silent and exif_orientation(image) >= 5
            return Look((size_hw[1], size_hw[0]) if turned else size_hw, kind, mode)
        image.load()
        shown = to_rgb(upright(image) if config.exif else image, path)
        with quiet_pillow():
            return Look((shown.height, shown.width), kind, mode, has_more(image), np.array(shown))


def buckets(
    items: Iterable[T],
    size: int,
    *,
    hold: int | None = None,
    key: Callable[[T], Hashable] = attrgetter("grid_hw"),
) -> Iterator[list[T]]:
    """Group items of equal `key` (pictures: equal grid) into batches of at most `size`, as they come.

    At most `hold` items wait at any time (default: four batches). A batch leaves when it is full; when too many wait,
    the fullest group leaves, the oldest among equals; at the end the rest leave, oldest first. Inside a batch the
    order is that of arrival, so the same items in the same order always give the same batches.
    Raises ConfigError: `size` or `hold` below one.
    """
    hold = 4 * size if hold is None else hold
    if size < 1 or hold < 1:
        raise ConfigError("a batch holds at least one picture", expected="size and hold >= 1", found=(size, hold))
    waiting: dict[Hashable, list[T]] = {}  # keys in the order in which their oldest item came
    for item in items:
        group = waiting.setdefault(key(item), [])
        group.append(item)
        if len(group) == size:
            yield waiting.pop(key(item))
        elif sum(map(len, waiting.values())) >= hold:
            yield waiting.pop(max(waiting, key=lambda k: len(waiting[k])))
    yield from waiting.values()


def _grid(height: int, width: int, patch: int, most: int | None) -> tuple[int, int]:
    """Rows and columns of patches that cover a picture; fewer where they would be more than `most`."""
    rows, columns = -(-height // patch), -(-width // patch)
    if most is None or rows * columns <= most:
        return rows, columns
    shrink = math.sqrt(most / (rows * columns))
    rows, columns = max(1, int(rows * shrink)), max(1, int(columns * shrink))
    return min(rows, most), min(columns, most // min(rows, most))


def _resized(image: Image.Image, size_hw: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """Bicubic resize in the image's mode, then RGB. An image that already has the size passes unchanged."""
    height, width = size_hw
    with quiet_pillow():
        return np.array(image.resize((width, height), Image.Resampling.BICUBIC).convert("RGB"))


def _read_opencv(record: ImageRecord) -> UInt8[np.ndarray, "h w 3"] | None:
    """OpenCV's reading, EXIF orientation applied, as the published CRF script has it; None for bare pixels, which
    OpenCV has nothing to read of."""
    path, content = record.path, None if record.image is None else encoded_bytes(record.image)
    if record.image is not None and content is None:
        return None
    try:
        import cv2
    except ImportError as error:
        raise ConfigError(
            "decoding with OpenCV needs the extra `opencv`",
            next_step="pip install 'clip-es[opencv]', or pass --image.crf-decoder same.",
        ) from error
    if content is None:
        bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    else:
        bgr = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), cv2.IMREAD_COLOR)
    if bgr is None:
        raise DataError(
            "OpenCV cannot read this picture, though Pillow can", where=path, next_step="Pass --image.crf-decoder same."
        )
    return np.ascontiguousarray(bgr[..., ::-1])
