"""Masks that somebody edited: one picture after the other, whatever the files are that hold them."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image

from clip_es.decode import quiet_pillow
from clip_es.errors import DataError, ShapeError
from clip_es.file_source import Source

_NO_PNG = (".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".xcf", ".psd")


@dataclass(frozen=True)
class Incoming:
    """One edited picture."""

    name: str
    """What the file calls the picture: a file name, perhaps in folders. Never used as a path."""
    where: str
    """The file, for messages."""
    read: Callable[[tuple[int, int]], UInt8[np.ndarray, "h w"]]
    """The labels, given the height and width they must have. Raises DataError, ShapeError."""

    @property
    def image_id(self) -> str:
        """The name without folders and suffix."""
        return PurePosixPath(self.name.replace("\\", "/")).stem

    @classmethod
    def refused(cls, name: str, error: DataError) -> Incoming:
        """An entry that is already known to be bad."""

        def read(_: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
            raise error

        return cls(name, name, read)


def no_pngs(source: Source, folder: str) -> Iterator[Incoming]:
    """Pictures of other kinds in the folder of the masks, without a PNG beside them: their edits would be lost without
    a word."""
    known = set(source.names)
    for name in source.names:
        path = PurePosixPath(name)
        inside = folder in path.parts[:-1] and path.suffix.lower() in _NO_PNG
        if inside and path.with_suffix(".png").as_posix() not in known:
            yield Incoming.refused(
                name,
                DataError("is no PNG", where=path.name, next_step="Save masks as PNG; other kinds change colours."),
            )


def decode_png(data: bytes, where: str, size_hw: tuple[int, int]) -> Image.Image:
    """A loaded PNG that has the size, which is read before anything is unpacked.

    Raises DataError: damaged or no PNG. ShapeError: another size.
    """
    if data[:8] != b"\x89PNG\r\n\x1a\n" or len(data) < 33:
        raise DataError("is not a PNG file", where=where, found=repr(data[:8]), next_step="Export the masks as PNG.")
    found = int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")
    if found != size_hw:
        raise wrong_size(where, found, size_hw)
    try:
        with quiet_pillow(), Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            image.load()
            if image.size != (size_hw[1], size_hw[0]):
                raise wrong_size(where, (image.height, image.width), size_hw)
            return image.copy()
    except ShapeError:
        raise
    except Exception as error:  # Damaged files make Pillow raise almost anything.
        raise DataError("is a damaged PNG", where=where, found=error, next_step="Export it again.") from error


def packed_rgb(image: Image.Image) -> Int[np.ndarray, "h w"]:
    """The colour of each pixel as one number, red + 256 green + 65536 blue."""
    with quiet_pillow():
        rgb = np.asarray(image.convert("RGB")).astype(np.int32)
    return rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]


def relabelled(
    values: Int[np.ndarray, "h w"], labels: Mapping[int, int], where: str, what: Callable[[int], str]
) -> UInt8[np.ndarray, "h w"]:
    """Each value replaced by its label. Raises DataError: a value has none; `what` says what it is."""
    kinds, places = np.unique(values, return_inverse=True)
    unknown = [int(kind) for kind in kinds if int(kind) not in labels]
    if unknown:
        count = int((values == unknown[0]).sum())
        raise DataError(
            f"holds {what(unknown[0])}, which no label of this run has",
            where=where,
            found=f"{count} pixels of it" + (f" and {len(unknown) - 1} more such values" if unknown[1:] else ""),
            next_step="Draw in the colours and labels of the export, without soft edges.",
        )
    table = np.array([labels[int(kind)] for kind in kinds], dtype=np.uint8)
    return table[places.reshape(values.shape)]


def paint(canvas: UInt8[np.ndarray, "h w"], mask: Bool[np.ndarray, "h w"], label: int) -> None:
    """Write a label where the mask is set; what comes later lies on top."""
    canvas[mask] = label


def wrong_size(where: str, found: object, expected: tuple[int, int]) -> ShapeError:
    """The error of a mask that is not as large as its picture; `found` is whatever the file says."""
    return ShapeError(
        "is not as large as the mask of this run",
        where=where,
        expected=f"{expected} (height, width)",
        found=str(found)[:60],
        next_step="Edit masks at their own size.",
    )
