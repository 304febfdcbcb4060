"""Masks that somebody edited: files of a folder, of a zip archive or one by one, read without trusting them.

Names inside such files only ever look up what the source itself listed; nothing is unpacked, and nothing is written.
"""

from __future__ import annotations

import io
import json
import os
import stat
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image

from clip_es.decode import quiet_pillow
from clip_es.errors import ConfigError, DataError, ShapeError

LARGEST_FILE = 2**26
"""Bytes of one picture's file: 64 MiB."""

LARGEST_JSON = 2**29
"""Bytes of a JSON file about all pictures: 512 MiB."""

_MOST_MEMBERS = 4_000_000


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


class Source:
    """Files by their relative names, with `/` between folders. Raises DataError: not there, or no usable archive."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._archive: zipfile.ZipFile | None = None
        self._members: Mapping[str, zipfile.ZipInfo] = {}
        if self.path.is_dir():
            self.names = tuple(sorted(_files_below(self.path)))
        elif not self.path.is_file():
            raise DataError("there is no such folder or file", where=self.path, next_step="Check --from.")
        elif zipfile.is_zipfile(self.path):
            self._archive, self._members = _archive(self.path)
            self.names = tuple(sorted(self._members))
        else:
            self.names = (self.path.name,)

    def close(self) -> None:
        """Let go of the archive."""
        if self._archive:
            self._archive.close()

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def below(self, folder: str, suffix: str) -> list[str]:
        """Names that end in `suffix`, inside a folder called `folder` if there is one at any depth, else anywhere."""
        fitting = [name for name in self.names if name.lower().endswith(suffix)]
        return [name for name in fitting if folder in PurePosixPath(name).parts[:-1]] or fitting

    def find(self, name: str) -> str | None:
        """The first file with this last part, the one nearest to the top."""
        found = [known for known in self.names if PurePosixPath(known).name == name]
        return min(found, key=lambda known: (known.count("/"), known), default=None)

    def bytes(self, name: str, limit: int = LARGEST_FILE) -> bytes:
        """The content of a listed file. Raises DataError: unreadable, damaged, or larger than `limit`."""
        try:
            if self._archive:
                with self._archive.open(self._members[name]) as file:
                    data = file.read(limit + 1)
            else:
                path = self.path if self.path.is_file() else self.path / name
                if not stat.S_ISREG(path.stat().st_mode):  # Reading a pipe would wait for ever.
                    raise DataError("is no plain file", where=name)
                with path.open("rb") as file:
                    data = file.read(limit + 1)
        except DataError:
            raise
        except Exception as error:  # Damaged or locked archives raise many kinds.
            raise DataError("cannot be read", where=name, found=error, next_step="Export it again.") from error
        if len(data) > limit:
            raise DataError("is too large", where=name, expected=f"at most {limit:,} bytes")
        return data

    def text(self, name: str) -> str:
        """The content as UTF-8 text. Raises DataError."""
        try:
            return self.bytes(name).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError("is not UTF-8 text", where=name, found=error) from error

    def json(self, name: str, limit: int = LARGEST_FILE) -> dict[str, Any]:
        """The content as a JSON object. Raises DataError."""
        try:
            value = json.loads(self.bytes(name, limit))
        except (ValueError, RecursionError) as error:
            raise DataError("is not a JSON file", where=name, found=str(error)[:200]) from error
        if not isinstance(value, dict):
            raise DataError("is not a JSON object", where=name, found=type(value).__name__)
        return value


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


def _files_below(root: Path) -> Iterator[str]:
    for folder, _, names in os.walk(root):
        inner = Path(folder).relative_to(root).as_posix()
        for name in names:
            yield name if inner == "." else f"{inner}/{name}"


def _archive(path: Path) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    try:
        archive = zipfile.ZipFile(path)
        members = {info.filename: info for info in archive.infolist() if not info.is_dir()}
    except Exception as error:  # zipfile raises many kinds for damaged archives.
        raise DataError("is a damaged zip archive", where=path, found=error, next_step="Download it again.") from error
    if len(members) > _MOST_MEMBERS:
        raise ConfigError("holds too many files", where=path, expected=f"at most {_MOST_MEMBERS:,}", found=len(members))
    return archive, members
