"""Picture files of any public kind to RGB, with Pillow, within limits.

How each kind of file becomes RGB, unless `resize="own-mode"` asks for the published way:

* grey, palette, 1-bit, CMYK, YCbCr, Lab: Pillow's conversion; colour profiles are not applied.
* alpha, in a channel or as a transparent colour: laid over white, so that hidden colours stay hidden.
* 16-bit grey and 32-bit integers: 0..65535 scaled to 0..255. Floating point: 0..1 scaled to 0..255, or 0..255 kept
  where the largest value is at least 4; between them the scale cannot be told. Values outside are refused, not clipped.
  Of 16-bit colour the high byte counts.
* several frames or pages (GIF, APNG, WebP, AVIF, TIFF, MPO): the first.
* EXIF orientation, wherever the format keeps it: applied, unless `exif` is off. Pillow always applies it to TIFF.
* progressive and interlaced files: as others, up to `MOST_SCANS` scans.

Nothing is decoded before its size is known to be at most `max_megapixels`, and nothing is guessed for what is missing:
a file that ends too early is refused.
"""

from __future__ import annotations

import io
import mmap
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from clip_es.config.stages import ImageConfig
from clip_es.errors import ClipEsError, DataError

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF")
"""Formats that are tried. The rest of Pillow's list is no photographs, and EPS starts another program."""

PICTURES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"),
    *(".ppm", ".pgm", ".jp2", ".avif", ".heic", ".heif"),
)
"""Suffixes of pictures, lower case; of two files with one id the first counts."""

MOST_SCANS = 100
"""Scans of a JPEG. Ten are usual; each costs a pass over all pixels, so a small file of thousands would take hours."""

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

_SURELY_255 = 4
"""From here on the largest value of a floating-point picture says that it counts to 255. Those a resize has pushed past
1, or that are normalised for a network (up to 2.7), lie below, and would be shown all but black."""

_ORIENTATION = 0x0112
_SAVE_AGAIN = "Open it in an image program and save it as an 8-bit RGB PNG or JPEG."


def decode(path: Path, config: ImageConfig, content: bytes | None = None) -> Image.Image:
    """The first frame in the file's own mode; `content` are the file's bytes where they are in memory."""
    with opened(path, config, content) as image:
        image.load()
        return upright(image) if config.exif else image


@cache
def _knows_heif() -> bool:
    """Whether Pillow can read HEIC, which a library of its own teaches it."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


@contextmanager
def opened(path: Path, config: ImageConfig, content: bytes | None = None) -> Iterator[Image.Image]:
    """The file with its header read; nothing is decoded before its size is known to be allowed."""
    if content is None:
        _check_file(path)
    if content == b"" or (content is None and path.stat().st_size == 0):
        raise DataError("the picture is empty", where=path, found="0 bytes", next_step="Copy it again.")
    Image.init()
    with quiet_pillow(), path.open("rb") if content is None else io.BytesIO(content) as file:
        if not _knows_heif() and path.suffix.lower() in (".heic", ".heif"):
            raise DataError(
                "reading HEIC needs the extra `heif`",
                where=path,
                next_step="pip install 'clip-es[heif]', or save the pictures as JPEG.",
            )
        image = Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])
        check_area(path, "the picture", image.height, image.width, config.max_megapixels)
        if image.format in {"JPEG", "MPO"}:
            if content is None:
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                    _check_scans(path, mapped)
            else:
                _check_scans(path, content)
        yield image


def _check_file(path: Path) -> None:
    if not path.exists():
        raise DataError("there is no such picture", where=path, next_step="Check the folder and the list of ids.")
    if not path.is_file():
        raise DataError("not a picture but a folder or device", where=path, next_step="Give the path of a file.")


@contextmanager
def our_errors(path: Path, content: bytes | None = None) -> Iterator[None]:
    """Whatever a file makes its readers raise, as a DataError; `content` are its bytes where they are in memory."""
    try:
        yield
    except ClipEsError:
        raise
    except PermissionError as error:
        raise DataError("the picture may not be read", where=path, next_step="Change its permissions.") from error
    except Image.DecompressionBombError as error:
        raise DataError(
            "the picture has too many pixels",
            where=path,
            found=error,
            next_step="Scale it down, or raise --image.max-megapixels.",
        ) from error
    except Image.UnidentifiedImageError as error:
        if content is None:
            with path.open("rb") as file:
                content = file.read(12)
        raise DataError(
            "not a picture, whatever its name says",
            where=path,
            expected=f"one of {', '.join(FORMATS)}",
            found=f"a file that starts with {content[:12]!r}",
            next_step=_SAVE_AGAIN,
        ) from error
    except MemoryError as error:
        raise DataError(
            "there is not enough memory for this picture",
            where=path,
            next_step="Scale it down, or run fewer processes at once.",
        ) from error
    except Exception as error:  # Damaged files make Pillow raise almost anything: OSError, struct.error, EOFError, ...
        raise DataError(
            "the picture is damaged or cut off",
            where=path,
            found=f"{type(error).__name__}: {error}",
            next_step="Copy it again, or leave it out.",
        ) from error


def check_area(path: Path, what: str, height: int, width: int, max_megapixels: float) -> None:
    """Raises DataError: no pixel, or more than are allowed."""
    if min(height, width) < 1 or height * width > max_megapixels * 1e6:
        raise DataError(
            f"{what} has too many pixels or none",
            where=path,
            expected=f"1 to {max_megapixels:g} million",
            found=f"{height} x {width} (height x width)",
            next_step="Scale it down, or raise --image.max-megapixels.",
        )


_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""What ends the coded pixels of a scan."""


