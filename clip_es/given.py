"""Pictures that are in memory: encoded bytes, Pillow pictures, arrays and tensors, each to a Pillow picture.

* bytes, or an open binary file: the content of a picture file, from its start, read as the file would be.
* Pillow pictures: any mode, turned as their EXIF orientation says.
* numpy arrays, channels last: [h w 3] RGB, [h w 4] with alpha, [h w] or [h w 1] grey.
* torch tensors, channels first: [3 h w] RGB, [4 h w], [1 h w], [h w].

Numbers: uint8 0..255; uint16 0..65535; other whole numbers 0..255; floating point 0..1, or 0..255 where the largest
value is at least 4. Values outside are refused, not clipped, and so are those whose scale cannot be told: a picture
that is normalised for a network is noticed, and none is shown all but black.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from clip_es.config.stages import ImageConfig
from clip_es.decode import check_area, decode, to_8_bit, upright
from clip_es.errors import DataError, ShapeError

_loading = threading.Lock()
"""Pillow opens files lazily, and two threads must not load one picture at a time."""

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://|data:", re.IGNORECASE)
_BINARY = 'a file opened with "rb"'
_KINDS = "a path, the bytes of a picture file, a Pillow picture, an RGB array [h w 3] or a tensor [3 h w]"


def is_one_picture(given: object) -> bool:
    """Whether this stands for a single picture, rather than for several: a list, a generator, a column of a table, or
    an array with a dimension more."""
    if isinstance(given, (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)) or hasattr(given, "read"):
        return True
    if hasattr(given, "__array__"):
        return getattr(given, "ndim", 3) not in (1, 4)
    return not isinstance(given, Iterable)


def given_path(given: object) -> Path | None:
    """The path that was given; None where it is something else. Raises DataError: an address in the web."""
    if not isinstance(given, (str, os.PathLike)):
        return None
    text = os.fspath(given)
    if isinstance(text, bytes):
        return Path(os.fsdecode(text))
    if _ADDRESS.match(text):
        raise DataError(
            "pictures are not fetched from the network",
            where=text[:80],
            expected=_KINDS,
            next_step="Fetch it yourself and pass its bytes, or pass the path of a file without `file://`.",
        )
    return Path(os.path.expanduser(text))  # noqa: PTH111 that of Path fails where there is no such user


@runtime_checkable
class Elsewhere(Protocol):
    """A picture whose file is not on this machine's disk, or inside another file."""

    def fetch(self) -> bytes:
        """The bytes of the picture's file. Raises DataError."""
        ...


def fetched(given: Any) -> Any:
    """What was given, with the bytes of a file that lies elsewhere in its place. Raises DataError."""
    return given.fetch() if isinstance(given, Elsewhere) else given


def stored_bytes(given: Any) -> bytes | None:
    """The bytes of the picture's file, wherever they are; None where there is no file. Raises DataError."""
    return encoded_bytes(fetched(given))


def encoded_bytes(given: object) -> bytes | None:
    """The bytes of a picture file, where that is what was given."""
    return bytes(given) if isinstance(given, (bytes, bytearray, memoryview)) else None


def in_memory(given: Any, where: Path) -> Any:
    """What was given, with the content of an open file in its place.

    Raises DataError: no kind of picture this knows; the file cannot be read, or is open as text.
    """
    if isinstance(given, (bytes, bytearray, memoryview, Image.Image, Tensor)) or hasattr(given, "__array__"):
        return given
    if not hasattr(given, "read"):
        raise DataError("this is no picture", where=where, expected=_KINDS, found=type(given).__name__)
    with suppress(AttributeError, OSError, ValueError):  # what cannot be rewound is read from where it stands
        given.seek(0)  # as Pillow does: a picture that was just written into a BytesIO is meant from its start
    try:
        content = given.read()
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise DataError("the open file cannot be read", where=where, found=error, expected=_BINARY) from error
    if not isinstance(content, (bytes, bytearray)):
        raise DataError(
            "the open file does not give bytes", where=where, found=type(content).__name__, expected=_BINARY
        )
    return bytes(content)


def given_image(given: Any, where: Path, config: ImageConfig) -> Image.Image:
    """A picture in memory as a Pillow picture of its own mode, upright; `where` is its name in messages.

    `given` has passed `in_memory`. Raises DataError: damaged bytes, too many pixels, values outside their range.
    ShapeError: an array that is no picture.
    """
    if (content := encoded_bytes(given)) is not None:
        return decode(where, config, content)
    if isinstance(given, Image.Image):
        check_area(where, "the picture", given.height, given.width, config.max_megapixels)
        with _readable(where, "this Pillow picture"), _loading:
            given.load()
        return upright(given) if config.exif else given
    with _readable(where, "what was given"):
        array = _channels_last(given, where) if isinstance(given, Tensor) else np.asarray(given)
    return _from_array(array, where, config)


@contextmanager
def _readable(where: Path, what: str) -> Iterator[None]:
    """Closed pictures, tensors without numbers and the like make their libraries raise almost anything."""
    try:
        yield
    except (ShapeError, MemoryError):
        raise
    except Exception as error:
        raise DataError(
            f"the pixels of {what} cannot be read", where=where, found=f"{type(error).__name__}: {error}"
        ) from error


def _channels_last(tensor: Tensor, where: Path) -> np.ndarray:
    tensor = tensor.detach().cpu()
    if tensor.dtype.is_floating_point:
        tensor = tensor.float()  # numpy knows no bfloat16
    if tensor.ndim == 3:
        if tensor.shape[0] not in (1, 3, 4):
            last = tensor.shape[-1] in (1, 3, 4)
            raise ShapeError(
                "the channels of a tensor come first",
                where=where,
                expected="[3 h w], or [4 h w], [1 h w], [h w]",
                found=list(tensor.shape),
                next_step="Pass image.permute(2, 0, 1)." if last else None,
            )
        tensor = tensor.permute(1, 2, 0)
    return tensor.contiguous().numpy()


def _from_array(array: np.ndarray, where: Path, config: ImageConfig) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        first = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        raise ShapeError(
            "the channels of an array come last" if first else "this array is no picture",
            where=where,
            expected="[h w 3] in the order red, green, blue, or [h w 4], [h w 1], [h w]",
            found=list(array.shape),
            next_step="Pass np.moveaxis(image, 0, -1)." if first else None,
        )
    check_area(where, "the picture", array.shape[0], array.shape[1], config.max_megapixels)
    return Image.fromarray(np.ascontiguousarray(_in_8_bit(array, where)))


def _in_8_bit(values: np.ndarray, where: Path) -> UInt8[np.ndarray, ...]:
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind not in "iuf":
        raise DataError(
            "these are no pixel values" if values.dtype.kind != "b" else "this is a mask, not a picture",
            where=where,
            expected="uint8, another whole number type, or floating point",
            found=values.dtype,
        )
    if values.dtype.kind == "f":
        fix = "Undo the normalisation for a network (image * std + mean), or clip what a resize pushed past 0..1."
        return to_8_bit(values, where, next_step=fix)
    if (values.dtype.kind, values.dtype.itemsize) != ("u", 2):
        return to_8_bit(values, where, 255, "Pass 16 bits as uint16, and 8 as uint8.")
    if 0 < (high := int(values.max())) < 256:
        raise DataError(
            "whether these pixel values count to 255 or to 65535 cannot be told",
            where=where,
            expected="uint16 with values above 255",
            found=f"0 .. {high} ({values.dtype})",
            next_step="Pass image.astype('uint8'); in 16 bits this picture is black.",
        )
    return to_8_bit(values, where)
