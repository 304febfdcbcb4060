"""From a file to pixels: decode, orient, convert to RGB, resize to whole patches, group by grid.

How each kind of file becomes RGB, unless `resize="own-mode"` asks for the published way:

* grey, palette, 1-bit, CMYK, YCbCr: Pillow's conversion. An animation gives its first frame.
* alpha, in a channel or as a transparent colour: laid over white, so that hidden colours stay hidden.
* 16-bit grey and 32-bit integers: 0..65535 scaled to 0..255. Floating point: 0..1 scaled to 0..255, or 0..255 kept
  where the largest value is above 1. Values outside are refused, not clipped.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from clip_es.config import ImageConfig
from clip_es.errors import ConfigError, DataError, ShapeError
from clip_es.types import ImageRecord, Picture

T = TypeVar("T")

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
"""Formats that are tried. The rest of Pillow's list is no photographs, and EPS starts another program."""

_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each EXIF orientation."""

_ORIENTATION = 0x0112
_SAVE_AGAIN = "Open it in an image program and save it as an 8-bit RGB PNG or JPEG."


def read_picture(record: ImageRecord, patch: int, config: ImageConfig) -> Picture:
    """Decode one picture and resize a copy of it to whole patches of `patch` pixels.

    `rgb` has the picture's height and width, or the annotation's with `size_from="annotation"`; `patches` is the same
    file resized straight from the decoded pixels to the next multiples of the patch, by Pillow's bicubic filter in
    8 bit. The aspect ratio changes by up to one patch. With `crf_decoder="opencv"`, `crf_rgb` holds OpenCV's reading.

    Raises DataError: no such file, not a picture, damaged, too large, or values outside the range of its mode.
    Raises ConfigError: `crf_decoder="opencv"` without OpenCV. Raises ShapeError: a patch below one pixel.
    Source: CLIP-ES, `generate_cams_*.py`. Differs by default: EXIF orientation is applied, the picture's own size
    counts, and the conversion to RGB comes before the resize; ImageConfig restores each.
    """
    if patch < 1:
        raise ShapeError("a patch must have at least one pixel", where=record.path, found=patch)
    image = _decode(record.path, config)
    if config.resize == "rgb":
        image = _to_rgb(image, record.path)
    height, width = image.height, image.width
    if config.size_from == "annotation" and record.size_hw is not None:
        height, width = record.size_hw
        _check_area(record.path, "the size stated in the annotation", height, width, config.max_megapixels)
    whole = patch * -(-height // patch), patch * -(-width // patch)
    return Picture(
        image_id=record.image_id,
        rgb=_resized(image, (height, width)),
        patches=_resized(image, whole),
        patch=patch,
        crf_rgb=_read_opencv(record.path) if config.crf_decoder == "opencv" else None,
    )


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


def _decode(path: Path, config: ImageConfig) -> Image.Image:
    """The first frame in the file's own mode; nothing is decoded before its size is known to be allowed."""
    try:
        if not path.exists():
            raise DataError("there is no such picture", where=path, next_step="Check the folder and the list of ids.")
        if not path.is_file():
            raise DataError("not a picture but a folder or device", where=path, next_step="Give the path of a file.")
        if path.stat().st_size == 0:
            raise DataError("the picture is empty", where=path, found="0 bytes", next_step="Copy it again.")
        Image.init()
        with quiet_pillow(), path.open("rb") as file:
            image = Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])
            _check_area(path, "the picture", image.height, image.width, config.max_megapixels)
            image.load()
            return _upright(image) if config.exif else image
    except DataError:
        raise
    except PermissionError as error:
        raise DataError("the picture may not be read", where=path, next_step="Change its permissions.") from error
    except Image.DecompressionBombError as error:
        raise DataError("the picture is too large", where=path, found=error, next_step="Scale it down.") from error
    except Image.UnidentifiedImageError as error:
        with path.open("rb") as file:
            start = file.read(12)
        raise DataError(
            "not a picture, whatever its name says",
            where=path,
            expected=f"one of {', '.join(FORMATS)}",
            found=f"a file that starts with {start!r}",
            next_step=_SAVE_AGAIN,
        ) from error
    except Exception as error:  # Damaged files make Pillow raise almost anything: OSError, struct.error, EOFError, ...
        raise DataError(
            "the picture is damaged or cut off",
            where=path,
            found=f"{type(error).__name__}: {error}",
            next_step="Copy it again, or leave it out.",
        ) from error


def _check_area(path: Path, what: str, height: int, width: int, max_megapixels: float) -> None:
    if min(height, width) < 1 or height * width > max_megapixels * 1e6:
        raise DataError(
            f"{what} has too many pixels or none",
            where=path,
            expected=f"1 to {max_megapixels:g} million",
            found=f"{height} x {width} (height x width)",
            next_step="Scale it down, or raise --image.max-megapixels.",
        )


def _upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF orientation says; unreadable EXIF turns nothing."""
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # EXIF is decoration; a broken block must not cost the picture.
        return image
    return image.transpose(_TURN[orientation]) if orientation in _TURN else image


def _to_rgb(image: Image.Image, path: Path) -> Image.Image:
    if image.mode in {"I", "F"} or image.mode.startswith("I;16"):
        return Image.fromarray(_to_8_bit(np.asarray(image), path)).convert("RGB")
    with quiet_pillow():
        if image.mode in {"LA", "PA", "RGBA", "RGBa"} or "transparency" in image.info:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        return image.convert("RGB")


def _to_8_bit(values: np.ndarray, path: Path) -> UInt8[np.ndarray, "h w"]:
    low, high = float(values.min()), float(values.max())  # NaN wherever there is one
    top = 65535 if values.dtype.kind in "iu" else 1 if high <= 1 else 255
    if not 0 <= low <= high <= top:
        raise DataError(
            "the values of this deep picture leave the range that can be shown",
            where=path,
            expected="0..65535 for integers, 0..1 or 0..255 for floating point",
            found=f"{low:g} .. {high:g}",
            next_step=_SAVE_AGAIN,
        )
    return np.rint(values * (255 / top)).astype(np.uint8)


def _resized(image: Image.Image, size_hw: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """Bicubic resize in the image's mode, then RGB. An image that already has the size passes unchanged."""
    height, width = size_hw
    with quiet_pillow():
        return np.array(image.resize((width, height), Image.Resampling.BICUBIC).convert("RGB"))


def _read_opencv(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """OpenCV's reading, EXIF orientation applied, as the published CRF script has it."""
    try:
        import cv2
    except ImportError as error:
        raise ConfigError(
            "decoding with OpenCV needs the extra `opencv`",
            next_step="pip install 'clip-es[opencv]', or pass --image.crf-decoder same.",
        ) from error
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise DataError(
            "OpenCV cannot read this picture, though Pillow can", where=path, next_step="Pass --image.crf-decoder same."
        )
    return np.ascontiguousarray(bgr[..., ::-1])


_quiet_lock = threading.Lock()
_quiet_users = 0
_quiet_filters: Any = None


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Silence Pillow's warnings: what they tell is checked here, and a run may decode a million files.

    Warning filters belong to the whole process, so the first thread to enter sets them and the last one out puts
    them back; only warnings raised inside Pillow are touched.
    """
    global _quiet_users, _quiet_filters
    with _quiet_lock:
        if _quiet_users == 0:
            _quiet_filters = warnings.catch_warnings()
            _quiet_filters.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\.")
        _quiet_users += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_users -= 1
            if _quiet_users == 0:
                _quiet_filters.__exit__(None, None, None)