def _check_scans(path: Path, content: mmap.mmap | bytes) -> None:
    """Walk the segments of a JPEG, from its start to its end mark, and count scans."""
    scans, place = 0, 2
    while found := _MARKER.search(content, place):
        kind, place = found[0][1], found.end()
        found = None  # a match keeps the file mapped
        if kind == 0xD9:
            return
        if kind not in {0x01, 0xD8}:  # all others have a length
            place += max(2, int.from_bytes(content[place : place + 2], "big"))
        scans += kind == 0xDA
        if scans > MOST_SCANS:
            raise DataError(
                "the picture is a JPEG of too many scans",
                where=path,
                expected=f"at most {MOST_SCANS}",
                next_step=_SAVE_AGAIN,
            )


def exif_orientation(image: Image.Image) -> int:
    """1 to 8 where EXIF states it, 1 where it is silent or unreadable: a broken block must not cost the picture."""
    try:
        stated = image.getexif().get(_ORIENTATION)
    except Exception:
        return 1
    return stated if isinstance(stated, int) and stated in _TURN else 1


def upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF orientation says."""
    stated = exif_orientation(image)
    return image.transpose(_TURN[stated]) if stated in _TURN else image


def has_more(image: Image.Image) -> bool:
    """Whether a frame or page follows the first; a telephone's second picture is a preview, or a map of depths."""
    try:
        image.seek(1)
    except Exception:  # No second frame, or a damaged one; the first was whole.
        return False
    return image.format != "MPO"


def to_rgb(image: Image.Image, path: Path) -> Image.Image:
    """A decoded picture of any mode as RGB. Raises DataError: values outside the range of its mode."""
    if image.mode in {"I", "F"} or image.mode.startswith("I;16"):
        return Image.fromarray(to_8_bit(np.asarray(image), path)).convert("RGB")
    with quiet_pillow():
        if image.mode in {"LA", "PA", "RGBA", "RGBa"} or "transparency" in image.info:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        return image.convert("RGB")


def to_8_bit(
    values: np.ndarray, where: Path, most: int = 65535, next_step: str = _SAVE_AGAIN
) -> UInt8[np.ndarray, ...]:
    """Pixel values as 0..255; whole numbers count up to `most`, floating point up to 1 or 255, whichever they show.

    Raises DataError: values outside that range, or floating point whose scale cannot be told.
    """
    floats = values.dtype.kind == "f"
    low, high = float(values.min()), float(values.max())  # NaN wherever there is one
    top = most if not floats else 1 if high <= 1 else 255
    if not 0 <= low <= high <= top or (floats and 1 < high < _SURELY_255):
        raise DataError(
            "the pixel values leave their range",
            where=where,
            expected=f"0..1, or 0..255 where the largest is {_SURELY_255} or more" if floats else f"0..{most}",
            found=f"{low:g} .. {high:g} ({values.dtype})",
            next_step=next_step,
        )
    scaled = values.astype(np.float32)  # double precision would need twice the memory and round alike
    scaled *= 255 / top
    return np.rint(scaled, out=scaled).astype(np.uint8)


_limit_lock = threading.Lock()
_limit_users = 0
_limit_before: int | None = None


def large_ones_too(config: ImageConfig) -> AbstractContextManager[None]:
    """Where the user allows more pixels than Pillow decodes by itself, Pillow's own limit is off meanwhile."""
    own = Image.MAX_IMAGE_PIXELS
    return _pillow_unlimited() if own is None or config.max_megapixels * 1e6 > 2 * own else nullcontext()


@contextmanager
def _pillow_unlimited() -> Iterator[None]:
    """As with `quiet_pillow`, the limit is the whole process's: the last thread out puts it back."""
    global _limit_users, _limit_before
    with _limit_lock:
        if _limit_users == 0:
            _limit_before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        _limit_users += 1
    try:
        yield
    finally:
        with _limit_lock:
            _limit_users -= 1
            if _limit_users == 0:
                Image.MAX_IMAGE_PIXELS = _limit_before


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
